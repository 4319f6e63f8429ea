#![forbid(unsafe_code)]
//! From a form as people send it to a file: what is wrong in which field, which row of the file is meant, and
//! back from a fault in the file to the field. No socket; the files that lists name are read.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;

use super::reload::{Refused, fault};
use crate::admission::address_list::{AddressList, ListError, Source};
use crate::config::edit::{Editor, LIMITS, tidy};
use crate::config::{self, ConfigError};
use crate::control::Fault;
use crate::control::request::{LimitsForm, ListenerForm, Row};

/// How much of a bad value is repeated.
const MOST_SHOWN: usize = 40;

/// Rows of one listener; each is found anew for each change of it.
const MOST_ROWS: usize = 1000;

/// Rows and limits whose fields are each right.
pub(super) struct Checked {
    /// With the place of each among those that were sent; those with port 0 are gone.
    rows: Vec<(usize, Row)>,
    /// By [`LIMITS`]; `None` leaves them all as they are.
    limits: Option<[Option<String>; 4]>,
    pub(super) notices: Vec<String>,
}

/// Of each row of a new file the place among those that were sent.
pub(super) type Origins = Vec<Option<usize>>;

impl Checked {
    /// Looks at each field by itself.
    pub(super) fn check(
        file: &Path,
        old: &ListenerForm,
        rows: Vec<Row>,
        limits: Option<&LimitsForm>,
    ) -> Result<Self, Vec<Fault>> {
        let mut desk = Desk {
            file,
            udp: old.transport == "udp",
            faults: Vec::new(),
            notices: Vec::new(),
        };
        if rows.len() > MOST_ROWS {
            desk.faults.push(Fault {
                message: format!("expected at most {MOST_ROWS} rows, found {}", rows.len()),
                ..Fault::default()
            });
            return Err(desk.faults);
        }
        let mut claimed = HashSet::new();
        let mut checked = Vec::new();
        for (place, row) in rows.into_iter().enumerate() {
            let index = row.index;
            let known = |index: usize| old.sockets.iter().any(|own| own.index == Some(index));
            if let Some(index) = index
                && (!known(index) || !claimed.insert(index))
            {
                desk.fault(
                    place,
                    "index",
                    "the file has no such row, or it is named twice".into(),
                );
            }
            if let Some(row) = desk.row(place, row) {
                checked.push((place, row));
            }
        }
        let limits = limits.map(|limits| desk.limits(limits));
        if !desk.faults.is_empty() {
            return Err(desk.faults);
        }
        for (_, row) in checked.iter_mut().filter(|(_, row)| row.index.is_none()) {
            let same = |own: &&Row| {
                let free = own.index.is_some_and(|index| !claimed.contains(&index));
                free && own.port == row.port && same_address(&own.address, &row.address)
            };
            row.index = old.sockets.iter().find(same).and_then(|own| own.index);
            claimed.extend(row.index);
        }
        for (_, row) in &mut checked {
            let own = old
                .sockets
                .iter()
                .find(|own| own.index == row.index && row.index.is_some());
            let own = own.cloned().unwrap_or_default();
            let filled = |text: &String| !text.is_empty();
            row.proxy_from = row.proxy_from.take().or(own.proxy_from).filter(filled);
            row.client_ca = row.client_ca.take().or(own.client_ca).filter(filled);
        }
        Ok(Checked {
            rows: checked,
            limits,
            notices: desk.notices,
        })
    }

    /// True when a file that was written says what was asked for.
    pub(super) fn is_in(&self, made: &ListenerForm, old: &ListenerForm) -> bool {
        let bare = |row: &Row| Row {
            index: None,
            list: tidy(&row.list),
            proxy_from: row.proxy_from.as_deref().map(tidy),
            ..row.clone()
        };
        let mut wanted: Vec<Row> = self.rows.iter().map(|(_, row)| bare(row)).collect();
        let mut found: Vec<Row> = made.sockets.iter().map(bare).collect();
        let order = |row: &Row| (row.port.clone(), row.address.clone());
        wanted.sort_by_key(order);
        found.sort_by_key(order);
        wanted == found && (made.limits == old.limits || self.limits.is_some())
    }

