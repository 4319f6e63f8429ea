#![forbid(unsafe_code)]
//! FETCH (RFC 3501, 6.4.5): some messages at a time, so that the answer to `1:*` is held nowhere as a whole.

use std::io;
use std::ops::Range;

use imap_codec::imap_types::core::AString;
use imap_codec::imap_types::fetch::{
    MacroOrMessageDataItemNames, MessageDataItemName, Part as Numbers, Section,
};

use super::body::{envelope, structure};
use super::lazy::Lazy;
use super::selected::{Selected, Telling};
use super::session::Done;
use super::write::Out;
use crate::mail::flags::Flags;
use crate::mail::folder::{Change, How};
use crate::mail::header;
use crate::mail::mime::{Kind, Part};

/// A FETCH under way.
pub(super) struct Fetch {
    items: Vec<Item>,
    places: std::vec::IntoIter<usize>,
    is_uid: bool,
    /// Some of the messages are gone.
    has_missed: bool,
}

/// What is wanted of each message.
enum Item {
    Flags,
    Uid,
    InternalDate,
    Size,
    Envelope,
    Structure {
        is_extended: bool,
    },
    Section {
        name: String,
        section: Option<Section<'static>>,
        partial: Option<(u32, u32)>,
    },
}

/// Messages that are looked at before others get their turn, when little is to be said of them.
const MOST_AT_ONCE: usize = 2000;

impl Fetch {
    /// Of the messages at these places; `None` where something is wanted that is not offered.
    pub(super) fn new(
        wanted: MacroOrMessageDataItemNames<'static>,
        places: Vec<usize>,
        is_uid: bool,
    ) -> Option<(Self, bool)> {
        let names = match &wanted {
            MacroOrMessageDataItemNames::Macro(short) => short.expand(),
            MacroOrMessageDataItemNames::MessageDataItemNames(names) => names.clone(),
        };
        let (mut items, mut sees) = (Vec::new(), false);
        if is_uid && !names.contains(&MessageDataItemName::Uid) {
            items.push(Item::Uid);
        }
        for name in names {
            let (item, is_seen) = item(name)?;
            items.push(item);
            sees |= is_seen;
        }
        let fetch = Fetch {
            items,
            places: places.into_iter(),
            is_uid,
            has_missed: false,
        };
        Some((fetch, sees))
    }

    /// Answers for some messages, and says what comes then.
    pub(super) fn run(mut self, mut selected: Selected, sees: bool) -> Done {
        let mut out = Out::default();
        let mut count = 0;
        while let Some(place) = self.places.next() {
            match self.one(&mut selected, place, sees, &mut out) {
                Ok(true) => {}
                Ok(false) => self.has_missed = true,
                // Half an answer may be written, and there is no way to take it back.
                Err(error) => {
                    log::debug!(target: "imap", "a message cannot be read: {error}");
                    return Done::bye("a message cannot be read");
                }
            }
            count += 1;
            if out.is_full() || count >= MOST_AT_ONCE {
                return Done::more(Some(selected), out, move |selected| match selected {
                    Some(selected) => self.run(selected, sees),
                    None => Done::bye("the mailbox is closed"),
                });
            }
        }
        let telling = Telling {
            expunges: self.is_uid,
            uids: self.is_uid,
        };
        let text = match self.has_missed {
            true => "OK [EXPUNGEISSUED] some messages are gone",
            false => "OK fetched",
        };
        Done::synced(selected, out, telling, text)
    }

