#![forbid(unsafe_code)]
//! POP3 (RFC 1939): a mailbox to be fetched and emptied, or a gate before another server.
//!
//! With it: CAPA and response codes (RFC 2449), STLS (2595), AUTH (5034), [SYS/..] and [AUTH] (3206).

mod authorization;
mod gate;
mod mailbox;
mod session;
mod transaction;

use std::sync::Arc;
use std::time::Duration;

use self::session::Conversation;
use super::{ModuleEntry, Settings};
use crate::mail::access::{Access, Keys};
use crate::session::{Module, Peer, Session};

pub(super) const ENTRY: ModuleEntry = ModuleEntry {
    name: "Pop",
    about: "lets mail be fetched (RFC 1939)",
    keys: &["store", "clients_only", "send_proxy"],
    tcp: Some(|settings| Some(Arc::new(Pop(configure(settings)?)) as Arc<dyn Module>)),
    udp: None,
};

fn configure(settings: &mut Settings<'_, '_>) -> Option<Arc<Access>> {
    let keys: Keys<'_> = settings.read()?;
    Access::configure(settings, keys).map(Arc::new)
}

struct Pop(Arc<Access>);

impl Module for Pop {
    fn open(&self, _peer: &Peer) -> Box<dyn Session> {
        Box::new(Conversation::new(Arc::clone(&self.0)))
    }

    /// RFC 1939, 3: at least ten minutes.
    fn idle_timeout(&self) -> Duration {
        Duration::from_secs(600)
    }
}

#[cfg(test)]
mod tests;
