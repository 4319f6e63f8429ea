#![forbid(unsafe_code)]
//! SNMP messages (RFC 1157, 1901, 3412) in BER. Pure: bytes in, values out, and back.

use rasn::prelude::*;

/// What a datagram says of its version before anything else is looked at.
pub(super) fn version(bytes: &[u8]) -> Option<u8> {
    let (&tag, rest) = bytes.split_first()?;
    let (&length, rest) = rest.split_first()?;
    let skipped = match length {
        0..=0x7f => 0,
        0x81..=0x84 => usize::from(length & 0x7f),
        _ => return None,
    };
    match rest.get(skipped..)? {
        [2, 1, version, ..] if tag == 0x30 => Some(*version),
        _ => None,
    }
}

/// A message of v1 and v2c.
#[derive(AsnType, Debug, Clone, Decode, Encode, PartialEq, Eq)]
pub(super) struct Community {
    pub(super) version: i32,
    pub(super) community: OctetString,
    pub(super) data: Pdus,
}

/// A message of v3 (RFC 3412, 6).
#[derive(AsnType, Debug, Clone, Decode, Encode, PartialEq, Eq)]
pub(super) struct Secured {
    pub(super) version: i32,
    pub(super) header: Header,
    /// [`UsmParameters`], encoded.
    pub(super) security: OctetString,
    pub(super) data: ScopedData,
}

/// A v3 message's global data.
#[derive(AsnType, Debug, Clone, Decode, Encode, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) message_id: i32,
    /// The largest message that its sender takes, in bytes.
    pub(super) max_size: i32,
    /// One octet of [`AUTH`], [`PRIVACY`] and [`REPORTABLE`].
    pub(super) flags: OctetString,
    pub(super) model: i32,
}

pub(super) const AUTH: u8 = 1;
pub(super) const PRIVACY: u8 = 2;
pub(super) const REPORTABLE: u8 = 4;

/// The security parameters of the user-based model (RFC 3414, 2.4).
#[derive(AsnType, Debug, Clone, Decode, Encode, PartialEq, Eq)]
pub(super) struct UsmParameters {
    pub(super) engine: OctetString,
    pub(super) boots: i32,
    pub(super) time: i32,
    pub(super) user: OctetString,
    pub(super) authentication: OctetString,
    pub(super) privacy: OctetString,
}

#[derive(AsnType, Debug, Clone, Decode, Encode, PartialEq, Eq)]
#[rasn(choice)]
pub(super) enum ScopedData {
    Plain(Scoped),
    Encrypted(OctetString),
}

/// A PDU with the context it is about (RFC 3412, 6.8).
#[derive(AsnType, Debug, Clone, Decode, Encode, PartialEq, Eq)]
pub(super) struct Scoped {
    pub(super) engine: OctetString,
    pub(super) name: OctetString,
    pub(super) data: Pdus,
}

/// The PDUs by their tags (RFC 3416, 3). Those of agents are here for our answers, and so that a stray one is
/// known for what it is.
#[derive(AsnType, Debug, Clone, Decode, Encode, PartialEq, Eq)]
#[rasn(choice)]
pub(super) enum Pdus {
    #[rasn(tag(0))]
    Get(Pdu),
    #[rasn(tag(1))]
    GetNext(Pdu),
    #[rasn(tag(2))]
    Response(Pdu),
    #[rasn(tag(3))]
    Set(Pdu),
    #[rasn(tag(5))]
    GetBulk(Pdu),
    #[rasn(tag(6))]
    Inform(Pdu),
    #[rasn(tag(7))]
    Trap(Pdu),
    #[rasn(tag(8))]
    Report(Pdu),
}

impl Pdus {
    pub(super) fn pdu(&self) -> &Pdu {
        match self {
            Pdus::Get(pdu)
            | Pdus::GetNext(pdu)
            | Pdus::Response(pdu)
            | Pdus::Set(pdu)
            | Pdus::GetBulk(pdu)
            | Pdus::Inform(pdu)
            | Pdus::Trap(pdu)
            | Pdus::Report(pdu) => pdu,
        }
    }
}

/// Any PDU; in GetBulk the error's fields are others.
#[derive(AsnType, Debug, Clone, Decode, Encode, PartialEq, Eq)]
pub(super) struct Pdu {
    pub(super) request_id: i32,
    /// `error-status`, or `non-repeaters`.
    pub(super) status: i32,
    /// `error-index`, or `max-repetitions`.
    pub(super) index: i32,
    pub(super) bindings: Vec<Binding>,
}

/// A name with a value that is kept as it is encoded.
#[derive(AsnType, Debug, Clone, Decode, Encode, PartialEq, Eq)]
pub(super) struct Binding {
    pub(super) name: ObjectIdentifier,
    pub(super) value: Any,
}

/// A value of the base types (RFC 2578, 7.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Integer(i32),
    Bytes(Vec<u8>),
    Name(Vec<u32>),
    Counter32(u32),
    Gauge32(u32),
    /// Hundredths of a second.
    Ticks(u32),
    Counter64(u64),
    /// `sysUpTime`: the ticks of the moment in which it is asked for.
    Uptime,
}

