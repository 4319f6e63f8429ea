#![forbid(unsafe_code)]
//! The lines put before a message at its delivery: Return-Path and Received (RFC 5321, 4.4).

use std::net::IpAddr;
use std::time::SystemTime;

use crate::session::{Peer, Security};

/// What a trace line tells.
pub(super) struct Trace<'a> {
    pub(super) peer: &'a Peer,
    /// Our own name.
    pub(super) hostname: &'a str,
    /// What the client called itself.
    pub(super) helo: &'a str,
    /// Whether it said EHLO.
    pub(super) extended: bool,
    pub(super) authenticated: bool,
    pub(super) utf8: bool,
    pub(super) id: &'a str,
    /// The recipient, where there is one only: others' names are not the reader's business.
    pub(super) recipient: Option<&'a str>,
    pub(super) now: SystemTime,
}

impl Trace<'_> {
    /// The protocol's name (RFC 3848, and RFC 6531, 4.3).
    fn protocol(&self) -> String {
        let stem = match (self.utf8, self.extended) {
            (true, _) => "UTF8SMTP",
            (false, true) => "ESMTP",
            (false, false) => return "SMTP".to_owned(),
        };
        let secure = if self.peer.is_secure() { "S" } else { "" };
        let authenticated = if self.authenticated { "A" } else { "" };
        format!("{stem}{secure}{authenticated}")
    }

    /// The header, with its line ends.
    pub(super) fn received(&self) -> String {
        let tls = match &self.peer.security {
            Security::Tls(facts) if !facts.cipher.is_empty() => {
                format!(
                    "\r\n\t(using {} with cipher {})",
                    facts.version, facts.cipher
                )
            }
            _ => String::new(),
        };
        let recipient = self
            .recipient
            .map(|recipient| format!("\r\n\tfor <{recipient}>"));
        format!(
            "Received: from {} ({}){tls}\r\n\tby {} with {} id {}{};\r\n\t{}\r\n",
            self.helo,
            address_literal(self.peer.remote.ip()),
            self.hostname,
            self.protocol(),
            self.id,
            recipient.unwrap_or_default(),
            date(self.now)
        )
    }
}

/// An address as it stands in mail (RFC 5321, 4.1.3).
pub(super) fn address_literal(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("[{address}]"),
        IpAddr::V6(address) => format!("[IPv6:{address}]"),
    }
}

/// A date in UTC (RFC 5322, 3.3).
fn date(now: SystemTime) -> String {
    httpdate::fmt_http_date(now).replace("GMT", "+0000")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use super::Trace;
    use crate::dialogue::test_peer;
    use crate::session::{Security, TlsFacts};

    #[test]
    fn a_received_line_tells_who_how_and_when() {
        let mut peer = test_peer();
        let mut trace = Trace {
            peer: &peer.clone(),
            hostname: "mx.example.org",
            helo: "client.example",
            extended: true,
            authenticated: false,
            utf8: false,
            id: "42",
            recipient: Some("ann@example.org"),
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_514_400),
        };
        assert_eq!(
            trace.received(),
            "Received: from client.example ([192.0.2.1])\r\n\tby mx.example.org with ESMTP id 42\r\n\tfor \
             <ann@example.org>;\r\n\tTue, 24 Nov 2026 10:00:00 +0000\r\n"
        );
        peer.security = Security::Tls(Arc::new(TlsFacts {
            version: "TLSv1.3",
            cipher: "TLS_AES_128_GCM_SHA256".to_owned(),
            ..TlsFacts::default()
        }));
        peer.remote = "[2001:db8::1]:9".parse().unwrap();
        trace.peer = &peer;
        trace.recipient = None;
        let said = trace.received();
        assert!(said.contains(
            "([IPv6:2001:db8::1])\r\n\t(using TLSv1.3 with cipher TLS_AES_128_GCM_SHA256)"
        ));
        assert!(!said.contains("for"));
        let protocols = [
            (true, true, false),
            (true, true, true),
            (true, false, true),
            (false, false, false),
        ];
        let names = protocols.map(|(extended, authenticated, utf8)| {
            (trace.extended, trace.authenticated, trace.utf8) = (extended, authenticated, utf8);
            trace.protocol()
        });
        assert_eq!(names, ["ESMTPSA", "UTF8SMTPSA", "UTF8SMTPS", "SMTP"]);
    }
}
