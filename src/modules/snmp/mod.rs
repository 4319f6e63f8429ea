#![forbid(unsafe_code)]
//! SNMP: an agent that only tells. Versions 1 and 2c by community (RFC 1157, 1901, 3416), version 3 by user,
//! authenticated and encrypted (RFC 3412, 3414).
//!
//! | file | room |
//! |---|---|
//! | `message.rs` | messages and values in BER |
//! | `objects.rs` | what can be asked for |
//! | `respond.rs` | what a PDU is answered |
//! | `v3.rs`, `usm.rs`, `engine.rs` | version 3: messages, users and their keys, boots |
//! | `mod.rs` | the module: communities, counts, and the listeners' state |

mod engine;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod message;
mod objects;
mod respond;
#[cfg(test)]
mod tests;
mod usm;
mod v3;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Deserialize;

use self::engine::Engine;
use self::message::{Community, Pdu, Pdus};
use self::objects::{Counts, EngineFacts, Numbers, System, Tree, tree};
use self::respond::{Bounds, respond};
use self::usm::{Authentication, Privacy, SHORTEST_PASSWORD, User};
use self::v3::{MAX_SIZE, Surroundings};
use super::echo::is_reflector;
use super::{ModuleEntry, Settings};
use crate::config::field::Field;
use crate::control::{Link, Request, Response};
use crate::server::status::Status;
use crate::session::{Class, Datagram, DatagramContext, DatagramModule};

