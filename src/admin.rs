#![forbid(unsafe_code)]
//! The Admin module's pages, API and metrics. It stands on [`crate::http`] and speaks to the daemon only
//! through a [`Link`], so it can do what the command line can, and is tested without a daemon.
//!
//! A request is authenticated by the worker; whatever asks the daemon or hashes a password runs on a lane.

mod api;
mod apply;
mod ask;
mod charts;
mod forms;
mod history;
mod login;
mod metrics;
mod pages;
mod sessions;
#[cfg(test)]
mod tests;
mod throttle;
mod views;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::accounts::Accounts;
use crate::admission::address_list::AddressList;
use crate::control::Link;
use crate::http::framing::Framing;
use crate::http::{Answer, Around, Limits, Request, Response, Service};
use crate::session::{Class, Lane};

use forms::Form;
use history::History;
use sessions::{Session, Sessions};
use throttle::Throttle;

/// The longest body of somebody who has logged in: an address list of 100,000 lines, encoded.
const MAX_BODY: u64 = 4 << 20;
/// The longest body of a stranger: a login.
const MAX_LOGIN: u64 = 16 << 10;

/// What the configuration says.
pub(crate) struct Setup {
    pub(crate) link: Link,
    pub(crate) accounts: Arc<Accounts>,
    pub(crate) clients_only: bool,
    /// Who shows it may read the metrics.
    pub(crate) metrics_token: Option<String>,
    /// Who comes from there may read the metrics.
    pub(crate) metrics_from: AddressList,
    /// How long a session lasts without a request.
    pub(crate) session_timeout: Duration,
}

/// The service of an Admin listener.
pub(crate) struct Panel {
    office: Arc<Office>,
    limits: Limits,
}

/// What requests share.
struct Office {
    setup: Setup,
    sessions: Mutex<Sessions>,
    throttle: Mutex<Throttle>,
    history: History,
}

/// Who asks: somebody logged in.
struct Visit {
    session: Arc<Session>,
    remote: IpAddr,
    listener: Arc<str>,
}

impl Visit {
    /// A line in the log for a change. What was typed is shown with its control characters escaped.
    fn audit(&self, what: &str) {
        let (name, remote) = (&self.session.name, self.remote);
        log::info!(target: &self.listener, "audit: {name} from {remote}: {}", what.escape_debug());
    }
}

/// A request as far as the pages look at it.
struct Asked {
    method: Box<str>,
    path: Box<str>,
    query: Form,
    body: Vec<u8>,
    /// The token of a script's request.
    token: Option<Box<str>>,
}

impl Asked {
    fn of(request: &Request<'_, '_>, body: &[u8]) -> Self {
        Asked {
            // A HEAD is answered as a GET; its body is left out by the writer.
            method: if request.is_head() {
                "GET".into()
            } else {
                request.method.into()
            },
            path: request.path.into(),
            query: Form::parse(request.query.unwrap_or_default().as_bytes()),
            body: body.to_vec(),
            token: request.get("x-csrf-token").map(Box::from),
        }
    }
}

impl Panel {
    pub(crate) fn new(setup: Setup) -> Self {
        let history = History::start(&setup.link);
        let sessions = Sessions::new(setup.session_timeout);
        Panel {
            office: Arc::new(Office {
                setup,
                sessions: Mutex::new(sessions),
                throttle: Mutex::default(),
                history,
            }),
            limits: Limits::default(),
        }
    }
}

impl Office {
    /// The session that a request belongs to, if it is still good and its account may still administer.
    fn session(&self, request: &Request<'_, '_>, around: &Around<'_>) -> Option<Arc<Session>> {
        let token = login::cookie(request, around.peer)?;
        let session = self
            .sessions
            .lock()
            .find(token, around.now, request.path != "/live")?;
        let account = self.setup.accounts.find(&session.name);
        if !account.is_some_and(|account| account.is_admin()) {
            self.sessions.lock().end(token);
            return None;
        }
        Some(session)
    }

    fn is_listed(&self, around: &Around<'_>) -> bool {
        self.setup.metrics_from.contains(around.peer.remote.ip())
    }
}

impl Service for Panel {
    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn refuse(&self, request: &Request<'_, '_>, around: &Around<'_>) -> Option<Response> {
        let office = &self.office;
        let stranger = office.setup.clients_only && around.peer.class != Class::Client;
        if stranger && !(request.path == "/metrics" && office.is_listed(around)) {
            return Some(views::guarded(Response::error(
                403,
                "This server is for its own users.",
            )));
        }
        if request.framing == Framing::None {
            return None;
        }
        // A large body is read from somebody logged in only.
        let known = login::is_door(request.path) || office.session(request, around).is_some();
        (!known).then(|| login::not_logged_in(request))
    }

    /// Or every change made here would log everybody out.
    fn keeps_state(&self) -> bool {
        true
    }

    fn max_body(&self, request: &Request<'_, '_>) -> u64 {
        if login::is_door(request.path) {
            MAX_LOGIN
        } else {
            MAX_BODY
        }
    }

    fn answer(&self, request: &Request<'_, '_>, body: &[u8], around: &Around<'_>) -> Answer {
        let office = &self.office;
        if !matches!(request.method, "GET" | "HEAD" | "POST") {
            let response = Response::error(405, "There is nothing to be done that way.");
            return views::guarded(response.field("Allow", "GET, HEAD, POST")).into();
        }
        if let Some(asset) = views::asset(request) {
            return views::guarded(asset).into();
        }
        let session = office.session(request, around);
        if request.path == "/metrics" {
            return metrics::answer(office, request, around, session.is_some());
        }
        if request.method == "POST" && !login::is_same_origin(request) {
            return views::guarded(Response::error(403, "This comes from another site.")).into();
        }
        if login::is_door(request.path) {
            return login::answer(office, request, body, around);
        }
        let Some(session) = session else {
            return login::not_logged_in(request).into();
        };
        let visit = Visit {
            session,
            remote: around.peer.remote.ip(),
            listener: Arc::clone(&around.peer.listener),
        };
        let asked = Asked::of(request, body);
        let cookie = login::cookie_name(around.peer);
        let office = Arc::clone(office);
        Answer::Later(
            Lane::Wait,
            Box::new(move || {
                let name = visit.session.name.as_ref().into();
                let mut response = views::guarded(office.dispatch(&visit, &asked, &cookie));
                response.user = Some(name);
                response
            }),
        )
    }
}
