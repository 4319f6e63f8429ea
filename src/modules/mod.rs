#![forbid(unsafe_code)]
//! The table of protocols. Adding one is a file and a line here.

mod admin;
mod daytime;
mod discard;
mod echo;
mod exec;
pub(crate) mod forward;
mod http;
pub(crate) mod imap;
pub(crate) mod ldap;
mod pop;
pub(crate) mod proxy;
pub(crate) mod radius;
pub(crate) mod sip;
mod smtp;
pub(crate) mod snmp;
pub(crate) mod tftp;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::accounts::Accounts;
use crate::admission::address_list::AddressList;
use crate::config::field::{Field, Text};
use crate::config::{ConfigError, duration};
use crate::control::Link;
use crate::sandbox::What;
use crate::session::{DatagramModule, Module};
use crate::upstream::Place;

/// Builds a module's stream half from its settings; `None` when they are wrong.
pub type BuildTcp = fn(&mut Settings<'_, '_>) -> Option<Arc<dyn Module>>;
/// Builds a module's datagram half from its settings; `None` when they are wrong.
pub type BuildUdp = fn(&mut Settings<'_, '_>) -> Option<Arc<dyn DatagramModule>>;

/// One protocol.
pub struct ModuleEntry {
    /// As written in a listener's file.
    pub name: &'static str,
    /// One line for people.
    pub about: &'static str,
    /// Its keys.
    pub keys: &'static [&'static str],
    /// Its stream half.
    pub tcp: Option<BuildTcp>,
    /// Its datagram half.
    pub udp: Option<BuildUdp>,
}

/// All protocols, by name.
pub const TABLE: &[ModuleEntry] = &[
    admin::ENTRY,
    daytime::ENTRY,
    discard::ENTRY,
    echo::ENTRY,
    exec::ENTRY,
    forward::ENTRY,
    http::ENTRY,
    imap::ENTRY,
    ldap::ENTRY,
    pop::ENTRY,
    proxy::ENTRY,
    radius::ENTRY,
    sip::ENTRY,
    smtp::ENTRY,
    snmp::ENTRY,
    tftp::ENTRY,
];

/// The settings of one listener's module, and where its errors go.
pub struct Settings<'a, 'e> {
    pub(crate) text: Text<'a>,
    /// What stands behind the module's name, with its parentheses; may be empty.
    pub(crate) settings: &'a str,
    pub(crate) state_dir: &'e Path,
    pub(crate) ipv6_prefix: u8,
    pub(crate) link: &'e Link,
    pub(crate) accounts: &'e Arc<Accounts>,
    pub(crate) errors: &'e mut Vec<ConfigError>,
    pub(crate) notices: &'e mut Vec<String>,
}

