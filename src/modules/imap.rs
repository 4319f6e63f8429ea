#![forbid(unsafe_code)]
//! IMAP4rev1 (RFC 3501): mailboxes to be read and kept, or a gate before another server.
//!
//! With it: IDLE (RFC 2177), NAMESPACE (2342), ID (2971), CHILDREN (3348), UNSELECT (3691), UIDPLUS (4315), SASL-IR
//! (4959), ENABLE (5161), response codes (5530), SPECIAL-USE (6154), MOVE (6851), LITERAL+ (7888).

mod append;
mod body;
mod commands;
mod fetch;
mod folders;
mod frame;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod gate;
mod lazy;
mod search;
mod selected;
mod session;
mod set;
mod write;

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use self::session::Conversation;
use super::proxy::SendProxy;
use super::{ModuleEntry, Settings};
use crate::config::field::Field;
use crate::mail::access::{Access, Keys as AccessKeys, StoreKey};
use crate::session::{Module, Peer, Session};

pub(super) const ENTRY: ModuleEntry = ModuleEntry {
    name: "Imap",
    about: "lets mail be read and kept (RFC 3501)",
    keys: &["store", "clients_only", "send_proxy", "max_message"],
    tcp: Some(|settings| Some(Arc::new(Imap(configure(settings)?)) as Arc<dyn Module>)),
    udp: None,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys<'a> {
    #[serde(borrow, default)]
    store: Field<'a, StoreKey<'a>>,
    #[serde(borrow, default)]
    clients_only: Field<'a, bool>,
    #[serde(borrow, default)]
    send_proxy: Field<'a, SendProxy>,
    #[serde(borrow, default)]
    max_message: Field<'a, String>,
}

/// What all sessions of a listener share.
struct Shared {
    access: Access,
    /// The largest message that is taken, in bytes.
    max_message: u64,
}

/// As with `Smtp`.
const MAX_MESSAGE: u64 = 25 << 20;

fn configure(settings: &mut Settings<'_, '_>) -> Option<Arc<Shared>> {
    let keys: Keys<'_> = settings.read()?;
    let max_message = settings.size(keys.max_message).unwrap_or(MAX_MESSAGE);
    if !(1024..=u64::from(u32::MAX)).contains(&max_message) {
        settings.complain_at(keys.max_message, "expected a size from 1KiB to 4GiB");
    }
    let keys = AccessKeys {
        store: keys.store,
        clients_only: keys.clients_only,
        send_proxy: keys.send_proxy,
    };
    let access = Access::configure(settings, keys)?;
    Some(Arc::new(Shared {
        access,
        max_message,
    }))
}

struct Imap(Arc<Shared>);

impl Module for Imap {
    fn open(&self, _peer: &Peer) -> Box<dyn Session> {
        Box::new(Conversation::new(Arc::clone(&self.0)))
    }

    /// RFC 3501, 5.4: at least thirty minutes; clients in IDLE speak every 29 (RFC 2177, 3).
    fn idle_timeout(&self) -> Duration {
        Duration::from_secs(1860)
    }
}

#[cfg(test)]
mod tests;