    /// A socket that cannot be opened, beside its row.
    pub(super) fn placed(&self, refused: Refused) -> Refused {
        let Refused::Failed(errors) = &refused else {
            return refused;
        };
        let mut faults = Vec::new();
        for error in errors {
            let of = |(port, address): (u16, Option<IpAddr>)| {
                let is = |(_, row): &&(usize, Row)| {
                    row.port == port.to_string() && config::address(&row.address).ok() == address
                };
                self.rows.iter().find(is).map(|(place, _)| *place)
            };
            let Some(row) = error.place.and_then(of) else {
                return refused;
            };
            faults.push(Fault {
                row: Some(row),
                field: Some("port".to_owned()),
                message: error.to_string(),
                ..Fault::default()
            });
        }
        Refused::Invalid(faults)
    }
}

/// Puts rows and limits into a file's text; `None` when the file is beyond us.
pub(super) fn write(text: &str, old: &ListenerForm, new: &Checked) -> Option<(Editor, Origins)> {
    let mut editor = Editor {
        text: text.to_owned(),
    };
    if let Some(limits) = &new.limits {
        let before = old.limits.clone().unwrap_or_default();
        let before = values(&before);
        for ((key, value), before) in LIMITS.into_iter().zip(limits).zip(before) {
            if value.as_deref().unwrap_or_default() != before.trim() {
                editor.set_key(key, value.as_deref())?;
            }
        }
    }
    let mut origins: Origins = vec![None; editor.rows_len()];
    for own in &old.sockets {
        let index = own.index?;
        let kept = new.rows.iter().find(|(_, row)| row.index == Some(index));
        if let Some((place, row)) = kept {
            editor.change_row(index, own, row)?;
            *origins.get_mut(index)? = Some(*place);
        }
    }
    let gone = old.sockets.iter().rev().filter_map(|own| own.index);
    for index in gone {
        if !new.rows.iter().any(|(_, row)| row.index == Some(index)) {
            editor.remove_row(index)?;
            origins.remove(index);
        }
    }
    let fresh = new.rows.iter().filter(|(_, row)| row.index.is_none());
    let (places, rows): (Vec<usize>, Vec<Row>) = fresh.cloned().unzip();
    editor.append_rows(&rows)?;
    origins.extend(places.into_iter().map(Some));
    Some((editor, origins))
}

/// An error in a file that was not written yet, as a fault of the field it comes from.
pub(super) fn placed(error: ConfigError, file: &Path, editor: &Editor, origins: &Origins) -> Fault {
    if error.file != file {
        return fault(error);
    }
    let offset = config::offset_of(&editor.text, error.line, error.column);
    if let Some((row, key)) = editor.place(offset)
        && let Some(Some(place)) = origins.get(row)
    {
        return Fault {
            row: Some(*place),
            field: key.or(Some("port".to_owned())),
            message: error.message,
            ..Fault::default()
        };
    }
    match editor.key(offset) {
        Some(key) if LIMITS.contains(&key.as_str()) => Fault {
            field: Some(key),
            message: error.message,
            ..Fault::default()
        },
        _ => fault(error),
    }
}

/// A fault in a list that was sent, or in a file that it names. What such a file says is not repeated: whoever
/// may edit lists need not be one who may read every file that the daemon can.
pub(super) fn list_fault(error: ListError, file: &Path) -> Fault {
    let elsewhere = error.file != file;
    Fault {
        file: elsewhere.then(|| error.file.display().to_string()),
        line: Some(error.line),
        column: Some(error.column),
        message: if elsewhere {
            "this line is no entry of an address list".to_owned()
        } else {
            error.message
        },
        ..Fault::default()
    }
}

fn values(limits: &LimitsForm) -> [&str; 4] {
    [
        &limits.channels,
        &limits.reserve_for_clients,
        &limits.limit_per_address,
        &limits.limit_non_clients,
    ]
}

fn same_address(one: &str, other: &str) -> bool {
    one == other || config::address(one).is_ok_and(|one| Ok(one) == config::address(other))
}

struct Desk<'a> {
    file: &'a Path,
    udp: bool,
    faults: Vec<Fault>,
    notices: Vec<String>,
}

