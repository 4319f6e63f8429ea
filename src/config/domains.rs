#![forbid(unsafe_code)]
//! `domains` and `default_domain`: names, addresses, and certificates that can be used.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use super::ConfigError;
use super::field::{Field, Text};
use super::raw;
use super::sockets::address;
use crate::tls::{Certificate, Domain, Domains, Part, Source};

/// Checks the domains and reads their certificates. Nothing is written: what is self-signed is made at start.
pub(super) fn domains<'a>(
    text: Text<'a>,
    field: Field<'a, Vec<Field<'a, raw::Domain<'a>>>>,
    default: Field<'a, String>,
    errors: &mut Vec<ConfigError>,
    notices: &mut Vec<String>,
) -> Domains {
    let mut check = Check {
        text,
        errors,
        notices,
        owners: HashMap::new(),
    };
    let rows = text.each(field, check.errors);
    let domains: Vec<Domain> = rows
        .into_iter()
        .filter_map(|row| check.domain(row))
        .collect();
    let default = text.map(default, errors, |default| {
        let known = |domain: &Domain| domain.name.eq_ignore_ascii_case(&default);
        if domains.iter().any(known) {
            Ok(default)
        } else {
            let names: Vec<&str> = domains.iter().map(|domain| domain.name.as_str()).collect();
            let names = match names.as_slice() {
                [] => "there are none".to_owned(),
                names => format!("there are {}", names.join(", ")),
            };
            Err(format!("no domain is named {default:?}; {names}"))
        }
    });
    Domains::new(domains, default.as_deref())
}

struct Check<'a, 'e> {
    text: Text<'a>,
    errors: &'e mut Vec<ConfigError>,
    notices: &'e mut Vec<String>,
    /// Which domain has a name or an address: each belongs to one.
    owners: HashMap<String, String>,
}

impl<'a> Check<'a, '_> {
    fn domain(&mut self, field: Field<'a, raw::Domain<'a>>) -> Option<Domain> {
        let text = self.text;
        let row: raw::Domain<'a> = text.read(field.raw()?, self.errors)?;
        if !row.name.is_set() {
            text.complain(field, self.errors, "every domain needs a name");
        }
        let name = text.map(row.name, self.errors, |name| host_name(&name));
        let owner = name.clone().unwrap_or_default();
        self.claim(row.name, name.as_deref(), &owner);
        let mut aliases = Vec::new();
        for field in text.each(row.aliases, self.errors) {
            let alias = text.map(field, self.errors, |alias| host_name(&alias));
            self.claim(field, alias.as_deref(), &owner);
            aliases.extend(alias);
        }
        let mut addresses = Vec::new();
        for field in text.each(row.addresses, self.errors) {
            let found = text.map(field, self.errors, |found| address(&found));
            let words = found.map(|address| address.to_string());
            self.claim(field, words.as_deref(), &owner);
            addresses.extend(found);
        }
        let certificate = row
            .certificate
            .raw()
            .and_then(|raw| text.read(raw, self.errors));
        let certificate = match certificate {
            Some(raw::Certificate::SelfSigned) => Source::SelfSigned,
            Some(raw::Certificate::Files(files)) => {
                let names = name.iter().chain(&aliases);
                match self.files(row.certificate, &files, names) {
                    Some(certificate) => Source::Given(Arc::new(certificate)),
                    None => Source::None,
                }
            }
            None => Source::None,
        };
        Some(Domain {
            name: name?,
            aliases,
            addresses,
            certificate,
        })
    }

    /// Notes whose a name or an address is; it cannot be two domains'.
    fn claim(&mut self, field: Field<'a, String>, name: Option<&str>, owner: &str) {
        let Some(name) = name else { return };
        if let Some(other) = self.owners.insert(name.to_owned(), owner.to_owned()) {
            let message = format!("{name} already belongs to domain {other}");
            self.text.complain(field, self.errors, message);
        }
    }

    fn files<'n>(
        &mut self,
        field: Field<'a, raw::Certificate<'a>>,
        files: &raw::Files<'a>,
        names: impl Iterator<Item = &'n String>,
    ) -> Option<Certificate> {
        let text = self.text;
        for (file, key) in [(files.chain, "chain"), (files.key, "key")] {
            if !file.is_set() {
                text.complain(field, self.errors, format!("Files needs a {key}"));
            }
        }
        let chain = text.file_path(files.chain, self.errors);
        let key = text.file_path(files.key, self.errors);
        let (chain, key) = (chain?, key?);
        let certificate = match Certificate::read(&chain, &key) {
            Ok(certificate) => certificate,
            Err(bad) => {
                let (at, file) = match bad.part {
                    Part::Chain => (files.chain, &chain),
                    Part::Key => (files.key, &key),
                };
                let message = format!("{}: {bad}", file.display());
                text.complain(at, self.errors, message);
                return None;
            }
        };
        if is_open_to_others(&key) {
            let message = format!(
                "{}: others can read this key; chmod o-rwx it",
                key.display()
            );
            self.notice(files.key, message);
        }
        for name in names.filter(|name| !certificate.serves(name)) {
            let message = format!("{}: not a certificate for {name}", chain.display());
            self.notice(files.chain, message);
        }
        Some(certificate)
    }

    fn notice(&mut self, field: Field<'a, String>, message: String) {
        let offset = field.raw().map_or(0, |raw| self.text.offset(raw));
        let notice = self.text.error(offset, message);
        self.notices.push(notice.to_string());
    }
}

/// True when somebody other than the owner and the group may read a file.
fn is_open_to_others(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|data| data.permissions().mode() & 0o007 != 0)
}

/// A DNS name in lower case (RFC 1123, 2.1), maybe with `*.` before it.
pub(crate) fn host_name(name: &str) -> Result<String, String> {
    let lower = name.to_ascii_lowercase();
    let bare = lower.strip_prefix("*.").unwrap_or(&lower);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let is_address = bare.parse::<std::net::IpAddr>().is_ok();
    if bare.len() <= 253 && bare.split('.').all(label) && !is_address {
        Ok(lower)
    } else {
        Err(format!(
            "expected a domain name like \"example.org\" or \"*.example.org\", found {name:?}"
        ))
    }
}
