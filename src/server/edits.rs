#![forbid(unsafe_code)]
//! Listeners and lists changed while the daemon runs: into the file and in force, or neither. The file is taken
//! as it is on disk, gets other values at the places in question, is read by the real checker together with all
//! other files, and is written when everything is bound; only then the change is put in force.

use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use super::Shared;
use super::differences::Scope;
use super::forms::{self, Checked};
use super::reload::{Changes, Refused, complain, file_of};
use super::state::Running;
use super::why::unknown;
use crate::admission::address_list::{AddressList, Source};
use crate::config::edit::{self, Editor};
use crate::config::plan::Plan;
use crate::config::{self, ConfigError, store};
use crate::control::Fault;
use crate::control::request::{Changed, LimitsForm, List, ListenerForm, Lists, Row};

impl Shared {
    /// Each listener as its file has it now.
    pub(super) fn forms(&self) -> Vec<ListenerForm> {
        let state = self.state.load();
        let form = |running: &Arc<Running>| {
            let read = || {
                let file = file_of(running).map_err(|refused| refused.lines().join("\n"))?;
                let text = fs::read_to_string(&file);
                let text = text.map_err(|error| format!("{}: {error}", file.display()))?;
                let mut form = edit::form(&file, &text)?;
                form.in_force = config::version(&text) == running.version;
                Ok(form)
            };
            let mut form = read().unwrap_or_else(|error| ListenerForm {
                name: running.name.to_string(),
                transport: running.transport().to_owned(),
                module: running.module.clone(),
                file: running.file.display().to_string(),
                error: Some(error),
                ..ListenerForm::default()
            });
            form.active = running.active();
            form
        };
        state.listeners.iter().map(form).collect()
    }

    /// One more socket.
    pub(super) fn add_socket(&self, listener: &str, row: Row) -> Result<Changed, Refused> {
        if matches!(row.port.trim(), "" | "0") {
            return Err(Refused::Invalid(vec![Fault {
                field: Some("port".to_owned()),
                message: "expected a port from 1 to 65535".to_owned(),
                ..Fault::default()
            }]));
        }
        let mut changes = self.changes.lock();
        let form = self.form(listener)?;
        let mut rows = form.sockets;
        let new = Row { index: None, ..row };
        rows.push(new);
        let last = rows.len() - 1;
        let changed = self.put_listener(&mut changes, listener, &form.version, rows, None);
        // Whoever adds one socket has not seen the others.
        changed.map_err(|refused| match refused {
            Refused::Invalid(mut faults) => {
                for fault in faults.iter_mut().filter(|fault| fault.row == Some(last)) {
                    fault.row = None;
                }
                Refused::Invalid(faults)
            }
            failed @ Refused::Failed(_) => failed,
        })
    }

    /// One socket less.
    pub(super) fn remove_socket(
        &self,
        listener: &str,
        port: &str,
        address: &str,
    ) -> Result<Changed, Refused> {
        let mut changes = self.changes.lock();
        let form = self.form(listener)?;
        let mut rows = form.sockets;
        let parse = |text: &str| -> Option<IpAddr> { config::address(text.trim()).ok() };
        let same = |row: &Row| {
            let all = row.address.trim().is_empty() && address.trim().is_empty();
            row.port.trim() == port.trim()
                && (all || parse(&row.address).is_some_and(|own| Some(own) == parse(address)))
        };
        let Some(at) = rows.iter().position(same) else {
            let place = match address.trim() {
                "" => format!("port {port} of all addresses"),
                address => format!("port {port} of {address}"),
            };
            return Err(Refused::because(format!(
                "listener {listener} has no socket on {place}"
            )));
        };
        rows.remove(at);
        self.put_listener(&mut changes, listener, &form.version, rows, None)
    }

    /// All rows and limits of a listener.
    pub(super) fn edit_listener(
        &self,
        name: &str,
        version: &str,
        rows: Vec<Row>,
        limits: Option<&LimitsForm>,
    ) -> Result<Changed, Refused> {
        let mut changes = self.changes.lock();
        self.put_listener(&mut changes, name, version, rows, limits)
    }

    fn form(&self, listener: &str) -> Result<ListenerForm, Refused> {
        let (file, text) = self.file_and_text(listener)?;
        edit::form(&file, &text).map_err(Refused::because)
    }

    fn file_and_text(&self, listener: &str) -> Result<(std::path::PathBuf, String), Refused> {
        let state = self.state.load();
        let names = state.listeners.iter().map(|running| &*running.name);
        let running = state.listener(listener);
        let running = running.ok_or_else(|| Refused::because(unknown(listener, names)))?;
        let file = file_of(running)?;
        let text = read(&file)?;
        Ok((file, text))
    }

