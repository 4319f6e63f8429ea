#![forbid(unsafe_code)]
//! TFTP (RFC 1350, 2347-2349, 7440): files below a directory, read and, where allowed, written.
//!
//! | file | room |
//! |---|---|
//! | `packet.rs` | what is on the wire |
//! | `options.rs` | what both sides agree on |
//! | `netascii.rs` | text as it travels |
//! | `sending.rs`, `receiving.rs`, `clock.rs` | a transfer: packets and time in, packets out |
//! | `root.rs` | files, and no way out of their directory |
//! | `transfer.rs` | a transfer as an exchange from a port of its own |
//! | `mod.rs` | the listener's port: requests and the table of transfers |

mod clock;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod netascii;
mod options;
mod packet;
mod receiving;
mod root;
mod sending;
#[cfg(test)]
mod tests;
mod transfer;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use serde::Deserialize;

use self::options::agree;
use self::packet::{BadRequest, ErrorCode, Mode, Request};
use self::receiving::Receiving;
use self::root::Root;
use self::sending::Sending;
use self::transfer::{Saved, Transfer};
use super::echo::is_reflector;
use super::{ModuleEntry, Settings};
use crate::admission::ladder::CountKey;
use crate::config::field::Field;
use crate::sandbox::What;
use crate::session::datagram::{ExchangeHandle, Route};
use crate::session::{Datagram, DatagramContext, DatagramModule};

pub(super) const ENTRY: ModuleEntry = ModuleEntry {
    name: "Tftp",
    about: "files, by the trivial protocol (RFC 1350)",
    keys: &[
        "root",
        "writable",
        "max_upload",
        "transfers",
        "transfers_per_address",
    ],
    tcp: None,
    udp: Some(|settings| Some(Arc::new(Tftp::configure(settings)?) as Arc<dyn DatagramModule>)),
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys<'a> {
    #[serde(borrow, default)]
    root: Field<'a, String>,
    #[serde(borrow, default)]
    writable: Field<'a, bool>,
    #[serde(borrow, default)]
    max_upload: Field<'a, String>,
    #[serde(borrow, default)]
    transfers: Field<'a, usize>,
    #[serde(borrow, default)]
    transfers_per_address: Field<'a, usize>,
}

/// Below the most exchanges a listener may have, which is 10,000.
const MOST_TRANSFERS: usize = 10_000;

struct Tftp {
    root: Root,
    writable: bool,
    /// Bytes.
    max_upload: u64,
    ipv6_prefix: u8,
    table: Arc<Mutex<Table>>,
}

/// Transfers that run: at most `transfers`, and `per_address` of one address. A newcomer that finds no
/// room is told so with an ERROR.
struct Table {
    transfers: usize,
    per_address: usize,
    running: HashMap<Route, Entrant>,
    /// Of each address with a transfer.
    counts: HashMap<CountKey, usize>,
    /// Transfers counted, those included whose entry in `running` another one has taken.
    total: usize,
    /// Numbers transfers, so that an end does not take away the entry of a successor.
    next: u64,
}

/// A transfer as later requests from its address and port find it.
struct Entrant {
    number: u64,
    request: Vec<u8>,
    /// The client has answered, so a repeated request is a new one.
    answered: Arc<AtomicBool>,
    handle: Option<ExchangeHandle>,
}

impl Tftp {
    fn configure(settings: &mut Settings<'_, '_>) -> Option<Self> {
        let keys: Keys<'_> = settings.read()?;
        let root = settings.directory(keys.root, "tftp");
        let writable = settings.get(keys.writable).unwrap_or(false);
        if let (true, Some(root)) = (writable, &root) {
            settings.need(keys.root, What::Writable(root.clone()));
        }
        let max_upload = settings.size(keys.max_upload).unwrap_or(1 << 30);
        let mut most = |field, usual| {
            let most = settings.map(field, |most: usize| match most {
                1..=MOST_TRANSFERS => Ok(most),
                _ => Err(format!(
                    "expected 1 to {MOST_TRANSFERS} transfers, found {most}"
                )),
            });
            most.unwrap_or(usual)
        };
        let table = Table {
            transfers: most(keys.transfers, 1000),
            per_address: most(keys.transfers_per_address, 200),
            running: HashMap::new(),
            counts: HashMap::new(),
            total: 0,
            next: 0,
        };
        Some(Tftp {
            root: Root::new(root?),
            writable,
            max_upload,
            ipv6_prefix: settings.ipv6_prefix(),
            table: Arc::new(Mutex::new(table)),
        })
    }

