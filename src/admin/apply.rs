#![forbid(unsafe_code)]
//! Which page answers, and what the pages' forms change.

use serde::de::DeserializeOwned;

use super::ask::Refused;
use super::forms::Form;
use super::pages::{Typed, TypedList};
use super::{Asked, Office, Visit, api, login, views};
use crate::control::Request;
use crate::control::request::{Banned, Changed, Disconnected, List, Reloaded};
use crate::http::Response;

impl Office {
    /// Answers somebody who has logged in; called on a lane.
    pub(super) fn dispatch(&self, visit: &Visit, asked: &Asked, cookie: &str) -> Response {
        let path: Vec<&str> = asked.path.trim_start_matches('/').split('/').collect();
        if let ["api", what] = path[..] {
            return self.api(visit, asked, what);
        }
        if &*asked.method == "POST" {
            return self.post(visit, asked, &path, cookie);
        }
        match path[..] {
            [""] => self.overview(visit),
            ["live"] => self.live(),
            ["listeners"] => self.listeners(visit),
            ["listeners", name] => self.listener(visit, name, None),
            ["lists"] => Response::redirect(303, "/lists/clients"),
            ["lists", name] => match list(name) {
                Some(which) => self.list(visit, which, None),
                None => self.missing(visit),
            },
            ["bans"] => self.bans(visit, 200, &[], &asked.query),
            ["connections"] => self.connections(visit, &asked.query),
            ["explain"] => self.explain(visit, &asked.query),
            ["reload"] => self.reload(visit),
            _ => self.missing(visit),
        }
    }

    fn missing(&self, visit: &Visit) -> Response {
        views::sorry(visit, 404, "There is no such page", &[])
    }

    fn post(&self, visit: &Visit, asked: &Asked, path: &[&str], cookie: &str) -> Response {
        let form = Form::parse(&asked.body);
        if !visit.session.trusts(form.raw("csrf").unwrap_or_default()) {
            let why = "Nothing was changed. Load the page anew and try again.".to_owned();
            return views::sorry(
                visit,
                403,
                "This form was not ours, or of another session",
                &[why],
            );
        }
        if form.is_cut {
            // Rows beyond the cut would be taken for removed.
            let why = "Nothing was changed. Edit the file, or use the API.".to_owned();
            return views::sorry(visit, 413, "This form has too many fields", &[why]);
        }
        match path {
            ["logout"] => {
                self.sessions.lock().leave(&visit.session);
                visit.audit("logged out");
                login::set_cookie(Response::redirect(303, "/login"), cookie, "")
            }
            ["listeners", name] => self.edit_listener(visit, name, &form),
            ["lists", name] => match list(name) {
                Some(which) => self.edit_list(visit, which, &form),
                None => self.missing(visit),
            },
            ["bans"] => self.edit_bans(visit, &form),
            ["connections"] => self.disconnect(visit, &form),
            ["reload"] => {
                let request = Request::Reload { dry_run: false };
                match self.carry::<Reloaded>(visit, &request) {
                    Ok(reloaded) => {
                        visit.session.note(changes(reloaded.changes));
                        visit.session.note(reloaded.notices);
                        Response::redirect(303, "/reload")
                    }
                    Err(refused) => {
                        views::sorry(visit, 409, "Nothing was reloaded", &refused.lines())
                    }
                }
            }
            _ => self.missing(visit),
        }
    }

    /// Has a change carried out, with its line in the log.
    fn carry<T: DeserializeOwned>(&self, visit: &Visit, request: &Request) -> Result<T, Refused> {
        let answer = match api::shuts_out(request, visit.remote) {
            Some(why) => Err(Refused::Error(why)),
            None => self.ask(request),
        };
        let end = if answer.is_ok() { "done" } else { "refused" };
        visit.audit(&format!("{} ({end})", api::told(request)));
        answer
    }

    fn edit_listener(&self, visit: &Visit, name: &str, form: &Form) -> Response {
        let sockets = form.rows();
        let limits = form.limits();
        let request = Request::EditListener {
            name: name.to_owned(),
            version: form.get("version"),
            sockets: sockets.clone(),
            limits: limits.clone(),
        };
        match self.carry::<Changed>(visit, &request) {
            Ok(changed) => {
                visit.session.note(changes(changed.changes));
                visit.session.note(changed.notices);
                Response::redirect(303, &format!("/listeners/{name}"))
            }
            Err(refused) => {
                let typed = Typed {
                    version: form.get("version"),
                    sockets,
                    limits,
                    refused,
                };
                self.listener(visit, name, Some(typed))
            }
        }
    }

    fn edit_list(&self, visit: &Visit, which: List, form: &Form) -> Response {
        let (text, version) = (form.get("text"), form.get("version"));
        let request = Request::EditList {
            which,
            text: text.clone(),
            version: version.clone(),
        };
        match self.carry::<Changed>(visit, &request) {
            Ok(changed) => {
                visit.session.note(changes(changed.changes));
                visit.session.note(changed.notices);
                Response::redirect(303, &format!("/lists/{}", which.name()))
            }
            Err(refused) => {
                let typed = TypedList {
                    text,
                    version,
                    refused,
                };
                self.list(visit, which, Some(typed))
            }
        }
    }

    fn edit_bans(&self, visit: &Visit, form: &Form) -> Response {
        let address = form.get("address").trim().to_owned();
        let lasts = form.get("for").trim().to_owned();
        let done = if form.get("do") == "unban" {
            let request = Request::Unban {
                address: address.clone(),
            };
            self.carry::<serde_json::Value>(visit, &request)
                .map(|_| format!("{address} is no longer banned"))
        } else {
            let request = Request::Ban {
                address,
                lasts: (!lasts.is_empty()).then_some(lasts),
            };
            let banned = self.carry::<Banned>(visit, &request);
            banned.map(|banned| {
                format!(
                    "{} is banned; connections closed: {}",
                    banned.ban.address, banned.closed
                )
            })
        };
        match done {
            Ok(line) => {
                visit.session.note([line]);
                Response::redirect(303, "/bans")
            }
            Err(refused) => self.bans(visit, 422, &refused.lines(), form),
        }
    }

    fn disconnect(&self, visit: &Visit, form: &Form) -> Response {
        let field = |name| Some(form.get(name).trim().to_owned()).filter(|value| !value.is_empty());
        let request = Request::Disconnect {
            id: field("id"),
            address: field("address"),
        };
        match self.carry::<Disconnected>(visit, &request) {
            Ok(gone) => {
                visit.session.note([format!(
                    "closed: {}, closing: {}",
                    gone.closed, gone.closing
                )]);
                Response::redirect(303, "/connections")
            }
            Err(refused) => views::sorry(visit, 409, "Nothing was disconnected", &refused.lines()),
        }
    }
}

fn changes(lines: Vec<String>) -> Vec<String> {
    if lines.is_empty() {
        vec!["Nothing changed.".to_owned()]
    } else {
        lines
    }
}

fn list(name: &str) -> Option<List> {
    List::ALL.into_iter().find(|list| list.name() == name)
}
