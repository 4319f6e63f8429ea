#![forbid(unsafe_code)]
//! The registrar (RFC 3261, 10.3): who may say where an account is, and what it says.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use super::agent::{Agent, Incoming, Taken};
use super::bindings::{Binding, Change, Refused};
use super::digest::{Credentials, Freshness, Use, nonce};
use super::flow::{Flow, Transport};
use super::message::{Message, Request, number};
use super::uri::{NameAddr, Uri, unquote};
use crate::accounts::Account;
use crate::session::Abuse;

/// The longest URI of a contact; they are kept.
const LONGEST_CONTACT: usize = 1024;
/// Where Expires is not understood (RFC 3261, 10.3, step 7), in seconds.
const USUAL_EXPIRY: u64 = 3600;

/// An answer's code, its words where they are not the usual ones, and its fields.
type Refusal = (u16, Option<&'static str>, Vec<(&'static str, String)>);

/// What a request that is authentic leads to.
enum Wish {
    Ask,
    Clear,
    Change(Vec<Change>),
}

impl Agent {
    /// Answers a REGISTER for our domain.
    pub(super) fn register(
        &self,
        message: &Message<'_>,
        request: &Request<'_>,
        incoming: &Incoming<'_>,
    ) -> Taken {
        let answer =
            |code, why, fields: &[(&str, String)]| self.reply(message, incoming, code, why, fields);
        if let Some(unsupported) = unsupported(message, "require") {
            return answer(420, None, &[("Unsupported", unsupported)]);
        }
        let credentials = message.all("authorization");
        let mut credentials =
            credentials.filter_map(|value| Credentials::parse(value, &self.domain));
        let Some(credentials) = credentials.next() else {
            return self.challenge(message, request, incoming, false);
        };
        let signer = &self.location.nonces;
        let fresh = credentials.freshness(signer, incoming.flow.remote.ip(), incoming.now);
        let account = self.accounts.find(&credentials.username);
        let secret = account.as_ref().and_then(|account| account.secret());
        let right = secret.is_some_and(|secret| credentials.fits(request.method, secret));
        let Some(account) = account.filter(|_| right) else {
            let mut taken = self.challenge(message, request, incoming, false);
            // Only who was given the nonce at this address can use it, so it is no forger.
            taken.abuse = (fresh == Freshness::Fresh).then_some(Abuse::FailedLogin);
            return taken;
        };
        let usage = match fresh {
            Freshness::Fresh => {
                let cseq = request.cseq.to_be_bytes();
                let texts = [
                    request.call_id.as_bytes(),
                    request.from_tag.as_bytes(),
                    &cseq,
                ];
                let same = signer.sign("request", &texts);
                self.location
                    .used
                    .lock()
                    .note(&credentials, same, incoming.now)
            }
            Freshness::Stale => Use::Replay,
        };
        if usage == Use::Replay {
            return self.challenge(message, request, incoming, true);
        }
        let mut taken = match self.act(message, request, incoming, &account, usage) {
            Ok(changed) => {
                let mut taken = answer(200, None, &self.contacts(&account, incoming.now));
                taken.changed = changed;
                taken
            }
            Err((code, why, fields)) => answer(code, why, &fields),
        };
        taken.proven = true;
        taken
    }

    /// 401, with a challenge for each algorithm (RFC 8760, 2.3), in the order of preference.
    fn challenge(
        &self,
        message: &Message<'_>,
        request: &Request<'_>,
        incoming: &Incoming<'_>,
        stale: bool,
    ) -> Taken {
        let cseq = request.cseq.to_be_bytes();
        let branch = request.top.branch().unwrap_or_default();
        let tried = message.first("authorization").unwrap_or_default();
        let seed = [
            request.call_id.as_bytes(),
            &cseq,
            branch.as_bytes(),
            tried.as_bytes(),
        ];
        let address = incoming.flow.remote.ip();
        let nonce = nonce(&self.location.nonces, &seed, address, incoming.now);
        let stale = if stale { ", stale=true" } else { "" };
        let fields: Vec<_> = self
            .algorithms
            .iter()
            .map(|algorithm| {
                let (realm, algorithm) = (&self.domain, algorithm.name());
                let value = format!(
                    "Digest realm=\"{realm}\", qop=\"auth\", algorithm={algorithm}, nonce=\"{nonce}\"{stale}"
                );
                ("WWW-Authenticate", value)
            })
            .collect();
        self.reply(message, incoming, 401, None, &fields)
    }