impl<'a> Settings<'a, '_> {
    /// Reads the settings; all keys of `T` must have defaults where the module may stand alone.
    pub fn read<T: Deserialize<'a>>(&mut self) -> Option<T> {
        let settings = if self.settings.is_empty() {
            "()"
        } else {
            self.settings
        };
        let mut errors = Vec::new();
        let value = self.text.read(settings, &mut errors);
        self.errors.append(&mut errors);
        value
    }

    /// The value of a key, `None` when it is absent or wrong.
    pub(crate) fn get<T: DeserializeOwned>(&mut self, field: Field<'a, T>) -> Option<T> {
        self.text.get(field, self.errors)
    }

    /// The value of a key made into something else.
    pub(crate) fn map<T: DeserializeOwned, U>(
        &mut self,
        field: Field<'a, T>,
        make: impl FnOnce(T) -> Result<U, String>,
    ) -> Option<U> {
        self.text.map(field, self.errors, make)
    }

    /// A key's value that borrows from the file; `None` when it is absent or wrong.
    pub(crate) fn piece<T: Deserialize<'a>>(&mut self, field: Field<'a, T>) -> Option<T> {
        self.text.read(field.raw()?, self.errors)
    }

    /// Another server, as in `"host:port"`.
    pub(crate) fn upstream(&mut self, field: Field<'a, String>) -> Option<Place> {
        let place: Place = self.map(field, |place: String| place.parse())?;
        self.connects(field, std::slice::from_ref(&place));
        Some(place)
    }

    /// Notes that the key's value makes us connect to other servers.
    pub(crate) fn connects<T>(&self, field: Field<'a, T>, places: &[Place]) {
        let by_name = places.iter().any(|place| matches!(place, Place::Name(..)));
        self.need(field, What::Connect { by_name });
    }

    /// Notes what a key's value needs beside sockets; see [`What`].
    pub(crate) fn need<T>(&self, field: Field<'a, T>, what: What) {
        self.text.need(field.raw().unwrap_or(self.settings), what);
    }

    /// An error at a key's value.
    pub(crate) fn complain_at<T>(&mut self, field: Field<'a, T>, message: &str) {
        self.text.complain(field, self.errors, message);
    }

    /// An error at the settings as a whole.
    pub(crate) fn complain(&mut self, message: &str) {
        let offset = self.text.offset(self.settings);
        self.errors
            .push(self.text.error(offset, message.to_owned()));
    }

    /// The rows of a list, each with its own place.
    pub(crate) fn rows<T>(&mut self, field: Field<'a, Vec<Field<'a, T>>>) -> Vec<Field<'a, T>> {
        self.text.each(field, self.errors)
    }

    /// A row's own keys.
    pub(crate) fn row<T: Deserialize<'a>>(&mut self, field: Field<'a, T>) -> Option<T> {
        self.text.read(field.raw()?, self.errors)
    }

    /// A remark at a key's value that is no error.
    pub(crate) fn notice_at<T>(&mut self, field: Field<'a, T>, message: &str) {
        let offset = self.text.offset(field.raw().unwrap_or(self.settings));
        let notice = self.text.error(offset, message.to_owned());
        self.notices.push(notice.to_string());
    }

    /// An address list.
    pub(crate) fn list(&mut self, field: Field<'a, String>) -> Option<AddressList> {
        self.text.list(field.raw()?, self.errors)
    }

    /// A duration like `"10s"`.
    pub(crate) fn duration(&mut self, field: Field<'a, String>) -> Option<Duration> {
        duration(self.text, field, self.errors)
    }

    /// Other servers, at least one.
    pub(crate) fn upstreams(
        &mut self,
        field: Field<'a, Vec<Field<'a, String>>>,
    ) -> Option<Vec<Place>> {
        let rows = self.text.each(field, self.errors);
        if rows.is_empty() {
            let offset = match field.raw() {
                Some(raw) => self.text.offset(raw),
                None => self.text.offset(self.settings),
            };
            let message = "expected at least one upstream: upstreams: [\"host:port\"]".to_owned();
            self.errors.push(self.text.error(offset, message));
            return None;
        }
        let places = rows
            .into_iter()
            .map(|row| self.text.map(row, self.errors, |place| place.parse()));
        // All of them first, so that each wrong one is reported.
        let places: Option<Vec<Place>> = places.collect::<Vec<_>>().into_iter().collect();
        let places = places?;
        self.connects(field, &places);
        Some(places)
    }

    /// A size like `"25MiB"`, in bytes.
    pub(crate) fn size(&mut self, field: Field<'a, String>) -> Option<u64> {
        self.map(field, |text| match text.parse::<ByteSize>() {
            Ok(size) if size.0 > 0 => Ok(size.0),
            _ => Err(format!("expected a size like \"25MiB\", found {text:?}")),
        })
    }

    /// A directory that exists, relative to the file; `usual` when the key is absent.
    pub(crate) fn directory(&mut self, field: Field<'a, String>, usual: &str) -> Option<PathBuf> {
        let path = match field.is_set() {
            true => self.text.path(field, self.errors)?,
            false => self.text.file.parent().unwrap_or(Path::new("")).join(usual),
        };
        if path.is_dir() {
            self.need(field, What::Directory(path.clone()));
            return Some(path);
        }
        let offset = self.text.offset(field.raw().unwrap_or(self.settings));
        let message = format!("expected a directory, found none at {}", path.display());
        self.errors.push(self.text.error(offset, message));
        None
    }

    /// A file's path, relative to the file of the settings; `usual` when the key is absent.
    pub(crate) fn file(&mut self, field: Field<'a, String>, usual: &str) -> Option<PathBuf> {
        let path = match field.is_set() {
            true => self.text.path(field, self.errors)?,
            false => self.text.file.parent().unwrap_or(Path::new("")).join(usual),
        };
        self.need(field, What::File(path.clone()));
        Some(path)
    }

    /// Bits of an IPv6 address that are counted as one.
    #[must_use]
    pub fn ipv6_prefix(&self) -> u8 {
        self.ipv6_prefix
    }

    /// The way to the daemon that will run the module: it asks and changes what the command line can.
    #[must_use]
    pub fn link(&self) -> Link {
        self.link.clone()
    }

    /// Where the daemon keeps what must survive it.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        self.state_dir
    }

    /// The accounts. A module that keeps them sees changes of their file without being built anew.
    #[must_use]
    pub fn accounts(&self) -> Arc<Accounts> {
        Arc::clone(self.accounts)
    }
}

/// A module without settings.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoSettings {}

/// The names of all modules, for messages.
pub(crate) fn names() -> String {
    TABLE
        .iter()
        .map(|entry| entry.name)
        .collect::<Vec<_>>()
        .join(", ")
}
