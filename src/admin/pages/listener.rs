#![forbid(unsafe_code)]
//! The table of a listener's sockets, as operators of mail servers know it, and its limits.

use maud::{Markup, html};

use crate::admin::ask::{Refused, line};
use crate::admin::views::{complaints, csrf, frame, page, sorry};
use crate::admin::{Office, Visit};
use crate::control::request::{LimitsForm, ListenerForm, Row};
use crate::control::{Fault, Request};
use crate::http::Response;

/// What was typed and not taken, and why not.
pub(in crate::admin) struct Typed {
    pub(in crate::admin) version: String,
    pub(in crate::admin) sockets: Vec<Row>,
    pub(in crate::admin) limits: Option<LimitsForm>,
    pub(in crate::admin) refused: Refused,
}

impl Office {
    /// All listeners, with links.
    pub(in crate::admin) fn listeners(&self, visit: &Visit) -> Response {
        let forms = match self.ask::<Vec<ListenerForm>>(&Request::Listeners) {
            Ok(forms) => forms,
            Err(refused) => {
                return sorry(
                    visit,
                    503,
                    "The listeners are not to be had",
                    &refused.lines(),
                );
            }
        };
        let content = html! {
            section class="card" {
                table class="list" {
                    thead { tr { th { "Name" } th { "Module" } th { "Ports" } th class="number" { "Open" } } }
                    tbody {
                        @for form in &forms {
                            tr {
                                td data-label="Name" { a href={ "/listeners/" (form.name) } { (form.name) } }
                                td data-label="Module" { (form.module) " " span class="chip" { (form.transport) } }
                                td data-label="Ports" { (ports(form)) }
                                td data-label="Open" class="number" { @if form.transport == "tcp" { (form.active) } @else { "-" } }
                            }
                        }
                    }
                }
            }
        };
        page(200, &frame(visit, "Listeners", &content))
    }

    /// One listener; with what was typed, where that was not taken.
    pub(in crate::admin) fn listener(
        &self,
        visit: &Visit,
        name: &str,
        typed: Option<Typed>,
    ) -> Response {
        let forms = match self.ask::<Vec<ListenerForm>>(&Request::Listeners) {
            Ok(forms) => forms,
            Err(refused) => {
                return sorry(
                    visit,
                    503,
                    "The listener is not to be had",
                    &refused.lines(),
                );
            }
        };
        let Some(mut form) = forms.into_iter().find(|form| form.name == name) else {
            return sorry(visit, 404, "There is no such listener", &[]);
        };
        let mut faults = Vec::new();
        let mut lines = Vec::new();
        let status = if typed.is_some() { 422 } else { 200 };
        if let Some(typed) = typed {
            form.sockets = typed.sockets;
            form.version = typed.version;
            form.limits = typed.limits.or(form.limits);
            match typed.refused {
                Refused::Error(error) => lines.push(error),
                Refused::Invalid(all) => faults = all,
            }
        }
        let placed = |fault: &Fault| {
            fault.field.is_some() && fault.row.is_none_or(|row| row < form.sockets.len())
        };
        lines.extend(faults.iter().filter(|fault| !placed(fault)).map(line));
        if faults.iter().any(placed) {
            lines.push("Nothing was changed: see the fields marked below.".to_owned());
        }
        lines.extend(form.error.clone());
        if form.sockets.last().is_none_or(|row| !is_empty(row)) {
            form.sockets.push(Row {
                port: "0".to_owned(),
                ..Row::default()
            });
        }
        let content = html! {
            (complaints(&lines))
            @if !form.in_force && form.error.is_none() {
                div class="note" { "The file was changed on disk and is not in force yet; " a href="/reload" { "reload" } " puts it in force." }
            }
            (edit(visit, &form, &faults))
        };
        page(status, &frame(visit, &format!("Listener {name}"), &content))
    }
}

fn ports(form: &ListenerForm) -> String {
    let ports = form.sockets.iter().map(|row| match &*row.address {
        "" => row.port.clone(),
        address if address.contains(':') => format!("[{address}]:{}", row.port),
        address => format!("{address}:{}", row.port),
    });
    ports.collect::<Vec<_>>().join(", ")
}

fn is_empty(row: &Row) -> bool {
    matches!(&*row.port, "" | "0") && row.index.is_none()
}

fn edit(visit: &Visit, form: &ListenerForm, faults: &[Fault]) -> Markup {
    let tcp = form.transport == "tcp";
    html! {
        p class="hint" {
            "Module " b { (form.module) } " over " (form.transport.to_uppercase())
            @if tcp { ", " (form.active) " connections open" }
            @if !form.file.is_empty() { ", kept in " code { (form.file) } }
        }
        form method="post" action={ "/listeners/" (form.name) } {
            (csrf(visit))
            input type="hidden" name="version" value=(form.version);
            section class="card" {
                table class="sockets" {
                    thead { tr {
                        th { "Port" } th { "Local IP Address" }
                        @if tcp { th { "Init SSL/TLS" } }
                        th { "Remote IP Address Restrictions" }
                    } }
                    tbody {
                        @for (number, row) in form.sockets.iter().enumerate() { (socket(number, row, tcp, faults)) }
                    }
                }
                p class="hint" {
                    "Put a port in place of the 0 of the last row to add a socket; put 0 in place of a port to remove one. "
                    "An empty address is all of this machine's. Lists have one entry a line: an address, a network like "
                    code { "10.0.0.0/8" } ", a range, " code { "!" } " before what is taken out; " code { ";" } " begins a comment."
                }
            }
            @if let Some(limits) = &form.limits { (limited(limits, faults)) }
            p class="actions" { button { "Update" } a href={ "/listeners/" (form.name) } { "Start over" } }
        }
    }
}

