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

use serde::Deserialize;

use self::gate::Place;
use self::session::Conversation;
use super::proxy::SendProxy;
use super::{ModuleEntry, Settings};
use crate::accounts::Accounts;
use crate::config::field::Field;
use crate::mail::maildir::Store;
use crate::session::{Module, Peer, Session};
use crate::upstream::Pool;

pub(super) const ENTRY: ModuleEntry = ModuleEntry {
    name: "Pop",
    about: "lets mail be fetched (RFC 1939)",
    keys: &["store", "clients_only", "send_proxy"],
    tcp: Some(|settings| {
        Some(Arc::new(Pop(Arc::new(Shared::configure(settings)?))) as Arc<dyn Module>)
    }),
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
}

/// `store: ..`.
#[derive(Deserialize)]
enum StoreKey<'a> {
    Maildir,
    #[serde(borrow)]
    Upstream(Field<'a, String>),
}

/// Where the mail is.
enum Behind {
    Maildir(Store),
    Gate(Arc<Place>),
}

/// What all sessions of a listener share.
struct Shared {
    accounts: Arc<Accounts>,
    behind: Behind,
    clients_only: bool,
}

impl Shared {
    fn configure(settings: &mut Settings<'_, '_>) -> Option<Self> {
        let keys: Keys<'_> = settings.read()?;
        let clients_only = settings.get(keys.clients_only).unwrap_or(false);
        let send_proxy = settings.get(keys.send_proxy);
        let field = match settings.piece(keys.store) {
            None if keys.store.is_set() => return None,
            None | Some(StoreKey::Maildir) => None,
            Some(StoreKey::Upstream(field)) => Some(field),
        };
        if field.is_none() && keys.send_proxy.is_set() {
            settings.complain_at(
                keys.send_proxy,
                "only another server is sent a PROXY header",
            );
        }
        let behind = match field {
            None => Behind::Maildir(Store::new(settings.state_dir())),
            Some(field) => Behind::Gate(Arc::new(Place {
                pool: Pool::new(vec![settings.upstream(field)?], Duration::from_secs(5)),
                send_proxy,
            })),
        };
        let accounts = match behind {
            // Behind a gate the other server knows who may log in.
            Behind::Gate(_) => Arc::default(),
            Behind::Maildir(_) => settings.accounts(),
        };
        Some(Shared {
            accounts,
            behind,
            clients_only,
        })
    }
}

struct Pop(Arc<Shared>);

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
