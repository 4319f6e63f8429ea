#![forbid(unsafe_code)]
//! Admin: the web table, the API and the metrics, over HTTP/1.1.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::{ModuleEntry, Settings};
use crate::admin::{Panel, Setup};
use crate::config::field::Field;
use crate::http::Server;
use crate::session::Module;

pub(super) const ENTRY: ModuleEntry = ModuleEntry {
    name: "Admin",
    about: "pages, an API and metrics to watch and change the daemon",
    keys: &[
        "clients_only",
        "metrics_token",
        "metrics_from",
        "session_timeout",
    ],
    tcp: Some(|settings| Some(Arc::new(Server::new(configure(settings)?)) as Arc<dyn Module>)),
    udp: None,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys<'a> {
    #[serde(borrow, default)]
    clients_only: Field<'a, bool>,
    #[serde(borrow, default)]
    metrics_token: Field<'a, String>,
    #[serde(borrow, default)]
    metrics_from: Field<'a, String>,
    #[serde(borrow, default)]
    session_timeout: Field<'a, String>,
}

fn configure(settings: &mut Settings<'_, '_>) -> Option<Panel> {
    let keys: Keys<'_> = settings.read()?;
    let clients_only = settings.get(keys.clients_only).unwrap_or(true);
    // 16 characters can be 64 random bits or more; RFC 6750, 2.1 has what a token is made of.
    let metrics_token = settings.map(keys.metrics_token, |token| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
        if token.len() >= 16 && token.bytes().all(plain) {
            Ok(token)
        } else {
            Err("expected at least 16 letters, digits and -._~+/=".to_owned())
        }
    });
    let raw = keys.metrics_from.raw();
    let metrics_from = raw.and_then(|raw| settings.text.list(raw, settings.errors));
    let session_timeout = settings.duration(keys.session_timeout);
    Some(Panel::new(Setup {
        link: settings.link(),
        accounts: settings.accounts(),
        clients_only,
        metrics_token,
        metrics_from: metrics_from.unwrap_or_default(),
        session_timeout: session_timeout.unwrap_or(Duration::from_secs(30 * 60)),
    }))
}
