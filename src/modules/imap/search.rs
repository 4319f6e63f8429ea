#![forbid(unsafe_code)]
//! SEARCH (RFC 3501, 6.4.4): some messages at a time, each read only as far as a key asks for it.

use std::io;
use std::sync::Arc;

use chrono::{Datelike, NaiveDate};
use imap_codec::imap_types::core::{AString, Charset};
use imap_codec::imap_types::search::SearchKey;
use mail_parser::{HeaderName, HeaderValue, MessageParser, PartType};

use super::lazy::Lazy;
use super::selected::{Row, Selected, Telling};
use super::session::Done;
use super::set::{NoSuchMessage, places};
use super::write::Out;
use crate::mail::flags::Flags;
use crate::mail::header;
use crate::mail::mime::{Kind, Part};
use crate::mail::wire::Text;

/// A SEARCH under way.
pub(super) struct Search {
    key: Key,
    is_uid: bool,
    next: usize,
    found: Vec<u32>,
}

/// A key that is ready to be asked.
enum Key {
    All(Vec<Key>),
    Any(Box<Key>, Box<Key>),
    Not(Box<Key>),
    /// At these places, in order.
    Places(Vec<usize>),
    Flag(Flags, bool),
    /// Of the folder's keywords, which may become one meanwhile.
    Keyword(String, bool),
    Recent(bool),
    Larger(u64),
    Smaller(u64),
    Received(Day),
    Sent(Day),
    Header(Vec<u8>, String),
    Body(String),
    Text(String),
}

/// A day, and how another one must be to it.
#[derive(Clone, Copy)]
enum Day {
    Before(NaiveDate),
    On(NaiveDate),
    Since(NaiveDate),
}

impl Day {
    fn fits(self, day: NaiveDate) -> bool {
        match self {
            Day::Before(other) => day < other,
            Day::On(other) => day == other,
            Day::Since(other) => day >= other,
        }
    }
}

/// Bytes that are read before others get their turn.
const MOST_BYTES: u64 = 4 << 20;
/// Messages that are looked at before others get theirs.
const MOST_AT_ONCE: usize = 20_000;
/// Of a part's text so much is searched.
const MOST_TEXT: usize = 8 << 20;

/// Why a search is not made.
pub(super) enum Refusal {
    Charset,
    NoSuchMessage,
    NoText,
}

impl From<NoSuchMessage> for Refusal {
    fn from(_: NoSuchMessage) -> Self {
        Refusal::NoSuchMessage
    }
}

impl Search {
    pub(super) fn new(
        charset: Option<&Charset<'_>>,
        keys: &[SearchKey<'_>],
        is_uid: bool,
        rows: &[Row],
    ) -> Result<Self, Refusal> {
        let known = |charset: &Charset<'_>| {
            let name = charset.as_ref();
            ["UTF-8", "US-ASCII"]
                .iter()
                .any(|known| known.eq_ignore_ascii_case(name))
        };
        if charset.is_some_and(|charset| !known(charset)) {
            return Err(Refusal::Charset);
        }
        let keys = keys.iter().map(|key| ready(key, rows));
        Ok(Search {
            key: Key::All(keys.collect::<Result<_, _>>()?),
            is_uid,
            next: 0,
            found: Vec::new(),
        })
    }

    /// Asks some messages, and says what comes then.
    pub(super) fn run(mut self, selected: Selected) -> Done {
        let (mut cost, begun) = (0, self.next);
        let folder = Arc::clone(&selected.folder);
        while let Some(row) = selected.rows.get(self.next) {
            let mut asked = Asked {
                place: self.next,
                row: *row,
                selected: &selected,
                message: None,
            };
            match asked.fits(&self.key) {
                Ok(true) => self.found.push(match self.is_uid {
                    true => row.uid,
                    false => u32::try_from(self.next + 1).unwrap_or(u32::MAX),
                }),
                // It is gone.
                Ok(false) => {}
                Err(error) => {
                    log::debug!(target: "imap", "{folder:?}: a message cannot be searched: {error}")
                }
            }
            cost += asked.message.flatten().map_or(0, |message| message.cost);
            self.next += 1;
            if cost > MOST_BYTES || self.next - begun >= MOST_AT_ONCE {
                return Done::more(
                    Some(selected),
                    Out::default(),
                    move |selected| match selected {
                        Some(selected) => self.run(selected),
                        None => Done::bye("the mailbox is closed"),
                    },
                );
            }
        }
        let mut out = Out::default();
        let found: String = self
            .found
            .iter()
            .map(|number| format!(" {number}"))
            .collect();
        out.line(&format!("* SEARCH{found}"));
        let telling = Telling {
            expunges: self.is_uid,
            uids: self.is_uid,
        };
        Done::synced(selected, out, telling, "OK searched")
    }
}

