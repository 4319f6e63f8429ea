#![forbid(unsafe_code)]
//! ENVELOPE, BODY and BODYSTRUCTURE (RFC 3501, 7.4.2).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mail_parser::{Addr, Address, ContentType, HeaderName, HeaderValue};

use super::write::Out;
use crate::mail::header;
use crate::mail::mime::{Kind, Part, disposition};

/// The most addresses of one field that are shown.
const MOST_ADDRESSES: usize = 1000;

/// A message's envelope, from its header.
pub(super) fn envelope(head: &[u8], out: &mut Out) {
    let raw = |name: &str| header::value(head, name);
    let addresses = |name: HeaderName<'static>| match header::parsed(head, name) {
        Some(HeaderValue::Address(found)) => Some(found),
        _ => None,
    };
    out.text("(");
    out.nstring(raw("date").as_deref());
    out.text(" ");
    out.nstring(raw("subject").as_deref());
    let from = addresses(HeaderName::From);
    // RFC 3501, 7.4.2: where there is neither, they are as From.
    let sender = addresses(HeaderName::Sender).or_else(|| from.clone());
    let reply_to = addresses(HeaderName::ReplyTo).or_else(|| from.clone());
    let others = [HeaderName::To, HeaderName::Cc, HeaderName::Bcc].map(addresses);
    for list in [from, sender, reply_to].into_iter().chain(others) {
        out.text(" ");
        address_list(list.as_ref(), out);
    }
    out.text(" ");
    out.nstring(raw("in-reply-to").as_deref());
    out.text(" ");
    out.nstring(raw("message-id").as_deref());
    out.text(")");
}

fn address_list(list: Option<&Address<'_>>, out: &mut Out) {
    let mut rows = Out::default();
    match list {
        Some(Address::List(all)) => all
            .iter()
            .take(MOST_ADDRESSES)
            .for_each(|it| address(it, &mut rows)),
        Some(Address::Group(groups)) => {
            for group in groups.iter().take(MOST_ADDRESSES) {
                let Some(name) = &group.name else {
                    group
                        .addresses
                        .iter()
                        .take(MOST_ADDRESSES)
                        .for_each(|it| address(it, &mut rows));
                    continue;
                };
                rows.text("(NIL NIL ");
                rows.string(encoded(name).as_bytes());
                rows.text(" NIL)");
                group
                    .addresses
                    .iter()
                    .take(MOST_ADDRESSES)
                    .for_each(|it| address(it, &mut rows));
                rows.text("(NIL NIL NIL NIL)");
            }
        }
        None => {}
    }
    if rows.bytes.is_empty() {
        return out.text("NIL");
    }
    out.text("(");
    out.bytes.append(&mut rows.bytes);
    out.text(")");
}

fn address(one: &Addr<'_>, out: &mut Out) {
    let address = one.address.as_deref().unwrap_or_default();
    let (mailbox, host) = address.rsplit_once('@').unwrap_or((address, ""));
    out.text("(");
    let name = one.name.as_deref().map(encoded);
    out.nstring(name.as_deref().map(str::as_bytes));
    out.text(" NIL ");
    out.string(encoded(mailbox).as_bytes());
    out.text(" ");
    // Without a host it would begin a group.
    out.string(encoded(host).as_bytes());
    out.text(")");
}

/// Text that is not ASCII as an encoded word (RFC 2047): the parser has decoded it.
fn encoded(text: &str) -> String {
    match text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        true => text.to_owned(),
        false => {
            let words = chunks(text).map(|piece| format!("=?UTF-8?B?{}?=", STANDARD.encode(piece)));
            words.collect::<Vec<_>>().join(" ")
        }
    }
}

/// Pieces of at most 45 bytes, for an encoded word has at most 75.
fn chunks(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let mut end = rest.len().min(45);
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        let (piece, behind) = rest.split_at(end);
        rest = behind;
        (!piece.is_empty()).then_some(piece)
    })
}

