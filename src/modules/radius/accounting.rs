#![forbid(unsafe_code)]
//! Accounting records on disk: a JSON line each, in place for good before its request is answered. Requests
//! that come while the disk is busy are written together.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::SystemTime;

use parking_lot::Mutex;
use serde_json::{Map, Value};

use super::dictionary::shown;
use super::duplicates::Key;
use super::packet::{MESSAGE_AUTHENTICATOR, Packet};

/// Records that wait for the disk; of further ones the client hears nothing, and repeats them.
const MOST_WAITING: usize = 1024;
/// RFC 2866, 5.1.
const ACCT_STATUS_TYPE: u8 = 40;
const EVENTS: [(u32, &str); 5] = [
    (1, "Start"),
    (2, "Stop"),
    (3, "Interim-Update"),
    (7, "Accounting-On"),
    (8, "Accounting-Off"),
];

/// A record on its way to the disk, with what its request is answered then.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) key: Key,
    pub(super) authenticator: [u8; 16],
    pub(super) answer: Vec<u8>,
    pub(super) line: Vec<u8>,
}

/// The file, opened anew for each batch, so that it can be moved away.
#[derive(Debug)]
pub(super) struct Ledger {
    file: PathBuf,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    records: Vec<Record>,
    /// Somebody is writing, and comes back for these.
    writing: bool,
}

/// What becomes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Queued {
    /// [`Ledger::write`] is to be called.
    Write,
    /// It is written with others.
    Waits,
    /// There is no room.
    Full,
}

impl Ledger {
    pub(super) fn new(state_dir: &std::path::Path) -> Self {
        Ledger {
            file: state_dir.join("radius/accounting.jsonl"),
            waiting: Mutex::default(),
        }
    }

    pub(super) fn queue(&self, record: Record) -> Queued {
        let mut waiting = self.waiting.lock();
        if waiting.records.len() >= MOST_WAITING {
            return Queued::Full;
        }
        waiting.records.push(record);
        match std::mem::replace(&mut waiting.writing, true) {
            true => Queued::Waits,
            false => Queued::Write,
        }
    }

    /// Writes what waits. The records, whether they are on disk, and whether to call this again.
    pub(super) fn write(&self) -> (Vec<Record>, io::Result<()>, bool) {
        let records = std::mem::take(&mut self.waiting.lock().records);
        let written = self.append(&records);
        let mut waiting = self.waiting.lock();
        waiting.writing = !waiting.records.is_empty();
        (records, written, waiting.writing)
    }

    fn append(&self, records: &[Record]) -> io::Result<()> {
        let mut open = OpenOptions::new();
        open.append(true).create(true).mode(0o600);
        let is_new = !self.file.exists();
        if is_new && let Some(parent) = self.file.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut file = open.open(&self.file)?;
        let lines: Vec<u8> = records
            .iter()
            .flat_map(|record| record.line.iter().copied())
            .collect();
        let before = file.metadata()?.len();
        let written = file.write_all(&lines).and_then(|()| file.sync_data());
        if written.is_err() {
            // Half a line would spoil the one that comes after it.
            let _ = file.set_len(before);
        }
        written?;
        match is_new {
            true => crate::files::sync_parent(&self.file),
            false => Ok(()),
        }
    }
}

/// A request's line.
pub(super) fn line(packet: &Packet<'_>, client: SocketAddr, wall: SystemTime) -> Vec<u8> {
    let mut attributes = Map::new();
    for (kind, bytes) in packet.attributes() {
        if kind == MESSAGE_AUTHENTICATOR {
            continue;
        }
        let (name, value) = shown(kind, bytes);
        match attributes.get_mut(&name) {
            None => drop(attributes.insert(name, value)),
            Some(Value::Array(values)) => values.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
        }
    }
    let number = packet.first(ACCT_STATUS_TYPE).unwrap_or_default();
    let number = <[u8; 4]>::try_from(number).map_or(0, u32::from_be_bytes);
    let event = EVENTS.iter().find(|(other, _)| *other == number);
    let record = serde_json::json!({
        "time": humantime::format_rfc3339_millis(wall).to_string(),
        "client": client.ip().to_string(),
        "event": event.map(|(_, name)| *name),
        "attributes": attributes,
    });
    let mut line = record.to_string().into_bytes();
    line.push(b'\n');
    line
}
