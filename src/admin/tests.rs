//! The panel without sockets and without a daemon: a double answers what it asks, and notes it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::{Panel, Setup};
use crate::accounts::{Accounts, hash};
use crate::admission::address_list::{AddressList, Source};
use crate::control::request::{Ban, ConnectionRow, LimitsForm, ListenerForm, Lists, Reloaded, Row};
use crate::control::{Commands, Fault, Link, Request, Response};
use crate::dialogue::{answer, test_peer};
use crate::http::Server;
use crate::server::status::{ListenerStatus, SocketStatus, Status};
use crate::session::{Class, Peer, Security};

const MARKUP: &str = "\"'><script>alert(1)</script>&<b>";

/// Answers as a daemon would, and notes what changes were asked for.
#[derive(Default)]
struct Double {
    changes: Mutex<Vec<Request>>,
    refuse: Mutex<Option<Response>>,
}

impl Commands for Double {
    fn execute(&self, request: &Request) -> Response {
        match request {
            Request::Status => Response::of(&Status {
                listeners: vec![ListenerStatus {
                    name: "echo".into(),
                    transport: "tcp".into(),
                    channels: 10,
                    sockets: vec![SocketStatus {
                        port: 7,
                        address: None,
                        tls: "On".into(),
                    }],
                    ..ListenerStatus::default()
                }],
                ..Status::default()
            }),
            Request::Metrics => Response::of(&"# EOF\n"),
            Request::Listeners => Response::of(&vec![form()]),
            Request::Lists => Response::of(&Lists {
                clients: format!("; {MARKUP}"),
                ..Lists::default()
            }),
            Request::Bans => Response::of(&vec![Ban {
                address: MARKUP.into(),
                until: 0,
                left: 61,
                by: MARKUP.into(),
            }]),
            Request::Connections => Response::of(&vec![connection()]),
            Request::Explain { .. } => Response::Error(MARKUP.into()),
            Request::Reload { dry_run: true } => Response::of(&Reloaded {
                changes: vec![MARKUP.into()],
                ..Reloaded::default()
            }),
            change => {
                self.changes.lock().push(change.clone());
                self.refuse
                    .lock()
                    .clone()
                    .unwrap_or_else(|| Response::Error(MARKUP.into()))
            }
        }
    }
}

fn form() -> ListenerForm {
    ListenerForm {
        name: "echo".into(),
        transport: "tcp".into(),
        module: "Echo".into(),
        file: MARKUP.into(),
        version: "v1".into(),
        in_force: true,
        sockets: vec![Row {
            index: Some(0),
            port: "7".into(),
            list: MARKUP.into(),
            ..Row::default()
        }],
        limits: Some(LimitsForm::default()),
        ..ListenerForm::default()
    }
}

fn connection() -> ConnectionRow {
    ConnectionRow {
        id: "1".into(),
        listener: MARKUP.into(),
        address: SocketAddr::from(([192, 0, 2, 1], 5)),
        local: SocketAddr::from(([192, 0, 2, 2], 7)),
        class: "client".into(),
        age: 3_600,
        received: Some(1),
        sent: None,
        tls: None,
        state: "idle".into(),
    }
}

/// A panel, its double, and somebody at it.
struct Desk {
    server: Server<Panel>,
    double: Arc<Double>,
    peer: Peer,
    home: tempfile::TempDir,
}

impl Desk {
    fn new() -> Desk {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("accounts.ron");
        let hash = hash(b"right words").unwrap();
        let text = format!(
            "{{\"ann\": (password: \"{hash}\", admin: true), \"bob\": (password: \"{hash}\")}}"
        );
        std::fs::write(&file, text).unwrap();
        let double = Arc::new(Double::default());
        let link = Link::default();
        let commands: Arc<dyn Commands> = double.clone();
        link.bind(Arc::downgrade(&commands));
        let from = PathBuf::from("test");
        let server = Server::new(Panel::new(Setup {
            link,
            accounts: Accounts::read(&file).unwrap(),
            clients_only: true,
            metrics_token: Some("a-token-of-the-test".into()),
            metrics_from: AddressList::parse(&Source::file(&from, "203.0.113.0/24")).unwrap(),
            session_timeout: Duration::from_secs(60),
        }));
        let mut peer = test_peer();
        peer.security = Security::External;
        Desk {
            server,
            double,
            peer,
            home,
        }
    }

