#![forbid(unsafe_code)]
//! What an agent answers to a PDU (RFC 3416, 4.2; RFC 1157, 4.1 for v1). Pure.

use rasn::types::{Any, ObjectIdentifier};

use super::message::{
    Binding, END_OF_MIB_VIEW, NO_SUCH_INSTANCE, NO_SUCH_OBJECT, Pdu, Pdus, Value,
};
use super::objects::Tree;

/// Error codes (RFC 3416, 3).
pub(super) const TOO_BIG: i32 = 1;
const NO_SUCH_NAME: i32 = 2;
pub(super) const AUTHORIZATION_ERROR: i32 = 16;
const NOT_WRITABLE: i32 = 17;

/// How the answer is bounded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// SNMPv1: no exceptions, and no 64-bit counters (RFC 3584, 4.2.2.1).
    pub(super) v1: bool,
    /// `sysUpTime`, in hundredths of a second.
    pub(super) uptime: u32,
    /// Room for the encoded bindings, in bytes.
    pub(super) room: usize,
}

/// Repetitions of one GetBulk; what fits into the answer is less.
const MOST_REPETITIONS: usize = 256;

/// The answer to a PDU; `None` for what asks nothing of an agent.
pub(super) fn respond(request: &Pdus, tree: &Tree, bounds: Bounds) -> Option<Pdu> {
    let pdu = request.pdu();
    let answer = match request {
        Pdus::Get(pdu) => each(pdu, bounds, |name| get(tree, name, bounds)),
        Pdus::GetNext(pdu) => each(pdu, bounds, |name| next(tree, name, bounds)),
        // A v1 manager knows no GetBulk, so this is not one.
        Pdus::GetBulk(_) if bounds.v1 => return None,
        Pdus::GetBulk(pdu) => bulk(pdu, tree, bounds),
        Pdus::Set(pdu) => {
            let status = if bounds.v1 {
                NO_SUCH_NAME
            } else {
                NOT_WRITABLE
            };
            failed(pdu, status, 1)
        }
        Pdus::Response(_) | Pdus::Inform(_) | Pdus::Trap(_) | Pdus::Report(_) => return None,
    };
    debug_assert_eq!(answer.request_id, pdu.request_id);
    Some(answer)
}

/// The request with an error in it.
pub(super) fn failed(pdu: &Pdu, status: i32, index: usize) -> Pdu {
    Pdu {
        status,
        index: i32::try_from(index).unwrap_or(0),
        ..pdu.clone()
    }
}

/// The answer that says it would be too large. A v1 one repeats the request, any other is empty.
fn too_big(pdu: &Pdu, bounds: Bounds) -> Pdu {
    let mut answer = failed(pdu, TOO_BIG, 0);
    if !bounds.v1 {
        answer.bindings.clear();
    }
    answer
}

/// One answer for each name.
fn each(pdu: &Pdu, bounds: Bounds, find: impl Fn(&[u32]) -> Result<Binding, i32>) -> Pdu {
    let mut answer = Pdu {
        request_id: pdu.request_id,
        status: 0,
        index: 0,
        bindings: Vec::with_capacity(pdu.bindings.len().min(64)),
    };
    let mut size = 0;
    for (index, asked) in (1..).zip(&pdu.bindings) {
        match find(asked.name.as_ref()) {
            Ok(binding) => {
                size += size_of(&binding);
                if size > bounds.room {
                    return too_big(pdu, bounds);
                }
                answer.bindings.push(binding);
            }
            Err(status) => return failed(pdu, status, index),
        }
    }
    answer
}

fn get(tree: &Tree, name: &[u32], bounds: Bounds) -> Result<Binding, i32> {
    match tree.get(name) {
        Some(Value::Counter64(_)) if bounds.v1 => Err(NO_SUCH_NAME),
        Some(value) => Ok(binding(name, value.encode(bounds.uptime))),
        None if bounds.v1 => Err(NO_SUCH_NAME),
        None if tree.has_object(name) => Ok(binding(name, exception(NO_SUCH_INSTANCE))),
        None => Ok(binding(name, exception(NO_SUCH_OBJECT))),
    }
}

fn next(tree: &Tree, name: &[u32], bounds: Bounds) -> Result<Binding, i32> {
    let mut after = tree.after(name);
    let found = after.find(|(_, value)| !(bounds.v1 && matches!(value, Value::Counter64(_))));
    match found {
        Some((name, value)) => Ok(binding(name, value.encode(bounds.uptime))),
        None if bounds.v1 => Err(NO_SUCH_NAME),
        None => Ok(binding(name, exception(END_OF_MIB_VIEW))),
    }
}

/// As many rounds as fit (RFC 3416, 4.2.3).
fn bulk(pdu: &Pdu, tree: &Tree, bounds: Bounds) -> Pdu {
    let non_repeaters = usize::try_from(pdu.status).unwrap_or(0);
    let repetitions = usize::try_from(pdu.index).unwrap_or(0);
    let (once, repeated) = pdu.bindings.split_at(non_repeaters.min(pdu.bindings.len()));
    let mut answer = Pdu {
        request_id: pdu.request_id,
        status: 0,
        index: 0,
        bindings: Vec::new(),
    };
    let mut size = 0;
    let mut push = |name: &[u32]| -> Option<(ObjectIdentifier, bool)> {
        let found = next(tree, name, bounds).ok()?;
        size += size_of(&found);
        if size > bounds.room {
            return None;
        }
        let ends = found.value.as_bytes() == END_OF_MIB_VIEW;
        let name = found.name.clone();
        answer.bindings.push(found);
        Some((name, ends))
    };
    for asked in once {
        if push(asked.name.as_ref()).is_none() {
            return answer;
        }
    }
    let mut names: Vec<ObjectIdentifier> = repeated.iter().map(|row| row.name.clone()).collect();
    for _ in 0..repetitions.min(MOST_REPETITIONS) {
        let mut all_end = true;
        for name in &mut names {
            let Some((found, ends)) = push((*name).as_ref()) else {
                return answer;
            };
            *name = found;
            all_end &= ends;
        }
        if all_end {
            break;
        }
    }
    answer
}

fn binding(name: &[u32], value: Any) -> Binding {
    Binding {
        name: ObjectIdentifier::new_unchecked(name.to_vec().into()),
        value,
    }
}

fn exception(exception: [u8; 2]) -> Any {
    Any::new(exception.to_vec())
}

/// Bytes of an encoded binding.
fn size_of(binding: &Binding) -> usize {
    let name: &[u32] = binding.name.as_ref();
    // Each number takes a byte for seven bits; the first two share one.
    let digits = |number: &u32| (32 - number.leading_zeros()).div_ceil(7).max(1) as usize;
    let name: usize = name.iter().skip(1).map(digits).sum();
    let value = binding.value.as_bytes().len();
    // A head of two to four bytes each, taken as the longest.
    name + value + 8
}
