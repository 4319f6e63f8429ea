#![forbid(unsafe_code)]
//! TFTP packets (RFC 1350, 5) with options (RFC 2347). Pure: bytes in, values out, and back.

/// Most bytes of a request (RFC 2347, 2).
const MOST_REQUEST: usize = 512;

/// The error codes that we send (RFC 1350, 5; RFC 2347 for 8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ErrorCode {
    /// See the message.
    Undefined = 0,
    NotFound = 1,
    AccessViolation = 2,
    DiskFull = 3,
    IllegalOperation = 4,
    UnknownTransfer = 5,
}

/// How a file's bytes travel (RFC 1350, 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// As lines of text, ended by CR LF.
    Netascii,
    /// As they are.
    Octet,
}

/// A read or write request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request<'a> {
    /// True for WRQ.
    pub(super) write: bool,
    /// As sent: any bytes but NUL.
    pub(super) file: &'a [u8],
    pub(super) mode: Mode,
    /// Names and values as sent, in their order.
    pub(super) options: Vec<(&'a [u8], &'a [u8])>,
}

/// A packet of a running transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packet<'a> {
    Data { block: u16, bytes: &'a [u8] },
    Ack { block: u16 },
    Error { code: u16 },
}

/// Why a datagram at the listener's port gets no transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadRequest {
    /// Nothing that asks for an answer: an error, a stray packet of some transfer, noise.
    Ignored,
    /// A request that breaks the rules, in words for the client.
    Illegal(&'static str),
}

impl<'a> Request<'a> {
    /// Reads what a client sends to the listener's port.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, BadRequest> {
        let write = match bytes {
            [0, 1, ..] => false,
            [0, 2, ..] => true,
            // Errors are never answered, and an answer to noise only feeds those who forge senders.
            _ => return Err(BadRequest::Ignored),
        };
        if bytes.len() > MOST_REQUEST {
            return Err(BadRequest::Illegal("request too long"));
        }
        let Some((0, texts)) = bytes[2..].split_last().map(|(last, rest)| (*last, rest)) else {
            return Err(BadRequest::Illegal("request not ended by NUL"));
        };
        let mut texts = texts.split(|byte| *byte == 0);
        let file = texts.next().unwrap_or_default();
        if file.is_empty() {
            return Err(BadRequest::Illegal("no file name"));
        }
        let mode = match texts.next() {
            Some(mode) if mode.eq_ignore_ascii_case(b"octet") => Mode::Octet,
            Some(mode) if mode.eq_ignore_ascii_case(b"netascii") => Mode::Netascii,
            Some(_) => return Err(BadRequest::Illegal("unknown mode")),
            None => return Err(BadRequest::Illegal("no mode")),
        };
        let mut options = Vec::new();
        while let Some(name) = texts.next() {
            let Some(value) = texts.next() else {
                return Err(BadRequest::Illegal("option without value"));
            };
            options.push((name, value));
        }
        Ok(Request {
            write,
            file,
            mode,
            options,
        })
    }
}

impl<'a> Packet<'a> {
    /// Reads a packet that reached a transfer's own port; `None` for anything else.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (&[0, operation, high, low], rest) = bytes.split_first_chunk()? else {
            return None;
        };
        let number = u16::from_be_bytes([high, low]);
        match operation {
            3 => Some(Packet::Data {
                block: number,
                bytes: rest,
            }),
            4 => Some(Packet::Ack { block: number }),
            5 => Some(Packet::Error { code: number }),
            _ => None,
        }
    }
}

/// A block's number on the wire: its last 16 bits.
pub(super) fn low(number: u64) -> u16 {
    u16::try_from(number & 0xffff).unwrap_or(0)
}

/// A DATA packet's first four bytes.
pub(super) fn data_head(block: u16) -> [u8; 4] {
    let [high, low] = block.to_be_bytes();
    [0, 3, high, low]
}

/// An ACK packet.
pub(super) fn ack(block: u16) -> Vec<u8> {
    let [high, low] = block.to_be_bytes();
    vec![0, 4, high, low]
}