    /// The answer to a request: its status, and all of it.
    fn ask(&self, request: &str) -> (u16, String) {
        let said = answer(&self.server, &self.peer, request.as_bytes(), usize::MAX);
        let said = String::from_utf8(said).unwrap();
        let status = said.get(9..12).and_then(|status| status.parse().ok());
        (status.unwrap_or_else(|| panic!("{said}")), said)
    }

    fn get(&self, path: &str, cookie: &str) -> (u16, String) {
        self.ask(&format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n"
        ))
    }

    fn post(&self, path: &str, fields: &str, body: &str) -> (u16, String) {
        let length = body.len();
        self.ask(&format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\n{fields}Content-Length: {length}\r\n\r\n{body}"
        ))
    }

    /// The cookie and the token of a new session.
    fn log_in(&self) -> (String, String) {
        let (status, said) = self.post("/login", "", "name=ann&password=right+words");
        assert_eq!(status, 303, "{said}");
        let cookie = said
            .split_once("Set-Cookie: ")
            .unwrap()
            .1
            .split_once(';')
            .unwrap()
            .0
            .to_owned();
        let page = self.get("/", &cookie).1;
        let token = page.split_once("name=\"csrf\" value=\"").unwrap().1[..64].to_owned();
        (cookie, token)
    }

    fn changes(&self) -> Vec<Request> {
        std::mem::take(&mut self.double.changes.lock())
    }
}

const PAGES: [&str; 12] = [
    "/",
    "/live",
    "/listeners",
    "/listeners/echo",
    "/lists/clients",
    "/lists/denied",
    "/bans",
    "/connections",
    "/explain",
    "/explain?listener=echo&address=192.0.2.1",
    "/reload",
    "/nowhere",
];

#[test]
fn nothing_is_shown_or_changed_without_a_login() {
    let desk = Desk::new();
    let (cookie, token) = desk.log_in();
    for path in PAGES {
        for cookie in [
            "",
            "a=b",
            &cookie.replace('=', "=0"),
            &cookie[..cookie.len() - 1],
        ] {
            let (status, said) = desk.get(path, cookie);
            assert_eq!(status, 303, "{path}: {said}");
            assert!(
                said.contains("\r\nLocation: /login\r\n") && !said.contains("echo"),
                "{said}"
            );
        }
    }
    for path in [
        "/listeners/echo",
        "/lists/clients",
        "/bans",
        "/connections",
        "/reload",
        "/logout",
    ] {
        let (status, said) = desk.post(path, "", &format!("csrf={token}&text=&address=1.2.3.4"));
        assert_eq!(status, 303, "{path}: {said}");
    }
    for (method, what) in [
        ("GET", "status"),
        ("GET", "listeners"),
        ("POST", "reload"),
        ("POST", "ban"),
    ] {
        let (status, said) = desk.ask(&format!(
            "{method} /api/{what} HTTP/1.1\r\nHost: a\r\nX-CSRF-Token: {token}\r\n\r\n"
        ));
        assert_eq!(status, 401, "{said}");
    }
    assert_eq!(desk.changes(), []);
}

#[test]
fn a_session_is_for_admins_who_know_their_password_and_come_over_tls() {
    let mut desk = Desk::new();
    for body in [
        "name=bob&password=right+words",
        "name=ann&password=wrong",
        "name=&password=",
    ] {
        let (status, said) = desk.post("/login", "", body);
        assert_eq!(status, 403, "{said}");
        assert!(!said.contains("Set-Cookie"), "{said}");
    }
    let (status, said) = desk.post("/login", "", "name=ann&password=right+words");
    assert_eq!(
        status, 429,
        "the fourth attempt after three failures: {said}"
    );
    assert!(said.contains("\r\nRetry-After: "), "{said}");

    let desk_of_others = Desk::new();
    let (status, said) = desk_of_others.post("/login", "", "name=ann&password=right+words");
    assert_eq!(status, 303);
    let cookie = said
        .lines()
        .find(|line| line.starts_with("Set-Cookie: "))
        .unwrap();
    assert!(
        cookie.starts_with("Set-Cookie: __Host-portreeve-25="),
        "{cookie}"
    );
    assert!(
        cookie.contains("; Path=/; HttpOnly; SameSite=Strict; Secure"),
        "{cookie}"
    );

    desk.peer.security = Security::Clear;
    let (status, said) = desk.post("/login", "", "name=ann&password=right+words");
    assert_eq!(status, 403, "{said}");
    assert!(said.contains("over TLS"), "{said}");
}