impl Desk<'_> {
    fn fault(&mut self, row: usize, field: &str, message: String) {
        self.faults.push(Fault {
            row: Some(row),
            field: Some(field.to_owned()),
            message,
            ..Fault::default()
        });
    }

    /// The row in its plain form; `None` for one that is no socket.
    fn row(&mut self, place: usize, row: Row) -> Option<Row> {
        let before = self.faults.len();
        let port = match row.port.trim() {
            "" | "0" => return None,
            port => port.parse::<u16>(),
        };
        if port.is_err() {
            let message = format!(
                "expected a port from 0 to 65535, found {}",
                shown(&row.port)
            );
            self.fault(place, "port", message);
        }
        let address = self.address(place, row.address.trim());
        let kinds = [("", "Off"), ("off", "Off"), ("on", "On"), ("ext", "Ext")];
        let tls = self.choice(place, "tls", &row.tls, &kinds);
        let kinds = [
            ("", "none"),
            ("none", "none"),
            ("grant", "Grant"),
            ("deny", "Deny"),
        ];
        let restriction = self.choice(place, "restriction", &row.restriction, &kinds);
        let list = tidy(&row.list);
        if restriction == Some("none") && !list.is_empty() {
            let message = "a list without Grant or Deny is not kept";
            self.notices.push(format!("row {}: {message}", place + 1));
        } else if restriction.is_some_and(|kind| kind != "none") {
            self.list(place, "list", &row.list);
        }
        let (proxy_from, client_ca) = (row.proxy_from, row.client_ca);
        if let Some(list) = &proxy_from {
            self.list(place, "proxy_from", list);
        }
        if self.udp {
            if tls.is_some_and(|tls| tls != "Off") {
                self.fault(place, "tls", "UDP has no TLS".to_owned());
            }
            if client_ca
                .as_ref()
                .is_some_and(|file| !file.trim().is_empty())
            {
                self.fault(place, "client_ca", "UDP has no TLS".to_owned());
            }
            if proxy_from
                .as_ref()
                .is_some_and(|list| !tidy(list).is_empty())
            {
                self.fault(place, "proxy_from", "UDP has no PROXY header".to_owned());
            }
        }
        if self.faults.len() > before {
            return None;
        }
        let is_open = restriction == Some("none");
        Some(Row {
            index: row.index,
            port: port.ok()?.to_string(),
            address: address?,
            tls: tls?.to_owned(),
            restriction: restriction?.to_owned(),
            list: if is_open { String::new() } else { list },
            proxy_from: proxy_from.map(|list| tidy(&list)),
            client_ca: client_ca.map(|file| file.trim().to_owned()),
        })
    }

    fn address(&mut self, place: usize, text: &str) -> Option<String> {
        if text.is_empty() {
            return Some(String::new());
        }
        match config::address(text) {
            Ok(address) if address.is_unspecified() => {
                let message = "leave the address out to mean all addresses".to_owned();
                self.fault(place, "address", message);
            }
            Ok(address) => return Some(address.to_string()),
            Err(_) => {
                let message = format!("expected an IP address, found {}", shown(text));
                self.fault(place, "address", message);
            }
        }
        None
    }

    fn choice(
        &mut self,
        place: usize,
        field: &str,
        text: &str,
        kinds: &[(&str, &'static str)],
    ) -> Option<&'static str> {
        let wanted = text.trim().to_ascii_lowercase();
        let found = kinds.iter().find(|(name, _)| *name == wanted);
        if found.is_none() {
            let names: Vec<&str> = kinds.iter().skip(1).map(|(_, name)| *name).collect();
            let message = format!(
                "expected one of {}, found {}",
                names.join(", "),
                shown(text)
            );
            self.fault(place, field, message);
        }
        found.map(|(_, kind)| *kind)
    }

    fn list(&mut self, place: usize, field: &str, list: &str) {
        let source = Source::file(self.file, list);
        if let Err(errors) = AddressList::parse(&source) {
            let fault = |error| Fault {
                row: Some(place),
                field: Some(field.to_owned()),
                ..list_fault(error, self.file)
            };
            self.faults.extend(errors.into_iter().map(fault));
        }
    }

    fn limits(&mut self, limits: &LimitsForm) -> [Option<String>; 4] {
        let mut made = [const { None }; 4];
        for ((place, key), text) in made.iter_mut().zip(LIMITS).zip(values(limits)) {
            let text = text.trim();
            let message = match text.parse::<u32>() {
                _ if text.is_empty() => continue,
                _ if self.udp => "UDP has no limits: datagrams are not connections".to_owned(),
                Ok(number) => {
                    *place = Some(number.to_string());
                    continue;
                }
                Err(_) => format!(
                    "expected a number up to {}, found {}",
                    u32::MAX,
                    shown(text)
                ),
            };
            self.faults.push(Fault {
                field: Some(key.to_owned()),
                message,
                ..Fault::default()
            });
        }
        made
    }
}

/// A bad value in quotes, cut short.
fn shown(text: &str) -> String {
    let short: String = text.chars().take(MOST_SHOWN).collect();
    let more = if short.len() < text.len() { ".." } else { "" };
    format!("{short:?}{more}")
}
