#![forbid(unsafe_code)]
//! Rows of `sockets: [..]`, and which of them conflict.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use super::ConfigError;
use super::check::Check;
use super::field::Field;
use super::plan::{SocketPlan, TlsMode};
use super::raw;
use crate::admission::ladder::Restriction;
use crate::tls::{ClientAuthority, Domain};

/// A socket's claim on a port, for the conflict rules.
pub(super) struct Claim {
    listener: Arc<str>,
    transport: &'static str,
    port: u16,
    address: Option<IpAddr>,
    place: ConfigError,
}

impl Claim {
    /// The file that has the socket.
    pub(super) fn file(&self) -> &Path {
        &self.place.file
    }
}

impl<'a> Check<'a, '_> {
    pub(super) fn sockets(
        &mut self,
        listener: &Arc<str>,
        transport: &'static str,
        field: Field<'a, Vec<Field<'a, raw::Socket<'a>>>>,
        backlog: Option<i32>,
    ) -> Vec<SocketPlan> {
        let rows = self.text.each(field, self.errors);
        let mut plans = Vec::new();
        for row in &rows {
            let plan = self.socket(listener, transport, *row);
            plans.extend(plan.map(|plan| match backlog {
                Some(backlog) => SocketPlan { backlog, ..plan },
                None => plan,
            }));
        }
        if rows.is_empty() {
            self.notice(field, "this listener has no socket");
        }
        plans
    }

    fn socket(
        &mut self,
        listener: &Arc<str>,
        transport: &'static str,
        field: Field<'a, raw::Socket<'a>>,
    ) -> Option<SocketPlan> {
        let text = self.text;
        let row: raw::Socket<'a> = text.read(field.raw()?, self.errors)?;
        let address = text.map(row.address, self.errors, |text| match address(&text)? {
            address if address.is_unspecified() => {
                Err("leave address out to mean all addresses".to_owned())
            }
            address => Ok(address),
        });
        let tls = match text.get(row.tls, self.errors) {
            Some(raw::Tls::On) => TlsMode::On,
            Some(raw::Tls::Ext) => TlsMode::Ext,
            Some(raw::Tls::Off) | None => TlsMode::Off,
        };
        let has_certificate = |domain: &Domain| domain.certificate.is_some();
        if transport == "udp" {
            self.refuse_on_udp(row.tls, "TLS");
            self.refuse_on_udp(row.client_ca, "TLS");
            self.refuse_on_udp(row.proxy_from, "PROXY header");
        } else if tls == TlsMode::On && !self.domains.iter().any(has_certificate) {
            let message = "no domain has a certificate: every handshake on this socket will fail";
            self.notice(row.tls, message);
        }
        let client_ca = match transport {
            "udp" => None,
            _ => self.client_ca(row.client_ca, tls),
        };
        let restriction: Option<raw::Restriction<'a>> = row
            .restriction
            .raw()
            .and_then(|raw| text.read(raw, self.errors));
        let mut list = |field: Field<'a, String>| {
            field
                .raw()
                .and_then(|raw| text.list(raw, self.errors))
                .unwrap_or_default()
        };
        let restriction = match restriction {
            Some(raw::Restriction::Grant(field)) => Restriction::Grant(list(field)),
            Some(raw::Restriction::Deny(field)) => Restriction::Deny(list(field)),
            None => Restriction::Open,
        };
        let proxy_from = row.proxy_from.is_set().then(|| list(row.proxy_from));
        if !row.port.is_set() {
            text.complain(field, self.errors, "every socket needs a port");
            return None;
        }
        let port = text.get(row.port, self.errors)?;
        if port == 0 {
            self.notice(row.port, "port 0 means no socket: this row is ignored");
            return None;
        }
        let place = text.error(
            row.port.raw().map_or(0, |raw| text.offset(raw)),
            String::new(),
        );
        self.claims.push(Claim {
            listener: Arc::clone(listener),
            transport,
            port,
            address,
            place,
        });
        Some(SocketPlan {
            port,
            address,
            tls,
            restriction,
            proxy_from,
            client_ca,
            ..SocketPlan::default()
        })
    }

    fn refuse_on_udp<T>(&mut self, field: Field<'a, T>, what: &str) {
        if field.is_set() {
            self.text
                .complain(field, self.errors, format!("UDP has no {what}"));
        }
    }

    fn client_ca(&mut self, field: Field<'a, String>, tls: TlsMode) -> Option<ClientAuthority> {
        let file = self.text.file_path(field, self.errors)?;
        if tls == TlsMode::Ext {
            let message = "on a tls: Ext socket something in front asks for certificates, not we";
            self.text.complain(field, self.errors, message);
            return None;
        }
        match ClientAuthority::read(&file) {
            Ok(authority) => Some(authority),
            Err(why) => {
                let message = format!("{}: {why}", file.display());
                self.text.complain(field, self.errors, message);
                None
            }
        }
    }
}

/// An IP address, with or without brackets; never an IPv4-mapped one.
pub(crate) fn address(text: &str) -> Result<IpAddr, String> {
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    match bare.unwrap_or(text).parse::<IpAddr>() {
        Ok(address) => Ok(address.to_canonical()),
        Err(_) => Err(format!("expected an IP address, found {text:?}")),
    }
}

/// Two sockets of one transport conflict when port and address are equal, or ports are equal and one has
/// no address.
pub(super) fn conflicts(claims: &[Claim], errors: &mut Vec<ConfigError>) {
    for (index, claim) in claims.iter().enumerate() {
        let other = claims[..index].iter().find(|other| {
            other.transport == claim.transport
                && other.port == claim.port
                && (other.address == claim.address
                    || other.address.is_none()
                    || claim.address.is_none())
        });
        let Some(other) = other else { continue };
        let words = |claim: &Claim| match claim.address {
            Some(address) => format!("{} on {address}", claim.port),
            None => format!("{} on all addresses", claim.port),
        };
        let message = format!(
            "{} {} of listener {} conflicts with {} of listener {} ({}:{})",
            claim.transport,
            words(claim),
            claim.listener,
            words(other),
            other.listener,
            other.place.file.display(),
            other.place.line,
        );
        errors.push(ConfigError {
            message,
            ..claim.place.clone()
        });
    }
}