/// The structure of a part; with the fields that BODY leaves out if `is_extended`.
pub(super) fn structure(part: &Part, is_extended: bool, out: &mut Out) {
    let found = part.content_type();
    out.text("(");
    match &part.kind {
        Kind::Multi(parts) => {
            parts.iter().for_each(|it| structure(it, is_extended, out));
            let subtype = found
                .as_ref()
                .and_then(ContentType::subtype)
                .unwrap_or("MIXED");
            out.text(" ");
            out.string(encoded(subtype).as_bytes());
            if is_extended {
                out.text(" ");
                parameters(found.as_ref(), out);
                tail(part, out);
            }
        }
        kind => single(part, kind, found.as_ref(), is_extended, out),
    }
    out.text(")");
}

fn single(
    part: &Part,
    kind: &Kind,
    found: Option<&ContentType<'_>>,
    is_extended: bool,
    out: &mut Out,
) {
    let told = found.map(|it| {
        (
            it.ctype().to_ascii_uppercase(),
            it.subtype().unwrap_or("PLAIN").to_owned(),
        )
    });
    let (kind_is, subtype) = match (kind, told) {
        (Kind::Message(_), _) => ("MESSAGE".to_owned(), "RFC822".to_owned()),
        (_, Some((kind, subtype))) if kind != "MULTIPART" => {
            // One that is encoded or nests too deep is not looked into.
            match kind == "MESSAGE" && subtype.eq_ignore_ascii_case("rfc822") {
                true => ("APPLICATION".to_owned(), "OCTET-STREAM".to_owned()),
                false => (kind, subtype),
            }
        }
        _ => ("TEXT".to_owned(), "PLAIN".to_owned()),
    };
    out.string(encoded(&kind_is).as_bytes());
    out.text(" ");
    out.string(encoded(&subtype).as_bytes());
    out.text(" ");
    match found {
        Some(_) => parameters(found, out),
        // RFC 2045, 5.2
        None => out.text("(\"CHARSET\" \"US-ASCII\")"),
    }
    for name in ["content-id", "content-description"] {
        out.text(" ");
        out.nstring(header::value(&part.fields, name).as_deref());
    }
    out.text(" ");
    let encoding = header::value(&part.fields, "content-transfer-encoding");
    out.string(
        encoding
            .as_deref()
            .filter(|it| !it.is_empty())
            .unwrap_or(b"7BIT"),
    );
    out.text(&format!(" {}", part.body.end - part.body.start));
    if let Kind::Message(message) = kind {
        out.text(" ");
        envelope(&message.fields, out);
        out.text(" ");
        structure(message, is_extended, out);
    }
    if kind_is == "TEXT" || matches!(kind, Kind::Message(_)) {
        out.text(&format!(" {}", part.lines));
    }
    if is_extended {
        out.text(" ");
        out.nstring(header::value(&part.fields, "content-md5").as_deref());
        tail(part, out);
    }
}

fn parameters(found: Option<&ContentType<'_>>, out: &mut Out) {
    let all = found.and_then(ContentType::attributes).unwrap_or_default();
    if all.is_empty() {
        return out.text("NIL");
    }
    for (at, attribute) in all.iter().enumerate() {
        out.text(if at == 0 { "(" } else { " " });
        out.string(encoded(&attribute.name).as_bytes());
        out.text(" ");
        out.string(encoded(&attribute.value).as_bytes());
    }
    out.text(")");
}

/// Disposition, language and location.
fn tail(part: &Part, out: &mut Out) {
    out.text(" ");
    match disposition(part) {
        Some(found) => {
            out.text("(");
            out.string(encoded(found.ctype()).as_bytes());
            out.text(" ");
            parameters(Some(&found), out);
            out.text(")");
        }
        None => out.text("NIL"),
    }
    for name in ["content-language", "content-location"] {
        out.text(" ");
        out.nstring(header::value(&part.fields, name).as_deref());
    }
}