    /// Does what an authentic request asks for; true when something has changed.
    fn act(
        &self,
        message: &Message<'_>,
        request: &Request<'_>,
        incoming: &Incoming<'_>,
        account: &Arc<Account>,
        usage: Use,
    ) -> Result<bool, Refusal> {
        let to = Uri::parse(request.to.uri).map_err(|_| bad("To is no SIP URI"))?;
        if !self.is_own(to.host, to.port, incoming.flow) {
            return Err((404, None, Vec::new()));
        }
        let owner = to.name().and_then(|name| self.accounts.find(&name));
        let owner = owner.ok_or((404, None, Vec::new()))?;
        if owner.name() != account.name() {
            return Err((403, Some("Not Your Address"), Vec::new()));
        }
        let wish = self.wish(message, request, incoming)?;
        if usage == Use::Again {
            return Ok(false);
        }
        let now = incoming.now;
        let mut bindings = self.location.bindings.lock();
        let done = match wish {
            Wish::Ask => return Ok(false),
            Wish::Clear => bindings.clear(account.name(), request.call_id, request.cseq, now),
            Wish::Change(changes) => {
                bindings.change(account.name(), changes, self.most_contacts, now)
            }
        };
        match done {
            Ok(()) => Ok(true),
            Err(Refused::Order) => Err((500, Some("An Older Request"), Vec::new())),
            Err(Refused::Full) => Err((403, Some("Too Many Contacts"), Vec::new())),
        }
    }

    fn wish(
        &self,
        message: &Message<'_>,
        request: &Request<'_>,
        incoming: &Incoming<'_>,
    ) -> Result<Wish, Refusal> {
        let contacts = message.list("contact").unwrap_or_default();
        let expires = message.first("expires");
        if contacts.contains(&"*") {
            // RFC 3261, 10.3, step 6.
            let alone = contacts.len() == 1 && expires.and_then(number) == Some(0);
            return alone
                .then_some(Wish::Clear)
                .ok_or(bad("* stands alone and with Expires: 0"));
        }
        if contacts.is_empty() {
            return Ok(Wish::Ask);
        }
        let usual = expires.map_or(USUAL_EXPIRY.min(self.max_expires), interval);
        let contacts = contacts.into_iter();
        let changes = contacts.map(|contact| self.change(contact, usual, request, incoming));
        changes.collect::<Result<_, _>>().map(Wish::Change)
    }

    fn change(
        &self,
        contact: &str,
        usual: u64,
        request: &Request<'_>,
        incoming: &Incoming<'_>,
    ) -> Result<Change, Refusal> {
        let contact = NameAddr::parse(contact).ok_or_else(|| bad("Contact is not in order"))?;
        let uri = Uri::parse(contact.uri).map_err(|_| bad("Contact is no SIP URI"))?;
        if contact.uri.len() > LONGEST_CONTACT {
            return Err(bad("Contact is too long"));
        }
        let asked = contact
            .param("expires")
            .map_or(usual, |text| interval(&unquote(text)));
        if asked > 0 && asked < self.min_expires {
            let least = vec![("Min-Expires", self.min_expires.to_string())];
            return Err((423, None, least));
        }
        if uri
            .address()
            .is_some_and(|address| self.is_place(address, incoming.flow))
        {
            return Err((403, Some("This Is The Proxy Itself"), Vec::new()));
        }
        let binding = Binding {
            contact: contact.uri.to_owned(),
            key: uri.key(),
            q: preference(contact.param("q")),
            expires: incoming.now + asked.min(self.max_expires),
            call_id: request.call_id.to_owned(),
            cseq: request.cseq,
            flow: flow_to(&uri, request, incoming.flow),
        };
        Ok(Change {
            binding,
            stays: asked > 0,
        })
    }

