#![forbid(unsafe_code)]
//! Http: a web server for static files, or a reverse proxy (RFC 9110, 9112).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::{ModuleEntry, Settings};
use crate::config::field::Field;
use crate::http::access_log::AccessLog;
use crate::http::files::Files;
use crate::http::forward::Forward;
use crate::http::framing::Framing;
use crate::http::{Answer, Around, Limits, Request, Response, Server, Service};
use crate::sandbox::What;
use crate::session::{Class, Module};
use crate::upstream::{Place, Pool};

pub(super) const ENTRY: ModuleEntry = ModuleEntry {
    name: "Http",
    about: "serves files over HTTP/1.1, or passes requests to upstreams",
    keys: &[
        "root",
        "index",
        "listing",
        "precompressed",
        "clients_only",
        "redirect_to_https",
        "access_log",
        "head_timeout",
        "body_timeout",
        "upstream",
        "connect_timeout",
        "upstream_timeout",
        "trusted",
        "max_body",
    ],
    tcp: Some(
        |settings| Some(Arc::new(Server::new(Site::configure(settings)?)) as Arc<dyn Module>),
    ),
    udp: None,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys<'a> {
    #[serde(borrow, default)]
    root: Field<'a, String>,
    #[serde(borrow, default)]
    index: Field<'a, Vec<String>>,
    #[serde(borrow, default)]
    listing: Field<'a, bool>,
    #[serde(borrow, default)]
    precompressed: Field<'a, bool>,
    #[serde(borrow, default)]
    clients_only: Field<'a, bool>,
    #[serde(borrow, default)]
    redirect_to_https: Field<'a, ToHttps>,
    #[serde(borrow, default)]
    access_log: Field<'a, String>,
    #[serde(borrow, default)]
    head_timeout: Field<'a, String>,
    #[serde(borrow, default)]
    body_timeout: Field<'a, String>,
    #[serde(borrow, default)]
    upstream: Field<'a, Upstreams>,
    #[serde(borrow, default)]
    connect_timeout: Field<'a, String>,
    #[serde(borrow, default)]
    upstream_timeout: Field<'a, String>,
    #[serde(borrow, default)]
    trusted: Field<'a, String>,
    #[serde(borrow, default)]
    max_body: Field<'a, String>,
}

/// One server or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Upstreams {
    One(String),
    Many(Vec<String>),
}

/// `true` is port 443.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
enum ToHttps {
    Switch(bool),
    Port(u16),
}

/// Serves a directory, or passes requests on.
struct Site {
    /// Absent where requests are passed to upstreams.
    files: Option<Files>,
    forward: Option<Arc<Forward>>,
    limits: Limits,
    clients_only: bool,
    /// The port that clear requests are sent to.
    https: Option<u16>,
    log: Option<Arc<AccessLog>>,
}

impl Site {
    fn configure(settings: &mut Settings<'_, '_>) -> Option<Self> {
        let keys: Keys<'_> = settings.read()?;
        let beside = settings
            .text
            .file
            .parent()
            .unwrap_or(Path::new(""))
            .to_owned();
        let forward = forward(settings, &keys);
        let root = if keys.root.is_set() {
            settings.map(keys.root, |root| directory(beside.join(root)))
        } else if keys.upstream.is_set() {
            None
        } else {
            directory(beside.join("www"))
                .map_err(|message| {
                    settings.complain(&format!("without a root it is \"www\"; {message}"))
                })
                .ok()
        };
        if let Some(root) = &root {
            settings.need(keys.root, What::Directory(root.clone()));
        }
        if let (true, Some(raw)) = (keys.root.is_set(), keys.upstream.raw()) {
            let offset = settings.text.offset(raw);
            let message = "expected a root or an upstream, found both".to_owned();
            settings.errors.push(settings.text.error(offset, message));
        }
        let index = settings.map(keys.index, |names| {
            match names.iter().find(|name| !is_name(name)) {
                Some(name) => Err(format!("expected names of files, found {name:?}")),
                None => Ok(names),
            }
        });
        let log = settings.map(keys.access_log, |path| log_file(beside.join(path)));
        if let Some(folder) = log.as_deref().and_then(Path::parent) {
            settings.need(keys.access_log, What::Writable(folder.to_owned()));
        }
        let https = settings.map(keys.redirect_to_https, |to| match to {
            ToHttps::Switch(on) => Ok(on.then_some(443)),
            ToHttps::Port(0) => Err("expected true or a port from 1 to 65535, found 0".to_owned()),
            ToHttps::Port(port) => Ok(Some(port)),
        });
        let mut limits = Limits {
            // Files need none; what comes with a GET is read and forgotten.
            max_body: 64 * 1024,
            ..Limits::default()
        };
        if keys.upstream.is_set() {
            limits.max_body = settings.map(keys.max_body, size).unwrap_or(100 << 20);
        }
        limits.head_timeout = settings
            .duration(keys.head_timeout)
            .unwrap_or(limits.head_timeout);
        limits.body_timeout = settings
            .duration(keys.body_timeout)
            .unwrap_or(limits.body_timeout);
        let clients_only = settings.get(keys.clients_only).unwrap_or(false);
        let (listing, precompressed) =
            (settings.get(keys.listing), settings.get(keys.precompressed));
        let files = root.map(|root| {
            let mut files = Files::new(root);
            files.index = index.unwrap_or(files.index);
            files.listing = listing.unwrap_or(files.listing);
            files.precompressed = precompressed.unwrap_or(files.precompressed);
            files
        });
        // One of them is there, or an error was told.
        if files.is_none() && forward.is_none() {
            return None;
        }
        Some(Site {
            files,
            forward,
            limits,
            clients_only,
            https: https.flatten(),
            log: log.map(|path| Arc::new(AccessLog::new(path))),
        })
    }
}