    /// What the request leads to, with the file open.
    fn prepare(&self, request: &Request<'_>, cx: &DatagramContext<'_>, seat: Seat) -> Prepared {
        let now = cx.now();
        if !request.write {
            let (file, size) = self.root.open(request.file).map_err(|error| of(&error))?;
            let (agreed, answer) = agree(request, Some(size));
            let oack = (!answer.is_empty()).then(|| packet::oack(&answer));
            let source = transfer::source(file, request.mode);
            return Ok(Transfer::sends(
                Sending::new(source, agreed, oack, now),
                seat,
            ));
        }
        if !self.writable {
            return Err((ErrorCode::AccessViolation, "nothing is written here"));
        }
        let (agreed, answer) = agree(request, None);
        if agreed.announced.is_some_and(|size| size > self.max_upload) {
            return Err((ErrorCode::DiskFull, "file too large"));
        }
        let upload = self.root.create(request.file).map_err(|error| of(&error))?;
        let sink = match request.mode {
            Mode::Octet => Saved::octet(upload),
            Mode::Netascii => Saved::netascii(upload),
        };
        let oack = (!answer.is_empty()).then(|| packet::oack(&answer));
        let receiving = Receiving::new(sink, agreed, oack, self.max_upload, now);
        Ok(Transfer::receives(receiving, seat))
    }
}

/// A transfer, or the error that the client is sent.
type Prepared = Result<Transfer, (ErrorCode, &'static str)>;

impl DatagramModule for Tftp {
    fn answer(&self, datagram: &Datagram<'_>, cx: &mut DatagramContext<'_>) {
        if is_reflector(datagram) {
            return;
        }
        let request = match Request::parse(datagram.bytes) {
            Ok(request) => request,
            Err(BadRequest::Ignored) => return,
            Err(BadRequest::Illegal(why)) => {
                cx.reply(&packet::error(ErrorCode::IllegalOperation, why));
                return;
            }
        };
        let route = datagram.route;
        if self.table.lock().passes(route, datagram.bytes) {
            return;
        }
        let key = CountKey::new(route.remote.ip(), self.ipv6_prefix);
        let Some(seat) = Seat::take(&self.table, route, key, datagram.bytes) else {
            let busy = "too many transfers, try again later";
            cx.reply(&packet::error(ErrorCode::Undefined, busy));
            return;
        };
        let number = seat.number;
        let error = match self.prepare(&request, cx, seat) {
            Ok(transfer) => match cx.open(route, None, Box::new(transfer)) {
                Some(handle) => {
                    self.table.lock().reached_by(route, number, handle);
                    return;
                }
                None => (ErrorCode::Undefined, "too many transfers, try again later"),
            },
            Err(error) => error,
        };
        cx.reply(&packet::error(error.0, error.1));
    }
}

/// The error that a client is told when its file cannot be opened.
fn of(error: &io::Error) -> (ErrorCode, &'static str) {
    match error.kind() {
        io::ErrorKind::NotFound => (ErrorCode::NotFound, "no such file"),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            (ErrorCode::DiskFull, "disk full")
        }
        _ => (ErrorCode::AccessViolation, "no access"),
    }
}

impl Table {
    /// Hands a repeated request to the transfer that the first one began; false when there is none that
    /// still waits for its client's first answer.
    fn passes(&self, route: Route, request: &[u8]) -> bool {
        let Some(entrant) = self.running.get(&route) else {
            return false;
        };
        if entrant.request != request || entrant.answered.load(Ordering::Relaxed) {
            return false;
        }
        // Between its entry and its port a transfer has no handle yet; its first packet is on its way.
        entrant
            .handle
            .as_ref()
            .is_none_or(|handle| handle.pass(request))
    }

    fn reached_by(&mut self, route: Route, number: u64, handle: ExchangeHandle) {
        if let Some(entrant) = self.running.get_mut(&route)
            && entrant.number == number
        {
            entrant.handle = Some(handle);
        }
    }
}

/// A transfer's place in the table, given back when it ends.
struct Seat {
    table: Arc<Mutex<Table>>,
    route: Route,
    key: CountKey,
    number: u64,
    answered: Arc<AtomicBool>,
}

impl Seat {
    fn take(
        table: &Arc<Mutex<Table>>,
        route: Route,
        key: CountKey,
        request: &[u8],
    ) -> Option<Self> {
        let mut locked = table.lock();
        let of_address = locked.counts.get(&key).copied().unwrap_or(0);
        if locked.total >= locked.transfers || of_address >= locked.per_address {
            return None;
        }
        *locked.counts.entry(key).or_default() += 1;
        locked.total += 1;
        locked.next += 1;
        let seat = Seat {
            table: Arc::clone(table),
            route,
            key,
            number: locked.next,
            answered: Arc::default(),
        };
        // An older transfer of the same port goes on without an entry: its client will end it.
        let entrant = Entrant {
            number: seat.number,
            request: request.to_vec(),
            answered: Arc::clone(&seat.answered),
            handle: None,
        };
        locked.running.insert(route, entrant);
        Some(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut table = self.table.lock();
        table.total -= 1;
        if let Entry::Occupied(mut count) = table.counts.entry(self.key) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        if let Entry::Occupied(entrant) = table.running.entry(self.route)
            && entrant.get().number == self.number
        {
            entrant.remove();
        }
    }
}
