#![forbid(unsafe_code)]
//! What modules that give access to mailboxes share: their keys, where the mail is, and a login at either place.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::gate::{Dialect, Gate, Outcome as GateOutcome, Place};
use super::login;
use super::maildir::Store;
use super::sasl::Credentials;
use crate::accounts::{Account, Accounts};
use crate::config::field::Field;
use crate::modules::Settings;
use crate::modules::proxy::SendProxy;
use crate::session::{Context, Lane, Next, Outcome, Work};
use crate::upstream::Pool;

/// The keys. A module with more has them beside these.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Keys<'a> {
    #[serde(borrow, default)]
    pub(crate) store: Field<'a, StoreKey<'a>>,
    #[serde(borrow, default)]
    pub(crate) clients_only: Field<'a, bool>,
    #[serde(borrow, default)]
    pub(crate) send_proxy: Field<'a, SendProxy>,
}

/// `store: ..`.
#[derive(Deserialize)]
pub(crate) enum StoreKey<'a> {
    Maildir,
    #[serde(borrow)]
    Upstream(Field<'a, String>),
}

/// Where the mail is.
pub(crate) enum Behind {
    Maildir(Store),
    Gate(Arc<Place>),
}

/// What all sessions of a listener share.
pub(crate) struct Access {
    pub(crate) accounts: Arc<Accounts>,
    pub(crate) behind: Behind,
    pub(crate) clients_only: bool,
}

impl Access {
    pub(crate) fn configure<'a>(settings: &mut Settings<'a, '_>, keys: Keys<'a>) -> Option<Self> {
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
        Some(Access {
            accounts,
            behind,
            clients_only,
        })
    }
}

/// A login under way, here or at the server behind.
pub(crate) enum Login<D> {
    /// A password is verified.
    Verifying,
    /// The names of the server behind are looked up.
    LookUp(Credentials, D),
    /// The login there is under way.
    Gate(Box<Gate<D>>),
}

/// What came of it so far.
pub(crate) enum Verdict<D> {
    /// It goes on so.
    Wait(Login<D>, Next),
    /// The account whose password it is.
    In(Arc<Account>),
    /// The server behind let the client in: the session ends, and bytes are relayed.
    Passed(Next),
    /// Name or password is wrong; what the server behind has said.
    Refused(Option<Vec<u8>>),
    /// Nothing is known of the password: too many wait.
    Busy,
    /// Nothing is known of it: the server behind cannot be asked.
    Lost,
}

impl<D: Dialect + 'static> Login<D> {
    /// Begins one.
    pub(crate) fn begin(
        access: &Access,
        credentials: Credentials,
        dialect: D,
        cx: &mut Context<'_>,
    ) -> Verdict<D> {
        match &access.behind {
            Behind::Gate(place) if place.pool.wants_look_up(cx.now()) => {
                let place = Arc::clone(place);
                let look_up = Work::new(Lane::Wait, move || place.pool.look_up());
                Verdict::Wait(Login::LookUp(credentials, dialect), Next::Work(look_up))
            }
            Behind::Gate(place) => ask(place, credentials, dialect, cx),
            Behind::Maildir(_) => match login::verify(&access.accounts, &credentials) {
                Ok(work) => Verdict::Wait(Login::Verifying, work),
                Err(_) => Verdict::Busy,
            },
        }
    }

    /// Work for it is done.
    pub(crate) fn done(
        self,
        access: &Access,
        outcome: Outcome,
        cx: &mut Context<'_>,
    ) -> Verdict<D> {
        match (self, &access.behind) {
            (Login::LookUp(credentials, dialect), Behind::Gate(place)) => {
                ask(place, credentials, dialect, cx)
            }
            (Login::Gate(gate), _) => Login::Gate(gate).turn(cx),
            _ => match outcome.take::<Option<Arc<Account>>>().flatten() {
                Some(account) => Verdict::In(account),
                None => Verdict::Refused(None),
            },
        }
    }

    /// The server behind may have said something, or the time has come.
    pub(crate) fn turn(self, cx: &mut Context<'_>) -> Verdict<D> {
        let Login::Gate(mut gate) = self else {
            return Verdict::Wait(self, Next::Read);
        };
        match gate.turn(cx.now()) {
            GateOutcome::Wait(until) => {
                cx.set_alarm(Some(until.saturating_duration_since(cx.now())));
                Verdict::Wait(Login::Gate(gate), Next::Pause)
            }
            GateOutcome::In(answer) => {
                cx.set_alarm(None);
                Verdict::Passed(gate.relay(&answer, cx))
            }
            GateOutcome::Refused(answer) => {
                cx.set_alarm(None);
                Verdict::Refused(Some(answer))
            }
            GateOutcome::Lost(error) => lost(&error, cx),
        }
    }
}

fn ask<D: Dialect + 'static>(
    place: &Place,
    credentials: Credentials,
    dialect: D,
    cx: &mut Context<'_>,
) -> Verdict<D> {
    match Gate::open(place, dialect, credentials, cx) {
        Ok(gate) => Login::Gate(Box::new(gate)).turn(cx),
        Err(error) => lost(&error, cx),
    }
}

fn lost<D>(error: &str, cx: &mut Context<'_>) -> Verdict<D> {
    cx.set_alarm(None);
    log::debug!(target: &cx.peer().listener, "the server behind cannot be asked: {error}");
    Verdict::Lost
}