/// The upstreams, where there are any.
fn forward<'a>(settings: &mut Settings<'a, '_>, keys: &Keys<'a>) -> Option<Arc<Forward>> {
    let places = settings.map(keys.upstream, |upstreams| {
        let all = match upstreams {
            Upstreams::One(one) => vec![one],
            Upstreams::Many(all) => all,
        };
        if all.is_empty() {
            return Err("expected at least one upstream".to_owned());
        }
        all.iter()
            .map(|place| place.parse::<Place>())
            .collect::<Result<Vec<_>, _>>()
    });
    let connect = settings
        .duration(keys.connect_timeout)
        .unwrap_or(Duration::from_secs(5));
    let timeout = settings
        .duration(keys.upstream_timeout)
        .unwrap_or(Duration::from_secs(60));
    let trusted = keys
        .trusted
        .raw()
        .and_then(|raw| settings.text.list(raw, settings.errors));
    let places = places?;
    settings.connects(keys.upstream, &places);
    let pool = Pool::new(places, connect);
    Some(Arc::new(Forward::new(
        pool,
        trusted.unwrap_or_default(),
        timeout,
    )))
}

/// A size like `"100MiB"`.
fn size(text: String) -> Result<u64, String> {
    let wrong = || format!("expected a size like \"100MiB\", found {text:?}");
    text.parse::<bytesize::ByteSize>()
        .map(|size| size.as_u64())
        .map_err(|_| wrong())
}

fn directory(path: PathBuf) -> Result<PathBuf, String> {
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() => Ok(path),
        Ok(_) => Err(format!("{} is not a directory", path.display())),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// The file need not be there, but its directory must.
fn log_file(path: PathBuf) -> Result<PathBuf, String> {
    if path.is_dir() {
        return Err(format!("{} is a directory", path.display()));
    }
    match path.parent() {
        Some(parent) if parent.is_dir() => Ok(path),
        _ => Err(format!("the directory of {} is not there", path.display())),
    }
}

fn is_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '\0'])
}

/// Methods that are known (RFC 9110, 9; RFC 5789), and not for files.
const OTHER_METHODS: [&str; 5] = ["POST", "PUT", "DELETE", "PATCH", "TRACE"];
const ALLOW: &str = "GET, HEAD, OPTIONS";

impl Site {
    fn method(request: &Request<'_, '_>) -> Option<Response> {
        match request.method {
            "GET" | "HEAD" | "OPTIONS" => None,
            method if OTHER_METHODS.contains(&method) => {
                Some(Response::error(405, "Files can only be read.").field("Allow", ALLOW))
            }
            _ => Some(Response::error(501, "The method is not known.")),
        }
    }

    /// The same place over TLS, for what came in clear.
    fn to_https(&self, request: &Request<'_, '_>, around: &Around<'_>) -> Option<Response> {
        let port = self.https.filter(|_| !around.peer.is_secure())?;
        let ours;
        let host = match request.host {
            // The name without its port; an IPv6 address has colons of its own, and brackets.
            Some(host) => match host.rfind(':') {
                Some(colon) if !host[colon..].contains(']') => &host[..colon],
                _ => host,
            },
            None => {
                ours = match around.peer.local.ip() {
                    std::net::IpAddr::V4(address) => address.to_string(),
                    std::net::IpAddr::V6(address) => format!("[{address}]"),
                };
                &ours
            }
        };
        let port = if port == 443 {
            String::new()
        } else {
            format!(":{port}")
        };
        let query = request
            .query
            .map_or(String::new(), |query| format!("?{query}"));
        let status = if matches!(request.method, "GET" | "HEAD") {
            301
        } else {
            308
        };
        Some(Response::redirect(
            status,
            &format!("https://{host}{port}{}{query}", request.path),
        ))
    }
}

impl Service for Site {
    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn refuse(&self, request: &Request<'_, '_>, around: &Around<'_>) -> Option<Response> {
        if self.clients_only && around.peer.class != Class::Client {
            return Some(Response::error(403, "This server is for its own users."));
        }
        if self.forward.is_some() {
            return self.to_https(request, around);
        }
        if request.framing == Framing::None {
            return None;
        }
        self.to_https(request, around)
            .or_else(|| Self::method(request))
    }

    fn answer(&self, request: &Request<'_, '_>, _body: &[u8], around: &Around<'_>) -> Answer {
        if let Some(response) = Self::method(request) {
            return response.into();
        }
        if request.path == "*" {
            return Response::new(204).field("Allow", ALLOW).into();
        }
        if let Some(response) = self.to_https(request, around) {
            return response.into();
        }
        if request.method == "OPTIONS" {
            return Response::new(204).field("Allow", ALLOW).into();
        }
        let Some(files) = &self.files else {
            return Response::error(404, "There is no such page.").into();
        };
        files.answer(request, around.wall).into()
    }

    fn forward(&self) -> Option<&Arc<Forward>> {
        self.forward.as_ref()
    }

    fn access_log(&self) -> Option<&Arc<AccessLog>> {
        self.log.as_ref()
    }
}

#[cfg(test)]
mod tests;
