#![forbid(unsafe_code)]
//! A message on its way in: read in pieces, stored or passed on in pieces, answered once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use super::data::{ChunkReader, DataReader};
use super::hops::Hops;
use super::session::{Asked, Conversation, State};
use super::trace::Trace;
use super::{Delivery as Place, Shared};
use crate::mail::delivery::Delivery;
use crate::mail::maildir::Maildir;
use crate::session::{Context, Input, Lane, Next, Work};

/// A message under way.
#[derive(Debug)]
pub(super) struct Message {
    mode: Mode,
    /// Text that was read and not stored or passed on yet.
    text: Vec<u8>,
    /// Bytes of text so far, those already stored included and our own lines not.
    size: u64,
    /// The reply that it will get whatever still comes; the rest is read and thrown away.
    refused: Option<String>,
    delivery: Option<Delivery>,
    chunks: ChunkReader,
    hops: Hops,
    /// Whether what the upstream got last ended a line.
    at_start: bool,
    id: String,
    begun: Instant,
}

/// How its end is known.
#[derive(Debug)]
enum Mode {
    Data(DataReader),
    Chunk { left: u64, last: bool },
}

/// What became of text given to the disk.
pub(super) type Stored = io::Result<Option<Delivery>>;

impl Message {
    /// Text kept in memory before it goes on: with the input's 64 KiB, a session holds at most twice that.
    pub(super) const CHUNK: usize = 32 * 1024;

    /// What it will be answered.
    pub(super) fn refuse(&mut self, reply: &str) {
        if self.refused.is_none() {
            self.refused = Some(reply.to_owned());
        }
        self.text = Vec::new();
        self.delivery = None;
    }

    /// What is wrong with what has come of it.
    fn objection(&self, most: u64) -> Option<&'static str> {
        if self.size > most {
            Some("552 5.3.4 the message is larger than this server takes")
        } else if self.hops.are_many() {
            Some("554 5.4.6 the message goes round in circles")
        } else {
            None
        }
    }

    /// Takes what the input has of it; true at its end, or its chunk's.
    fn take(&mut self, input: &mut Input) -> bool {
        let before = self.text.len();
        let ended = match &mut self.mode {
            Mode::Data(reader) => {
                let (used, ended) = reader.read(input, &mut self.text);
                input.consume(used);
                ended
            }
            Mode::Chunk { left, .. } => {
                let count = usize::try_from(*left)
                    .unwrap_or(usize::MAX)
                    .min(input.len());
                self.chunks.read(&input[..count], &mut self.text);
                input.consume(count);
                *left -= count as u64;
                *left == 0
            }
        };
        self.size += (self.text.len() - before) as u64;
        self.hops.read(&self.text[before..]);
        if self.refused.is_some() {
            self.text.clear();
        }
        ended
    }
}

/// A short name for a message in replies and traces: the time and a count.
fn id(cx: &Context<'_>) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let since = cx.wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{:X}{:03X}", since.as_micros(), count & 0xfff)
}

impl Conversation {
    /// Begins to read text: all of it, or chunks.
    pub(super) fn begin_text(&mut self, is_chunks: bool, cx: &Context<'_>) {
        self.state = State::Text;
        if !is_chunks {
            self.begin_message(Mode::Data(DataReader::default()), cx);
        }
    }

    /// Reads a chunk (RFC 3030, 4.1); the first one begins the message.
    pub(super) fn begin_chunk(
        &mut self,
        left: u64,
        last: bool,
        cx: &mut Context<'_>,
    ) -> Option<Next> {
        let mode = Mode::Chunk { left, last };
        if let Some(message) = &mut self.message {
            message.mode = mode;
            self.state = State::Text;
            return None;
        }
        self.begin_message(mode, cx);
        self.state = State::Text;
        if matches!(self.shared.delivery, Place::Gate(_)) {
            return self.ask(Asked::Chunks, cx);
        }
        None
    }