fn ready(key: &SearchKey<'_>, rows: &[Row]) -> Result<Key, Refusal> {
    let text = |text: &AString<'_>| {
        std::str::from_utf8(text.as_ref())
            .map(str::to_lowercase)
            .map_err(|_| Refusal::NoText)
    };
    let field = |name: &str, value: &AString<'_>| {
        Ok::<_, Refusal>(Key::Header(name.as_bytes().to_vec(), text(value)?))
    };
    let sub = |key: &SearchKey<'_>| ready(key, rows).map(Box::new);
    Ok(match key {
        SearchKey::And(keys) => {
            let keys = keys.as_ref().iter().map(|key| ready(key, rows));
            Key::All(keys.collect::<Result<_, _>>()?)
        }
        SearchKey::Or(one, other) => Key::Any(sub(one)?, sub(other)?),
        SearchKey::Not(key) => Key::Not(sub(key)?),
        SearchKey::SequenceSet(set) => Key::Places(places(set, false, rows)?),
        SearchKey::Uid(set) => Key::Places(places(set, true, rows)?),
        SearchKey::All => Key::All(Vec::new()),
        SearchKey::Answered => Key::Flag(Flags::ANSWERED, true),
        SearchKey::Unanswered => Key::Flag(Flags::ANSWERED, false),
        SearchKey::Deleted => Key::Flag(Flags::DELETED, true),
        SearchKey::Undeleted => Key::Flag(Flags::DELETED, false),
        SearchKey::Draft => Key::Flag(Flags::DRAFT, true),
        SearchKey::Undraft => Key::Flag(Flags::DRAFT, false),
        SearchKey::Flagged => Key::Flag(Flags::FLAGGED, true),
        SearchKey::Unflagged => Key::Flag(Flags::FLAGGED, false),
        SearchKey::Seen => Key::Flag(Flags::SEEN, true),
        SearchKey::Unseen => Key::Flag(Flags::SEEN, false),
        SearchKey::Keyword(name) => Key::Keyword(name.inner().to_owned(), true),
        SearchKey::Unkeyword(name) => Key::Keyword(name.inner().to_owned(), false),
        SearchKey::Recent => Key::Recent(true),
        SearchKey::Old => Key::Recent(false),
        SearchKey::New => Key::All(vec![Key::Recent(true), Key::Flag(Flags::SEEN, false)]),
        SearchKey::Larger(size) => Key::Larger(u64::from(*size)),
        SearchKey::Smaller(size) => Key::Smaller(u64::from(*size)),
        SearchKey::Before(day) => Key::Received(Day::Before(*day.as_ref())),
        SearchKey::On(day) => Key::Received(Day::On(*day.as_ref())),
        SearchKey::Since(day) => Key::Received(Day::Since(*day.as_ref())),
        SearchKey::SentBefore(day) => Key::Sent(Day::Before(*day.as_ref())),
        SearchKey::SentOn(day) => Key::Sent(Day::On(*day.as_ref())),
        SearchKey::SentSince(day) => Key::Sent(Day::Since(*day.as_ref())),
        SearchKey::Bcc(value) => field("bcc", value)?,
        SearchKey::Cc(value) => field("cc", value)?,
        SearchKey::From(value) => field("from", value)?,
        SearchKey::Subject(value) => field("subject", value)?,
        SearchKey::To(value) => field("to", value)?,
        SearchKey::Header(name, value) => Key::Header(name.as_ref().to_vec(), text(value)?),
        SearchKey::Body(value) => Key::Body(text(value)?),
        SearchKey::Text(value) => Key::Text(text(value)?),
    })
}

/// A message that is asked.
struct Asked<'s> {
    place: usize,
    row: Row,
    selected: &'s Selected,
    /// Opened when first needed; inside, `None` when it is gone.
    message: Option<Option<Lazy<'s>>>,
}

impl<'s> Asked<'s> {
    fn message(&mut self) -> io::Result<Option<&mut Lazy<'s>>> {
        if self.message.is_none() {
            self.message = Some(Lazy::open(&self.selected.folder, self.row.uid)?);
        }
        Ok(self.message.as_mut().and_then(Option::as_mut))
    }

    fn fits(&mut self, key: &Key) -> io::Result<bool> {
        Ok(match key {
            Key::All(keys) => {
                for key in keys {
                    if !self.fits(key)? {
                        return Ok(false);
                    }
                }
                true
            }
            Key::Any(one, other) => self.fits(one)? || self.fits(other)?,
            Key::Not(key) => !self.fits(key)?,
            Key::Places(places) => places.binary_search(&self.place).is_ok(),
            Key::Flag(flag, is_set) => self.row.flags.has(*flag) == *is_set,
            Key::Keyword(name, is_set) => {
                let flag = self.selected.folder.known().keywords.find(name);
                flag.is_some_and(|flag| self.row.flags.has(flag)) == *is_set
            }
            Key::Recent(is_set) => self.row.is_recent == *is_set,
            _ => match self.message()? {
                Some(message) => reads(message, key)?,
                None => false,
            },
        })
    }
}

