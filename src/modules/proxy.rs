#![forbid(unsafe_code)]
//! Proxy: relays connections to upstreams, as HAProxy's TCP mode and stunnel do.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::{ModuleEntry, Settings};
use crate::config::field::Field;
use crate::connection::proxy_header::{write_v1, write_v2};
use crate::session::{
    Context, Event, Lane, Module, Next, Peer, Relay, Security, Session, Upstream, Work,
};
use crate::upstream::{Line, Pool};

pub(super) const ENTRY: ModuleEntry = ModuleEntry {
    name: "Proxy",
    about: "relays to upstreams",
    keys: &["upstreams", "send_proxy", "connect_timeout"],
    tcp: Some(|settings| Some(Arc::new(Proxy::configure(settings)?) as Arc<dyn Module>)),
    udp: None,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys<'a> {
    #[serde(borrow, default)]
    upstreams: Field<'a, Vec<Field<'a, String>>>,
    #[serde(borrow, default)]
    send_proxy: Field<'a, SendProxy>,
    #[serde(borrow, default)]
    connect_timeout: Field<'a, String>,
}

/// The version of the header that upstreams are sent.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) enum SendProxy {
    V1,
    V2,
}

impl SendProxy {
    /// The header that tells who connected.
    pub(crate) fn header(self, peer: &Peer) -> Vec<u8> {
        match self {
            SendProxy::V1 => write_v1(peer.remote, peer.local),
            SendProxy::V2 => write_v2(peer.remote, peer.local, authority(peer)),
        }
    }
}

/// Begins a session's conversation with an upstream, which is told who connected if it wants to know.
///
/// # Errors
/// No upstream can be reached, in words.
pub(crate) fn open_line(
    pool: &Arc<Pool>,
    send_proxy: Option<SendProxy>,
    cx: &mut Context<'_>,
) -> Result<Line, String> {
    let (waker, now) = (cx.waker(), cx.now());
    let line = Line::open(pool, &cx.peer().listener, waker, now);
    let mut line = line.map_err(|error| error.to_string())?;
    if let Some(version) = send_proxy {
        line.send(&version.header(cx.peer()));
    }
    Ok(line)
}

/// Relays each connection to the upstream with the fewest.
struct Proxy {
    pool: Arc<Pool>,
    send_proxy: Option<SendProxy>,
}

impl Proxy {
    fn configure(settings: &mut Settings<'_, '_>) -> Option<Self> {
        let keys: Keys<'_> = settings.read()?;
        let places = settings.upstreams(keys.upstreams);
        let timeout = settings.duration(keys.connect_timeout);
        let send_proxy = settings.get(keys.send_proxy);
        Some(Proxy {
            pool: Pool::new(places?, timeout.unwrap_or(Duration::from_secs(5))),
            send_proxy,
        })
    }
}

impl Module for Proxy {
    fn open(&self, _peer: &Peer) -> Box<dyn Session> {
        Box::new(Relayed {
            pool: Arc::clone(&self.pool),
            send_proxy: self.send_proxy,
        })
    }

    /// What is known of the upstreams' health and load.
    fn keeps_state(&self) -> bool {
        true
    }

    /// Long: what is relayed may be of the silent kind, such as IMAP's IDLE (RFC 2177 speaks of 29 minutes).
    fn idle_timeout(&self) -> Duration {
        Duration::from_secs(3600)
    }
}

struct Relayed {
    pool: Arc<Pool>,
    send_proxy: Option<SendProxy>,
}

impl Relayed {
    fn relay(&self, cx: &Context<'_>) -> Next {
        let peer = cx.peer();
        let ahead = self.send_proxy.map(|version| version.header(peer));
        Next::Relay(Relay {
            upstream: Upstream::Dial(self.pool.dial(&peer.listener)),
            ahead: ahead.unwrap_or_default(),
        })
    }
}

/// The name that the client asked for.
fn authority(peer: &Peer) -> Option<&str> {
    match &peer.security {
        Security::Tls(facts) => facts.server_name.as_deref(),
        Security::Clear | Security::External => None,
    }
}

impl Session for Relayed {
    fn handle(&mut self, event: Event<'_>, cx: &mut Context<'_>) -> Next {
        match event {
            Event::Open if self.pool.wants_look_up(cx.now()) => {
                let pool = Arc::clone(&self.pool);
                Next::Work(Work::new(Lane::Wait, move || pool.look_up()))
            }
            Event::Open | Event::Done(_) => self.relay(cx),
            // The peer sees a reset: an orderly end would be an answer, and there is none.
            _ => Next::Abort,
        }
    }
}
