#![forbid(unsafe_code)]
//! Names and kinds of attributes, for what accounts are given and what is written of accounting.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::Value;

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    /// Four bytes.
    Number,
    Ipv4,
    Ipv6,
    /// A length and an address' first bytes (RFC 3162, 2.3).
    Prefix6,
    /// Bytes that are no text.
    Bytes,
}

use Kind::{Bytes, Ipv4, Ipv6, Number, Prefix6, Text};

/// RFC 2865, 2866, 2869, 3162, 4372 and 6911. Of secrets only that they were there is ever told: they are not
/// in here.
const TABLE: &[(u8, &str, Kind)] = &[
    (1, "User-Name", Text),
    (4, "NAS-IP-Address", Ipv4),
    (5, "NAS-Port", Number),
    (6, "Service-Type", Number),
    (7, "Framed-Protocol", Number),
    (8, "Framed-IP-Address", Ipv4),
    (9, "Framed-IP-Netmask", Ipv4),
    (10, "Framed-Routing", Number),
    (11, "Filter-Id", Text),
    (12, "Framed-MTU", Number),
    (13, "Framed-Compression", Number),
    (14, "Login-IP-Host", Ipv4),
    (15, "Login-Service", Number),
    (16, "Login-TCP-Port", Number),
    (18, "Reply-Message", Text),
    (19, "Callback-Number", Text),
    (20, "Callback-Id", Text),
    (22, "Framed-Route", Text),
    (25, "Class", Bytes),
    (27, "Session-Timeout", Number),
    (28, "Idle-Timeout", Number),
    (29, "Termination-Action", Number),
    (30, "Called-Station-Id", Text),
    (31, "Calling-Station-Id", Text),
    (32, "NAS-Identifier", Text),
    (40, "Acct-Status-Type", Number),
    (41, "Acct-Delay-Time", Number),
    (42, "Acct-Input-Octets", Number),
    (43, "Acct-Output-Octets", Number),
    (44, "Acct-Session-Id", Text),
    (45, "Acct-Authentic", Number),
    (46, "Acct-Session-Time", Number),
    (47, "Acct-Input-Packets", Number),
    (48, "Acct-Output-Packets", Number),
    (49, "Acct-Terminate-Cause", Number),
    (50, "Acct-Multi-Session-Id", Text),
    (51, "Acct-Link-Count", Number),
    (52, "Acct-Input-Gigawords", Number),
    (53, "Acct-Output-Gigawords", Number),
    (55, "Event-Timestamp", Number),
    (61, "NAS-Port-Type", Number),
    (62, "Port-Limit", Number),
    (77, "Connect-Info", Text),
    (85, "Acct-Interim-Interval", Number),
    (87, "NAS-Port-Id", Text),
    (88, "Framed-Pool", Text),
    (89, "Chargeable-User-Identity", Bytes),
    (95, "NAS-IPv6-Address", Ipv6),
    (97, "Framed-IPv6-Prefix", Prefix6),
    (99, "Framed-IPv6-Route", Text),
    (100, "Framed-IPv6-Pool", Text),
    (123, "Delegated-IPv6-Prefix", Prefix6),
    (168, "Framed-IPv6-Address", Ipv6),
];

/// The attribute of a name and a text; vendors' are named `Vendor-Specific.VENDOR.TYPE` and are texts.
pub(super) fn attribute(name: &str, text: &str) -> Result<(u8, Vec<u8>), String> {
    let attribute = match name.strip_prefix("Vendor-Specific.") {
        Some(numbers) => (26, vendor(numbers, text)?),
        None => {
            let found = TABLE.iter().find(|(_, other, _)| *other == name);
            let (kind, _, of) =
                found.ok_or_else(|| format!("there is no attribute {name:?} to reply"))?;
            let value = value(*of, text);
            (
                *kind,
                value.ok_or_else(|| format!("{text:?} is no value of {name}"))?,
            )
        }
    };
    match attribute.1.len() {
        1..=253 => Ok(attribute),
        length => Err(format!(
            "expected a value of 1 to 253 bytes for {name}, found {length}"
        )),
    }
}

fn vendor(numbers: &str, text: &str) -> Result<Vec<u8>, String> {
    let parsed = numbers
        .split_once('.')
        .and_then(|(vendor, kind)| Some((vendor.parse::<u32>().ok()?, kind.parse::<u8>().ok()?)));
    let (vendor, kind) =
        parsed.ok_or("expected Vendor-Specific.VENDOR.TYPE, with two numbers".to_owned())?;
    let length = u8::try_from(text.len() + 2).map_err(|_| "the text is too long".to_owned())?;
    let mut value = vendor.to_be_bytes().to_vec();
    value.extend_from_slice(&[kind, length]);
    value.extend_from_slice(text.as_bytes());
    Ok(value)
}