    /// Answers for one message; false when it is gone.
    fn one(
        &self,
        selected: &mut Selected,
        place: usize,
        sees: bool,
        out: &mut Out,
    ) -> io::Result<bool> {
        let folder = std::sync::Arc::clone(&selected.folder);
        let uid = selected.rows[place].uid;
        let reads = self
            .items
            .iter()
            .any(|item| !matches!(item, Item::Flags | Item::Uid));
        let mut message = match reads {
            true => match Lazy::open(&folder, uid)? {
                Some(message) => Some(message),
                None => return Ok(false),
            },
            false => None,
        };
        let changes =
            sees && !selected.is_read_only && !selected.rows[place].flags.has(Flags::SEEN);
        if changes {
            let seen = Change {
                how: How::Add,
                flags: Flags::SEEN,
            };
            folder.store(&[uid], seen)?;
            selected.update(place, &folder.known());
        }
        out.text(&format!("* {} FETCH (", place + 1));
        // RFC 3501, 6.4.5: a change that this causes is told with it.
        let is_asked = self.items.iter().any(|item| matches!(item, Item::Flags));
        let told = (changes && !is_asked).then_some(&Item::Flags);
        for (at, item) in told.into_iter().chain(&self.items).enumerate() {
            if at > 0 {
                out.text(" ");
            }
            let row = selected.rows[place];
            match (item, &mut message) {
                (Item::Uid, _) => out.text(&format!("UID {uid}")),
                (Item::Flags, _) => {
                    let flags = selected.flags(&row, &folder.known().keywords);
                    out.text(&format!("FLAGS {flags}"));
                }
                (item, Some(message)) => item.write(message, out)?,
                (_, None) => {}
            }
        }
        out.line(")");
        Ok(true)
    }
}

impl Item {
    fn write(&self, message: &mut Lazy<'_>, out: &mut Out) -> io::Result<()> {
        match self {
            Item::Flags | Item::Uid => {}
            Item::InternalDate => {
                let at = message.received()?;
                out.text(
                    &at.format("INTERNALDATE \"%d-%b-%Y %H:%M:%S +0000\"")
                        .to_string(),
                );
            }
            Item::Size => out.text(&format!("RFC822.SIZE {}", message.size()?)),
            Item::Envelope => {
                out.text("ENVELOPE ");
                envelope(message.head()?, out);
            }
            Item::Structure { is_extended } => {
                out.text(if *is_extended {
                    "BODYSTRUCTURE "
                } else {
                    "BODY "
                });
                structure(message.part()?, *is_extended, out);
            }
            Item::Section {
                name,
                section,
                partial,
            } => {
                out.text(name);
                if let Some((origin, _)) = partial {
                    out.text(&format!("<{origin}>"));
                }
                out.text(" ");
                content(message, section.as_ref(), *partial, out)?;
            }
        }
        Ok(())
    }
}

/// A part of a message's text.
enum Content {
    Bytes(Vec<u8>),
    Range(Range<u64>),
}

fn content(
    message: &mut Lazy<'_>,
    section: Option<&Section<'_>>,
    partial: Option<(u32, u32)>,
    out: &mut Out,
) -> io::Result<()> {
    let found = match section {
        None => Some(Content::Range(0..u64::MAX)),
        Some(Section::Header(None)) => Some(Content::Bytes(message.head()?.to_vec())),
        Some(Section::HeaderFields(None, names)) => Some(Content::Bytes(chosen(
            message.head()?,
            names.as_ref(),
            true,
        ))),
        Some(Section::HeaderFieldsNot(None, names)) => Some(Content::Bytes(chosen(
            message.head()?,
            names.as_ref(),
            false,
        ))),
        Some(Section::Text(None)) => {
            let start = message.head()?.len() as u64;
            Some(Content::Range(start..u64::MAX))
        }
        Some(section) => within(message.part()?, section),
    };
    match found {
        None => out.text("NIL"),
        Some(Content::Bytes(bytes)) => {
            let start = partial
                .map_or(0, |(origin, _)| origin as usize)
                .min(bytes.len());
            let most = partial.map_or(usize::MAX, |(_, most)| most as usize);
            let end = start.saturating_add(most).min(bytes.len());
            out.literal(&bytes[start..end]);
        }
        Some(Content::Range(range)) => {
            let text = message.text()?;
            let range = text.clamp(range);
            let start = range.start + partial.map_or(0, |(origin, _)| u64::from(origin));
            let end = partial.map_or(u64::MAX, |(_, most)| start + u64::from(most));
            out.range(text, start.min(range.end)..end.min(range.end))?;
        }
    }
    Ok(())
}