    /// Reads a chunk that will be refused (RFC 3030, 4.1: it is sent all the same).
    pub(super) fn skip_chunk(&mut self, left: u64, last: bool, refusal: &str, cx: &Context<'_>) {
        self.begin_message(Mode::Chunk { left, last }, cx);
        self.refuse_text(refusal);
    }

    /// Reads on, to throw it away and answer with this in the end.
    pub(super) fn refuse_text(&mut self, reply: &str) {
        self.state = State::Text;
        if let Some(message) = &mut self.message {
            message.refuse(reply);
        }
    }

    fn begin_message(&mut self, mode: Mode, cx: &Context<'_>) {
        let id = id(cx);
        let text = self.head(&id, cx).into_bytes();
        self.message = Some(Message {
            mode,
            text,
            size: 0,
            refused: None,
            delivery: None,
            chunks: ChunkReader::default(),
            hops: Hops::default(),
            at_start: true,
            id,
            begun: cx.now(),
        });
    }

    /// The lines of ours that stand before the message.
    fn head(&self, id: &str, cx: &Context<'_>) -> String {
        let Some(envelope) = &self.envelope else {
            return String::new();
        };
        let (helo, extended) = self.helo.clone().unwrap_or_default();
        let recipient = match envelope.recipients.as_slice() {
            [one] => Some(one.text.as_str()),
            _ => None,
        };
        let received = Trace {
            peer: cx.peer(),
            hostname: &self.shared.hostname,
            helo: &helo,
            extended,
            authenticated: self.account.is_some(),
            utf8: envelope.utf8,
            id,
            recipient,
            now: cx.wall(),
        }
        .received();
        match self.shared.delivery {
            // RFC 5321, 4.4: at the final delivery, and only there.
            Place::Maildir(_) => format!("Return-Path: <{}>\r\n{received}", envelope.from.text),
            Place::Gate(_) => received,
        }
    }

    /// True when an empty chunk is complete without any input.
    pub(super) fn wants_no_input(&self) -> bool {
        let mode = self.message.as_ref().map(|message| &message.mode);
        matches!(mode, Some(Mode::Chunk { left: 0, .. }))
    }

    /// Takes text off the input.
    pub(super) fn take_text(&mut self, input: &mut Input, cx: &mut Context<'_>) -> Option<Next> {
        let most = self.shared.max_message;
        let Some(message) = &mut self.message else {
            self.state = State::Command;
            return None;
        };
        let ended = message.take(input);
        let allowed = LONGEST + Duration::from_secs(message.size / SLOWEST);
        if cx.now().saturating_duration_since(message.begun) > allowed {
            return Some(self.close("421 4.4.2 the message comes too slowly", cx));
        }
        if message.refused.is_none()
            && let Some(refusal) = message.objection(most)
        {
            message.refuse(refusal);
            // What the upstream has of it must not become a message.
            self.gate = None;
        }
        if !ended {
            return match message.text.len() {
                0..Message::CHUNK => None,
                _ => self.pass_on(cx),
            };
        }
        match message.mode {
            Mode::Chunk { last: false, .. } => {
                self.state = State::Command;
                let reply = message.refused.clone();
                if self.envelope.is_none() {
                    self.message = None;
                }
                let reply = reply.unwrap_or_else(|| "250 2.0.0 chunk taken".to_owned());
                self.say(&reply, cx)
            }
            _ => self.complete(cx),
        }
    }

    /// All of the message is there.
    fn complete(&mut self, cx: &mut Context<'_>) -> Option<Next> {
        let message = self.message.as_mut()?;
        message.chunks.finish(&mut message.text);
        if let Some(reply) = message.refused.take() {
            self.state = State::Command;
            if matches!(self.shared.delivery, Place::Gate(_)) {
                // The upstream is in the middle of a message that is not to be.
                self.gate = None;
            }
            self.reset();
            return self.say(&reply, cx);
        }
        match &self.shared.delivery {
            Place::Maildir(_) => Some(self.store(true)),
            Place::Gate(_) => {
                if let (Some(gate), Some(message)) = (&mut self.gate, &mut self.message) {
                    gate.text(&message.text, &mut message.at_start);
                    message.text = Vec::new();
                }
                self.ask(Asked::End, cx)
            }
        }
    }