/// Keys for which the message itself is needed.
fn reads(message: &mut Lazy<'_>, key: &Key) -> io::Result<bool> {
    Ok(match key {
        Key::Larger(size) => message.size()? > *size,
        Key::Smaller(size) => message.size()? < *size,
        Key::Received(day) => day.fits(message.received()?.date_naive()),
        Key::Sent(day) => sent(message.head()?).is_some_and(|sent| day.fits(sent)),
        Key::Header(name, value) => has_field(message.head()?, Some(name), value),
        Key::Body(value) => {
            let (part, text) = message.both()?;
            has_text(part, text, value)?
        }
        Key::Text(value) => {
            if has_field(message.head()?, None, value) {
                return Ok(true);
            }
            let (part, text) = message.both()?;
            has_text(part, text, value)?
        }
        _ => false,
    })
}

/// The day of the Date field, whatever its zone.
fn sent(head: &[u8]) -> Option<NaiveDate> {
    match header::parsed(head, HeaderName::Date)? {
        HeaderValue::DateTime(at) => {
            NaiveDate::from_ymd_opt(at.year.into(), at.month.into(), at.day.into())
                .filter(|day| day.year() > 0)
        }
        _ => None,
    }
}

/// True when a field of that name, or any, has the text in it.
fn has_field(head: &[u8], name: Option<&[u8]>, value: &str) -> bool {
    let is_named =
        |field: &header::Field<'_>| name.is_none_or(|name| field.name.eq_ignore_ascii_case(name));
    header::fields(head).filter(is_named).any(|field| {
        let raw = String::from_utf8_lossy(&header::unfold(field.value)).to_lowercase();
        if raw.contains(value) {
            return true;
        }
        let is_encoded = raw.contains("=?");
        let whole = String::from_utf8_lossy(field.name).to_lowercase();
        (is_encoded && header::decoded(&field).to_lowercase().contains(value))
            || (name.is_none() && format!("{whole}: {raw}").contains(value))
    })
}

static PARSER: std::sync::LazyLock<MessageParser> =
    std::sync::LazyLock::new(|| MessageParser::new().with_mime_headers());

/// True when the text of a part, or of one within, has it in it.
fn has_text(part: &Part, text: &Text, value: &str) -> io::Result<bool> {
    match &part.kind {
        Kind::Multi(parts) => {
            for part in parts {
                if has_text(part, text, value)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Kind::Message(message) => {
            if has_field(&message.fields, None, value) {
                return Ok(true);
            }
            has_text(message, text, value)
        }
        Kind::Single => {
            let found = part.content_type();
            let is_text = found
                .as_ref()
                .is_none_or(|it| it.ctype().eq_ignore_ascii_case("text"));
            let is_odd = found.is_some_and(|it| it.ctype().eq_ignore_ascii_case("multipart"));
            let bytes = match is_text || is_odd {
                true => text.read(part.body.clone(), MOST_TEXT)?,
                false => return Ok(false),
            };
            let decoded = match is_odd {
                true => String::from_utf8_lossy(&bytes).into_owned(),
                false => decode(part, &bytes),
            };
            Ok(decoded.to_lowercase().contains(value))
        }
    }
}

/// A text part's text: it is the only part of a message made for the parser, so nothing nests in it.
fn decode(part: &Part, bytes: &[u8]) -> String {
    let mut whole = Vec::with_capacity(bytes.len() + 256);
    for field in header::fields(&part.fields) {
        let name = field.name.to_ascii_lowercase();
        if name == b"content-type" || name == b"content-transfer-encoding" {
            whole.extend_from_slice(field.whole);
        }
    }
    whole.extend_from_slice(b"\r\n");
    whole.extend_from_slice(bytes);
    let run = || {
        let message = PARSER.parse(&whole)?;
        match message.parts.into_iter().next()?.body {
            PartType::Text(text) | PartType::Html(text) => Some(text.into_owned()),
            _ => None,
        }
    };
    let decoded = std::panic::catch_unwind(run).ok().flatten();
    decoded.unwrap_or_else(|| String::from_utf8_lossy(bytes).into_owned())
}
