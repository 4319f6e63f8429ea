#![forbid(unsafe_code)]
//! What a message leads to, whatever it came over: an answer, or a message that is passed on. No socket.

use std::net::SocketAddr;
use std::sync::Arc;

use super::digest::Algorithm;
use super::flow::{Flow, Transport};
use super::location::Location;
use super::message::{Bad, Message, Request, answer};
use super::uri::{PORT, ip};
use crate::accounts::Accounts;
use crate::session::Abuse;

/// A domain's registrar and proxy.
pub(super) struct Agent {
    /// In lower case; the realm, too.
    pub(super) domain: String,
    pub(super) algorithms: Vec<Algorithm>,
    /// In seconds.
    pub(super) min_expires: u64,
    pub(super) max_expires: u64,
    pub(super) most_contacts: usize,
    pub(super) accounts: Arc<Accounts>,
    pub(super) location: Arc<Location>,
}

/// A message that came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Incoming<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) flow: &'a Flow,
    /// In seconds of the epoch.
    pub(super) now: u64,
}

/// What a message led to.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// An answer to whoever sent it.
    pub(super) reply: Option<(Flow, Vec<u8>)>,
    /// A message to somebody else.
    pub(super) forward: Option<(Flow, Vec<u8>)>,
    pub(super) abuse: Option<Abuse>,
    /// Whoever is answered has proved to be where the message came from.
    pub(super) proven: bool,
    /// Bindings have changed.
    pub(super) changed: bool,
}

/// What we can be asked for ourselves.
pub(super) const METHODS: &str = "OPTIONS, REGISTER";

impl Agent {
    /// Takes one message.
    pub(super) fn take(&self, incoming: &Incoming<'_>) -> Taken {
        let Some(message) = Message::parse(incoming.bytes) else {
            return Taken::default();
        };
        if message.is_response() {
            return self.pass_back(&message).unwrap_or_default();
        }
        match Request::of(&message) {
            Ok(request) => self.request(&message, &request, incoming),
            Err(bad) => self.refuse(&message, incoming, bad),
        }
    }

    /// An answer to a request that could not be passed on after all.
    pub(super) fn unavailable(&self, incoming: &Incoming<'_>) -> Taken {
        let message = Message::parse(incoming.bytes).filter(|message| !message.is_response());
        let answer = |message| self.reply(&message, incoming, 480, None, &[]);
        message.map(answer).unwrap_or_default()
    }

    /// An answer to a request of which only the head was read.
    pub(super) fn too_large(&self, incoming: &Incoming<'_>) -> Taken {
        let message = Message::parse(incoming.bytes);
        let answer = |message| self.reply(&message, incoming, 513, None, &[]);
        message.map(answer).unwrap_or_default()
    }

    fn refuse(&self, message: &Message<'_>, incoming: &Incoming<'_>, bad: Bad) -> Taken {
        let why = (bad.code == 400).then_some(bad.why);
        self.reply(message, incoming, bad.code, why, &[])
    }

    /// An answer; an ACK has none (RFC 3261, 17).
    pub(super) fn reply(
        &self,
        message: &Message<'_>,
        incoming: &Incoming<'_>,
        code: u16,
        why: Option<&str>,
        fields: &[(&str, String)],
    ) -> Taken {
        if message.method() == "ACK" || message.is_response() {
            return Taken::default();
        }
        // The same for a request that comes again (RFC 3261, 8.2.7).
        let call = message.first("call-id").unwrap_or_default();
        let from = message.first("from").unwrap_or_default();
        let signature = self
            .location
            .signer()
            .sign("tag", &[call.as_bytes(), from.as_bytes()]);
        let tag: String = signature[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let bytes = answer(message, incoming.flow.remote, code, why, &tag, fields);
        Taken {
            reply: bytes.map(|bytes| (way_back(message, incoming.flow), bytes)),
            ..Taken::default()
        }
    }

    /// OPTIONS, REGISTER and the rest, for us alone.
    pub(super) fn for_us(
        &self,
        message: &Message<'_>,
        request: &Request<'_>,
        incoming: &Incoming<'_>,
    ) -> Taken {
        let answer =
            |code, fields: &[(&str, String)]| self.reply(message, incoming, code, None, fields);
        match request.method {
            "REGISTER" => self.register(message, request, incoming),
            "OPTIONS" => match super::registrar::unsupported(message, "require") {
                Some(unsupported) => answer(420, &[("Unsupported", unsupported)]),
                None => answer(
                    200,
                    &[("Allow", METHODS.to_owned()), ("Accept", "*/*".to_owned())],
                ),
            },
            "CANCEL" => answer(481, &[]),
            _ => answer(405, &[("Allow", METHODS.to_owned())]),
        }
    }

    /// Whether a host and port are ours: the domain at any port, or an address that we hear at.
    pub(super) fn is_own(&self, host: &str, port: Option<u16>, flow: &Flow) -> bool {
        let name = host.strip_suffix('.').unwrap_or(host);
        if name.eq_ignore_ascii_case(&self.domain) {
            return true;
        }
        let port = port.unwrap_or(PORT);
        let own = flow.local.port();
        // sipsak 0.9 writes only four digits of a port into its URIs.
        let port = if own > 9999 && port == own / 10 {
            own
        } else {
            port
        };
        let here = flow.local.ip().is_loopback() && port == own;
        here && name.eq_ignore_ascii_case("localhost")
            || ip(host).is_some_and(|ip| self.is_place(SocketAddr::new(ip, port), flow))
    }

    pub(super) fn is_place(&self, address: SocketAddr, flow: &Flow) -> bool {
        address == flow.local || self.location.is_local(address)
    }
}

/// Where answers to a request go (RFC 3261, 18.2.2; RFC 3581, 4): never elsewhere than to the address that it
/// came from.
pub(super) fn way_back(message: &Message<'_>, flow: &Flow) -> Flow {
    let mut back = *flow;
    if flow.transport == Transport::Udp {
        let vias = message.list("via").unwrap_or_default();
        let top = vias.first().copied().and_then(super::message::Via::parse);
        if let Some(top) = top.filter(|top| top.param("rport").is_none()) {
            back.remote.set_port(top.port.unwrap_or(PORT));
        }
    }
    back
}