    /// Gives text away: to the disk, or to the upstream.
    fn pass_on(&mut self, cx: &mut Context<'_>) -> Option<Next> {
        if matches!(self.shared.delivery, Place::Maildir(_)) {
            return Some(self.store(false));
        }
        if let (Some(gate), Some(message)) = (&mut self.gate, &mut self.message) {
            gate.text(&message.text, &mut message.at_start);
            message.text.clear();
            return self.ask(Asked::Room(cx.now() + ROOM), cx);
        }
        self.refuse_text(super::session::UNREACHABLE);
        None
    }

    /// Writes text to the draft, and the last of it into the mailboxes, on a thread that may wait.
    fn store(&mut self, last: bool) -> Next {
        let mailboxes = self.mailboxes();
        let Some(message) = &mut self.message else {
            return Next::Abort;
        };
        let text = std::mem::take(&mut message.text);
        let delivery = message.delivery.take();
        self.state = State::Storing { last };
        Next::Work(Work::new(Lane::Wait, move || -> Stored {
            let mut delivery = match delivery {
                Some(delivery) => delivery,
                None => Delivery::begin(mailboxes)?,
            };
            delivery.write(&text)?;
            if last {
                delivery.finish()?;
                return Ok(None);
            }
            Ok(Some(delivery))
        }))
    }

    /// The recipients' mailboxes, each once.
    fn mailboxes(&self) -> Vec<Maildir> {
        let (Place::Maildir(store), Some(envelope)) = (&self.shared.delivery, &self.envelope)
        else {
            return Vec::new();
        };
        let mut accounts: Vec<&Arc<str>> = envelope
            .recipients
            .iter()
            .filter_map(|recipient| recipient.account.as_ref())
            .collect();
        accounts.sort();
        accounts.dedup();
        accounts
            .into_iter()
            .map(|account| store.mailbox(account))
            .collect()
    }

    /// Text was written, or could not be.
    pub(super) fn stored(
        &mut self,
        last: bool,
        stored: Option<Stored>,
        cx: &mut Context<'_>,
    ) -> Option<Next> {
        let message = self.message.as_mut()?;
        let stored = stored.unwrap_or_else(|| Err(io::Error::other("the delivery panicked")));
        let reply = match stored {
            Ok(Some(delivery)) => {
                message.delivery = Some(delivery);
                self.state = State::Text;
                return None;
            }
            Ok(None) => format!("250 2.0.0 stored as {}", message.id),
            Err(error) => {
                self.shared.complain(&error, cx);
                refusal(&error).to_owned()
            }
        };
        if !last {
            self.refuse_text(&reply);
            return None;
        }
        self.idle_commands = 0;
        self.reset();
        self.say(&reply, cx)
    }
}

/// How long any message may take to come in. A trickle of bytes never lets a session idle, so time is counted.
const LONGEST: Duration = Duration::from_secs(600);
/// A larger message gets more time, at so many bytes a second.
const SLOWEST: u64 = 1024;
/// How long an upstream may take nothing (RFC 5321, 4.5.3.2.5: three minutes for a block of data).
const ROOM: Duration = Duration::from_secs(180);

/// The sender will try again: a full disk is not for ever.
fn refusal(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            "452 4.3.1 not enough storage"
        }
        _ => "451 4.3.0 the message could not be stored",
    }
}

impl Shared {
    /// Tells the log that the disk refuses, at most once a minute: clients try again and again.
    fn complain(&self, error: &io::Error, cx: &Context<'_>) {
        let now = cx
            .wall()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let last = self.complained.load(Ordering::Relaxed);
        if now >= last + 60 {
            self.complained.store(now, Ordering::Relaxed);
            log::error!(target: &cx.peer().listener, "a message could not be stored: {error}");
        }
    }
}
