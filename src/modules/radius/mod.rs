#![forbid(unsafe_code)]
//! RADIUS: who may come in (RFC 2865; MS-CHAPv2 by RFC 2548), and what they did (RFC 2866), on every socket.
//!
//! | file | room |
//! |---|---|
//! | `packet.rs` | packets and their proofs |
//! | `password.rs` | PAP, CHAP, MS-CHAPv2 |
//! | `dictionary.rs` | names of attributes |
//! | `duplicates.rs` | repeated requests get the identical answer |
//! | `accounting.rs` | records on disk before they are answered |
//! | `mod.rs` | the module: clients, and what a request is answered |

mod accounting;
mod dictionary;
mod duplicates;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod packet;
mod password;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde::Deserialize;

use self::accounting::{Ledger, Queued, Record, line};
use self::duplicates::{Duplicates, Key, Known};
use self::packet::{
    ACCESS_ACCEPT, ACCESS_REJECT, ACCESS_REQUEST, ACCOUNTING_REQUEST, ACCOUNTING_RESPONSE, Packet,
    STATUS_SERVER, USER_NAME, answer,
};
use self::password::Proof;
use super::{ModuleEntry, Settings};
use crate::accounts::{Account, Accounts};
use crate::admission::address_list::{AddressList, Source};
use crate::config::field::Field;
use crate::session::datagram::Outbox;
use crate::session::{Datagram, DatagramContext, DatagramModule, Lane};

