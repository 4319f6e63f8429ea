#![forbid(unsafe_code)]
//! In and out: the cookie, the password, whether a request comes from our own pages.

use std::sync::Arc;

use serde::Deserialize;

use super::forms::Form;
use super::views;
use super::{Office, Visit};
use crate::http::{Answer, Around, Request, Response};
use crate::session::{Abuse, Lane, Peer};

/// The paths that are open to those who are not logged in.
pub(super) fn is_door(path: &str) -> bool {
    matches!(path, "/login" | "/api/login")
}

/// The cookie's name. Cookies are of a host, not of a port, so the port stands in it; and under TLS it is
/// another, which a page in clear can neither read nor set (RFC 6265bis, 4.1.3.2).
pub(super) fn cookie_name(peer: &Peer) -> String {
    let prefix = if peer.is_secure() { "__Host-" } else { "" };
    format!("{prefix}portreeve-{}", peer.local.port())
}

/// The session's token that a request shows.
pub(super) fn cookie<'b>(request: &Request<'_, 'b>, peer: &Peer) -> Option<&'b str> {
    let name = cookie_name(peer);
    let lines = request
        .all("cookie")
        .filter_map(|line| std::str::from_utf8(line).ok());
    let mut pairs = lines
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    pairs
        .find(|(given, _)| *given == name)
        .map(|(_, token)| token)
}

/// The field that gives or takes the cookie.
pub(super) fn set_cookie(response: Response, name: &str, token: &str) -> Response {
    let secure = if name.starts_with("__Host-") {
        "; Secure"
    } else {
        ""
    };
    let ends = if token.is_empty() { "; Max-Age=0" } else { "" };
    let value = format!("{name}={token}; Path=/; HttpOnly; SameSite=Strict{secure}{ends}");
    response.field("Set-Cookie", &value)
}

/// False for a form on another site's page. Browsers say where a form was with Origin (RFC 6454, 7); what
/// says nothing is no browser, and has no cookie of one.
pub(super) fn is_same_origin(request: &Request<'_, '_>) -> bool {
    let host = request.host.unwrap_or_default();
    let origin = match request.all("origin").next() {
        Some(origin) => std::str::from_utf8(origin)
            .ok()
            .and_then(|origin| origin.split_once("://")),
        None => {
            return request
                .get("sec-fetch-site")
                .is_none_or(|site| matches!(site, "same-origin" | "none"));
        }
    };
    origin.is_some_and(|(_, origin)| origin.eq_ignore_ascii_case(host))
}

/// Sends people to the login page, and tells scripts.
pub(super) fn not_logged_in(request: &Request<'_, '_>) -> Response {
    if request.path.starts_with("/api/") {
        return views::json_error(401, "not logged in");
    }
    views::guarded(Response::redirect(303, "/login"))
}

/// A name and a password, as sent by a form or a script.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Credentials {
    name: String,
    password: String,
}

/// The login page, and what it sends.
pub(super) fn answer(
    office: &Arc<Office>,
    request: &Request<'_, '_>,
    body: &[u8],
    around: &Around<'_>,
) -> Answer {
    let script = request.path.starts_with("/api/");
    let say = move |status, why: &str| {
        if script {
            views::json_error(status, why)
        } else {
            views::guarded(views::login(status, Some(why)))
        }
    };
    if !around.peer.may_send_password() {
        return say(
            403,
            "A password in clear would be read on its way here. Come over TLS.",
        )
        .into();
    }
    if request.method != "POST" {
        if script {
            return say(405, "POST a name and a password").into();
        }
        let (status, why) = match office
            .setup
            .accounts
            .all()
            .iter()
            .any(|account| account.is_admin())
        {
            true => (200, None),
            false => (
                200,
                Some("No account may administer yet: portreeve account set NAME --admin"),
            ),
        };
        return views::guarded(views::login(status, why)).into();
    }
    let credentials = if script {
        match serde_json::from_slice(body) {
            Ok(credentials) => credentials,
            Err(error) => return say(400, &error.to_string()).into(),
        }
    } else {
        let form = Form::parse(body);
        Credentials {
            name: form.raw("name").unwrap_or_default().to_owned(),
            password: form.raw("password").unwrap_or_default().to_owned(),
        }
    };
    let remote = around.peer.remote.ip();
    if let Err(wait) = office.throttle.lock().attempt(remote, around.now) {
        let seconds = wait.as_secs() + 1;
        let response = say(
            429,
            &format!("After so many failures, wait {seconds} seconds."),
        );
        return response.field("Retry-After", &seconds.to_string()).into();
    }
    let Ok(check) = office
        .setup
        .accounts
        .check(&credentials.name, credentials.password.as_bytes())
    else {
        office.throttle.lock().undo(remote);
        return say(503, "Too many log in at this moment. Try again.")
            .field("Retry-After", "1")
            .into();
    };
    let (office, listener, now) = (
        Arc::clone(office),
        Arc::clone(&around.peer.listener),
        around.now,
    );
    let cookie = cookie_name(around.peer);
    Answer::Later(
        Lane::Compute,
        Box::new(move || {
            let Some(account) = check.run().filter(|account| account.is_admin()) else {
                let name: String = credentials.name.chars().take(64).collect();
                if let Some(untold) = office.throttle.lock().tells(now) {
                    log::info!(target: &listener, "audit: login of {name:?} from {remote} failed ({untold} more not told)");
                }
                let mut response = say(
                    403,
                    "The name or the password is wrong, or the account may not administer.",
                );
                response.abuse = Some(Abuse::FailedLogin);
                return response;
            };
            office.throttle.lock().succeed(remote);
            let Some((token, session)) = office.sessions.lock().begin(account.name(), now) else {
                return say(500, "The system has no random bits.");
            };
            let visit = Visit {
                session,
                remote,
                listener,
            };
            visit.audit("logged in");
            let response = if script {
                let token = serde_json::json!({"ok": {"name": &*visit.session.name, "csrf": visit.session.csrf}});
                views::json(200, &token)
            } else {
                views::guarded(Response::redirect(303, "/"))
            };
            set_cookie(response, &cookie, &token)
        }),
    )
}