    /// All contacts of an account, as a 200 lists them, and the time (RFC 3261, 10.3, step 8).
    fn contacts(&self, account: &Account, now: u64) -> Vec<(&'static str, String)> {
        let bindings = self.location.bindings.lock();
        let contact = |binding: &Binding| {
            let (left, q) = (binding.expires - now, f32::from(binding.q) / 1000.0);
            (
                "Contact",
                format!("<{}>;expires={left};q={q}", binding.contact),
            )
        };
        let all = bindings.of(account.name(), now);
        let mut fields: Vec<_> = all.into_iter().map(contact).collect();
        let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(now));
        fields.push(("Date", date));
        fields
    }
}

fn bad(why: &'static str) -> Refusal {
    (400, Some(why), Vec::new())
}

/// Extensions that are asked for; we have none.
pub(super) fn unsupported(message: &Message<'_>, field: &str) -> Option<String> {
    let asked = message.list(field).unwrap_or_default();
    let asked: Vec<_> = asked.into_iter().filter(|tag| !tag.is_empty()).collect();
    (!asked.is_empty()).then(|| asked.join(", "))
}

/// Seconds; what is no number counts as an hour, and more than 2^32-1 as that.
fn interval(text: &str) -> u64 {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match digits {
        true => number(text).unwrap_or(u64::MAX).min(u64::from(u32::MAX)),
        false => USUAL_EXPIRY,
    }
}

/// A `qvalue` in thousandths; without one that is in order, the highest.
fn preference(q: Option<&str>) -> u16 {
    let q =
        q.filter(|q| q.len() <= 5 && q.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'));
    let (whole, part) = match q.map(|q| q.split_once('.').unwrap_or((q, ""))) {
        Some(("0", part)) => (0, part),
        _ => (1000, ""),
    };
    let part = format!("{part:0<3}");
    whole + part.parse::<u16>().unwrap_or(0).min(999) * u16::from(whole == 0)
}

/// Where requests for a contact go: along the connection that registered it; over UDP where its URI says, or back
/// to where it came from if that is a name (no DNS is asked), or hidden behind a NAT, or no place for others.
fn flow_to(uri: &Uri<'_>, request: &Request<'_>, from: &Flow) -> Flow {
    let transport = uri.param("transport").unwrap_or_default();
    let says_udp = transport.eq_ignore_ascii_case("udp");
    let Some(place) = uri.address() else {
        return *from;
    };
    if from.transport != Transport::Udp && !says_udp {
        return *from;
    }
    let source = from.remote.ip();
    let translated = super::uri::ip(request.top.host).is_some_and(|told| told != source);
    if place.ip() != source && (translated || !is_for_others(place.ip(), source)) {
        return *from;
    }
    let transport = match transport.to_ascii_lowercase().as_str() {
        "tcp" => Transport::Tcp,
        "tls" => Transport::Tls,
        _ if uri.secure => Transport::Tls,
        _ => Transport::Udp,
    };
    Flow {
        transport,
        remote: place,
        local: from.local,
    }
}

/// False for addresses that mean something else here than where they were written.
fn is_for_others(address: IpAddr, source: IpAddr) -> bool {
    let special = match address {
        IpAddr::V4(address) => address.is_broadcast() || address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let here = address.is_loopback() && !source.is_loopback();
    !(special || here || address.is_unspecified() || address.is_multicast())
}

#[cfg(test)]
mod tests {
    use super::{interval, preference};

    #[test]
    fn preferences_are_read_in_thousandths() {
        for (text, q) in [
            ("0", 0),
            ("0.7", 700),
            ("0.123", 123),
            ("1.0", 1000),
            ("1", 1000),
            ("x", 1000),
            ("0.x", 1000),
        ] {
            assert_eq!(preference(Some(text)), q, "{text}");
        }
        assert_eq!(preference(None), 1000);
    }

    #[test]
    fn an_interval_that_is_none_is_an_hour() {
        assert_eq!(interval("60"), 60);
        assert_eq!(interval("99999999999999999999999"), 4_294_967_295);
        assert_eq!(
            (interval(""), interval("-1"), interval("soon")),
            (3600, 3600, 3600)
        );
    }
}
