#![forbid(unsafe_code)]
//! Server-wide lists, bans, and why an address is admitted or refused.

use std::net::{IpAddr, SocketAddr};

use maud::{Markup, html};

use crate::admin::ask::Refused;
use crate::admin::forms::Form;
use crate::admin::views::{complaints, csrf, frame, page, sorry};
use crate::admin::{Office, Visit};
use crate::control::Request;
use crate::control::request::{Ban, Explained, ExplainedSocket, List, Lists};
use crate::http::Response;
use crate::server::status::Status;

/// A list that was not taken, and why not.
pub(in crate::admin) struct TypedList {
    pub(in crate::admin) text: String,
    pub(in crate::admin) version: String,
    pub(in crate::admin) refused: Refused,
}

fn title(which: List) -> &'static str {
    match which {
        List::Clients => "Client addresses",
        List::Denied => "Denied addresses",
        List::Blacklist => "Black-list",
        List::Cluster => "Cluster addresses",
    }
}

fn about(which: List) -> &'static str {
    match which {
        List::Clients => {
            "Your own users. Reserved channels are theirs, and modules that serve clients only let them in."
        }
        List::Denied => {
            "Refused on every socket of this server, whatever the socket's own list says."
        }
        List::Blacklist => "Heard out by the mail server, and refused recipient by recipient.",
        List::Cluster => "Other servers of yours. They are not counted by address.",
    }
}

impl Office {
    /// One list; with what was typed, where that was not taken.
    pub(in crate::admin) fn list(
        &self,
        visit: &Visit,
        which: List,
        typed: Option<TypedList>,
    ) -> Response {
        let status = if typed.is_some() { 422 } else { 200 };
        let (text, version, lines) = match typed {
            Some(typed) => (typed.text, typed.version, typed.refused.lines()),
            None => match self.ask::<Lists>(&Request::Lists) {
                Ok(mut lists) => {
                    let version = std::mem::take(&mut lists.version);
                    (pick(lists, which), version, Vec::new())
                }
                Err(refused) => {
                    return sorry(visit, 503, "The lists are not to be had", &refused.lines());
                }
            },
        };
        let height = text.lines().count().clamp(8, 28) + 1;
        let content = html! {
            nav class="tabs" aria-label="Lists" {
                @for list in List::ALL {
                    a href={ "/lists/" (list.name()) } aria-current=[(list == which).then_some("page")] { (title(list)) }
                }
            }
            form class="card" method="post" action={ "/lists/" (which.name()) } {
                (csrf(visit))
                input type="hidden" name="version" value=(version);
                h2 { (title(which)) }
                p { (about(which)) }
                (complaints(&lines))
                textarea name="text" rows=(height) spellcheck="false" aria-label=(title(which))
                    aria-invalid=[(!lines.is_empty()).then_some("true")] { "\n" (text) }
                p class="hint" {
                    "One entry a line: " code { "192.0.2.1" } ", " code { "10.0.0.0/8" } ", "
                    code { "192.168.1.10-192.168.1.99" } ", " code { "!10.66.0.0/16" } " (taken out of the lines above), "
                    code { "@file.txt" } "; " code { ";" } " begins a comment."
                }
                p class="actions" { button { "Update" } }
            }
        };
        page(status, &frame(visit, "Address lists", &content))
    }

    /// The bans; with what was typed, where that was not taken.
    pub(in crate::admin) fn bans(
        &self,
        visit: &Visit,
        status: u16,
        lines: &[String],
        typed: &Form,
    ) -> Response {
        let bans = match self.ask::<Vec<Ban>>(&Request::Bans) {
            Ok(bans) => bans,
            Err(refused) => {
                return sorry(visit, 503, "The bans are not to be had", &refused.lines());
            }
        };
        let content = html! {
            form class="card" method="post" action="/bans" {
                (csrf(visit))
                h2 { "Ban an address" }
                (complaints(lines))
                div class="line" {
                    label { "Address or network" input name="address" value=(typed.get("address")) required spellcheck="false" autocomplete="off"; }
                    label { "For" input name="for" value=(typed.get("for")) placeholder="1day" class="short" autocomplete="off"; }
                    button { "Ban" }
                }
                p class="hint" { "Its connections are closed at once. A time is like " code { "10m" } " or " code { "2h" } "." }
            }
            section class="card" {
                h2 { "Banned now" }
                @if bans.is_empty() { p { "Nobody." } } @else { (ban_table(visit, &bans)) }
            }
        };
        page(status, &frame(visit, "Bans", &content))
    }