pub(super) const ENTRY: ModuleEntry = ModuleEntry {
    name: "Snmp",
    about: "tells managers the daemon's state (RFC 3416)",
    keys: &[
        "communities",
        "users",
        "auth",
        "privacy",
        "contact",
        "name",
        "location",
    ],
    tcp: None,
    udp: Some(|settings| Some(Arc::new(Snmp::configure(settings)?) as Arc<dyn DatagramModule>)),
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys<'a> {
    #[serde(borrow, default)]
    communities: Field<'a, Vec<String>>,
    #[serde(borrow, default)]
    users: Field<'a, Vec<Field<'a, RawUser<'a>>>>,
    #[serde(borrow, default)]
    contact: Field<'a, String>,
    #[serde(borrow, default)]
    name: Field<'a, String>,
    #[serde(borrow, default)]
    location: Field<'a, String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawUser<'a> {
    #[serde(borrow, default)]
    name: Field<'a, String>,
    #[serde(borrow, default)]
    auth: Field<'a, Authentication>,
    #[serde(borrow, default)]
    privacy: Field<'a, Privacy>,
}

/// The most bytes of an answer: what an Ethernet carries in one piece (RFC 3417, 3.2.1 asks for 484 at least).
const MOST: usize = 1472;
/// Head of a v1 or v2c message around its bindings, beside the community.
const OVERHEAD: usize = 40;
/// How old what is told may be.
const FRESH: Duration = Duration::from_secs(1);

/// `sysUpTime` begins here: with the first module of the process, so that a reload is no restart.
static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

/// An agent.
struct Snmp {
    communities: Vec<String>,
    users: Vec<User>,
    system: System,
    link: Link,
    state_dir: PathBuf,
    counters: Counters,
    latest: Mutex<Latest>,
}

/// What was made last.
#[derive(Default)]
struct Latest {
    tree: Option<(Instant, Arc<Tree>)>,
    numbers: Numbers,
    /// Told once that there is no engine.
    complained: bool,
}

/// [`Counts`], while they are counted.
#[derive(Default)]
struct Counters {
    packets: AtomicU32,
    bad_versions: AtomicU32,
    bad_communities: AtomicU32,
    parse_errors: AtomicU32,
    silent_drops: AtomicU32,
    mpd: [AtomicU32; 3],
    usm: [AtomicU32; 6],
}

/// Counts one; the new value.
fn count(counter: &AtomicU32) -> u32 {
    counter.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
}

impl Snmp {
    fn configure(settings: &mut Settings<'_, '_>) -> Option<Self> {
        let keys: Keys<'_> = settings.read()?;
        let users = settings.rows(keys.users);
        let users: Vec<_> = users.into_iter().map(|row| user(settings, row)).collect();
        let usual = match users.is_empty() {
            true => vec!["public".to_owned()],
            // Whoever sets up version 3 does not want the others by the way.
            false => Vec::new(),
        };
        let communities = settings.map(keys.communities, |all: Vec<String>| {
            match all.iter().any(String::is_empty) {
                true => Err("expected communities of one character at least".to_owned()),
                false => Ok(all),
            }
        });
        let mut text = |field, usual: &str| {
            let text = settings.map(field, |text: String| match text.len() {
                0..=255 => Ok(text),
                _ => Err("expected at most 255 bytes".to_owned()),
            });
            text.unwrap_or_else(|| usual.to_owned())
        };
        let system = System {
            contact: text(keys.contact, ""),
            name: text(keys.name, &host_name()),
            location: text(keys.location, ""),
        };
        LazyLock::force(&STARTED);
        Some(Snmp {
            communities: communities.unwrap_or(usual),
            users: users.into_iter().collect::<Option<_>>()?,
            system,
            link: settings.link(),
            state_dir: settings.state_dir().to_path_buf(),
            counters: Counters::default(),
            latest: Mutex::default(),
        })
    }

    /// The tree, made anew when it is a second old.
    fn tree(&self, now: Instant) -> Arc<Tree> {
        let mut latest = self.latest.lock();
        if let Some((at, tree)) = &latest.tree
            && now.saturating_duration_since(*at) < FRESH
        {
            return Arc::clone(tree);
        }
        let status: Status = match self.link.execute(&Request::Status) {
            Response::Ok(status) => serde_json::from_value(status).unwrap_or_default(),
            Response::Error(_) | Response::Invalid(_) => Status::default(),
        };
        let engine = match self.users.is_empty() {
            true => None,
            false => Engine::of(&self.state_dir, now).ok(),
        };
        let facts = engine.map(|engine| EngineFacts {
            id: engine.id.clone(),
            boots: engine.boots,
            time: engine.time(now),
            max_size: MAX_SIZE.into(),
        });
        let counts = self.counters.sample();
        let (system, numbers) = (&self.system, &mut latest.numbers);
        let made = Arc::new(tree(system, &counts, facts.as_ref(), &status, numbers));
        latest.tree = Some((now, Arc::clone(&made)));
        made
    }

    /// Answers a PDU within so many bytes of bindings.
    fn respond(&self, request: &Pdus, v1: bool, room: usize, now: Instant) -> Option<Pdu> {
        let ticks = now.saturating_duration_since(*STARTED).as_millis() / 10;
        let bounds = Bounds {
            v1,
            // It begins anew after 497 days (RFC 3418, 2).
            uptime: u32::try_from(ticks & 0xffff_ffff).unwrap_or(0),
            room,
        };
        respond(request, &self.tree(now), bounds)
    }

    /// Versions 1 and 2c.
    fn by_community(&self, datagram: &Datagram<'_>, now: Instant) -> Option<Vec<u8>> {
        let Ok(message) = rasn::ber::decode::<Community>(datagram.bytes) else {
            count(&self.counters.parse_errors);
            return None;
        };
        let known = self
            .communities
            .iter()
            .any(|community| community.as_bytes() == &message.community[..]);
        if !known {
            count(&self.counters.bad_communities);
            return None;
        }
        // Anybody can forge an address: an answer that is much longer than its question goes to clients.
        let most = match datagram.class {
            Class::Client => MOST,
            Class::Other => MOST.min(datagram.most_unproven()),
        };
        let room = most.saturating_sub(OVERHEAD + message.community.len());
        let answer = self.respond(&message.data, message.version == 0, room, now)?;
        let bytes = rasn::ber::encode(&Community {
            data: Pdus::Response(answer),
            ..message
        });
        // What repeats the question may be too long, too.
        let fits = bytes.ok().filter(|bytes| bytes.len() <= MOST);
        if fits.is_none() {
            count(&self.counters.silent_drops);
        }
        fits
    }

    fn by_user(&self, datagram: &Datagram<'_>, now: Instant) -> Option<Vec<u8>> {
        if self.users.is_empty() {
            count(&self.counters.bad_versions);
            return None;
        }
        let engine = match Engine::of(&self.state_dir, now) {
            Ok(engine) => engine,
            Err(error) => {
                let told = std::mem::replace(&mut self.latest.lock().complained, true);
                if !told {
                    let place = self.state_dir.display();
                    log::error!("SNMPv3 is not answered: {place}/snmp-engine: {error}");
                }
                return None;
            }
        };
        let around = Surroundings {
            engine: &engine,
            users: &self.users,
            now,
            count: &|stat| {
                let (usm, place) = stat.place();
                match usm {
                    true => count(&self.counters.usm[place]),
                    false => count(&self.counters.mpd[place]),
                }
            },
            respond: &|pdu, room| self.respond(pdu, false, room, now),
            most: MOST,
        };
        v3::answer(datagram.bytes, &around)
    }
}

impl DatagramModule for Snmp {
    fn answer(&self, datagram: &Datagram<'_>, cx: &mut DatagramContext<'_>) {
        if is_reflector(datagram) {
            return;
        }
        count(&self.counters.packets);
        let answer = match message::version(datagram.bytes) {
            Some(0 | 1) => self.by_community(datagram, cx.now()),
            Some(3) => self.by_user(datagram, cx.now()),
            Some(_) => {
                count(&self.counters.bad_versions);
                None
            }
            None => {
                count(&self.counters.parse_errors);
                None
            }
        };
        if let Some(answer) = answer {
            cx.reply(&answer);
        }
    }
}

impl Counters {
    fn sample(&self) -> Counts {
        let load = |counter: &AtomicU32| counter.load(Ordering::Relaxed);
        Counts {
            packets: load(&self.packets),
            bad_versions: load(&self.bad_versions),
            bad_communities: load(&self.bad_communities),
            parse_errors: load(&self.parse_errors),
            silent_drops: load(&self.silent_drops),
            mpd: self.mpd.each_ref().map(load),
            usm: self.usm.each_ref().map(load),
        }
    }
}

/// A user of a row.
fn user<'a>(settings: &mut Settings<'a, '_>, row: Field<'a, RawUser<'a>>) -> Option<User> {
    let raw = settings.row(row)?;
    let name = settings.map(raw.name, |name: String| match name.len() {
        // RFC 3414, 5: SnmpAdminString (SIZE(1..32)).
        1..=32 => Ok(name),
        _ => Err("expected a name of 1 to 32 bytes".to_owned()),
    });
    let long = |password: &str| match password.len() >= SHORTEST_PASSWORD {
        true => Ok(()),
        false => Err(format!(
            "expected a password of at least {SHORTEST_PASSWORD} bytes (RFC 3414, 11.2)"
        )),
    };
    let authentication = settings.map(raw.auth, |auth: Authentication| {
        long(auth.password()).map(|()| auth)
    });
    let privacy = settings.map(raw.privacy, |privacy: Privacy| {
        long(privacy.password()).map(|()| privacy)
    });
    if !raw.name.is_set() || !raw.auth.is_set() {
        settings.complain_at(
            row,
            "expected a user: (name: \"..\", auth: Sha256(\"..\"), privacy: Aes128(\"..\"))",
        );
    }
    if raw.privacy.is_set() {
        privacy.as_ref()?;
    }
    Some(User::new(name?, authentication?, privacy))
}

fn host_name() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_default()
}
