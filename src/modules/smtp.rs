#![forbid(unsafe_code)]
//! SMTP (RFC 5321): receives mail for the accounts of our domains into their mailboxes, or stands before another
//! server and passes on what it lets through.
//!
//! With it: SIZE (RFC 1870), enhanced status codes (2034), PIPELINING (2920), CHUNKING (3030), STARTTLS (3207),
//! AUTH (4954), 8BITMIME (6152), SMTPUTF8 (6531).

mod address;
mod commands;
mod data;
mod gate;
mod hops;
mod incoming;
mod session;
mod trace;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use serde::Deserialize;

use self::gate::Place;
use self::session::Conversation;
use super::proxy::SendProxy;
use super::{ModuleEntry, Settings};
use crate::accounts::Accounts;
use crate::config::domains::host_name;
use crate::config::field::Field;
use crate::mail::maildir::{Store, host};
use crate::session::{Module, Peer, Session};
use crate::upstream::Pool;

pub(super) const ENTRY: ModuleEntry = ModuleEntry {
    name: "Smtp",
    about: "receives mail (RFC 5321)",
    keys: &[
        "hostname",
        "domains",
        "delivery",
        "max_message",
        "greet_delay",
        "send_proxy",
    ],
    tcp: Some(|settings| {
        Some(Arc::new(Smtp(Arc::new(Shared::configure(settings)?))) as Arc<dyn Module>)
    }),
    udp: None,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys<'a> {
    #[serde(borrow, default)]
    hostname: Field<'a, String>,
    #[serde(borrow, default)]
    domains: Field<'a, Vec<Field<'a, String>>>,
    #[serde(borrow, default)]
    delivery: Field<'a, DeliveryKey<'a>>,
    #[serde(borrow, default)]
    max_message: Field<'a, String>,
    #[serde(borrow, default)]
    greet_delay: Field<'a, String>,
    #[serde(borrow, default)]
    send_proxy: Field<'a, SendProxy>,
}

/// `delivery: ..`.
#[derive(Deserialize)]
enum DeliveryKey<'a> {
    Maildir,
    #[serde(borrow)]
    Smtp(Field<'a, String>),
    #[serde(borrow)]
    Lmtp(Field<'a, String>),
}

/// Where messages go.
enum Delivery {
    Maildir(Store),
    Gate(Arc<Place>),
}

/// What all sessions of a listener share.
struct Shared {
    hostname: String,
    /// In lower case.
    domains: Vec<String>,
    accounts: Arc<Accounts>,
    delivery: Delivery,
    /// In bytes.
    max_message: u64,
    greet_delay: Option<Duration>,
    /// When the log was last told that the disk refuses, in seconds since 1970.
    complained: AtomicU64,
}

/// 25 MiB is what large mail services take at most.
const MAX_MESSAGE: u64 = 25 << 20;

impl Shared {
    fn configure(settings: &mut Settings<'_, '_>) -> Option<Self> {
        let keys: Keys<'_> = settings.read()?;
        let hostname = settings.map(keys.hostname, |name: String| host_name(&name));
        let hostname = hostname.unwrap_or_else(host);
        let rows = settings.rows(keys.domains);
        if rows.is_empty() {
            settings.complain("expected at least one domain: domains: [\"example.org\"]");
        }
        let domains: Vec<Option<String>> = rows
            .into_iter()
            .map(|row| settings.map(row, |name: String| host_name(&name)))
            .collect();
        let max_message = settings.map(keys.max_message, |text: String| size(&text));
        let greet_delay = settings.duration(keys.greet_delay);
        let send_proxy = settings.get(keys.send_proxy);
        let (field, is_lmtp) = match settings.piece(keys.delivery) {
            None if keys.delivery.is_set() => return None,
            None | Some(DeliveryKey::Maildir) => (None, false),
            Some(DeliveryKey::Smtp(field)) => (Some(field), false),
            Some(DeliveryKey::Lmtp(field)) => (Some(field), true),
        };
        let delivery = match field {
            None => Delivery::Maildir(Store::new(settings.state_dir())),
            Some(field) => Delivery::Gate(Arc::new(Place {
                pool: Pool::new(vec![settings.upstream(field)?], CONNECT),
                is_lmtp,
                send_proxy,
                hostname: hostname.clone(),
                offers: parking_lot::Mutex::default(),
            })),
        };
        if field.is_none() && keys.send_proxy.is_set() {
            settings.complain_at(
                keys.send_proxy,
                "only another server is sent a PROXY header",
            );
        }
        Some(Shared {
            hostname,
            domains: domains.into_iter().collect::<Option<_>>()?,
            // Where the server behind knows the users, nobody misses accounts that are not there.
            accounts: match settings.accounts() {
                none if none.is_empty() && field.is_some() => Arc::default(),
                accounts => accounts,
            },
            delivery,
            max_message: max_message.unwrap_or(MAX_MESSAGE),
            greet_delay,
            complained: AtomicU64::new(0),
        })
    }
}

/// How long one attempt to connect to an upstream may take.
const CONNECT: Duration = Duration::from_secs(5);

/// A size like `"25MiB"`, up to 4 GiB.
fn size(text: &str) -> Result<u64, String> {
    match text.parse::<bytesize::ByteSize>() {
        Ok(size) if (1024..=4 << 30).contains(&size.as_u64()) => Ok(size.as_u64()),
        _ => Err(format!(
            "expected a size like \"25MiB\", from 1KiB to 4GiB, found {text:?}"
        )),
    }
}

struct Smtp(Arc<Shared>);

impl Module for Smtp {
    fn open(&self, _peer: &Peer) -> Box<dyn Session> {
        Box::new(Conversation::new(Arc::clone(&self.0)))
    }
}

#[cfg(test)]
mod tests;
