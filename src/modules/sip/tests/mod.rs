#![forbid(unsafe_code)]
//! The agent without sockets, and what the tests of its parts share.

mod calls;
mod register;
mod streams;
mod torture;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::Sip;
use super::agent::{Agent, Incoming, Taken};
use super::bindings::{Binding, Change};
use super::digest::{Algorithm, Credentials};
use super::flow::{Flow, Transport};
use super::location::Location;
use crate::accounts::Accounts;
use crate::session::datagram::{Outbox, Outlet, Route, Sockets};

/// Where we are.
const HERE: &str = "192.0.2.200:5060";
/// The time, in seconds of the epoch.
const NOW: u64 = 1_795_514_400;

/// A listener's one socket, and what was sent from it.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<Vec<(SocketAddr, String)>>>);

impl Sockets for Wire {
    fn local(&self, _route: Route) -> Option<SocketAddr> {
        HERE.parse().ok()
    }

    fn towards(&self, _local: SocketAddr, to: SocketAddr) -> Option<Route> {
        to.is_ipv4().then(|| Route::test(to))
    }

    fn send(&self, outbox: Outbox) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let sent = outbox.pending();
        let sent = sent.map(|(route, bytes)| (route.remote, text(bytes)));
        self.0.lock().extend(sent);
    }

    fn is_open(&self) -> bool {
        true
    }
}

/// A domain with its accounts, heard over UDP.
struct World {
    agent: Arc<Agent>,
    sip: Sip,
    wire: Wire,
    home: tempfile::TempDir,
}

impl World {
    fn new(domain: &str) -> World {
        World::at(domain, tempfile::tempdir().unwrap())
    }

    fn at(domain: &str, home: tempfile::TempDir) -> World {
        let accounts = [
            ("user", "x", Some("secret")),
            ("ann", "x", Some("ann's")),
            ("vivekg", "x", Some("v")),
            ("mute", "x", None),
        ];
        let agent = Arc::new(Agent {
            domain: domain.to_owned(),
            algorithms: vec![Algorithm::Md5, Algorithm::Sha256],
            min_expires: 60,
            max_expires: 3600,
            most_contacts: 3,
            accounts: ACCOUNTS.get_or_init(|| Accounts::of(&accounts)).clone(),
            location: Location::of(home.path(), domain),
        });
        let (wire, outlet) = (Wire::default(), OnceLock::new());
        let sip = Sip {
            agent: Arc::clone(&agent),
            outlet,
        };
        crate::session::DatagramModule::bound(&sip, &Outlet::new(wire.clone()));
        agent.location.meet(HERE.parse().unwrap());
        World {
            agent,
            sip,
            wire,
            home,
        }
    }

    /// A daemon that begins with what this one has left.
    fn restart(self) -> World {
        let World {
            agent, sip, home, ..
        } = self;
        let domain = agent.domain.clone();
        drop((agent, sip));
        World::at(&domain, home)
    }

    /// Binds a contact without a REGISTER.
    fn bind(&self, account: &str, contact: &str, q: u16, flow: Flow) {
        let uri = super::uri::Uri::parse(contact).unwrap();
        let binding = Binding {
            contact: contact.to_owned(),
            key: uri.key(),
            q,
            expires: NOW + 600,
            call_id: "bound".to_owned(),
            cseq: 1,
            flow,
        };
        let change = Change {
            binding,
            stays: true,
        };
        let mut bindings = self.agent.location.bindings.lock();
        bindings.change(account, vec![change], 3, NOW).unwrap();
    }

    fn take_bytes(&self, bytes: &[u8], flow: &Flow, now: u64) -> Taken {
        self.agent.take(&Incoming { bytes, flow, now })
    }

    fn take(&self, text: &str, flow: &Flow) -> Taken {
        self.take_bytes(lines(text).as_bytes(), flow, NOW)
    }

    /// The status line of the answer.
    #[track_caller]
    fn says(&self, text: &str, flow: &Flow) -> String {
        first_line(&replied(&self.take(text, flow)))
    }

    /// Where a message is passed on to, and what it is then.
    #[track_caller]
    fn passes(&self, text: &str, flow: &Flow) -> (Flow, String) {
        let taken = self.take(text, flow);
        let said = taken.reply.map(|(_, bytes)| text_of(&bytes));
        let (flow, bytes) = taken
            .forward
            .unwrap_or_else(|| panic!("not passed on: {said:?}"));
        (flow, text_of(&bytes))
    }
}

/// Hashing their passwords takes a while.
static ACCOUNTS: OnceLock<Arc<Accounts>> = OnceLock::new();

fn udp(remote: &str) -> Flow {
    over(Transport::Udp, remote)
}

fn over(transport: Transport, remote: &str) -> Flow {
    Flow {
        transport,
        remote: remote.parse().unwrap(),
        local: HERE.parse().unwrap(),
    }
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What was answered.
#[track_caller]
fn replied(taken: &Taken) -> String {
    let (_, bytes) = taken.reply.as_ref().expect("an answer");
    text_of(bytes)
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// The value of the first field of a name, as it is written there.
#[track_caller]
fn field<'t>(text: &'t str, name: &str) -> &'t str {
    all(text, name)
        .first()
        .unwrap_or_else(|| panic!("no {name} in {text}"))
}

fn all<'t>(text: &'t str, name: &str) -> Vec<&'t str> {
    let head = text.split("\r\n\r\n").next().unwrap_or_default();
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    fields
        .filter(|(key, _)| *key == name)
        .map(|(_, value)| value)
        .collect()
}

/// Lines as they travel; an empty one ends the head.
fn lines(text: &str) -> String {
    let lines: Vec<&str> = text.trim().lines().map(str::trim_start).collect();
    let mut text = lines.join("\r\n");
    if !text.contains("\r\n\r\n") {
        text.push_str("\r\n\r\n");
    }
    text
}

/// A request of a caller at 192.0.2.1, with more fields.
fn request(method: &str, uri: &str, more: &str) -> String {
    let to = if more.contains("To: ") {
        ""
    } else {
        "To: <sip:user@example.org>\n"
    };
    format!(
        "{method} {uri} SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.1:5070;branch=z9hG4bKone\n\
         From: <sip:caller@elsewhere.example>;tag=c1\n{to}Call-ID: call@192.0.2.1\nCSeq: 1 {method}\n{more}"
    )
}

/// The answer to a challenge.
fn authorization(challenge: &str, user: &str, secret: &str, count: u32) -> String {
    let rest = challenge.strip_prefix("Digest ").unwrap();
    let unproven = format!(
        "Digest username=\"{user}\", uri=\"sip:example.org\", response=\"\", cnonce=\"c\", nc={count:08x}, {}",
        rest.replace(", stale=true", "")
            .replace("qop=\"auth\"", "qop=auth")
    );
    let realm = rest.split('"').nth(1).unwrap();
    let credentials = Credentials::parse(&unproven, realm).unwrap();
    let response = credentials.response_for("REGISTER", secret);
    unproven.replace("response=\"\"", &format!("response=\"{response}\""))
}