    /// The form of `explain`, and what came of it.
    pub(in crate::admin) fn explain(&self, visit: &Visit, query: &Form) -> Response {
        let names = match self.ask::<Status>(&Request::Status) {
            Ok(status) => status
                .listeners
                .into_iter()
                .map(|one| one.name)
                .collect::<Vec<_>>(),
            Err(refused) => {
                return sorry(
                    visit,
                    503,
                    "The listeners are not to be had",
                    &refused.lines(),
                );
            }
        };
        let (listener, address) = (
            query.get("listener"),
            query.get("address").trim().to_owned(),
        );
        let socket = query.get("socket").trim().to_owned();
        let explained = if address.is_empty() {
            Ok(Explained::default())
        } else {
            self.explained(&listener, &address, &socket)
        };
        let (explained, lines) = match explained {
            Ok(explained) => (explained, Vec::new()),
            Err(lines) => (Explained::default(), lines),
        };
        let content = html! {
            form class="card" method="get" action="/explain" {
                p { "Why is an address let in, or refused? Every rung of the ladder answers." }
                (complaints(&lines))
                div class="line" {
                    label { "Listener"
                        select name="listener" {
                            @for name in &names { option selected[*name == listener] { (name) } }
                        }
                    }
                    label { "Remote address" input name="address" value=(address) required spellcheck="false" autocomplete="off"; }
                    label { "Socket" input name="socket" value=(socket) placeholder="all" spellcheck="false" autocomplete="off"; }
                    button { "Ask" }
                }
            }
            @for socket in &explained.sockets { (verdict(socket, &address)) }
        };
        let status = if lines.is_empty() { 200 } else { 422 };
        page(status, &frame(visit, "Why?", &content))
    }

    fn explained(
        &self,
        listener: &str,
        address: &str,
        socket: &str,
    ) -> Result<Explained, Vec<String>> {
        let address: IpAddr = address
            .parse()
            .map_err(|_| vec![format!("expected an IP address, found {address:?}")])?;
        let socket = if socket.is_empty() {
            None
        } else {
            let parsed = socket.parse::<SocketAddr>();
            Some(parsed.map_err(|_| {
                vec![format!(
                    "expected ADDRESS:PORT of a socket, found {socket:?}"
                )]
            })?)
        };
        let request = Request::Explain {
            listener: listener.to_owned(),
            address,
            socket,
        };
        self.ask(&request).map_err(|refused| refused.lines())
    }
}

fn pick(lists: Lists, which: List) -> String {
    match which {
        List::Clients => lists.clients,
        List::Denied => lists.denied,
        List::Blacklist => lists.blacklist,
        List::Cluster => lists.cluster,
    }
}

fn ban_table(visit: &Visit, bans: &[Ban]) -> Markup {
    html! {
        table class="list" {
            thead { tr { th { "Address" } th { "Still for" } th { "By" } th {} } }
            tbody {
                @for ban in bans {
                    tr {
                        td data-label="Address" { code { (ban.address) } }
                        td data-label="Still for" { (super::traffic::seconds(ban.left)) }
                        td data-label="By" { (ban.by) }
                        td {
                            form method="post" action="/bans" {
                                (csrf(visit))
                                input type="hidden" name="do" value="unban";
                                input type="hidden" name="address" value=(ban.address);
                                button class="plain" aria-label={ "Take back the ban of " (ban.address) } { "Take back" }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn verdict(socket: &ExplainedSocket, address: &str) -> Markup {
    let local = socket
        .local
        .map_or_else(|| "all addresses".to_owned(), |local| local.to_string());
    html! {
        section class="card" {
            h2 {
                code { (address) } " to " (socket.listener) ", port " (socket.port) " of " (local) " "
                @match &socket.refused {
                    Some(reason) => span class="verdict refuse" { "refused: " (reason) },
                    None => span class="verdict pass" { "admitted" },
                }
            }
            table class="list" {
                thead { tr { th { "Rung" } th { "Verdict" } th { "Because" } } }
                tbody {
                    @for rung in &socket.rungs {
                        tr {
                            td data-label="Rung" { (rung.name) }
                            td data-label="Verdict" { span class={ "verdict " (rung.verdict.split(' ').next().unwrap_or_default()) } { (rung.verdict) } }
                            td data-label="Because" { (rung.because) }
                        }
                    }
                }
            }
            @if let Some(domain) = &socket.domain { p class="hint" { "Domain: " (domain) } }
        }
    }
}
