#![forbid(unsafe_code)]
//! SIP (RFC 3261): a registrar with Digest (RFC 8760) and a stateless proxy for the accounts of a domain.
//!
//! | file | room |
//! |---|---|
//! | `message.rs`, `uri.rs` | what is on the wire |
//! | `digest.rs` | challenges, nonces, and that none counts twice |
//! | `bindings.rs` | who is where |
//! | `registrar.rs` | REGISTER |
//! | `flow.rs` | ways to somewhere, and signed tokens that tell them |
//! | `proxy.rs` | requests to accounts, later requests of their calls, and answers |
//! | `agent.rs` | a message in, messages out, whatever it came over |
//! | `location.rs` | what listeners of a domain share, and its file |
//! | `session.rs` | over connections |
//! | `mod.rs` | the settings, and datagrams |

mod agent;
mod bindings;
mod digest;
mod flow;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod location;
mod message;
mod proxy;
mod registrar;
mod session;
#[cfg(test)]
mod tests;
mod uri;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde::Deserialize;

use self::agent::{Agent, Incoming, Taken};
use self::digest::Algorithm;
use self::flow::{Flow, Transport};
use self::location::{Location, seconds};
use super::echo::is_reflector;
use super::{ModuleEntry, Settings};
use crate::config::field::Field;
use crate::session::datagram::{Outlet, Route};
use crate::session::{
    Class, Datagram, DatagramContext, DatagramModule, Lane, Module, Peer, Session,
};

pub(super) const ENTRY: ModuleEntry = ModuleEntry {
    name: "Sip",
    about: "registrar and stateless proxy of a domain's accounts (RFC 3261)",
    keys: &[
        "domain",
        "algorithms",
        "min_expires",
        "max_expires",
        "contacts",
    ],
    tcp: Some(|settings| Some(Arc::new(Sip::configure(settings)?) as Arc<dyn Module>)),
    udp: Some(|settings| Some(Arc::new(Sip::configure(settings)?) as Arc<dyn DatagramModule>)),
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys<'a> {
    #[serde(borrow, default)]
    domain: Field<'a, String>,
    #[serde(borrow, default)]
    algorithms: Field<'a, Vec<String>>,
    #[serde(borrow, default)]
    min_expires: Field<'a, String>,
    #[serde(borrow, default)]
    max_expires: Field<'a, String>,
    #[serde(borrow, default)]
    contacts: Field<'a, usize>,
}

/// The most contacts of an account that can be asked for: a 200 that lists them must fit a datagram.
const MOST_CONTACTS: usize = 50;
/// The shortest registration: shorter ones would load us more than keep-alives.
const MIN_EXPIRES: Duration = Duration::from_secs(60);
/// RFC 3261, 10.2.
const MAX_EXPIRES: Duration = Duration::from_secs(3600);

/// Alarms: bindings are to be written; they have changed while they were.
const SAVE: u64 = 0;
const CHANGED: u64 = 1;

/// A listener's half of the agent.
struct Sip {
    agent: Arc<Agent>,
    outlet: OnceLock<Outlet>,
}

impl Sip {
    fn configure(settings: &mut Settings<'_, '_>) -> Option<Self> {
        let keys: Keys<'_> = settings.read()?;
        let domain = match keys.domain.is_set() {
            true => settings.map(keys.domain, domain),
            false => Some("localhost".to_owned()),
        };
        let algorithms = settings.map(keys.algorithms, |names| {
            let all = names
                .iter()
                .map(|name| Algorithm::of(name))
                .collect::<Option<Vec<_>>>();
            let all = all.filter(|all| !all.is_empty());
            all.ok_or("expected \"MD5\" and \"SHA-256\", the preferred first".to_owned())
        });
        let min = settings.duration(keys.min_expires).unwrap_or(MIN_EXPIRES);
        let max = settings
            .duration(keys.max_expires)
            .unwrap_or(MAX_EXPIRES.max(min));
        if min > max {
            settings.complain_at(keys.min_expires, "expected at most max_expires");
        }
        let contacts = settings.map(keys.contacts, |most| match most {
            1..=MOST_CONTACTS => Ok(most),
            _ => Err(format!(
                "expected 1 to {MOST_CONTACTS} contacts, found {most}"
            )),
        });
        let domain = domain?;
        let location = Location::of(settings.state_dir(), &domain);
        let agent = Agent {
            domain,
            // Many phones look at the first challenge alone, and know MD5 alone.
            algorithms: algorithms.unwrap_or(vec![Algorithm::Md5, Algorithm::Sha256]),
            min_expires: min.as_secs(),
            max_expires: max.as_secs(),
            most_contacts: contacts.unwrap_or(10),
            accounts: settings.accounts(),
            location,
        };
        Some(Sip {
            agent: Arc::new(agent),
            outlet: OnceLock::new(),
        })
    }