#[test]
fn a_session_ends_with_its_logout_and_with_its_right() {
    let desk = Desk::new();
    let (cookie, token) = desk.log_in();
    let (status, said) = desk.post(
        "/logout",
        &format!("Cookie: {cookie}\r\n"),
        &format!("csrf={token}"),
    );
    assert_eq!(status, 303);
    assert!(said.contains("Max-Age=0"), "{said}");
    assert_eq!(desk.get("/", &cookie).0, 303);

    let (cookie, _) = desk.log_in();
    assert_eq!(desk.get("/", &cookie).0, 200);
    std::fs::write(
        desk.home.path().join("accounts.ron"),
        "{\"ann\": (admin: false)}",
    )
    .unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while desk.get("/", &cookie).0 == 200 {
        assert!(std::time::Instant::now() < deadline, "the session goes on");
        std::thread::yield_now();
    }
}

#[test]
fn forms_of_other_sites_and_without_their_token_change_nothing() {
    let desk = Desk::new();
    let (cookie, token) = desk.log_in();
    let cookie = format!("Cookie: {cookie}\r\n");
    for path in [
        "/listeners/echo",
        "/lists/clients",
        "/bans",
        "/connections",
        "/reload",
        "/logout",
    ] {
        for body in [
            "",
            "csrf=",
            "csrf=x",
            &format!("csrf={}", &token[1..]),
            &format!("CSRF={token}"),
        ] {
            let (status, said) = desk.post(path, &cookie, body);
            assert_eq!(status, 403, "{path}: {said}");
        }
        for origin in ["https://evil.example", "null", "https://a:1", "a"] {
            let fields = format!("{cookie}Origin: {origin}\r\n");
            assert_eq!(
                desk.post(path, &fields, &format!("csrf={token}")).0,
                403,
                "{path} {origin}"
            );
        }
    }
    assert_eq!(
        desk.post(
            "/login",
            "Origin: https://evil.example\r\n",
            "name=ann&password=right+words"
        )
        .0,
        403
    );
    assert_eq!(desk.changes(), []);
    let fields = format!("{cookie}Origin: https://a\r\n");
    desk.post("/bans", &fields, &format!("csrf={token}&address=192.0.2.9"));
    assert_eq!(
        desk.changes(),
        [Request::Ban {
            address: "192.0.2.9".into(),
            lasts: None
        }]
    );
}

#[test]
fn a_form_becomes_one_request_and_its_faults_stand_beside_what_was_typed() {
    let desk = Desk::new();
    let (cookie, token) = desk.log_in();
    let cookie = format!("Cookie: {cookie}\r\n");
    let body = format!(
        "csrf={token}&version=v1&index-0=0&port-0=7&address-0=&tls-0=On&restriction-0=Deny&list-0=10.0.0.0%2F8+%3B+us%0D%0A\
         &proxy_from-0=&client_ca-0=&port-1=99999&address-1=nowhere&tls-1=Off&restriction-1=none&list-1=\
         &channels=5&reserve_for_clients=1&limit_per_address=&limit_non_clients="
    );
    let fault = |row, field: &str, message: &str| Fault {
        row,
        field: Some(field.into()),
        message: message.into(),
        ..Fault::default()
    };
    let faults = vec![
        fault(Some(1), "port", "a port is at most 65535"),
        fault(None, "channels", "too few channels"),
    ];
    *desk.double.refuse.lock() = Some(Response::Invalid(faults));
    let (status, said) = desk.post("/listeners/echo", &cookie, &body);
    assert_eq!(status, 422);
    for words in [
        "value=\"99999\"",
        "value=\"nowhere\"",
        "a port is at most 65535",
        "too few channels",
        "10.0.0.0/8 ; us",
    ] {
        assert!(said.contains(words), "{words} is missing in {said}");
    }
    let port = said
        .split_once("value=\"99999\"")
        .unwrap()
        .1
        .split_once("</td>")
        .unwrap()
        .0;
    assert!(
        port.contains("aria-invalid=\"true\"") && port.contains("a port is at most 65535"),
        "{port}"
    );
    let changes = desk.changes();
    let [
        Request::EditListener {
            name,
            version,
            sockets,
            limits,
        },
    ] = &changes[..]
    else {
        panic!("{changes:?}");
    };
    assert_eq!((&**name, &**version, sockets.len()), ("echo", "v1", 2));
    assert_eq!(sockets[0].list, "10.0.0.0/8 ; us\n");
    assert_eq!(
        (sockets[0].index, &sockets[0].proxy_from, sockets[1].index),
        (Some(0), &Some(String::new()), None),
        "what was emptied is to go"
    );
    assert_eq!(limits.as_ref().unwrap().channels, "5");
}

