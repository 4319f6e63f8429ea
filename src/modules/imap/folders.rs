#![forbid(unsafe_code)]
//! Commands about mailboxes as wholes: LIST, LSUB, STATUS, CREATE and the like (RFC 3501, 6.3).

use imap_codec::imap_types::core::IString;
use imap_codec::imap_types::mailbox::{ListMailbox, Mailbox};
use imap_codec::imap_types::status::StatusDataItemName;

use super::selected::trouble;
use super::write::Out;
use crate::mail::flags::Flags;
use crate::mail::folders::{Folders, Name, Refusal, Row, rows};

/// The longest reference and pattern together.
const LONGEST_PATTERN: usize = 1000;

/// A mailbox's name as the client wrote it.
pub(super) fn raw<'m>(mailbox: &'m Mailbox<'_>) -> &'m [u8] {
    match mailbox {
        Mailbox::Inbox => b"INBOX",
        Mailbox::Other(other) => other.inner().as_ref(),
    }
}

/// A mailbox's name; `None` for one that no folder can have.
pub(super) fn name(mailbox: &Mailbox<'_>) -> Option<Name> {
    Name::of(raw(mailbox))
}

/// A reference and a pattern put together.
pub(super) fn pattern(reference: &Mailbox<'_>, wildcard: &ListMailbox<'_>) -> Option<String> {
    let wildcard = match wildcard {
        ListMailbox::Token(token) => token.as_ref(),
        ListMailbox::String(IString::Literal(literal)) => literal.as_ref(),
        ListMailbox::String(IString::Quoted(quoted)) => quoted.as_ref().as_bytes(),
    };
    let whole = [raw(reference), wildcard].concat();
    let whole = String::from_utf8(whole).ok()?;
    (whole.len() <= LONGEST_PATTERN).then_some(whole)
}

/// True when a name fits a pattern: `*` is anything, `%` anything without `/` (RFC 3501, 6.3.8). INBOX is INBOX in any
/// case. Takes time as the product of their lengths, whatever the pattern.
fn fits(name: &str, pattern: &str) -> bool {
    let name = name.as_bytes();
    let mut ends = vec![false; name.len() + 1];
    ends[0] = true;
    let inbox = if name.starts_with(b"INBOX") { 5 } else { 0 };
    for wanted in pattern.bytes() {
        let mut next = vec![false; name.len() + 1];
        for at in 0..=name.len() {
            next[at] |= b"*%".contains(&wanted) && ends[at];
            let Some(byte) = name.get(at) else {
                continue;
            };
            next[at + 1] |= match wanted {
                b'*' => ends[at] || next[at],
                b'%' => *byte != b'/' && (ends[at] || next[at]),
                _ if at < inbox => ends[at] && wanted.eq_ignore_ascii_case(byte),
                _ => ends[at] && wanted == *byte,
            };
        }
        ends = next;
    }
    ends[name.len()]
}

fn row(verb: &str, row: &Row, extra: &str, out: &mut Out) {
    let mut attributes = vec![match row.has_children {
        true => "\\HasChildren",
        false => "\\HasNoChildren",
    }];
    if !row.is_folder {
        attributes.insert(0, "\\Noselect");
    }
    if !extra.is_empty() {
        attributes.push(extra);
    }
    out.text(&format!("* {verb} ({}) \"/\" ", attributes.join(" ")));
    out.string(row.name.as_str().as_bytes());
    out.text("\r\n");
}

pub(super) fn list(folders: &Folders, pattern: &str, out: &mut Out) -> String {
    if pattern.is_empty() {
        // RFC 3501, 6.3.8: a question about the delimiter.
        out.line("* LIST (\\Noselect) \"/\" \"\"");
        return "OK listed".to_owned();
    }
    match folders.list() {
        Ok(all) => {
            for it in all.iter().filter(|it| fits(it.name.as_str(), pattern)) {
                let special = it.name.special_use().filter(|_| it.is_folder);
                row("LIST", it, special.unwrap_or_default(), out);
            }
            "OK listed".to_owned()
        }
        Err(error) => trouble(&error),
    }
}

pub(super) fn lsub(folders: &Folders, pattern: &str, out: &mut Out) -> String {
    match folders.subscriptions() {
        Ok(names) => {
            // Names above subscribed ones are shown only where `%` stops short of those (RFC 3501, 6.3.9).
            let stops = pattern.ends_with('%');
            for it in rows(names).iter().filter(|it| it.is_folder || stops) {
                if fits(it.name.as_str(), pattern) {
                    let attributes = if it.is_folder { "" } else { "\\Noselect" };
                    out.text(&format!("* LSUB ({attributes}) \"/\" "));
                    out.string(it.name.as_str().as_bytes());
                    out.text("\r\n");
                }
            }
            "OK listed".to_owned()
        }
        Err(error) => trouble(&error),
    }
}

pub(super) fn status(
    folders: &Folders,
    name: &Name,
    items: &[StatusDataItemName],
    out: &mut Out,
) -> String {
    let Some(folder) = folders.open(name) else {
        return "NO [NONEXISTENT] there is no such mailbox".to_owned();
    };
    let state = match folder.look() {
        Ok(state) => state,
        Err(error) => return trouble(&error),
    };
    let count = |is: &dyn Fn(&crate::mail::folder::Entry) -> bool| {
        state.entries().iter().filter(|entry| is(entry)).count()
    };
    let mut told = Vec::new();
    for item in items {
        told.push(match item {
            StatusDataItemName::Messages => format!("MESSAGES {}", state.entries().len()),
            StatusDataItemName::Recent => format!("RECENT {}", count(&|it| it.message.is_new)),
            StatusDataItemName::UidNext => format!("UIDNEXT {}", state.next),
            StatusDataItemName::UidValidity => format!("UIDVALIDITY {}", state.validity),
            StatusDataItemName::Unseen => {
                format!("UNSEEN {}", count(&|it| !it.flags.has(Flags::SEEN)))
            }
            _ => return "BAD such a status is not offered".to_owned(),
        });
    }
    out.text("* STATUS ");
    out.string(name.as_str().as_bytes());
    out.line(&format!(" ({})", told.join(" ")));
    "OK status told".to_owned()
}

/// What a change of folders is answered with.
pub(super) fn changed(done: Result<(), Refusal>) -> String {
    match done {
        Ok(()) => "OK done".to_owned(),
        Err(Refusal::Exists) => "NO [ALREADYEXISTS] there is such a mailbox".to_owned(),
        Err(Refusal::Missing) => "NO [NONEXISTENT] there is no such mailbox".to_owned(),
        Err(Refusal::Never(why)) => format!("NO [CANNOT] {why}"),
        Err(Refusal::TooMany) => "NO [LIMIT] there are too many".to_owned(),
        Err(Refusal::Disk(error)) => trouble(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn patterns_fit_as_the_rfc_says() {
        for (name, pattern, wanted) in [
            ("INBOX", "*", true),
            ("INBOX", "inbox", true),
            ("INBOX/x", "iNbOx/%", true),
            ("inboxer", "INBOXER", false),
            ("a/b/c", "%", false),
            ("a/b/c", "a/%", false),
            ("a/b/c", "a/*", true),
            ("a/b/c", "%/%/%", true),
            ("a/b/c", "*c", true),
            ("abc", "a%c", true),
            ("abc", "", false),
            ("abc", "abc*%", true),
        ] {
            assert_eq!(fits(name, pattern), wanted, "{name} {pattern}");
        }
        // Would take for ever if each star were tried with each length.
        assert!(!fits(&"a".repeat(200), &("*a%".repeat(200) + "b")));
    }
}
