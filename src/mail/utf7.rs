#![forbid(unsafe_code)]
//! Modified UTF-7, in which IMAP writes the names of mailboxes (RFC 3501, 5.1.3).

use base64::Engine as _;
use base64::alphabet::IMAP_MUTF7;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD};

const BASE64: GeneralPurpose = GeneralPurpose::new(&IMAP_MUTF7, NO_PAD);

/// The text of a name; `None` when it is no modified UTF-7, or not in the only form that a text has.
#[must_use]
pub fn decode(name: &str) -> Option<String> {
    let mut text = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find('&') {
        text.push_str(&rest[..at]);
        let (shifted, behind) = rest[at + 1..].split_once('-')?;
        rest = behind;
        if shifted.is_empty() {
            text.push('&');
            continue;
        }
        let bytes = BASE64.decode(shifted).ok()?;
        if bytes.len() % 2 != 0 {
            return None;
        }
        let units: Vec<u16> = bytes
            .chunks_exact(2)
            .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
            .collect();
        text.push_str(&String::from_utf16(&units).ok()?);
    }
    text.push_str(rest);
    (encode(&text) == name).then_some(text)
}

/// The name of a text.
#[must_use]
pub fn encode(text: &str) -> String {
    let mut name = String::with_capacity(text.len());
    let mut units: Vec<u8> = Vec::new();
    let shift = |units: &mut Vec<u8>, name: &mut String| {
        if !units.is_empty() {
            name.push('&');
            name.push_str(&BASE64.encode(&*units));
            name.push('-');
            units.clear();
        }
    };
    for letter in text.chars() {
        if (' '..='~').contains(&letter) {
            shift(&mut units, &mut name);
            name.push(letter);
            if letter == '&' {
                name.push('-');
            }
        } else {
            let mut pair = [0; 2];
            for unit in letter.encode_utf16(&mut pair) {
                units.extend_from_slice(&unit.to_be_bytes());
            }
        }
    }
    shift(&mut units, &mut name);
    name
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};

    #[test]
    fn names_and_texts_mean_each_other() {
        for (name, text) in [
            ("", ""),
            ("Sent", "Sent"),
            ("a&-b", "a&b"),
            // RFC 3501, 5.1.3
            ("~peter/mail/&U,BTFw-/&ZeVnLIqe-", "~peter/mail/台北/日本語"),
            ("Entw&APw-rfe", "Entwürfe"),
            ("&2D3eAA-", "😀"),
        ] {
            assert_eq!(decode(name).as_deref(), Some(text), "{name}");
            assert_eq!(encode(text), name);
        }
    }

    #[test]
    fn traps_are_no_names() {
        for name in [
            "&",
            "&U",
            "&U,BTFw",
            "&U-",
            "&AA-",
            "ä",
            "a\0",
            "a\u{7f}",
            // What needs no shift, bits left over, half a pair, two shifts for one.
            "&AGE-",
            "&AC8-",
            "&AC4-",
            "&APx-",
            "&2D0-",
            "&APw-&APw-",
            "&ZeVnLIqe&-",
        ] {
            assert_eq!(decode(name), None, "{name}");
        }
    }
}