#[test]
fn no_markup_comes_through_and_nothing_is_inline() {
    let desk = Desk::new();
    let (cookie, token) = desk.log_in();
    let fields = format!("Cookie: {cookie}\r\n");
    let encoded: String = form_urlencoded::byte_serialize(MARKUP.as_bytes()).collect();
    let mut pages: Vec<String> = PAGES.iter().map(|path| desk.get(path, &cookie).1).collect();
    for path in [
        "/explain?listener=X&address=X&socket=X",
        "/connections?for=X",
        "/listeners/X",
        "/lists/X",
    ] {
        pages.push(desk.get(&path.replace('X', &encoded), &cookie).1);
    }
    let all = "csrf=T&version=X&index-0=X&port-0=X&address-0=X&tls-0=X&restriction-0=X&list-0=X&proxy_from-0=X&client_ca-0=X\
               &channels=X&reserve_for_clients=X&limit_per_address=X&limit_non_clients=X&text=X&address=X&for=X&id=X&do=X";
    let body = all
        .replace('X', &encoded)
        .replace("=T&", &format!("={token}&"));
    let fault = Fault {
        row: Some(0),
        field: Some("list".into()),
        message: MARKUP.into(),
        ..Fault::default()
    };
    for refusal in [
        Response::Error(MARKUP.into()),
        Response::Invalid(vec![fault]),
    ] {
        *desk.double.refuse.lock() = Some(refusal);
        for path in [
            "/listeners/echo",
            "/lists/clients",
            "/bans",
            "/connections",
            "/reload",
        ] {
            let (status, said) = desk.post(path, &fields, &body);
            assert!(matches!(status, 409 | 422), "{path}: {said}");
            pages.push(said);
        }
    }
    for page in pages {
        let (head, body) = page.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(
                "Content-Security-Policy: default-src 'none'; style-src 'self'; script-src 'self'"
            ),
            "{head}"
        );
        assert!(
            !head.contains("unsafe")
                && head.contains("no-store")
                && head.contains("frame-ancestors 'none'"),
            "{head}"
        );
        assert!(
            !body.contains("<script>")
                && !body.contains("<b>\"")
                && !body.contains(" style=")
                && !has_handler(body),
            "{body}"
        );
        assert!(!body.contains("://") || body.contains("xmlns"), "{body}");
    }
}

/// True when some tag has an attribute like `onclick=`.
fn has_handler(body: &str) -> bool {
    body.match_indices(" on").any(|(at, _)| {
        let rest = body[at + 3..].trim_start_matches(|letter: char| letter.is_ascii_lowercase());
        rest.starts_with('=')
    })
}

#[test]
fn the_api_takes_what_it_knows_and_says_what_is_wrong() {
    let desk = Desk::new();
    let (status, said) = desk.post(
        "/api/login",
        "",
        "{\"name\":\"ann\",\"password\":\"right words\"}",
    );
    assert_eq!(status, 200, "{said}");
    let cookie = said
        .split_once("Set-Cookie: ")
        .unwrap()
        .1
        .split_once(';')
        .unwrap()
        .0
        .to_owned();
    let answer: serde_json::Value =
        serde_json::from_str(said.split_once("\r\n\r\n").unwrap().1).unwrap();
    let token = answer["ok"]["csrf"].as_str().unwrap();
    let fields = format!("Cookie: {cookie}\r\nX-CSRF-Token: {token}\r\n");
    for what in ["status", "listeners", "lists", "bans", "connections"] {
        let (status, said) = desk.get(&format!("/api/{what}"), &cookie);
        assert_eq!(status, 200, "{said}");
        let value: serde_json::Value =
            serde_json::from_str(said.split_once("\r\n\r\n").unwrap().1).unwrap();
        assert!(value["ok"].is_object() || value["ok"].is_array(), "{value}");
    }
    for (what, body, wanted) in [
        ("ban", "{\"address\":\"192.0.2.1\",\"for\":\"10m\"}", 409),
        ("ban", "{\"address\":5}", 400),
        ("ban", "{\"address\":\"x\",\"extra\":1}", 400),
        ("ban", "{\"address\":\"x\",\"command\":\"reload\"}", 409),
        ("ban", "{}", 400),
        ("ban", "[]", 400),
        ("ban", "not JSON", 400),
        ("ban", "\u{fffd}", 400),
        ("status", "{}", 404),
        ("nonsense", "{}", 404),
        ("reload", "", 409),
    ] {
        let (status, said) = desk.post(&format!("/api/{what}"), &fields, body);
        assert_eq!(status, wanted, "{what} {body}: {said}");
    }
    assert!(
        desk.changes()
            .iter()
            .all(|change| matches!(change, Request::Ban { .. } | Request::Reload { .. }))
    );
    let deep = "[".repeat(100_000);
    assert_eq!(
        desk.post("/api/ban", &fields, &format!("{{\"address\":{deep}"))
            .0,
        400
    );
    assert_eq!(
        desk.post(
            "/api/ban",
            &format!("Cookie: {cookie}\r\n"),
            "{\"address\":\"192.0.2.1\"}"
        )
        .0,
        403
    );
    assert_eq!(desk.changes(), []);
}