/// An ERROR packet.
pub(super) fn error(code: ErrorCode, message: &str) -> Vec<u8> {
    let mut packet = vec![0, 5, 0, code as u8];
    packet.extend_from_slice(message.as_bytes());
    packet.push(0);
    packet
}

/// An OACK packet (RFC 2347, 3).
pub(super) fn oack(options: &[(&str, u64)]) -> Vec<u8> {
    let mut packet = vec![0, 6];
    for (name, value) in options {
        packet.extend_from_slice(name.as_bytes());
        packet.push(0);
        packet.extend_from_slice(value.to_string().as_bytes());
        packet.push(0);
    }
    packet
}

#[cfg(test)]
mod tests {
    use super::{BadRequest, Mode, Packet, Request, ack, data_head, error, oack};
    use super::{ErrorCode, MOST_REQUEST};

    #[test]
    fn a_request_is_read_with_its_options() {
        let request =
            Request::parse(b"\0\x01a/b\0OcTeT\0blksize\x001428\0x\0\0").expect("well formed");
        assert!(!request.write);
        assert_eq!((request.file, request.mode), (&b"a/b"[..], Mode::Octet));
        assert_eq!(
            request.options,
            [(&b"blksize"[..], &b"1428"[..]), (b"x", b"")]
        );
        let request = Request::parse(b"\0\x02f\0netascii\0").expect("well formed");
        assert!(request.write && request.options.is_empty());
        assert_eq!(request.mode, Mode::Netascii);
    }

    #[test]
    fn a_request_cut_at_any_byte_is_never_taken_for_a_whole_one() {
        let whole = b"\0\x01name\0octet\0blksize\x001428\0";
        for end in 0..whole.len() {
            let read = Request::parse(&whole[..end]);
            match end {
                0..2 => assert_eq!(read, Err(BadRequest::Ignored), "{end}"),
                // These end after a NUL where a shorter request may end.
                13 => assert!(read.expect("without options").options.is_empty()),
                _ => assert!(
                    matches!(read, Err(BadRequest::Illegal(_))),
                    "{end}: {read:?}"
                ),
            }
        }
    }

    #[test]
    fn bad_requests_are_told_apart_from_noise() {
        let long = [&b"\0\x01"[..], &[b'x'; MOST_REQUEST], b"\0octet\0"].concat();
        for (bytes, message) in [
            (&b"\0\x01"[..], "request not ended by NUL"),
            (b"\0\x01\0", "no file name"),
            (b"\0\x01\0octet\0", "no file name"),
            (b"\0\x01f\0", "no mode"),
            (b"\0\x01f\0mail\0", "unknown mode"),
            (b"\0\x01f\0octet\0blksize\0", "option without value"),
            (b"\0\x01f\0octet\0blksize\x005", "request not ended by NUL"),
            (&long, "request too long"),
        ] {
            assert_eq!(Request::parse(bytes), Err(BadRequest::Illegal(message)));
        }
        for noise in [
            &b""[..],
            b"\0",
            b"\0\x03\0\x01x",
            b"\0\x04\0\x01",
            b"\0\x05\0\0x\0",
            b"\x01\x01f\0octet\0",
        ] {
            assert_eq!(Request::parse(noise), Err(BadRequest::Ignored));
        }
    }

    #[test]
    fn packets_are_written_and_read() {
        assert_eq!(
            Packet::parse(&ack(0x1234)),
            Some(Packet::Ack { block: 0x1234 })
        );
        assert_eq!(
            Packet::parse(&[&data_head(7)[..], b"xyz"].concat()),
            Some(Packet::Data {
                block: 7,
                bytes: b"xyz"
            })
        );
        assert_eq!(error(ErrorCode::NotFound, "no"), b"\0\x05\0\x01no\0");
        assert_eq!(
            oack(&[("tsize", 12), ("blksize", 8)]),
            b"\0\x06tsize\x0012\0blksize\08\0"
        );
        for end in 0..4 {
            assert_eq!(Packet::parse(&ack(1)[..end]), None);
        }
        assert_eq!(Packet::parse(b"\0\x06blksize\08\0"), None);
    }
}
