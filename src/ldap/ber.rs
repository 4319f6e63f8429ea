#![forbid(unsafe_code)]
//! Writing BER as LDAP restricts it (RFC 4511, 5.1). Answers are written from where they are kept; `rasn-ldap`, which
//! reads what clients send, would want a copy of every value, and knows no result codes but those of RFC 4511.

pub(crate) const INTEGER: u8 = 0x02;
pub(crate) const OCTETS: u8 = 0x04;
pub(crate) const ENUMERATED: u8 = 0x0a;
pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;

/// A tag, the length and what `fill` writes.
pub(crate) fn wrap(out: &mut Vec<u8>, tag: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    out.extend([tag, 0]);
    let start = out.len();
    fill(out);
    let length = out.len() - start;
    if length < 0x80 {
        out[start - 1] = length.to_le_bytes()[0];
        return;
    }
    let (bytes, skipped) = long(length);
    out[start - 1] = 0x80 | (8 - skipped).to_le_bytes()[0];
    out.splice(start..start, bytes.into_iter().skip(skipped));
}

/// A length's bytes, and how many at their front are 0.
fn long(length: usize) -> ([u8; 8], usize) {
    let bytes = (length as u64).to_be_bytes();
    let skipped = bytes.iter().take_while(|byte| **byte == 0).count();
    (bytes, skipped)
}

/// A string of octets, or something that is encoded as one.
pub(crate) fn octets(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    if bytes.len() < 0x80 {
        out.push(bytes.len().to_le_bytes()[0]);
    } else {
        let (length, skipped) = long(bytes.len());
        out.push(0x80 | (8 - skipped).to_le_bytes()[0]);
        out.extend(&length[skipped..]);
    }
    out.extend_from_slice(bytes);
}

/// A number that is not negative, as INTEGER or ENUMERATED.
pub(crate) fn number(out: &mut Vec<u8>, tag: u8, number: u32) {
    let bytes = u64::from(number).to_be_bytes();
    // One bit is the sign's.
    let skipped = bytes.iter().take_while(|byte| **byte == 0).count();
    let skipped = match bytes.get(skipped) {
        Some(byte) if *byte < 0x80 => skipped,
        _ => skipped - 1,
    };
    octets(out, tag, &bytes[skipped..]);
}

#[cfg(test)]
mod tests {
    use super::{INTEGER, OCTETS, SEQUENCE, number, octets, wrap};

    #[test]
    fn it_is_written_as_rasn_writes_it() {
        for value in [
            0_u32,
            1,
            127,
            128,
            255,
            256,
            32_767,
            32_768,
            0x7fff_ffff,
            u32::MAX,
        ] {
            let mut out = Vec::new();
            number(&mut out, INTEGER, value);
            assert_eq!(out, rasn::ber::encode(&value).unwrap(), "{value}");
        }
        for length in [0, 1, 127, 128, 255, 256, 65_535, 65_536, 70_000] {
            let text = vec![b'a'; length];
            let mut out = Vec::new();
            octets(&mut out, OCTETS, &text);
            let octets = rasn::types::OctetString::from(text.clone());
            assert_eq!(out, rasn::ber::encode(&octets).unwrap(), "{length}");
            let inner = out.clone();
            let mut out = Vec::new();
            wrap(&mut out, SEQUENCE, |out| out.extend(&inner));
            let row: rasn::types::SequenceOf<rasn::types::OctetString> = vec![octets];
            assert_eq!(out, rasn::ber::encode(&row).unwrap(), "{length}");
        }
    }
}