/// What a section names within a message's parts.
fn within(message: &Part, section: &Section<'_>) -> Option<Content> {
    let part = |numbers: &Numbers| {
        let numbers: Vec<u32> = numbers
            .0
            .as_ref()
            .iter()
            .map(|number| number.get())
            .collect();
        message.find(&numbers)
    };
    let inner = |numbers: &Numbers| match &part(numbers)?.kind {
        Kind::Message(message) => Some(&**message),
        _ => None,
    };
    Some(match section {
        Section::Part(numbers) => Content::Range(part(numbers)?.body.clone()),
        Section::Mime(numbers) => Content::Range(part(numbers)?.header.clone()),
        Section::Header(Some(numbers)) => Content::Range(inner(numbers)?.header.clone()),
        Section::Text(Some(numbers)) => Content::Range(inner(numbers)?.body.clone()),
        Section::HeaderFields(Some(numbers), names) => {
            Content::Bytes(chosen(&inner(numbers)?.fields, names.as_ref(), true))
        }
        Section::HeaderFieldsNot(Some(numbers), names) => {
            Content::Bytes(chosen(&inner(numbers)?.fields, names.as_ref(), false))
        }
        _ => return None,
    })
}

/// The fields of these names, or all others, with an empty line behind.
fn chosen(head: &[u8], names: &[AString<'_>], are_wanted: bool) -> Vec<u8> {
    let is_named = |field: &header::Field<'_>| {
        names
            .iter()
            .any(|name| name.as_ref().eq_ignore_ascii_case(field.name))
    };
    let mut text = Vec::new();
    for field in header::fields(head).filter(|field| is_named(field) == are_wanted) {
        text.extend_from_slice(field.whole);
    }
    if !text.is_empty() && !text.ends_with(b"\n") {
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(b"\r\n");
    text
}

/// What is wanted, and whether the message is seen by it; `None` for what is not offered.
fn item(name: MessageDataItemName<'_>) -> Option<(Item, bool)> {
    use imap_codec::imap_types::IntoStatic as _;
    let whole = |name: &str, section| Item::Section {
        name: name.to_owned(),
        section,
        partial: None,
    };
    Some(match name {
        MessageDataItemName::Flags => (Item::Flags, false),
        MessageDataItemName::Uid => (Item::Uid, false),
        MessageDataItemName::InternalDate => (Item::InternalDate, false),
        MessageDataItemName::Rfc822Size => (Item::Size, false),
        MessageDataItemName::Envelope => (Item::Envelope, false),
        MessageDataItemName::Body => (Item::Structure { is_extended: false }, false),
        MessageDataItemName::BodyStructure => (Item::Structure { is_extended: true }, false),
        MessageDataItemName::Rfc822 => (whole("RFC822", None), true),
        MessageDataItemName::Rfc822Header => {
            (whole("RFC822.HEADER", Some(Section::Header(None))), false)
        }
        MessageDataItemName::Rfc822Text => (whole("RFC822.TEXT", Some(Section::Text(None))), true),
        MessageDataItemName::BodyExt {
            section,
            partial,
            peek,
        } => {
            let item = Item::Section {
                name: format!("BODY[{}]", section.as_ref().map(label).unwrap_or_default()),
                section: section.map(|section| section.into_static()),
                partial: partial.map(|(origin, most)| (origin, most.get())),
            };
            (item, !peek)
        }
        _ => return None,
    })
}

/// A section as the client wrote it.
fn label(section: &Section<'_>) -> String {
    let numbers = |part: &Numbers| {
        let numbers = part.0.as_ref().iter().map(ToString::to_string);
        numbers.collect::<Vec<_>>().join(".")
    };
    let behind = |part: &Option<Numbers>, text: &str| match part {
        Some(part) => format!("{}.{text}", numbers(part)),
        None => text.to_owned(),
    };
    let list = |names: &[AString<'_>]| {
        let mut out = Out::default();
        for (at, name) in names.iter().enumerate() {
            out.text(if at == 0 { "" } else { " " });
            match name {
                AString::Atom(atom) => out.text(atom.as_ref()),
                AString::String(text) => out.string(text.as_ref()),
            }
        }
        String::from_utf8_lossy(&out.bytes).into_owned()
    };
    match section {
        Section::Part(part) => numbers(part),
        Section::Header(part) => behind(part, "HEADER"),
        Section::HeaderFields(part, names) => {
            behind(part, &format!("HEADER.FIELDS ({})", list(names.as_ref())))
        }
        Section::HeaderFieldsNot(part, names) => behind(
            part,
            &format!("HEADER.FIELDS.NOT ({})", list(names.as_ref())),
        ),
        Section::Text(part) => behind(part, "TEXT"),
        Section::Mime(part) => format!("{}.MIME", numbers(part)),
    }
}