    fn put_listener(
        &self,
        changes: &mut Changes,
        name: &str,
        version: &str,
        rows: Vec<Row>,
        limits: Option<&LimitsForm>,
    ) -> Result<Changed, Refused> {
        let (file, text) = self.file_and_text(name)?;
        let old = edit::form(&file, &text).map_err(Refused::because)?;
        if !version.is_empty() && version != old.version {
            return Err(meanwhile(&file));
        }
        let checked = Checked::check(&file, &old, rows, limits).map_err(Refused::Invalid)?;
        let by_hand = || Refused::because(format!("{}: edit this file by hand", file.display()));
        let (editor, origins) = forms::write(&text, &old, &checked).ok_or_else(by_hand)?;
        if editor.text == text {
            return Ok(Changed {
                notices: checked.notices,
                ..Changed::default()
            });
        }
        let made = edit::form(&file, &editor.text).map_err(|_| by_hand())?;
        if !checked.is_in(&made, &old) {
            return Err(by_hand());
        }
        let place = |errors: Vec<ConfigError>| {
            let fault = |error| forms::placed(error, &file, &editor, &origins);
            Refused::Invalid(errors.into_iter().map(fault).collect())
        };
        let plan = config::load_edited(&self.file, &self.link, Some((&file, &editor.text)));
        let plan = plan.map_err(place)?;
        let scope = Scope::Listener(name.into());
        let texts = (text.as_str(), editor.text.as_str());
        let changed = self.write_and_change(changes, plan, &scope, &file, texts);
        let mut changed = changed.map_err(|refused| checked.placed(refused))?;
        changed.notices.extend(checked.notices);
        Ok(changed)
    }

    /// The server-wide lists as the file has them now.
    pub(super) fn lists(&self) -> Result<Lists, Refused> {
        edit::lists(&self.file, &self.own_text()?).map_err(Refused::because)
    }

    /// One server-wide list.
    pub(super) fn edit_list(
        &self,
        which: List,
        list: &str,
        version: &str,
    ) -> Result<Changed, Refused> {
        let mut changes = self.changes.lock();
        let text = self.own_text()?;
        let old = edit::lists(&self.file, &text).map_err(Refused::because)?;
        if !version.is_empty() && version != old.version {
            return Err(meanwhile(&self.file));
        }
        let source = Source::file(&self.file, list);
        if let Err(errors) = AddressList::parse(&source) {
            let fault = |error| Fault {
                field: Some(which.name().to_owned()),
                ..forms::list_fault(error, &self.file)
            };
            return Err(Refused::Invalid(errors.into_iter().map(fault).collect()));
        }
        let list = edit::tidy(list);
        if list == old.text(which) {
            return Ok(Changed::default());
        }
        let by_hand = || {
            let file = self.file.display();
            Refused::because(format!("{file}: edit this file by hand"))
        };
        let mut editor = Editor { text: text.clone() };
        editor.set_list(which, &list).ok_or_else(by_hand)?;
        let made = edit::lists(&self.file, &editor.text).map_err(|_| by_hand())?;
        let same = |other: &List| *other == which || made.text(*other) == old.text(*other);
        if made.text(which) != list || !List::ALL.iter().all(same) {
            return Err(by_hand());
        }
        let plan = config::load_edited(&self.file, &self.link, Some((&self.file, &editor.text)));
        let plan = plan.map_err(Refused::from)?;
        let file = self.file.clone();
        let texts = (text.as_str(), editor.text.as_str());
        self.write_and_change(&mut changes, plan, &Scope::Network, &file, texts)
    }

    fn own_text(&self) -> Result<String, Refused> {
        if self.file.as_os_str().is_empty() {
            return Err(Refused::because("this server was not started from a file"));
        }
        read(&self.file)
    }

    /// Binds, writes the second of the texts in the place of the first, swaps.
    fn write_and_change(
        &self,
        changes: &mut Changes,
        plan: Plan,
        scope: &Scope,
        file: &Path,
        (old, new): (&str, &str),
    ) -> Result<Changed, Refused> {
        let failed = |error| Refused::because(format!("{}: {error}", file.display()));
        let fresh = store::Prepared::write(file, new.as_bytes(), store::Mode::Kept);
        let fresh = fresh.map_err(failed)?;
        let write = || {
            if read(file)? != old {
                return Err(meanwhile(file));
            }
            fresh.put(true).map_err(failed)
        };
        let result = self.change(changes, plan, scope, false, write);
        match result {
            Ok(reloaded) => Ok(Changed {
                changes: reloaded.changes,
                notices: reloaded.notices,
            }),
            Err(refused) => {
                complain("a live change", &refused);
                Err(refused)
            }
        }
    }
}

fn meanwhile(file: &Path) -> Refused {
    let file = file.display();
    Refused::because(format!(
        "{file} was changed by somebody else meanwhile: look at it again"
    ))
}

fn read(file: &Path) -> Result<String, Refused> {
    fs::read_to_string(file)
        .map_err(|error| Refused::because(format!("{}: {error}", file.display())))
}
