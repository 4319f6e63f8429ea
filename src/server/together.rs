#![forbid(unsafe_code)]
//! This server as other daemons' news concern it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use ipnet::IpNet;

use super::status::SharedStatus;
use super::{Server, Shared, StartError, warden};
use crate::shared::{Around, Ban, Node, Standing};

/// Holds no server alive: news for one that is gone concern nobody.
struct Here(Weak<Shared>);

impl Server {
    /// Lets this daemon and others know bans and counts together, by way of the server at this URL.
    pub(super) fn join_others(&self, url: &str) -> Result<(), StartError> {
        let around = Arc::new(Here(Arc::downgrade(&self.shared)));
        let node = Node::start(url, around)
            .map_err(|error| StartError::new(format!("cannot start: shared: {error}")))?;
        let _ = self.shared.warden.node.set(node);
        Ok(())
    }
}

impl Shared {
    /// As `status` shows it; `None` where this daemon is on its own.
    pub(super) fn together(&self) -> Option<SharedStatus> {
        let Standing {
            server,
            is_there,
            nodes,
            error,
        } = self.warden.node.get()?.standing();
        Some(SharedStatus {
            server,
            connected: is_there,
            nodes,
            error,
        })
    }
}

impl Around for Here {
    fn learn(&self, ban: Ban) -> bool {
        let Some(shared) = self.0.upgrade() else {
            return false;
        };
        let learned = shared.warden.learn(ban);
        if learned && ban.hand {
            // As on the daemon where it was made.
            shared
                .core
                .cut(|_, card| ban.net.contains(&card.peer.remote.ip()));
        }
        learned
    }

    fn unlearn(&self, net: IpNet) {
        if let Some(shared) = self.0.upgrade() {
            shared.warden.unlearn(net);
        }
    }

    fn knows(&self, ban: Ban) -> bool {
        let own = self
            .0
            .upgrade()
            .and_then(|shared| shared.warden.bans.of(ban.net, SystemTime::now()));
        own.is_some_and(|own| warden::news(&own) == ban)
    }

    fn bans(&self) -> Vec<Ban> {
        let bans = self
            .0
            .upgrade()
            .map(|shared| shared.warden.bans.list(SystemTime::now()));
        bans.unwrap_or_default().iter().map(warden::news).collect()
    }

    fn counts(&self) -> HashMap<(Arc<str>, IpAddr), u32> {
        let mut counts = HashMap::new();
        let Some(shared) = self.0.upgrade() else {
            return counts;
        };
        for listener in shared.state.load().tcp() {
            let of_listener = listener.limits.counts().into_iter();
            counts.extend(
                of_listener.map(|(address, count)| ((Arc::clone(&listener.name), address), count)),
            );
        }
        counts
    }

    fn set_elsewhere(&self, mut sums: HashMap<String, HashMap<IpAddr, u32>>) {
        let Some(shared) = self.0.upgrade() else {
            return;
        };
        for listener in shared.state.load().tcp() {
            let of_listener = sums.remove(&*listener.name).unwrap_or_default();
            listener.limits.set_elsewhere(&of_listener);
        }
    }
}