/// NULL, as requests have it.
#[cfg(test)]
pub(super) const NULL: [u8; 2] = [5, 0];
/// The exceptions of RFC 3416, 4.2.
pub(super) const NO_SUCH_OBJECT: [u8; 2] = [0x80, 0];
pub(super) const NO_SUCH_INSTANCE: [u8; 2] = [0x81, 0];
pub(super) const END_OF_MIB_VIEW: [u8; 2] = [0x82, 0];

impl Value {
    /// The value in BER; `uptime` is in hundredths of a second.
    pub(super) fn encode(&self, uptime: u32) -> Any {
        match self {
            Value::Uptime => Value::Ticks(uptime).encode(uptime),
            Value::Integer(number) => integer(0x02, i128::from(*number)),
            Value::Counter32(number) => integer(0x41, i128::from(*number)),
            Value::Gauge32(number) => integer(0x42, i128::from(*number)),
            Value::Ticks(number) => integer(0x43, i128::from(*number)),
            Value::Counter64(number) => integer(0x46, i128::from(*number)),
            Value::Bytes(bytes) => encoded(&OctetString::from(bytes.clone())),
            Value::Name(name) => encoded(&ObjectIdentifier::new_unchecked(name.clone().into())),
        }
    }
}

/// An INTEGER, or one of the application types that are encoded as it is.
fn integer(tag: u8, number: i128) -> Any {
    let bytes = number.to_be_bytes();
    // The first nine bits are never all the same (X.690, 8.3.2).
    let mut start = 0;
    while start < bytes.len() - 1
        && ((bytes[start] == 0 && bytes[start + 1] < 0x80)
            || (bytes[start] == 0xff && bytes[start + 1] >= 0x80))
    {
        start += 1;
    }
    let bytes = &bytes[start..];
    let mut value = vec![tag, u8::try_from(bytes.len()).unwrap_or(0)];
    value.extend_from_slice(bytes);
    Any::new(value)
}

fn encoded<T: Encode>(value: &T) -> Any {
    // Encoding octets and object identifiers cannot fail; an empty value would be the sign that it did.
    Any::new(rasn::ber::encode(value).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::{Community, NULL, Pdus, Value, version};

    /// `snmpget -v2c -c public .. sysUpTime.0` as net-snmp sends it.
    pub(super) const GET: &[u8] = b"\x30\x29\x02\x01\x01\x04\x06public\xa0\x1c\x02\x04\x12\x34\x56\x78\x02\x01\x00\x02\x01\x00\x30\x0e\x30\x0c\x06\x08\x2b\x06\x01\x02\x01\x01\x03\x00\x05\x00";

    #[test]
    fn a_request_is_read_and_written_as_it_was() {
        let message: Community = rasn::ber::decode(GET).expect("well formed");
        assert_eq!(message.version, 1);
        let Pdus::Get(pdu) = &message.data else {
            panic!("{message:?}");
        };
        assert_eq!((pdu.request_id, pdu.status, pdu.index), (0x1234_5678, 0, 0));
        assert_eq!(pdu.bindings[0].name.as_ref(), [1, 3, 6, 1, 2, 1, 1, 3, 0]);
        assert_eq!(pdu.bindings[0].value.as_bytes(), NULL);
        assert_eq!(rasn::ber::encode(&message).expect("its own"), GET);
    }

    #[test]
    fn the_version_is_found_or_there_is_none() {
        assert_eq!(version(GET), Some(1));
        assert_eq!(version(b"\x30\x82\x00\x05\x02\x01\x03"), Some(3));
        for bytes in [
            &b""[..],
            b"\x30",
            b"\x30\x03\x02\x01",
            b"\x30\x85\0\0\0\0\x03\x02\x01\x01",
            b"\x31\x03\x02\x01\x01",
            b"\x30\x80\x02\x02\x01",
            b"\x30\xff",
        ] {
            assert_eq!(version(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn values_are_encoded_as_short_as_may_be() {
        for (value, bytes) in [
            (Value::Integer(0), &[2, 1, 0][..]),
            (Value::Integer(-1), &[2, 1, 0xff]),
            (Value::Integer(128), &[2, 2, 0, 0x80]),
            (Value::Integer(-129), &[2, 2, 0xff, 0x7f]),
            (
                Value::Counter32(u32::MAX),
                &[0x41, 5, 0, 0xff, 0xff, 0xff, 0xff],
            ),
            (
                Value::Counter64(u64::MAX),
                &[0x46, 9, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            ),
            (Value::Gauge32(7), &[0x42, 1, 7]),
            (Value::Ticks(256), &[0x43, 2, 1, 0]),
            (Value::Bytes(b"ab".to_vec()), &[4, 2, b'a', b'b']),
            (
                Value::Name(vec![1, 3, 6, 200]),
                &[6, 4, 0x2b, 6, 0x81, 0x48],
            ),
        ] {
            assert_eq!(value.encode(0).as_bytes(), bytes, "{value:?}");
        }
    }
}
