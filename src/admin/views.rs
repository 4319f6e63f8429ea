#![forbid(unsafe_code)]
//! What all pages share: their frame, the fields that keep them safe, the style sheet and the script.

use maud::{DOCTYPE, Markup, html};

use super::Visit;
use crate::http::{Request, Response};

/// Nothing from elsewhere, nothing inline, in nobody's frame.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

const ASSETS: [(&str, &str, &str); 3] = [
    (
        "/style.css",
        "text/css; charset=utf-8",
        include_str!("assets/style.css"),
    ),
    (
        "/live.js",
        "text/javascript; charset=utf-8",
        include_str!("assets/live.js"),
    ),
    (
        "/icon.svg",
        "image/svg+xml",
        include_str!("assets/icon.svg"),
    ),
];

/// The style sheet, the script and the icon, for anybody.
pub(super) fn asset(request: &Request<'_, '_>) -> Option<Response> {
    let asset = ASSETS.iter().find(|(path, ..)| *path == request.path)?;
    if request.method == "POST" {
        return None;
    }
    Some(Response::with(200, asset.1, asset.2).field("Cache-Control", "max-age=300"))
}

/// Adds the fields that every answer has.
pub(super) fn guarded(mut response: Response) -> Response {
    let has = |name: &[u8]| memchr::memmem::find(&response.fields, name).is_some();
    let (cached, typed) = (has(b"Cache-Control: "), has(b"X-Content-Type-Options: "));
    if !cached {
        response = response.field("Cache-Control", "no-store");
    }
    if !typed {
        response = response.field("X-Content-Type-Options", "nosniff");
    }
    response
        .field("Content-Security-Policy", POLICY)
        .field("Referrer-Policy", "same-origin")
        .field("Cross-Origin-Opener-Policy", "same-origin")
        .field("X-Frame-Options", "DENY")
}

/// An answer in JSON.
pub(super) fn json(status: u16, value: &serde_json::Value) -> Response {
    let mut text = value.to_string();
    text.push('\n');
    Response::with(status, "application/json", text)
}

/// An error in JSON.
pub(super) fn json_error(status: u16, why: &str) -> Response {
    guarded(json(status, &serde_json::json!({"error": why})))
}

/// A page as an answer.
pub(super) fn page(status: u16, page: &Markup) -> Response {
    Response::with(status, "text/html; charset=utf-8", page.0.as_bytes())
}

const PAGES: [(&str, &str); 7] = [
    ("/", "Overview"),
    ("/listeners", "Listeners"),
    ("/lists/clients", "Address lists"),
    ("/bans", "Bans"),
    ("/connections", "Connections"),
    ("/explain", "Why?"),
    ("/reload", "Reload"),
];

fn head(title: &str) -> Markup {
    html! {
        head {
            meta charset="utf-8";
            meta name="viewport" content="width=device-width, initial-scale=1";
            meta name="color-scheme" content="light dark";
            title { (title) " - portreeve" }
            link rel="icon" href="/icon.svg" type="image/svg+xml";
            link rel="stylesheet" href="/style.css";
        }
    }
}

/// The frame of a page of somebody who has logged in.
pub(super) fn frame(visit: &Visit, title: &str, content: &Markup) -> Markup {
    let notes = visit.session.take_notes();
    html! {
        (DOCTYPE)
        html lang="en" {
            (head(title))
            body {
                a class="skip" href="#main" { "To the content" }
                header {
                    a class="brand" href="/" { img src="/icon.svg" alt="" width="28" height="28"; "portreeve" }
                    nav aria-label="Pages" {
                        ul {
                            @for (path, name) in PAGES {
                                @let current = name == title || path == "/listeners" && title.starts_with("Listener ");
                                li { a href=(path) aria-current=[current.then_some("page")] { (name) } }
                            }
                        }
                    }
                    form class="leave" method="post" action="/logout" {
                        (csrf(visit))
                        span { (visit.session.name) }
                        button class="plain" { "Log out" }
                    }
                }
                main id="main" tabindex="-1" {
                    h1 { (title) }
                    @if !notes.is_empty() {
                        div class="note good" role="status" { ul { @for note in &notes { li { (note) } } } }
                    }
                    (content)
                }
            }
        }
    }
}

/// The hidden field of each form that changes something.
pub(super) fn csrf(visit: &Visit) -> Markup {
    html! { input type="hidden" name="csrf" value=(visit.session.csrf); }
}

/// Lines that say what is wrong.
pub(super) fn complaints(lines: &[String]) -> Markup {
    html! {
        @if !lines.is_empty() {
            div class="note bad" role="alert" { ul { @for line in lines { li { (line) } } } }
        }
    }
}

/// A page that says what is wrong and nothing else.
pub(super) fn sorry(visit: &Visit, status: u16, what: &str, lines: &[String]) -> Response {
    let content = html! { div class="card" { p { (what) "." } (complaints(lines)) p { a href="/" { "To the overview" } } } };
    page(status, &frame(visit, "Not done", &content))
}

/// The page of those who have not logged in.
pub(super) fn login(status: u16, why: Option<&str>) -> Response {
    let content = html! {
        (DOCTYPE)
        html lang="en" {
            (head("Log in"))
            body class="door" {
                main id="main" {
                    form class="card" method="post" action="/login" {
                        h1 { img src="/icon.svg" alt="" width="40" height="40"; "portreeve" }
                        @if let Some(why) = why { div class="note bad" role="alert" { (why) } }
                        label { "Name" input name="name" autocomplete="username" autocapitalize="none" spellcheck="false" required autofocus; }
                        label { "Password" input name="password" type="password" autocomplete="current-password" required; }
                        button { "Log in" }
                    }
                }
            }
        }
    };
    page(status, &content)
}
