#![forbid(unsafe_code)]
//! The stateless proxy (RFC 3261, 16.11): requests to an account go to its preferred contact that is reachable,
//! to that one alone; answers and later requests of the call find their way by what we wrote into them.
//!
//! Our Via has a `flow`, where the answer goes; our Record-Route has a user part that tells both ends of the call.
//! Both are signed, and without them nothing is passed to anybody but registered contacts: no open relay.

use std::net::SocketAddr;

use super::agent::{Agent, Incoming, Taken, way_back};
use super::flow::{Flow, Transport};
use super::message::{LONGEST, MAGIC, Message, Request, Via, with_received, write_field};
use super::registrar::unsupported;
use super::uri::{NameAddr, Uri};

/// Where no Max-Forwards stands (RFC 3261, 16.6, step 3).
const HOPS: u8 = 70;
/// Headers that a UDP datagram has, at most, beside its payload.
const DATAGRAM_ROOM: usize = LONGEST - 48;

/// Where a request goes.
struct Target {
    flow: Flow,
    uri: String,
}

/// What is left of Route once our own are taken off, and what they told.
struct Path<'m> {
    rest: Vec<&'m str>,
    /// The other end of the call that the request belongs to.
    other: Option<Flow>,
    uri: &'m str,
}

impl Agent {
    pub(super) fn request(
        &self,
        message: &Message<'_>,
        request: &Request<'_>,
        incoming: &Incoming<'_>,
    ) -> Taken {
        let answer =
            |code, fields: &[(&str, String)]| self.reply(message, incoming, code, None, fields);
        let path = self.path(message, request, incoming.flow);
        let ours = self.is_own(request.uri.host, request.uri.port, incoming.flow);
        if ours
            && path.other.is_none()
            && (request.uri.user.is_none() || request.method == "REGISTER")
        {
            return self.for_us(message, request, incoming);
        }
        if request.max_forwards == Some(0) {
            return answer(483, &[]);
        }
        let turn = self.turn(request, &path);
        let looped = |via: &&str| {
            Via::parse(via)
                .and_then(|via| via.branch())
                .is_some_and(|branch| branch.ends_with(&turn))
        };
        if message.list("via").unwrap_or_default().iter().any(looped) {
            return answer(482, &[]);
        }
        if let Some(unsupported) = unsupported(message, "proxy-require") {
            return answer(420, &[("Unsupported", unsupported)]);
        }
        match self.target(request, &path, ours, incoming) {
            Ok(target) => self.pass_on(message, request, incoming, &path, &turn, &target),
            Err(code) => answer(code, &[]),
        }
    }