/// The faults of a field, to be put beside it.
fn beside(faults: &[Fault], row: Option<usize>, field: &str, id: &str) -> Markup {
    let here: Vec<&Fault> = faults
        .iter()
        .filter(|fault| fault.row == row && fault.field.as_deref() == Some(field))
        .collect();
    html! {
        @if !here.is_empty() {
            span class="fault" id={ (id) "-fault" } { @for fault in here { span { (line(fault)) } } }
        }
    }
}

fn is_faulty(faults: &[Fault], row: Option<usize>, field: &str) -> bool {
    faults
        .iter()
        .any(|fault| fault.row == row && fault.field.as_deref() == Some(field))
}

fn socket(number: usize, row: &Row, tcp: bool, faults: &[Fault]) -> Markup {
    let id = |field: &str| format!("{field}-{number}");
    let bad = |field: &str| is_faulty(faults, Some(number), field);
    let fault = |field: &str| beside(faults, Some(number), field, &id(field));
    let label = |what: &str| format!("{what}, row {}", number + 1);
    let invalid = |field: &str| bad(field).then_some("true");
    let described = |field: &str| bad(field).then(|| format!("{}-fault", id(field)));
    let height = row.list.lines().count().clamp(2, 12) + 1;
    html! {
        tr class=[is_empty(row).then_some("fresh")] {
            td data-label="Port" {
                @if let Some(index) = row.index { input type="hidden" name=(id("index")) value=(index); }
                input name=(id("port")) value=(row.port) inputmode="numeric" class="port" autocomplete="off"
                    aria-label=(label("Port")) aria-invalid=[invalid("port")] aria-describedby=[described("port")];
                (fault("port"))
            }
            td data-label="Local IP Address" {
                input name=(id("address")) value=(row.address) class="address" placeholder="all" autocomplete="off" spellcheck="false"
                    aria-label=(label("Local IP address")) aria-invalid=[invalid("address")] aria-describedby=[described("address")];
                (fault("address"))
            }
            @if tcp {
                td data-label="Init SSL/TLS" {
                    (choice(&id("tls"), &label("Init SSL/TLS"), &["Off", "On", "Ext"], &row.tls))
                    (fault("tls"))
                }
            }
            td data-label="Remote IP Address Restrictions" {
                div class="restriction" {
                    (choice(&id("restriction"), &label("Restriction"), &["none", "Grant", "Deny"], &row.restriction))
                    textarea name=(id("list")) rows=(height) spellcheck="false" aria-label=(label("Restricted addresses"))
                        aria-invalid=[invalid("list")] aria-describedby=[described("list")] { "\n" (row.list) }
                }
                (fault("restriction")) (fault("list"))
                @if tcp { (more(number, row, faults)) }
            }
        }
    }
}

/// What few sockets need.
fn more(number: usize, row: &Row, faults: &[Fault]) -> Markup {
    let id = |field: &str| format!("{field}-{number}");
    let faulty = ["proxy_from", "client_ca"]
        .iter()
        .any(|field| is_faulty(faults, Some(number), field));
    let open = faulty || row.proxy_from.is_some() || row.client_ca.is_some();
    html! {
        details open[open] {
            summary { "More" }
            label { "PROXY headers come from"
                textarea name=(id("proxy_from")) rows="2" spellcheck="false" { "\n" (row.proxy_from.as_deref().unwrap_or_default()) }
            }
            (beside(faults, Some(number), "proxy_from", &id("proxy_from")))
            label { "Authorities of client certificates (file)"
                input name=(id("client_ca")) value=(row.client_ca.as_deref().unwrap_or_default()) spellcheck="false";
            }
            (beside(faults, Some(number), "client_ca", &id("client_ca")))
        }
    }
}

/// A choice; what is none of it (somebody sent it by hand) is shown as it is.
fn choice(name: &str, label: &str, values: &[&str], chosen: &str) -> Markup {
    let known = chosen.is_empty() || values.contains(&chosen);
    html! {
        select name=(name) aria-label=(label) {
            @for value in values { option selected[*value == chosen] { (value) } }
            @if !known { option selected { (chosen) } }
        }
    }
}

fn limited(limits: &LimitsForm, faults: &[Fault]) -> Markup {
    let fields = [
        ("channels", "Channels", &limits.channels, "100"),
        (
            "reserve_for_clients",
            "Reserve Connections for Clients",
            &limits.reserve_for_clients,
            "0",
        ),
        (
            "limit_per_address",
            "Limit Connections from same Address",
            &limits.limit_per_address,
            "no limit",
        ),
        (
            "limit_non_clients",
            "Non-Clients",
            &limits.limit_non_clients,
            "as above",
        ),
    ];
    html! {
        section class="card" {
            h2 { "Limits" }
            div class="limits" {
                @for (name, label, value, default) in fields {
                    @let bad = is_faulty(faults, None, name);
                    div {
                        label for=(name) { (label) }
                        input id=(name) name=(name) value=(value) placeholder=(default) inputmode="numeric" autocomplete="off"
                            aria-invalid=[bad.then_some("true")] aria-describedby=[bad.then(|| format!("{name}-fault"))];
                        (beside(faults, None, name, name))
                    }
                }
            }
        }
    }
}