    /// Has the bindings written, at once or in a while.
    fn changed(&self, cx: &mut DatagramContext<'_>) {
        match self.agent.location.change(cx.now()) {
            Some(Duration::ZERO) => self.save(cx),
            Some(delay) => cx.set_alarm(delay, SAVE),
            None => {}
        }
    }

    fn save(&self, cx: &mut DatagramContext<'_>) {
        let location = Arc::clone(&self.agent.location);
        cx.work(Lane::Wait, move |outbox| {
            if location.save() {
                outbox.call(CHANGED);
            }
        });
    }

    /// Sends what a datagram led to.
    fn carry_out(&self, taken: Taken, datagram: &Datagram<'_>, cx: &mut DatagramContext<'_>) {
        if let Some((flow, bytes)) = taken.reply {
            let known = taken.proven || datagram.class == Class::Client;
            if known || bytes.len() <= datagram.most_unproven() {
                let route = Route {
                    remote: flow.remote,
                    ..datagram.route
                };
                cx.send(route, &bytes);
            }
        }
        if let Some(abuse) = taken.abuse {
            cx.report(abuse);
        }
        if taken.changed {
            self.changed(cx);
        }
    }
}

/// A domain's name in lower case; it is a file's name, too.
fn domain(text: String) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(&text).to_ascii_lowercase();
    let labels = name.split('.').all(|label| {
        let named = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        (1..=63).contains(&label.len()) && label.bytes().all(named) && !label.starts_with('-')
    });
    match labels && name.len() <= 200 {
        true => Ok(name),
        false => Err(format!(
            "expected a domain like \"example.org\", found {text:?}"
        )),
    }
}

impl DatagramModule for Sip {
    fn answer(&self, datagram: &Datagram<'_>, cx: &mut DatagramContext<'_>) {
        let local = self
            .outlet
            .get()
            .and_then(|outlet| outlet.local(datagram.route));
        // Pings (RFC 5626, 4.4.1, and what phones send without it) are two line ends, or less.
        let (Some(local), false, true) = (local, is_reflector(datagram), datagram.bytes.len() > 4)
        else {
            return;
        };
        let flow = Flow {
            transport: Transport::Udp,
            remote: datagram.route.remote,
            local,
        };
        self.agent.location.meet(local);
        let start = datagram
            .bytes
            .iter()
            .take_while(|byte| b"\r\n".contains(byte))
            .count();
        let incoming = Incoming {
            bytes: &datagram.bytes[start..],
            flow: &flow,
            now: seconds(cx.wall()),
        };
        let mut taken = self.agent.take(&incoming);
        if let Some((flow, bytes)) = &taken.forward
            && !self.agent.location.send(flow, bytes)
        {
            taken = self.agent.unavailable(&incoming);
        }
        self.carry_out(taken, datagram, cx);
    }

    fn bound(&self, outlet: &Outlet) {
        let location = &self.agent.location;
        // What was kept is read before the first message.
        let _ = location.signer();
        location.join(outlet);
        let _ = self.outlet.set(outlet.clone());
    }

    /// A phone that has rung and then answers is heard in that order.
    fn in_order(&self) -> bool {
        true
    }

    fn alarm(&self, key: u64, cx: &mut DatagramContext<'_>) {
        match key {
            SAVE => self.save(cx),
            _ => self.changed(cx),
        }
    }
}

impl Module for Sip {
    fn open(&self, peer: &Peer) -> Box<dyn Session> {
        Box::new(session::Line::new(Arc::clone(&self.agent), peer))
    }
}
