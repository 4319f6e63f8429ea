#![forbid(unsafe_code)]
//! The overview, with its graphs.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use maud::{Markup, html};

use crate::admin::charts::{Series, chart, gauge, rate, short, spark};
use crate::admin::history::Sample;
use crate::admin::views::{complaints, frame, page};
use crate::admin::{Office, Visit};
use crate::control::Request;
use crate::http::Response;
use crate::server::status::{ListenerStatus, SocketStatus, Status};

impl Office {
    /// The whole page.
    pub(in crate::admin) fn overview(&self, visit: &Visit) -> Response {
        let content = html! {
            div id="live" { (self.figures()) }
            script src="/live.js" defer {}
        };
        page(200, &frame(visit, "Overview", &content))
    }

    /// What the script puts in place of what is there, every two seconds.
    pub(in crate::admin) fn live(&self) -> Response {
        page(200, &self.figures())
    }

    fn figures(&self) -> Markup {
        let status = match self.ask::<Status>(&Request::Status) {
            Ok(status) => status,
            Err(refused) => return complaints(&refused.lines()),
        };
        let samples = self.history.samples();
        html! {
            (tiles(&status))
            div class="charts" { (charts(&samples)) }
            (listeners(&status, &samples))
        }
    }
}

fn tiles(status: &Status) -> Markup {
    let tcp = || {
        status
            .listeners
            .iter()
            .filter(|listener| listener.transport == "tcp")
    };
    let udp = || {
        status
            .listeners
            .iter()
            .filter(|listener| listener.transport == "udp")
    };
    let refused = |listener: &ListenerStatus| listener.rejected.values().sum::<u64>();
    html! {
        dl class="tiles" {
            div { dt { "Open connections" } dd { (tcp().map(|one| u64::from(one.active)).sum::<u64>()) } }
            div { dt { "Admitted" } dd { (tcp().map(|one| one.accepted).sum::<u64>()) } }
            div { dt { "Refused" } dd { (tcp().map(refused).sum::<u64>()) } }
            div { dt { "Datagrams" } dd { (udp().map(|one| one.accepted).sum::<u64>()) } }
            div { dt { "Workers busy" } dd { (status.workers.busy) small { " of " (status.workers.total) } } }
        }
    }
}

fn charts(samples: &[Sample]) -> Markup {
    let series = |name: &str, values| Series {
        name: name.to_owned(),
        values,
    };
    let reasons: BTreeSet<&String> = samples
        .iter()
        .flat_map(|sample| sample.refused.keys())
        .collect();
    let mut refusals: Vec<Series> = reasons
        .into_iter()
        .map(|reason| {
            series(
                reason,
                rate(samples, |sample| {
                    sample.refused.get(reason).copied().unwrap_or(0)
                }),
            )
        })
        .filter(|series| series.values.iter().any(|value| *value > 0.0))
        .collect();
    if refusals.is_empty() {
        refusals.push(series("none", rate(samples, |_| 0)));
    }
    html! {
        (chart("Connections", "blue", &[series("open", gauge(samples, |sample| sample.active))]))
        (chart("New connections a second", "green", &[series("admitted", rate(samples, |sample| sample.accepted))]))
        (chart("Refused a second, by reason", "many", &refusals))
        (chart("TLS handshakes a second", "pair", &[
            series("complete", rate(samples, |sample| sample.shaken)),
            series("failed", rate(samples, |sample| sample.unshaken)),
        ]))
        (chart("Datagrams a second", "pair", &[
            series("taken", rate(samples, |sample| sample.datagrams)),
            series("dropped", rate(samples, |sample| sample.dropped)),
        ]))
        (chart("Workers busy", "blue", &[series("busy", gauge(samples, |sample| sample.busy))]))
    }
}

fn listeners(status: &Status, samples: &[Sample]) -> Markup {
    html! {
        section class="card" {
            h2 { "Listeners" }
            table class="list" {
                thead { tr {
                    th { "Name" } th { "Sockets" } th class="number" { "Open" } th class="number" { "Admitted" }
                    th class="number" { "Refused" } th { "Last minutes" }
                } }
                tbody {
                    @for listener in &status.listeners { (row(listener, samples)) }
                }
            }
        }
    }
}

fn row(listener: &ListenerStatus, samples: &[Sample]) -> Markup {
    let counted = |sample: &Sample| sample.listeners.get(&listener.name).copied().unwrap_or(0);
    let refused: Vec<String> = listener
        .rejected
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    html! {
        tr {
            td data-label="Name" { a href={ "/listeners/" (listener.name) } { (listener.name) } }
            td data-label="Sockets" {
                span class="chips" {
                    @for socket in &listener.sockets {
                        span class="chip" {
                            (place(socket)) "/" (listener.transport)
                            @if socket.tls != "Off" && listener.transport == "tcp" { b { " TLS" @if socket.tls == "Ext" { " ext" } } }
                        }
                    }
                }
            }
            td data-label="Open" class="number" {
                @if listener.transport == "tcp" {
                    (listener.active) small { " of " (listener.channels) }
                    meter min="0" max=(listener.channels.max(1)) value=(listener.active) aria-hidden="true" {}
                } @else { "-" }
            }
            td data-label="Admitted" class="number" { (short_count(listener.accepted)) }
            td data-label="Refused" class="number" title=(refused.join(", ")) {
                (short_count(listener.rejected.values().sum::<u64>()))
            }
            td data-label="Last minutes" { (spark(&rate(samples, counted))) }
        }
    }
}

fn place(socket: &SocketStatus) -> String {
    match socket.address {
        Some(address) => SocketAddr::from((address, socket.port)).to_string(),
        None => socket.port.to_string(),
    }
}

/// Exact while it is short.
fn short_count(count: u64) -> String {
    u32::try_from(count).map_or_else(|_| count.to_string(), |count| short(f64::from(count)))
}