pub(super) const ENTRY: ModuleEntry = ModuleEntry {
    name: "Radius",
    about: "lets accounts in and keeps their accounting (RFC 2865, 2866)",
    keys: &[
        "clients",
        "from",
        "secret",
        "require_message_authenticator",
        "replies",
    ],
    tcp: None,
    udp: Some(|settings| Some(Arc::new(Radius::configure(settings)?) as Arc<dyn DatagramModule>)),
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys<'a> {
    #[serde(borrow, default)]
    clients: Field<'a, Vec<Field<'a, RawClient<'a>>>>,
    #[serde(borrow, default)]
    require_message_authenticator: Field<'a, bool>,
    #[serde(borrow, default)]
    replies: Field<'a, BTreeMap<String, BTreeMap<String, String>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawClient<'a> {
    #[serde(borrow, default)]
    from: Field<'a, String>,
    #[serde(borrow, default)]
    secret: Field<'a, String>,
    #[serde(borrow, default)]
    require_message_authenticator: Field<'a, bool>,
}

/// A row of clients, network access servers in the RFC's words; the first whose list has an address counts.
struct Client {
    from: AddressList,
    secret: Vec<u8>,
    requires_proof: bool,
}

/// Attributes by account; those of `*` are for accounts that have none.
type Replies = HashMap<String, Vec<(u8, Vec<u8>)>>;

struct Radius {
    clients: Vec<Client>,
    shared: Arc<Shared>,
}

/// What work on the lanes needs, too.
struct Shared {
    accounts: Arc<Accounts>,
    replies: Replies,
    /// Exchanged for that of the configuration before, if there was one.
    memory: ArcSwap<Memory>,
}

/// What outlives a reload: a request that was answered before is not served again after it, and records on their
/// way to the disk get there.
struct Memory {
    duplicates: Mutex<Duplicates>,
    ledger: Ledger,
    /// When something was complained of, by what: each at most once a minute.
    complaints: Mutex<[Option<Instant>; 2]>,
}

/// What is complained of.
#[derive(Debug, Clone, Copy)]
enum Complaint {
    NoProof,
    Disk,
}

/// What it takes to answer a request later.
#[derive(Clone)]
struct Pending {
    key: Key,
    request: Vec<u8>,
    authenticator: [u8; 16],
    secret: Vec<u8>,
}

impl Radius {
    fn configure(settings: &mut Settings<'_, '_>) -> Option<Self> {
        let keys: Keys<'_> = settings.read()?;
        let requires = settings.get(keys.require_message_authenticator);
        if requires == Some(false) {
            settings.notice_at(keys.require_message_authenticator, OPEN);
        }
        let rows = settings.rows(keys.clients);
        let mut clients: Vec<_> = rows
            .into_iter()
            .map(|row| client(settings, row, requires.unwrap_or(true)))
            .collect();
        if !keys.clients.is_set() {
            clients.push(Some(Client {
                from: loopback(),
                secret: b"testing123".to_vec(),
                requires_proof: requires.unwrap_or(true),
            }));
        }
        let replies = settings.map(keys.replies, |replies| {
            let mut made = Replies::new();
            for (account, attributes) in replies {
                let all = attributes
                    .iter()
                    .map(|(name, text)| dictionary::attribute(name, text));
                made.insert(account.to_lowercase(), all.collect::<Result<_, _>>()?);
            }
            Ok(made)
        });
        let shared = Shared {
            accounts: settings.accounts(),
            replies: replies.unwrap_or_default(),
            memory: ArcSwap::from_pointee(Memory::new(settings.state_dir())),
        };
        Some(Radius {
            clients: clients.into_iter().collect::<Option<_>>()?,
            shared: Arc::new(shared),
        })
    }

    /// A request that is worth an answer: of a client, whole, and authentic as far as it must be.
    fn pending(&self, datagram: &Datagram<'_>, cx: &DatagramContext<'_>) -> Option<Pending> {
        let remote = datagram.route.remote.ip();
        let client = self
            .clients
            .iter()
            .find(|client| client.from.contains(remote))?;
        let packet = Packet::parse(datagram.bytes)?;
        let proof = packet.proves(&client.secret);
        let is_right = match packet.code {
            // The answer to a request without proof can be forged (Blast-RADIUS, CVE-2024-3596).
            ACCESS_REQUEST => proof.unwrap_or(!client.requires_proof),
            ACCOUNTING_REQUEST => packet.accounts(&client.secret) && proof.unwrap_or(true),
            // RFC 5997, 3.
            STATUS_SERVER => proof == Some(true),
            _ => false,
        };
        if packet.code == ACCESS_REQUEST && proof.is_none() && client.requires_proof {
            self.shared.complain(Complaint::NoProof, cx.now(), &|| {
                format!(
                    "{}: a request of {remote} without Message-Authenticator is dropped",
                    cx.listener()
                )
            });
        }
        is_right.then(|| Pending {
            key: Key {
                route: datagram.route,
                code: packet.code,
                identifier: packet.identifier,
            },
            request: packet.bytes.to_vec(),
            authenticator: *packet.authenticator,
            secret: client.secret.clone(),
        })
    }

    fn access(&self, pending: Pending, cx: &mut DatagramContext<'_>) {
        let shared = Arc::clone(&self.shared);
        let Some(packet) = Packet::parse(&pending.request) else {
            return;
        };
        let user = packet.first(USER_NAME).unwrap_or_default();
        let name = String::from_utf8_lossy(user).into_owned();
        match Proof::of(&packet, user, &pending.secret) {
            Some(Proof::Pap(password)) => match shared.accounts.check(&name, &password) {
                Ok(check) => cx.work(Lane::Compute, move |outbox| {
                    let account = check.run();
                    let answer = shared.decided(&pending, account.as_deref(), Vec::new());
                    outbox.send(pending.key.route, &answer);
                }),
                // Too many wait; the client repeats itself.
                Err(_) => shared.failed(&pending),
            },
            Some(Proof::Chap(chap)) => {
                let account = shared.accounts.find(&name);
                let account = account
                    .filter(|account| account.secret().is_some_and(|secret| chap.fits(secret)));
                let answer = shared.decided(&pending, account.as_deref(), Vec::new());
                cx.send(pending.key.route, &answer);
            }
            Some(Proof::MsChap2(exchange)) => {
                let account = shared.accounts.find(&name);
                let success = account
                    .as_ref()
                    .and_then(|account| exchange.fits(account.secret()?))
                    .zip(salt());
                let account = account.filter(|_| success.is_some());
                let proof = match success {
                    Some((success, salt)) => {
                        success.attributes(&pending.secret, &pending.authenticator, salt)
                    }
                    None => vec![exchange.error()],
                };
                let answer = shared.decided(&pending, account.as_deref(), proof);
                cx.send(pending.key.route, &answer);
            }
            None => {
                let answer = shared.decided(&pending, None, Vec::new());
                cx.send(pending.key.route, &answer);
            }
        }
    }

    fn account(&self, pending: Pending, cx: &mut DatagramContext<'_>) {
        let Some(packet) = Packet::parse(&pending.request) else {
            return;
        };
        let record = Record {
            key: pending.key,
            authenticator: pending.authenticator,
            answer: answer(&packet, ACCOUNTING_RESPONSE, &[], false, &pending.secret),
            line: line(&packet, pending.key.route.remote, cx.wall()),
        };
        match self.shared.memory.load().ledger.queue(record) {
            Queued::Write => self.write(cx),
            Queued::Waits => {}
            Queued::Full => {
                cx.lose(1);
                self.shared.failed(&pending);
            }
        }
    }

    fn write(&self, cx: &mut DatagramContext<'_>) {
        let shared = Arc::clone(&self.shared);
        let (listener, now) = (Arc::clone(cx.listener()), cx.now());
        cx.work(Lane::Wait, move |outbox| {
            shared.write(&listener, now, outbox)
        });
    }
}

/// Said where requests without proof are taken.
const OPEN: &str =
    "requests without Message-Authenticator are taken: whoever is on the way can forge the answers";

impl DatagramModule for Radius {
    fn answer(&self, datagram: &Datagram<'_>, cx: &mut DatagramContext<'_>) {
        let Some(pending) = self.pending(datagram, cx) else {
            return;
        };
        let (key, authenticator) = (pending.key, pending.authenticator);
        let memory = self.shared.memory.load();
        let known = memory.duplicates.lock().meet(key, authenticator, cx.now());
        match known {
            Known::Answered(answer) => cx.reply(&answer),
            Known::Waiting => {}
            Known::New => match key.code {
                ACCESS_REQUEST => self.access(pending, cx),
                ACCOUNTING_REQUEST => self.account(pending, cx),
                _ => {
                    let answer = self.shared.reply(&pending, ACCESS_ACCEPT, &[]);
                    cx.reply(&answer);
                }
            },
        }
    }

    /// More records came while others were written.
    fn alarm(&self, _key: u64, cx: &mut DatagramContext<'_>) {
        self.write(cx);
    }

    fn memory(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(self.shared.memory.load_full())
    }

    fn remember(&self, memory: Arc<dyn Any + Send + Sync>) {
        if let Ok(memory) = memory.downcast() {
            self.shared.memory.store(memory);
        }
    }
}

impl Memory {
    fn new(state_dir: &Path) -> Self {
        Memory {
            duplicates: Mutex::default(),
            ledger: Ledger::new(state_dir),
            complaints: Mutex::default(),
        }
    }
}

impl Shared {
    /// The answer to an Access-Request, kept for its repetition.
    fn decided(
        &self,
        pending: &Pending,
        account: Option<&Account>,
        proof: Vec<(u8, Vec<u8>)>,
    ) -> Vec<u8> {
        let Some(account) = account else {
            return self.reply(pending, ACCESS_REJECT, &proof);
        };
        let given = self
            .replies
            .get(&**account.name())
            .or_else(|| self.replies.get("*"));
        let attributes: Vec<_> = proof
            .into_iter()
            .chain(given.into_iter().flatten().cloned())
            .collect();
        self.reply(pending, ACCESS_ACCEPT, &attributes)
    }

    fn reply(&self, pending: &Pending, code: u8, attributes: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let answer = Packet::parse(&pending.request)
            .map(|packet| answer(&packet, code, attributes, true, &pending.secret))
            .unwrap_or_default();
        let memory = self.memory.load();
        let mut duplicates = memory.duplicates.lock();
        duplicates.answered(pending.key, pending.authenticator, &answer);
        answer
    }

    fn failed(&self, pending: &Pending) {
        let memory = self.memory.load();
        let mut duplicates = memory.duplicates.lock();
        duplicates.failed(pending.key, pending.authenticator);
    }

    /// Writes what waits, then answers it; where the disk refuses, clients hear nothing and repeat themselves.
    fn write(&self, listener: &str, now: Instant, outbox: &mut Outbox) {
        let memory = self.memory.load_full();
        let (records, written, again) = memory.ledger.write();
        for record in records {
            let mut duplicates = memory.duplicates.lock();
            match written {
                Ok(()) => {
                    duplicates.answered(record.key, record.authenticator, &record.answer);
                    outbox.send(record.key.route, &record.answer);
                }
                Err(_) => duplicates.failed(record.key, record.authenticator),
            }
        }
        if let Err(error) = written {
            self.complain(Complaint::Disk, now, &|| {
                format!("{listener}: accounting is not answered, for it cannot be written: {error}")
            });
        }
        if again {
            outbox.call(0);
        }
    }

    /// Warns, at most once a minute of each: the peer has it in its hands.
    fn complain(&self, complaint: Complaint, now: Instant, words: &dyn Fn() -> String) {
        let memory = self.memory.load();
        let latest = &mut memory.complaints.lock()[complaint as usize];
        let quiet = latest.is_some_and(|at| now < at + Duration::from_secs(60));
        if !quiet {
            *latest = Some(now);
            log::warn!("{}", words());
        }
    }
}

/// Two random bytes; `None` where the system has none.
fn salt() -> Option<[u8; 2]> {
    let mut salt = [0; 2];
    aws_lc_rs::rand::fill(&mut salt).ok()?;
    Some(salt)
}

/// Where requests come from unless told otherwise.
fn loopback() -> AddressList {
    let source = Source::file(Path::new("(default)"), "127.0.0.0/8");
    AddressList::parse(&source).unwrap_or_default()
}

/// The client of a row.
fn client<'a>(
    settings: &mut Settings<'a, '_>,
    row: Field<'a, RawClient<'a>>,
    requires: bool,
) -> Option<Client> {
    let raw = settings.row(row)?;
    let from = settings.list(raw.from);
    let secret = settings.map(raw.secret, |secret: String| match secret.is_empty() {
        true => Err("expected a secret".to_owned()),
        false => Ok(secret.into_bytes()),
    });
    if !raw.from.is_set() || !raw.secret.is_set() {
        settings.complain_at(
            row,
            "expected a client: (from: \"192.0.2.0/24\", secret: \"..\")",
        );
    }
    let own = settings.get(raw.require_message_authenticator);
    if own == Some(false) {
        settings.notice_at(raw.require_message_authenticator, OPEN);
    }
    Some(Client {
        from: from?,
        secret: secret?,
        requires_proof: own.unwrap_or(requires),
    })
}
