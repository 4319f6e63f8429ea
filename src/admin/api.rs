#![forbid(unsafe_code)]
//! The same as JSON, under `/api/`; docs/api.md has it by example.

use std::net::{IpAddr, SocketAddr};

use super::views::{self, json_error};
use super::{Asked, Office, Visit};
use crate::admission::bans;
use crate::control::{self, Request};
use crate::http::Response;

impl Office {
    /// Answers below `/api/`.
    pub(super) fn api(&self, visit: &Visit, asked: &Asked, what: &str) -> Response {
        match &*asked.method {
            "GET" => self.look(asked, what),
            _ => self.change(visit, asked, what),
        }
    }

    fn look(&self, asked: &Asked, what: &str) -> Response {
        let request = match what {
            "status" => Request::Status,
            "listeners" => Request::Listeners,
            "lists" => Request::Lists,
            "bans" => Request::Bans,
            "connections" => Request::Connections,
            "explain" => {
                let (address, socket) = (asked.query.get("address"), asked.query.get("socket"));
                let Ok(address) = address.parse::<IpAddr>() else {
                    return json_error(400, "address: expected an IP address");
                };
                let socket = match &*socket {
                    "" => None,
                    text => match text.parse::<SocketAddr>() {
                        Ok(socket) => Some(socket),
                        Err(_) => return json_error(400, "socket: expected ADDRESS:PORT"),
                    },
                };
                Request::Explain {
                    listener: asked.query.get("listener"),
                    address,
                    socket,
                }
            }
            _ => return json_error(404, "there is no such thing; docs/api.md has what there is"),
        };
        self.carry_out(&request)
    }

    /// The body has the request's fields; the path its name.
    fn change(&self, visit: &Visit, asked: &Asked, what: &str) -> Response {
        if !visit
            .session
            .trusts(asked.token.as_deref().unwrap_or_default())
        {
            return json_error(
                403,
                "X-CSRF-Token is missing or wrong; the login's answer has it",
            );
        }
        const CHANGES: [&str; 8] = [
            "reload",
            "ban",
            "unban",
            "disconnect",
            "socket_add",
            "socket_remove",
            "edit_listener",
            "edit_list",
        ];
        if !CHANGES.contains(&what) {
            return json_error(
                404,
                "there is no such change; docs/api.md has what there is",
            );
        }
        let body = if asked.body.is_empty() {
            &b"{}"[..]
        } else {
            &asked.body
        };
        let mut fields: serde_json::Map<String, serde_json::Value> =
            match serde_json::from_slice(body) {
                Ok(fields) => fields,
                Err(error) => return json_error(400, &error.to_string()),
            };
        fields.insert("command".to_owned(), what.into());
        let request: Request = match serde_json::from_value(fields.into()) {
            Ok(request) => request,
            Err(error) => return json_error(400, &error.to_string()),
        };
        let response = match shuts_out(&request, visit.remote) {
            Some(why) => json_error(409, &why),
            None => self.carry_out(&request),
        };
        visit.audit(&format!("{} ({})", told(&request), response.status));
        response
    }

    fn carry_out(&self, request: &Request) -> Response {
        let answer = self.setup.link.execute(request);
        let status = match &answer {
            control::Response::Ok(_) => 200,
            control::Response::Error(_) => 409,
            control::Response::Invalid(_) => 422,
        };
        match serde_json::to_value(&answer) {
            Ok(value) => views::json(status, &value),
            Err(error) => json_error(500, &error.to_string()),
        }
    }
}

/// Why a ban is not carried out: it would be of those who ask for it, who could not take it back from where they
/// are.
pub(super) fn shuts_out(request: &Request, remote: IpAddr) -> Option<String> {
    let Request::Ban { address, .. } = request else {
        return None;
    };
    let address = address.trim();
    let own = match (crate::config::address(address), remote) {
        // Of an IPv6 address the prefix is banned, most often this one.
        (Ok(IpAddr::V6(own)), IpAddr::V6(remote)) => (own.to_bits() ^ remote.to_bits()) >> 64 == 0,
        (Ok(own), remote) => own == remote,
        (Err(_), _) => bans::canonical(address.parse().ok()?).contains(&remote),
    };
    own.then(|| format!("{address} would shut you out yourself: you come from {remote}"))
}

/// A change in a line for the log; long texts are cut.
pub(super) fn told(request: &Request) -> String {
    let text = serde_json::to_string(request).unwrap_or_default();
    match text.char_indices().nth(500) {
        Some((end, _)) => format!("{}..", &text[..end]),
        None => text,
    }
}
