#![forbid(unsafe_code)]
//! The head of a request as an upstream gets it.

use std::io::Write as _;
use std::net::IpAddr;

use crate::http::framing::Framing;
use crate::http::{Around, Request};

/// Fields of one connection alone (RFC 9110, 7.6.1), and those that we write ourselves.
const OF_ONE_HOP: [&str; 11] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "content-length",
    "expect",
];

/// Who the request came for, as fields of proxies tell.
const FORWARDED: [&str; 5] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-real-ip",
];

/// True when a field does not go further: by its name, or since Connection names it.
pub(super) fn is_of_one_hop(name: &str, connection: &[&str]) -> bool {
    let is = |other: &str| name.eq_ignore_ascii_case(other);
    OF_ONE_HOP.iter().any(|other| is(other)) || connection.iter().any(|other| is(other))
}

/// The protocol that the client asks to change to, as WebSocket does (RFC 9110, 7.8).
pub(super) fn upgrade<'b>(request: &Request<'_, 'b>) -> Option<&'b str> {
    let asks = request
        .list("connection")
        .any(|option| option.eq_ignore_ascii_case("upgrade"));
    request
        .get("upgrade")
        .filter(|_| asks && request.minor >= 1 && request.framing == Framing::None)
}

/// Writes the head. Host is kept; fields that tell of the client are those of a trusted proxy with ours behind
/// them, or ours alone.
pub(super) fn head(request: &Request<'_, '_>, around: &Around<'_>, trusted: bool) -> Vec<u8> {
    let mut head = Vec::with_capacity(1024);
    let query = request
        .query
        .map_or(String::new(), |query| format!("?{query}"));
    // A vector takes all that is written to it.
    let _ = write!(
        head,
        "{} {}{query} HTTP/1.1\r\n",
        request.method, request.path
    );
    let mut field = |name: &str, value: &[u8]| {
        head.extend_from_slice(name.as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value);
        head.extend_from_slice(b"\r\n");
    };
    let local = around.peer.local;
    let host = request
        .host
        .map_or_else(|| local.to_string(), str::to_owned);
    field("Host", host.as_bytes());
    let connection: Vec<&str> = request.list("connection").collect();
    for (name, value) in request.fields() {
        let is = |other: &&str| name.eq_ignore_ascii_case(other);
        if !is(&"host") && !is_of_one_hop(name, &connection) && !FORWARDED.iter().any(is) {
            field(name, value);
        }
    }
    let scheme = if around.peer.is_secure() {
        "https"
    } else {
        "http"
    };
    let remote = around.peer.remote.ip();
    let before = |name: &str| -> Vec<&str> {
        if trusted {
            request.list(name).collect()
        } else {
            Vec::new()
        }
    };
    let with = |name: &str, ours: String| {
        let mut all = before(name);
        all.push(&ours);
        all.join(", ")
    };
    let first =
        |name: &str, ours: &str| before(name).first().map_or(ours, |value| value).to_owned();
    field(
        "X-Forwarded-For",
        with("x-forwarded-for", remote.to_string()).as_bytes(),
    );
    field(
        "X-Forwarded-Proto",
        first("x-forwarded-proto", scheme).as_bytes(),
    );
    field(
        "X-Forwarded-Host",
        first("x-forwarded-host", &host).as_bytes(),
    );
    let node = match remote {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("\"[{address}]\""),
    };
    // RFC 7239, 4: a host with a port is no token, so it is quoted; is_host lets no quote through.
    let ours = format!("for={node};proto={scheme};host=\"{host}\"");
    field("Forwarded", with("forwarded", ours).as_bytes());
    match request.framing {
        Framing::None => {}
        Framing::Length(length) => field("Content-Length", length.to_string().as_bytes()),
        Framing::Chunked => field("Transfer-Encoding", b"chunked"),
    }
    match upgrade(request) {
        Some(protocol) => {
            field("Connection", b"upgrade");
            field("Upgrade", protocol.as_bytes());
        }
        None if matches!(request.method, "POST" | "PUT" | "PATCH")
            && request.framing == Framing::None =>
        {
            field("Content-Length", b"0");
        }
        None => {}
    }
    head.extend_from_slice(b"\r\n");
    head
}

#[cfg(test)]
mod tests {
    use super::head;
    use crate::dialogue::test_peer;
    use crate::http::head::room;
    use crate::http::{Around, Request};
    use std::time::{Instant, SystemTime};

    fn passed(fields: &str, trusted: bool) -> String {
        let text = format!("GET http://b/x?y HTTP/1.1\r\nHost: a:8080\r\n{fields}\r\n");
        let mut room = room();
        let request = Request::parse(text.as_bytes(), &mut room).unwrap();
        let peer = test_peer();
        let around = Around {
            peer: &peer,
            now: Instant::now(),
            wall: SystemTime::UNIX_EPOCH,
        };
        String::from_utf8(head(&request, &around, trusted)).unwrap()
    }

    #[test]
    fn fields_of_one_hop_stay_and_strangers_say_nothing_of_the_client() {
        let fields = "Connection: close, X-Mine\r\nX-Mine: 1\r\nTE: trailers\r\nAccept: a\r\nX-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Forwarded-Proto: https\r\n";
        assert_eq!(
            passed(fields, false),
            "GET /x?y HTTP/1.1\r\nHost: b\r\nAccept: a\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http\r\n\
             X-Forwarded-Host: b\r\nForwarded: for=192.0.2.1;proto=http;host=\"b\"\r\n\r\n"
        );
        let believed = passed(fields, true);
        assert!(
            believed
                .contains("X-Forwarded-For: 6.6.6.6, 192.0.2.1\r\nX-Forwarded-Proto: https\r\n"),
            "{believed}"
        );
        assert!(
            believed.contains("Forwarded: for=6.6.6.6, for=192.0.2.1;"),
            "{believed}"
        );
    }

    #[test]
    fn an_upgrade_is_passed_on_and_a_body_keeps_its_framing() {
        let upgrade = passed(
            "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n",
            false,
        );
        assert!(
            upgrade.contains("Connection: upgrade\r\nUpgrade: websocket\r\n")
                && upgrade.contains("Sec-WebSocket-Key: k"),
            "{upgrade}"
        );
        assert!(passed("Content-Length: 5\r\n", false).contains("\r\nContent-Length: 5\r\n"));
        assert!(
            passed("Transfer-Encoding: chunked\r\n", false)
                .contains("\r\nTransfer-Encoding: chunked\r\n")
        );
    }
}