#[test]
fn nobody_bans_the_address_they_come_from() {
    let desk = Desk::new();
    let (cookie, token) = desk.log_in();
    let fields = format!("Cookie: {cookie}\r\nX-CSRF-Token: {token}\r\n");
    let own = desk.peer.remote.ip();
    for address in [own.to_string(), format!("{own}/32"), "0.0.0.0/0".to_owned()] {
        let body = format!("{{\"address\":\"{address}\"}}");
        assert_eq!(desk.post("/api/ban", &fields, &body).0, 409, "{address}");
        let body = format!("csrf={token}&address={address}");
        assert_eq!(desk.post("/bans", &fields, &body).0, 422, "{address}");
    }
    assert_eq!(desk.changes(), []);
}

#[test]
fn bodies_have_their_limits() {
    let desk = Desk::new();
    let (cookie, token) = desk.log_in();
    let length = |path: &str, cookie: &str, length: u64| {
        desk.ask(&format!("POST {path} HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\nContent-Length: {length}\r\n\r\n")).0
    };
    assert_eq!(length("/login", "", 20_000), 413);
    assert_eq!(length("/bans", "", 20_000), 303);
    assert_eq!(length("/bans", &cookie, (4 << 20) + 1), 413);
    let body = format!("csrf={token}&{}", "port-1=1&".repeat(100_000));
    let (status, _) = desk.post("/listeners/echo", &format!("Cookie: {cookie}\r\n"), &body);
    assert_eq!(status, 413);
    assert_eq!(desk.changes(), [], "rows that were cut off are not removed");
    assert_eq!(desk.ask("DELETE / HTTP/1.1\r\nHost: a\r\n\r\n").0, 405);
}

#[test]
fn strangers_get_a_403_and_listed_ones_the_metrics() {
    let mut desk = Desk::new();
    desk.peer.class = Class::Other;
    for path in PAGES
        .into_iter()
        .chain(["/login", "/style.css", "/metrics", "/api/status"])
    {
        let (status, said) = desk.get(path, "");
        assert_eq!(status, 403, "{path}");
        assert!(said.contains("\r\nConnection: close\r\n"), "{said}");
    }
    desk.peer.remote = SocketAddr::from(([203, 0, 113, 7], 5));
    let (status, said) = desk.get("/metrics", "");
    assert_eq!(status, 200);
    assert!(
        said.contains("application/openmetrics-text") && said.ends_with("# EOF\n"),
        "{said}"
    );
    assert_eq!(desk.get("/", "").0, 403);
}

#[test]
fn metrics_are_for_a_token_or_a_login() {
    let desk = Desk::new();
    let with = |value: &str| {
        desk.ask(&format!(
            "GET /metrics HTTP/1.1\r\nHost: a\r\nAuthorization: {value}\r\n\r\n"
        ))
        .0
    };
    assert_eq!(with("Bearer a-token-of-the-test"), 200);
    for wrong in [
        "Bearer a-token-of-the-tes",
        "Bearer ",
        "Basic a-token-of-the-test",
        "a-token-of-the-test",
        "",
    ] {
        assert_eq!(with(wrong), 401, "{wrong}");
    }
    assert_eq!(desk.get("/metrics", &desk.log_in().0).0, 200);
}
