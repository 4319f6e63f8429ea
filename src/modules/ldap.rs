#![forbid(unsafe_code)]
//! LDAP v3 (RFC 4511): a directory that is read from LDIF, or a gate before another server.
//!
//! With it: StartTLS (RFC 4511, 4.14), Who am I? (4532), paged results (2696), all operational attributes (3673),
//! filters that are always true or false (4526), the subschema (4512, 4.2).

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod gate;
mod message;
mod requests;
mod running;
mod session;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use self::gate::{GateSession, Place};
use self::session::Conversation;
use super::proxy::SendProxy;
use super::{ModuleEntry, Settings};
use crate::config::ConfigError;
use crate::config::field::Field;
use crate::ldap::directory::{Directory, Holder};
use crate::ldap::dn::Dn;
use crate::ldap::ldif::{self, Mistake};
use crate::ldap::schema::Schema;
use crate::ldap::tree::{Builder, Tree};
use crate::session::{Module, Peer, Session};
use crate::upstream::Pool;

pub(super) const ENTRY: ModuleEntry = ModuleEntry {
    name: "Ldap",
    about: "lets a directory be searched (RFC 4511)",
    keys: &[
        "store",
        "accounts",
        "clients_only",
        "size_limit",
        "time_limit",
        "send_proxy",
    ],
    tcp: Some(|settings| Some(Arc::new(Ldap::configure(settings)?) as Arc<dyn Module>)),
    udp: None,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys<'a> {
    #[serde(borrow, default)]
    store: Field<'a, StoreKey<'a>>,
    #[serde(borrow, default)]
    accounts: Field<'a, String>,
    #[serde(borrow, default)]
    clients_only: Field<'a, bool>,
    #[serde(borrow, default)]
    size_limit: Field<'a, u32>,
    #[serde(borrow, default)]
    time_limit: Field<'a, String>,
    #[serde(borrow, default)]
    send_proxy: Field<'a, SendProxy>,
}

/// `store: ..`.
#[derive(Deserialize)]
enum StoreKey<'a> {
    #[serde(borrow)]
    Ldif(Field<'a, String>),
    #[serde(borrow)]
    Upstream(Field<'a, String>),
}

/// What all sessions of a directory share.
struct Shared {
    directory: Directory,
    clients_only: bool,
    /// Entries that a search answers with at most.
    size_limit: Option<u32>,
    /// How long a search may take.
    time_limit: Option<Duration>,
}

enum Ldap {
    Directory(Arc<Shared>),
    Gate(Arc<Place>),
}

impl Ldap {
    fn configure(settings: &mut Settings<'_, '_>) -> Option<Self> {
        let keys: Keys<'_> = settings.read()?;
        let clients_only = settings.get(keys.clients_only).unwrap_or(false);
        let send_proxy = settings.get(keys.send_proxy);
        let size_limit = settings.map(keys.size_limit, |limit| match limit {
            0 => Err("expected at least one entry; without the key there is no limit".to_owned()),
            _ => Ok(limit),
        });
        let time_limit = settings.duration(keys.time_limit);
        match settings.piece(keys.store) {
            None if keys.store.is_set() => None,
            Some(StoreKey::Upstream(field)) => {
                let message = "the server behind has entries and limits of its own";
                if keys.accounts.is_set() {
                    settings.complain_at(keys.accounts, message);
                }
                if keys.size_limit.is_set() {
                    settings.complain_at(keys.size_limit, message);
                }
                if keys.time_limit.is_set() {
                    settings.complain_at(keys.time_limit, message);
                }
                Some(Ldap::Gate(Arc::new(Place {
                    pool: Pool::new(vec![settings.upstream(field)?], Duration::from_secs(5)),
                    send_proxy,
                    clients_only,
                })))
            }
            store => {
                if keys.send_proxy.is_set() {
                    settings.complain_at(
                        keys.send_proxy,
                        "only another server is sent a PROXY header",
                    );
                }
                let field = match store {
                    Some(StoreKey::Ldif(field)) => field,
                    _ => Field::default(),
                };
                let (tree, path) = directory_file(settings, field)?;
                let holder = holder(settings, keys.accounts, &tree, &path);
                if keys.accounts.is_set() && holder.is_none() {
                    return None;
                }
                Some(Ldap::Directory(Arc::new(Shared {
                    directory: Directory::new(tree, holder, settings.accounts()),
                    clients_only,
                    size_limit,
                    time_limit,
                })))
            }
        }
    }
}

/// Reads the file of the entries, `directory.ldif` beside the listener's unless the key says otherwise.
fn directory_file<'a>(
    settings: &mut Settings<'a, '_>,
    field: Field<'a, String>,
) -> Option<(Tree, PathBuf)> {
    let path = settings.file(field, "directory.ldif")?;
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) => {
            let message = format!("cannot read {}: {error}", path.display());
            match field.is_set() {
                true => settings.complain_at(field, &message),
                false => settings.complain(&message),
            }
            return None;
        }
    };
    match read(&bytes) {
        Ok(tree) => Some((tree, path)),
        Err(mistakes) => {
            let error = |mistake: Mistake| ConfigError {
                file: path.clone(),
                line: mistake.line,
                column: mistake.column,
                message: mistake.message,
            };
            settings.errors.extend(mistakes.into_iter().map(error));
            None
        }
    }
}

/// The entries of an LDIF text.
fn read(bytes: &[u8]) -> Result<Tree, Vec<Mistake>> {
    let mut builder = Builder::new(&Schema::base());
    ldif::read(bytes, |record| builder.add(record))?;
    builder.finish()
}

/// Where the accounts are shown.
fn holder<'a>(
    settings: &mut Settings<'a, '_>,
    field: Field<'a, String>,
    tree: &Tree,
    path: &Path,
) -> Option<Holder> {
    settings.map(field, |name: String| {
        let dn = Dn::parse(&name, &tree.schema)?;
        if dn.is_empty() {
            return Err(
                "expected the name of an entry like \"ou=accounts,dc=example,dc=org\"".to_owned(),
            );
        }
        if tree.find(&dn.key()).is_some() {
            let message = format!("{name} stands in {} already", path.display());
            return Err(message);
        }
        let is_far = (2..dn.len()).any(|skipped| tree.find(&dn.key_above(skipped)).is_some());
        if is_far && tree.find(&dn.key_above(1)).is_none() {
            return Err(format!(
                "the entry above {name} is missing in {}",
                path.display()
            ));
        }
        Ok(Holder { name, dn })
    })
}

impl Module for Ldap {
    fn open(&self, _peer: &Peer) -> Box<dyn Session> {
        match self {
            Ldap::Directory(shared) => Box::new(Conversation::new(Arc::clone(shared))),
            Ldap::Gate(place) => Box::new(GateSession::new(Arc::clone(place))),
        }
    }

    /// Clients keep connections for later; 15 minutes is what other servers give them.
    fn idle_timeout(&self) -> Duration {
        Duration::from_secs(900)
    }
}

#[cfg(test)]
mod tests;
