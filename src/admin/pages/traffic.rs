#![forbid(unsafe_code)]
//! Open connections, and what a reload would do.

use std::time::Duration;

use maud::{Markup, html};

use crate::admin::forms::Form;
use crate::admin::views::{complaints, csrf, frame, page, sorry};
use crate::admin::{Office, Visit};
use crate::control::Request;
use crate::control::request::{ConnectionRow, Reloaded};
use crate::http::Response;

/// The most rows of a page.
const MOST_ROWS: usize = 500;

impl Office {
    /// The open connections whose listener or address contains what is looked for.
    pub(in crate::admin) fn connections(&self, visit: &Visit, query: &Form) -> Response {
        let all = match self.ask::<Vec<ConnectionRow>>(&Request::Connections) {
            Ok(all) => all,
            Err(refused) => {
                return sorry(
                    visit,
                    503,
                    "The connections are not to be had",
                    &refused.lines(),
                );
            }
        };
        let wanted = query.get("for").trim().to_owned();
        let fits = |row: &&ConnectionRow| {
            row.listener.contains(&wanted) || row.address.to_string().contains(&wanted)
        };
        let rows: Vec<&ConnectionRow> = all.iter().filter(fits).collect();
        let content = html! {
            div class="two" {
                form class="card" method="get" action="/connections" {
                    h2 { "Look for" }
                    div class="line" {
                        label { "Listener or address" input name="for" value=(wanted) spellcheck="false" autocomplete="off"; }
                        button { "Show" }
                    }
                }
                form class="card" method="post" action="/connections" {
                    (csrf(visit))
                    h2 { "Disconnect an address" }
                    div class="line" {
                        label { "Address or network" input name="address" required spellcheck="false" autocomplete="off"; }
                        button class="danger" { "Disconnect" }
                    }
                }
            }
            section class="card" {
                h2 { (rows.len()) " of " (all.len()) " connections" }
                @if rows.len() > MOST_ROWS { p class="hint" { "The " (MOST_ROWS) " oldest are shown." } }
                (table(visit, &rows[..rows.len().min(MOST_ROWS)]))
            }
        };
        page(200, &frame(visit, "Connections", &content))
    }

    /// What a reload would change.
    pub(in crate::admin) fn reload(&self, visit: &Visit) -> Response {
        let (dry, lines) = match self.ask::<Reloaded>(&Request::Reload { dry_run: true }) {
            Ok(dry) => (dry, Vec::new()),
            Err(refused) => (Reloaded::default(), refused.lines()),
        };
        let content = html! {
            section class="card" {
                @if lines.is_empty() {
                    h2 { "What a reload would change" }
                    @if dry.changes.is_empty() { p { "Nothing: what the files say is in force." } }
                    @else { ul { @for change in &dry.changes { li { (change) } } } }
                    @for key in &dry.needs_restart { p class="hint" { (key) " takes a restart." } }
                    @for notice in &dry.notices { p class="hint" { (notice) } }
                    @if !dry.would_refuse.is_empty() {
                        h2 { "Open connections that would be refused by then (they stay)" }
                        ul {
                            @for one in dry.would_refuse.iter().take(MOST_ROWS) {
                                li { (one.listener) ": " code { (one.address) } ", " (one.reason) }
                            }
                        }
                    }
                    form class="actions" method="post" action="/reload" { (csrf(visit)) button { "Reload" } }
                } @else {
                    h2 { "The files cannot be put in force" }
                    (complaints(&lines))
                }
            }
        };
        page(
            if lines.is_empty() { 200 } else { 422 },
            &frame(visit, "Reload", &content),
        )
    }
}

fn table(visit: &Visit, rows: &[&ConnectionRow]) -> Markup {
    let bytes = |count: Option<u64>| {
        count.map_or_else(
            || "-".to_owned(),
            |count| bytesize::ByteSize(count).display().iec().to_string(),
        )
    };
    html! {
        table class="list" {
            thead { tr {
                th { "Listener" } th { "From" } th { "To" } th { "Class" } th { "TLS" } th { "State" }
                th class="number" { "Age" } th class="number" { "Received" } th class="number" { "Sent" } th {}
            } }
            tbody {
                @for row in rows {
                    tr {
                        td data-label="Listener" { (row.listener) }
                        td data-label="From" { code { (row.address) } }
                        td data-label="To" { code { (row.local) } }
                        td data-label="Class" { (row.class) }
                        td data-label="TLS" { (row.tls.as_deref().unwrap_or("-")) }
                        td data-label="State" { (row.state) }
                        td data-label="Age" class="number" { (seconds(row.age)) }
                        td data-label="Received" class="number" { (bytes(row.received)) }
                        td data-label="Sent" class="number" { (bytes(row.sent)) }
                        td {
                            form method="post" action="/connections" {
                                (csrf(visit))
                                input type="hidden" name="id" value=(row.id);
                                button class="plain" aria-label={ "Disconnect " (row.address) } { "Disconnect" }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A time for people: its two largest units.
pub(in crate::admin) fn seconds(seconds: u64) -> String {
    let text = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}
