#![forbid(unsafe_code)]
//! Turns of a connection in its TLS handshake.

use std::sync::Arc;
use std::time::Instant;

use super::{After, Connection, READ, WRITE};
use crate::connection::driver::Driver;
use crate::connection::secure::Shaken;
use crate::server::core::Core;
use crate::server::listener::Handshake;
use crate::session::Security;

impl Connection {
    /// Goes on with the handshake; `None` when it is complete.
    pub(super) fn shake(
        &mut self,
        now: Instant,
        until: Instant,
        core: &Arc<Core>,
    ) -> Option<After> {
        let Connection {
            transport,
            stream,
            socket,
            peer,
            ..
        } = self;
        let local = peer.local.ip();
        let mut refused = None;
        let shaken = transport.shake(stream, &mut |server_name| match socket
            .acceptors
            .choose(server_name, local)
        {
            Ok((domain, config)) => Some((domain.to_owned(), Arc::clone(config))),
            Err(error) => {
                refused = Some(error);
                None
            }
        });
        match shaken {
            Shaken::Waits { write } if now < until => {
                return Some(After::Park(if write { WRITE } else { READ }, until));
            }
            Shaken::Waits { .. } => self.listener().counters.shaken(Handshake::Timeout),
            Shaken::Done(facts) => {
                self.listener().counters.shaken(Handshake::Ok);
                self.shaking = None;
                self.readable = true;
                let peer = Arc::make_mut(&mut self.peer);
                peer.security = Security::Tls(Arc::new(facts));
                peer.may_start_tls = false;
                if let Some(slot) = &self.slot {
                    slot.facts().secured(&self.peer.security);
                }
                if self.driver.is_open() {
                    self.tell(now, core, Driver::secured);
                } else {
                    self.driver
                        .open(self.listener().module.open(&self.peer), now);
                }
                return None;
            }
            Shaken::Failed(error) => match refused {
                Some(refused) => {
                    self.listener().counters.shaken(Handshake::NoCertificate);
                    self.listener()
                        .complain(format_args!("listener {}: {refused}", self.listener().name));
                }
                None => {
                    self.listener().counters.shaken(Handshake::Failed);
                    self.listener().log(
                        log::Level::Debug,
                        format_args!("{}: {error}", self.peer.remote),
                    );
                }
            },
        }
        Some(After::Gone)
    }
}
