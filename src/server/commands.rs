#![forbid(unsafe_code)]
//! Requests carried out: the one door for the command line and for modules.

use std::time::{Duration, SystemTime};

use ipnet::IpNet;

use super::why::Question;
use super::{Handle, Shared, warden};
use crate::admission::bans::{self, By};
use crate::control::request::{Ban, Banned, Disconnected};
use crate::control::{Commands, Request, Response};

/// How long a ban lasts that says nothing of it. Who is to be kept out for good belongs on the Denied list.
const DAY: Duration = Duration::from_secs(86_400);
/// The longest ban.
const MOST: Duration = Duration::from_secs(100 * 366 * 86_400);

impl Commands for Handle {
    fn execute(&self, request: &Request) -> Response {
        self.0.execute(request)
    }
}

impl Commands for Shared {
    fn execute(&self, request: &Request) -> Response {
        match request {
            Request::Status => Response::of(&self.status()),
            Request::Metrics => Response::of(&self.metrics()),
            Request::Reload { dry_run } => self.reload(*dry_run),
            Request::Upgrade => changed(self.upgrade()),
            Request::Ban { address, lasts } => respond(self.ban(address, lasts.as_deref())),
            Request::Unban { address } => respond(self.unban(address)),
            Request::Bans => Response::of(&self.bans()),
            Request::Connections => Response::of(&self.connections()),
            Request::Disconnect { id, address } => {
                respond(self.cut_off(id.as_deref(), address.as_deref()))
            }
            Request::SocketAdd { listener, row } => {
                changed(self.add_socket(listener, (**row).clone()))
            }
            Request::SocketRemove {
                listener,
                port,
                address,
            } => changed(self.remove_socket(listener, port, address)),
            Request::Listeners => Response::of(&self.forms()),
            Request::EditListener {
                name,
                version,
                sockets,
                limits,
            } => changed(self.edit_listener(name, version, sockets.clone(), limits.as_ref())),
            Request::Lists => changed(self.lists()),
            Request::EditList {
                which,
                text,
                version,
            } => changed(self.edit_list(*which, text, version)),
            Request::Explain {
                listener,
                address,
                socket,
            } => respond(self.explain(&Question {
                listener,
                address: *address,
                socket: *socket,
            })),
        }
    }
}

impl Shared {
    fn ban(&self, address: &str, lasts: Option<&str>) -> Result<Banned, String> {
        let net = self.network(address)?;
        let lasts = lasts.map_or(Ok(DAY), duration)?;
        let now = SystemTime::now();
        self.warden
            .ban(net, now + lasts, now)
            .map_err(|error| format!("the ban cannot be kept: {error}"))?;
        let cut = self.disconnect_all(net);
        log::info!(
            "banned {} for {} by hand",
            warden::name(net),
            humantime::format_duration(lasts)
        );
        let ban = bans::Ban {
            net,
            until: now + lasts,
            by: By::Hand,
        };
        Ok(Banned {
            ban: shown(ban, now),
            closed: cut.closed + cut.closing,
        })
    }

    fn unban(&self, address: &str) -> Result<Ban, String> {
        let net = self.network(address)?;
        let now = SystemTime::now();
        let undone = self.warden.unban(net, now);
        let undone = undone.map_err(|error| format!("that cannot be kept: {error}"))?;
        let Some(ban) = undone else {
            let covers = |ban: &bans::Ban| ban.net.contains(&net);
            let others = self.warden.bans.list(now).into_iter().filter(covers);
            let others: Vec<String> = others.map(|ban| warden::name(ban.net)).collect();
            let name = warden::name(net);
            return Err(match others.as_slice() {
                [] => format!("{name} is not banned"),
                others => format!(
                    "{name} has no ban of its own; it is covered by {}",
                    others.join(", ")
                ),
            });
        };
        log::info!("the ban of {} is taken back", warden::name(net));
        Ok(shown(ban, now))
    }

    fn bans(&self) -> Vec<Ban> {
        let now = SystemTime::now();
        let bans = self.warden.bans.list(now).into_iter();
        bans.map(|ban| shown(ban, now)).collect()
    }

    fn cut_off(&self, id: Option<&str>, address: Option<&str>) -> Result<Disconnected, String> {
        match (id, address) {
            (Some(id), None) => self.disconnect(id),
            (None, Some(address)) => {
                let net: IpNet = match address.parse::<std::net::IpAddr>() {
                    // Just this one, not its prefix.
                    Ok(address) => address.to_canonical().into(),
                    Err(_) => self.network(address)?,
                };
                Ok(self.disconnect_all(net))
            }
            _ => Err("expected an id or an address".to_owned()),
        }
    }

    /// An address, for IPv6 with its prefix, or a network as it stands.
    fn network(&self, text: &str) -> Result<IpNet, String> {
        let text = text.trim();
        if let Ok(address) = crate::config::address(text) {
            return Ok(self.warden.net_of(address));
        }
        match text.parse::<IpNet>() {
            Ok(net) if net.addr() == net.network() => Ok(bans::canonical(net)),
            Ok(net) => Err(format!(
                "the host bits of {text} are not zero; expected {}",
                net.trunc()
            )),
            Err(_) => {
                let text: String = text.chars().take(60).collect();
                Err(format!(
                    "expected an address or a network like 192.0.2.0/24, found {text:?}"
                ))
            }
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if !duration.is_zero() && duration <= MOST => Ok(duration),
        _ => {
            let text: String = text.chars().take(60).collect();
            Err(format!(
                "expected a duration like \"10m\" or \"1day\", found {text:?}"
            ))
        }
    }
}

/// A ban as people see it.
fn shown(ban: bans::Ban, now: SystemTime) -> Ban {
    let since = ban.until.duration_since(SystemTime::UNIX_EPOCH);
    let left = ban.until.duration_since(now).unwrap_or_default();
    Ban {
        address: warden::name(ban.net),
        until: since.map_or(0, |since| since.as_secs()),
        left: left.as_secs() + u64::from(left.subsec_nanos() > 0),
        by: match ban.by {
            By::Hand => "hand".to_owned(),
            By::Rule => "automatic".to_owned(),
        },
    }
}

fn respond<T: serde::Serialize>(result: Result<T, String>) -> Response {
    result.map_or_else(Response::Error, |value| Response::of(&value))
}

fn changed<T: serde::Serialize>(result: Result<T, super::reload::Refused>) -> Response {
    result.map_or_else(Response::from, |value| Response::of(&value))
}