    /// Takes our own entries off Route (RFC 3261, 16.4).
    fn path<'m>(&self, message: &'m Message<'_>, request: &Request<'m>, from: &Flow) -> Path<'m> {
        let mut routes = message.list("route").unwrap_or_default();
        routes.reverse();
        let mut path = Path {
            rest: Vec::new(),
            other: self.other_end(request, &request.uri),
            uri: request.uri_text,
        };
        // A strict router ahead of us has put our entry into the Request-URI and the target at the end.
        if path.other.is_some() && !routes.is_empty() {
            let last = NameAddr::parse(routes.remove(0));
            path.uri = last.map_or(path.uri, |last| last.uri);
        }
        while let Some(route) = routes.last().copied() {
            let Some(uri) = NameAddr::parse(route).and_then(|route| Uri::parse(route.uri).ok())
            else {
                break;
            };
            let other = self.other_end(request, &uri);
            if other.is_none() && !self.is_own(uri.host, uri.port, from) {
                break;
            }
            path.other = path.other.or(other);
            routes.pop();
        }
        routes.reverse();
        path.rest = routes;
        path
    }

    /// The end of a call that its Record-Route told, opposite to whoever sends.
    fn other_end(&self, request: &Request<'_>, uri: &Uri<'_>) -> Option<Flow> {
        let token = uri.user?;
        let call = request.call_id.as_bytes();
        let ends = |tag: &str| {
            let flows = self
                .location
                .signer()
                .flows("call", token, &[call, tag.as_bytes()]);
            flows.filter(|flows| flows.len() == 2)
        };
        // The token is bound to the tag of who called.
        let called = ends(request.from_tag).map(|ends| ends[1]);
        called.or_else(|| ends(request.to_tag).map(|ends| ends[0]))
    }

    fn target(
        &self,
        request: &Request<'_>,
        path: &Path<'_>,
        ours: bool,
        incoming: &Incoming<'_>,
    ) -> Result<Target, u16> {
        let uri = path.uri.to_owned();
        if let Some(end) = path.other {
            let mut end = end;
            // At its own address the other end may have named another port.
            let place = Uri::parse(path.uri).ok().and_then(|uri| uri.address());
            if let Some(place) = place.filter(|place| place.ip() == end.remote.ip())
                && end.transport == Transport::Udp
            {
                end.remote = place;
            }
            let flow = self.location.exit(&end).ok_or(480_u16)?;
            return Ok(Target { flow, uri });
        }
        if !path.rest.is_empty() {
            return Err(403);
        }
        let bindings = self.location.bindings.lock();
        if !ours {
            // RFC 3261, 16.5, but for registered contacts only.
            let flow = bindings
                .flow_of(&request.uri.key(), incoming.now)
                .ok_or(403_u16)?;
            let flow = self.location.exit(&flow).ok_or(480_u16)?;
            return Ok(Target { flow, uri });
        }
        let account = request
            .uri
            .name()
            .and_then(|name| self.accounts.find(&name));
        let account = account.ok_or(404_u16)?;
        for binding in bindings.of(account.name(), incoming.now) {
            let secure = !request.uri.secure || binding.flow.transport == Transport::Tls;
            if let Some(flow) = self.location.exit(&binding.flow).filter(|_| secure) {
                let uri = binding.contact.clone();
                return Ok(Target { flow, uri });
            }
        }
        Err(480)
    }

    /// What a request that comes around once more has in its branch (RFC 3261, 16.6, step 8): neither its method
    /// nor the tag in To, so that it is the same for CANCEL and ACK.
    fn turn(&self, request: &Request<'_>, path: &Path<'_>) -> String {
        let cseq = request.cseq.to_be_bytes();
        let rest = path.rest.join(",");
        let texts = [
            path.uri.as_bytes(),
            request.call_id.as_bytes(),
            request.from_tag.as_bytes(),
            &cseq,
            rest.as_bytes(),
        ];
        hex(&self.location.signer().sign("turn", &texts)[..8])
    }

    /// The same for a request that is repeated, its CANCEL and its ACK (RFC 3261, 16.11).
    fn branch(&self, request: &Request<'_>, turn: &str) -> String {
        let top = &request.top;
        let branch = top.branch().unwrap_or_default();
        let port = top.port.unwrap_or_default().to_be_bytes();
        let cseq = request.cseq.to_be_bytes();
        let mut texts = vec![branch.as_bytes(), top.host.as_bytes(), &port, &cseq];
        texts.extend([request.call_id.as_bytes(), request.from_tag.as_bytes()]);
        if !branch.starts_with(MAGIC) {
            texts.push(request.uri_text.as_bytes());
        }
        let signature = self.location.signer().sign("branch", &texts);
        format!("{MAGIC}-{}{turn}", hex(&signature[..12]))
    }

    fn pass_on(
        &self,
        message: &Message<'_>,
        request: &Request<'_>,
        incoming: &Incoming<'_>,
        path: &Path<'_>,
        turn: &str,
        target: &Target,
    ) -> Taken {
        let signer = self.location.signer();
        let back = way_back(message, incoming.flow);
        let branch = self.branch(request, turn);
        let token = signer.token("via", &[back], &[branch.as_bytes()]);
        let (flow, method) = (&target.flow, request.method);
        let mut out = format!("{method} {} SIP/2.0\r\n", target.uri).into_bytes();
        let via = format!(
            "SIP/2.0/{} {};branch={branch};flow={token}",
            flow.transport.name(),
            flow.local
        );
        write_field(&mut out, "Via", &via);
        for route in self.record(request, &back, flow) {
            write_field(&mut out, "Record-Route", &route);
        }
        let hops = request.max_forwards.map_or(HOPS, |hops| hops - 1);
        write_field(&mut out, "Max-Forwards", &hops.to_string());
        if !path.rest.is_empty() {
            write_field(&mut out, "Route", &path.rest.join(", "));
        }
        let mut vias = message.all("via");
        let top = vias
            .next()
            .and_then(|top| with_received(top, incoming.flow.remote));
        write_field(&mut out, "Via", &top.unwrap_or_default());
        for via in vias {
            write_field(&mut out, "Via", via);
        }
        write_field(&mut out, "Content-Length", &message.body.len().to_string());
        let rewritten = ["via", "max-forwards", "route", "content-length"];
        message.write_rest(&mut out, |field| {
            !rewritten.iter().any(|name| field.is(name))
        });
        if out.len() > DATAGRAM_ROOM {
            return self.reply(message, incoming, 513, None, &[]);
        }
        Taken {
            forward: Some((*flow, out)),
            ..Taken::default()
        }
    }

    /// Record-Route for a request that begins a call; two where it is heard here and there (RFC 5658, 3).
    fn record(&self, request: &Request<'_>, back: &Flow, flow: &Flow) -> Vec<String> {
        let begins = ["INVITE", "SUBSCRIBE", "REFER", "NOTIFY"].contains(&request.method);
        if !begins || !request.to_tag.is_empty() {
            return Vec::new();
        }
        let texts = [request.call_id.as_bytes(), request.from_tag.as_bytes()];
        let token = self
            .location
            .signer()
            .token("call", &[*back, *flow], &texts);
        let route = |local: SocketAddr, transport: Transport| {
            format!("<sip:{token}@{local}{};lr>", transport.param())
        };
        let there = route(flow.local, flow.transport);
        let here = route(back.local, back.transport);
        match here == there {
            true => vec![there],
            false => vec![there, here],
        }
    }

    /// An answer goes where our Via says, without it (RFC 3261, 16.7 and 16.11); `None` without one of ours.
    pub(super) fn pass_back(&self, message: &Message<'_>) -> Option<Taken> {
        message.status()?;
        let vias = message.list("via")?;
        let (top, rest) = vias.split_first()?;
        let top = Via::parse(top)?;
        let signer = self.location.signer();
        let token = top.param("flow")?;
        let flows = signer.flows("via", token, &[top.branch()?.as_bytes()])?;
        let back = *flows.first()?;
        if rest.is_empty() {
            return None;
        }
        let mut out = format!("{}\r\n", message.start).into_bytes();
        for via in rest {
            write_field(&mut out, "Via", via);
        }
        write_field(&mut out, "Content-Length", &message.body.len().to_string());
        message.write_rest(&mut out, |field| {
            !field.is("via") && !field.is("content-length")
        });
        Some(Taken {
            forward: Some((back, out)),
            ..Taken::default()
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