fn value(kind: Kind, text: &str) -> Option<Vec<u8>> {
    Some(match kind {
        Text | Bytes => text.as_bytes().to_vec(),
        Number => text.parse::<u32>().ok()?.to_be_bytes().to_vec(),
        Ipv4 => text.parse::<Ipv4Addr>().ok()?.octets().to_vec(),
        Ipv6 => text.parse::<Ipv6Addr>().ok()?.octets().to_vec(),
        Prefix6 => {
            let net: ipnet::Ipv6Net = text.parse().ok()?;
            let bytes = usize::from(net.prefix_len()).div_ceil(8);
            let mut value = vec![0, net.prefix_len()];
            value.extend_from_slice(&net.network().octets()[..bytes]);
            value
        }
    })
}

/// An attribute as accounting writes it: its name, or `Attr-TYPE`, and its value; bytes that are no text are
/// hexadecimal digits.
pub(super) fn shown(kind: u8, bytes: &[u8]) -> (String, Value) {
    let Some((_, name, of)) = TABLE.iter().find(|(other, ..)| *other == kind) else {
        return (format!("Attr-{kind}"), hex(bytes).into());
    };
    let value = match of {
        Text => std::str::from_utf8(bytes).ok().map(Value::from),
        Number => <[u8; 4]>::try_from(bytes)
            .ok()
            .map(|bytes| u32::from_be_bytes(bytes).into()),
        Ipv4 => <[u8; 4]>::try_from(bytes)
            .ok()
            .map(|bytes| Ipv4Addr::from(bytes).to_string().into()),
        Ipv6 => <[u8; 16]>::try_from(bytes)
            .ok()
            .map(|bytes| Ipv6Addr::from(bytes).to_string().into()),
        Prefix6 => prefix(bytes).map(Value::from),
        Bytes => None,
    };
    (
        (*name).to_owned(),
        value.unwrap_or_else(|| hex(bytes).into()),
    )
}

fn prefix(bytes: &[u8]) -> Option<String> {
    let (&[_, length], rest) = bytes.split_first_chunk()?;
    let mut address = [0; 16];
    address.get_mut(..rest.len())?.copy_from_slice(rest);
    (length <= 128).then(|| format!("{}/{length}", Ipv6Addr::from(address)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::{attribute, shown};

    #[test]
    fn attributes_are_made_from_texts_and_shown_as_texts() {
        for (name, text, bytes) in [
            ("Session-Timeout", "3600", &[0, 0, 14, 16][..]),
            ("Framed-IP-Address", "192.0.2.1", &[192, 0, 2, 1]),
            ("Filter-Id", "std.in", b"std.in"),
            (
                "Delegated-IPv6-Prefix",
                "2001:db8::/36",
                &[0, 36, 0x20, 1, 0xd, 0xb8, 0],
            ),
        ] {
            let (kind, value) = attribute(name, text).expect(name);
            assert_eq!(value, bytes, "{name}");
            let (shown_name, shown_value) = shown(kind, &value);
            assert_eq!(shown_name, name);
            let shown_text = shown_value
                .as_str()
                .map_or(shown_value.to_string(), str::to_owned);
            assert_eq!(shown_text, text);
        }
        let (kind, value) = attribute("Vendor-Specific.9.1", "shell:priv-lvl=15").expect("Cisco's");
        assert_eq!((kind, &value[..6]), (26, &[0, 0, 0, 9, 1, 19][..]));
        for (name, text) in [
            ("User-Password", "x"),
            ("Session-Timeout", "-1"),
            ("Framed-IP-Address", "192.0.2"),
            ("Vendor-Specific.9", "x"),
            ("Reply-Message", ""),
        ] {
            assert!(attribute(name, text).is_err(), "{name} {text}");
        }
        assert_eq!(
            shown(200, &[1, 255]),
            ("Attr-200".to_owned(), "01ff".into())
        );
        assert_eq!(
            shown(8, &[1]),
            ("Framed-IP-Address".to_owned(), "01".into())
        );
        assert_eq!(shown(1, &[0xff]), ("User-Name".to_owned(), "ff".into()));
    }
}
