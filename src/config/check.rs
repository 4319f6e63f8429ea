#![forbid(unsafe_code)]
//! From what the files say to what it means. Every error is collected.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::ConfigError;
use super::domains;
use super::field::{Field, Text};
use super::plan::{AutoBan, ListenerPlan, Network, Plan, Protocol, TcpPlan, UdpPlan};
use super::raw;
use super::sockets::{self, Claim};
use crate::accounts::{self, Accounts};
use crate::admission::address_list::AddressList;
use crate::admission::failures::MOST;
use crate::admission::limits::LimitSettings;
use crate::admission::rates::{Rate, RateSettings};
use crate::control::Link;
use crate::modules::{self, Settings};
use crate::privileges::RunAs;
use crate::sandbox::{Need, Switches, What};
use crate::tls::Domains;

/// Where state is kept unless the file says otherwise, relative to it.
const STATE_DIR: &str = "../var";

/// Checks the server's file and the listeners'. Errors go to `errors`.
pub(super) fn plan(
    text: Text<'_>,
    listeners: Vec<Text<'_>>,
    link: &Link,
    edited: Option<&Path>,
    errors: &mut Vec<ConfigError>,
) -> Option<Plan> {
    let server: Option<raw::Server<'_>> = text.read(text.text, errors);
    let server = server.unwrap_or_default();
    let defaults = Plan::default();
    let mut notices = Vec::new();
    let workers = text.map(server.workers, errors, |workers| match workers {
        1..=4096 => Ok(workers as usize),
        _ => Err(format!("expected 1 to 4096 workers, found {workers}")),
    });
    let base = text.file.parent().unwrap_or(Path::new(""));
    let state_dir = text
        .get(server.state_dir, errors)
        .unwrap_or_else(|| STATE_DIR.to_owned());
    let drain = duration(text, server.drain, errors);
    let upgrade_drain = duration(text, server.upgrade_drain, errors);
    let memory = text.map(server.memory, errors, |memory: String| match memory
        .parse::<bytesize::ByteSize>()
    {
        Ok(size) if size.0 >= 1 << 20 => Ok(size.0),
        _ => Err(format!(
            "expected a size like \"512MiB\", at least 1MiB, found {memory:?}"
        )),
    });
    let shared = shared(text, server.shared, errors);
    let auto_ban = auto_ban(text, server.auto_ban, errors);
    let network = network(text, server.network, errors);
    let domains = domains::domains(
        text,
        server.domains,
        server.default_domain,
        errors,
        &mut notices,
    );
    let accounts = accounts(text, server.accounts, errors, &mut notices);
    let run_as = run_as(text, server.run_as, errors);
    let sandbox = sandbox(text, server.sandbox, errors);
    let state_dir = base.join(state_dir);
    let mut checked = Vec::new();
    let mut claims = Vec::new();
    for text in listeners {
        let mut listener = Check {
            text,
            state_dir: &state_dir,
            ipv6_prefix: network.ipv6_prefix,
            link,
            domains: &domains,
            accounts: &accounts,
            errors,
            notices: &mut notices,
            claims: &mut claims,
        };
        checked.extend(listener.listener());
    }
    // The first come stays: a conflict is the fault of the file that is being edited.
    claims.sort_by_key(|claim| Some(claim.file()) == edited);
    sockets::conflicts(&claims, errors);
    // Whoever else holds them is a module that asks for passwords.
    if accounts.is_empty() && Arc::strong_count(&accounts) > 1 {
        let message = "there are no accounts yet: `portreeve account set NAME` makes one";
        let offset = server.accounts.raw().map_or(0, |raw| text.offset(raw));
        notices.push(text.error(offset, message.to_owned()).to_string());
    }
    Some(Plan {
        file: text.file.to_path_buf(),
        link: link.clone(),
        workers: workers.unwrap_or(defaults.workers),
        state_dir,
        network: Arc::new(network),
        domains: Arc::new(domains),
        drain: drain.unwrap_or(defaults.drain),
        upgrade_drain: upgrade_drain.unwrap_or(defaults.upgrade_drain),
        memory,
        shared,
        auto_ban,
        run_as,
        sandbox,
        needs: Vec::new(),
        listeners: checked,
        notices,
    })
}

/// Reads `run_as`.
pub(super) fn run_as<'a>(
    text: Text<'a>,
    field: Field<'a, raw::RunAs<'a>>,
    errors: &mut Vec<ConfigError>,
) -> Option<RunAs> {
    let raw: raw::RunAs<'_> = text.read(field.raw()?, errors)?;
    if !raw.user.is_set() {
        text.complain(
            field,
            errors,
            "expected a user: run_as: (user: \"portreeve\")",
        );
    }
    let group = match raw.group.is_set() {
        true => Some(text.get(raw.group, errors)?),
        false => None,
    };
    text.map(raw.user, errors, |user: String| {
        RunAs::find(&user, group.as_deref())
    })
}

fn sandbox<'a>(
    text: Text<'a>,
    field: Field<'a, raw::Sandbox<'a>>,
    errors: &mut Vec<ConfigError>,
) -> Switches {
    let raw = field.raw().and_then(|raw| text.read(raw, errors));
    let raw: raw::Sandbox<'_> = raw.unwrap_or_default();
    Switches {
        landlock: text.get(raw.landlock, errors),
        seccomp: text.get(raw.seccomp, errors),
        connect: text.get(raw.connect, errors).unwrap_or(true),
    }
}

/// Where `sandbox: (connect: false)` stands in the way of a listener that has another server.
pub(super) fn connections(sandbox: Switches, needs: &[Need], errors: &mut Vec<ConfigError>) {
    let connects = |need: &&Need| matches!(need.what, What::Connect { .. });
    for need in needs.iter().filter(connects).filter(|_| !sandbox.connect) {
        let message = "there are no connections to other servers: sandbox has connect: false";
        errors.push(ConfigError {
            message: message.to_owned(),
            ..need.place.clone()
        });
    }
}

/// Where news are exchanged with other daemons.
fn shared<'a>(
    text: Text<'a>,
    field: Field<'a, raw::Shared<'a>>,
    errors: &mut Vec<ConfigError>,
) -> Option<String> {
    let raw::Shared::Redis(url) = field.raw().and_then(|raw| text.read(raw, errors))?;
    text.map(url, errors, |url: String| match redis::Client::open(&*url) {
        Ok(client) => {
            let by_name = match client.get_connection_info().addr() {
                redis::ConnectionAddr::Tcp(host, _) => host.parse::<IpAddr>().is_err(),
                _ => false,
            };
            text.need(field.raw().unwrap_or(text.text), What::Connect { by_name });
            Ok(url)
        }
        Err(_) => Err("expected a URL like \"redis://:PASSWORD@192.0.2.1:6379/0\" or \"redis+unix:///run/redis.sock\"".to_owned()),
    })
}

/// Reads `accounts`, `accounts.ron` beside the server's file unless it says otherwise.
fn accounts<'a>(
    text: Text<'a>,
    field: Field<'a, String>,
    errors: &mut Vec<ConfigError>,
    notices: &mut Vec<String>,
) -> Arc<Accounts> {
    let Some(file) = accounts_file(text, field, errors) else {
        return Arc::default();
    };
    text.need(field.raw().unwrap_or(text.text), What::File(file.clone()));
    if accounts::is_open_to_others(&file) {
        let message = format!("{}: others can read it; chmod 600 it", file.display());
        let offset = field.raw().map_or(0, |raw| text.offset(raw));
        notices.push(text.error(offset, message).to_string());
    }
    Accounts::read(&file).unwrap_or_else(|bad| {
        errors.extend(bad);
        Arc::default()
    })
}

/// The file of the accounts.
pub(super) fn accounts_file<'a>(
    text: Text<'a>,
    field: Field<'a, String>,
    errors: &mut Vec<ConfigError>,
) -> Option<PathBuf> {
    if field.is_set() {
        return text.path(field, errors);
    }
    Some(
        text.file
            .parent()
            .unwrap_or(Path::new(""))
            .join("accounts.ron"),
    )
}

fn network<'a>(
    text: Text<'a>,
    field: Field<'a, raw::Network<'a>>,
    errors: &mut Vec<ConfigError>,
) -> Network {
    let raw: raw::Network<'_> = field
        .raw()
        .and_then(|raw| text.read(raw, errors))
        .unwrap_or_default();
    let mut list = |field: Field<'a, String>| {
        field
            .raw()
            .and_then(|raw| text.list(raw, errors))
            .unwrap_or_default()
    };
    let (denied, blacklist) = (list(raw.denied), list(raw.blacklist));
    let cluster = list(raw.cluster);
    let clients = match raw.clients.raw() {
        Some(_) => list(raw.clients),
        None => default_clients(),
    };
    let prefix = text.map(raw.ipv6_prefix, errors, |prefix| match prefix {
        1..=128 => Ok(prefix),
        _ => Err(format!(
            "expected a prefix length from 1 to 128, found {prefix}"
        )),
    });
    Network {
        clients,
        denied,
        blacklist,
        cluster,
        ipv6_prefix: prefix.unwrap_or(64),
    }
}

/// The key `state_dir` alone.
pub(super) fn state_dir(text: Text<'_>, errors: &mut Vec<ConfigError>) -> Option<PathBuf> {
    let server: raw::Server<'_> = text.read(text.text, errors)?;
    let name = match server.state_dir.is_set() {
        true => text.get(server.state_dir, errors)?,
        false => STATE_DIR.to_owned(),
    };
    Some(text.file.parent().unwrap_or(Path::new("")).join(name))
}

fn auto_ban<'a>(
    text: Text<'a>,
    field: Field<'a, raw::AutoBan<'a>>,
    errors: &mut Vec<ConfigError>,
) -> Option<AutoBan> {
    let raw: raw::AutoBan<'_> = text.read(field.raw()?, errors)?;
    let failures = text.map(raw.failures, errors, |failures| match failures {
        1..=MOST => Ok(failures),
        _ => Err(format!("expected 1 to {MOST} failures, found {failures}")),
    });
    let within = duration(text, raw.within, errors);
    let lasts = duration(text, raw.r#for, errors);
    let never = raw.never.raw().and_then(|raw| text.list(raw, errors));
    Some(AutoBan {
        failures: failures.unwrap_or(10),
        within: within.unwrap_or(Duration::from_secs(600)),
        lasts: lasts.unwrap_or(Duration::from_secs(3600)),
        never: never.unwrap_or_default(),
    })
}

fn default_clients() -> AddressList {
    let source =
        crate::admission::address_list::Source::file(Path::new("(default)"), "127.0.0.0/8\n::1");
    AddressList::parse(&source).unwrap_or_default()
}

pub(crate) fn duration<'a>(
    text: Text<'a>,
    field: Field<'a, String>,
    errors: &mut Vec<ConfigError>,
) -> Option<Duration> {
    text.map(field, errors, |value| {
        match humantime::parse_duration(&value) {
            Ok(duration)
                if !duration.is_zero() && duration <= Duration::from_secs(366 * 86_400) =>
            {
                Ok(duration)
            }
            _ => Err(format!(
                "expected a duration like \"10s\" or \"5m\", at most a year, found {value:?}"
            )),
        }
    })
}

/// Checks one listener's file.
pub(super) struct Check<'a, 'e> {
    pub(super) text: Text<'a>,
    pub(super) state_dir: &'e Path,
    pub(super) ipv6_prefix: u8,
    pub(super) link: &'e Link,
    pub(super) domains: &'e Domains,
    pub(super) accounts: &'e Arc<Accounts>,
    pub(super) errors: &'e mut Vec<ConfigError>,
    pub(super) notices: &'e mut Vec<String>,
    pub(super) claims: &'e mut Vec<Claim>,
}

impl<'a> Check<'a, '_> {
    fn listener(&mut self) -> Option<ListenerPlan> {
        let stem = self
            .text
            .file
            .file_stem()
            .and_then(|stem| stem.to_str())
            .unwrap_or_default();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if stem.is_empty() || !stem.bytes().all(plain) {
            let message = format!("a listener is named by letters, digits, - and _, not {stem:?}");
            self.errors.push(self.text.error(0, message));
            return None;
        }
        let name: Arc<str> = stem.into();
        let raw: raw::Listener<'a> = self.text.read(self.text.text, self.errors)?;
        let whole = match &raw {
            raw::Listener::Tcp(tcp) => tcp.module.raw(),
            raw::Listener::Udp(udp) => udp.module.raw(),
        };
        let (module, protocol, log_level, sockets) = match raw {
            raw::Listener::Tcp(tcp) => {
                let (module, protocol) = self.tcp(&tcp);
                let backlog = self.text.map(tcp.backlog, self.errors, |backlog| {
                    i32::try_from(backlog)
                        .ok()
                        .filter(|backlog| (1..=65_535).contains(backlog))
                        .ok_or_else(|| {
                            format!("expected a backlog from 1 to 65535, found {backlog}")
                        })
                });
                let sockets = self.sockets(&name, "tcp", tcp.sockets, backlog);
                (module, protocol, tcp.log_level, sockets)
            }
            raw::Listener::Udp(udp) => {
                let (module, protocol) = self.udp(&udp);
                let sockets = self.sockets(&name, "udp", udp.sockets, None);
                (module, protocol, udp.log_level, sockets)
            }
        };
        let log_level = self
            .text
            .get(log_level, self.errors)
            .map_or(log::LevelFilter::Info, level);
        let file = self.text.file.to_path_buf();
        Some(ListenerPlan {
            name,
            file,
            version: super::version(self.text.text),
            settings: whole.unwrap_or_default().to_owned(),
            module,
            protocol: protocol?,
            log_level,
            sockets,
        })
    }

    fn tcp(&mut self, tcp: &raw::Tcp<'a>) -> (String, Option<Protocol>) {
        let text = self.text;
        let channels = text.map(tcp.channels, self.errors, |channels| match channels {
            0 => Err("a listener without channels serves nobody; expected at least 1".to_owned()),
            _ => Ok(channels),
        });
        let defaults = LimitSettings::default();
        let limits = LimitSettings {
            channels: channels.unwrap_or(defaults.channels),
            reserve_for_clients: text.get(tcp.reserve_for_clients, self.errors).unwrap_or(0),
            limit_per_address: text.get(tcp.limit_per_address, self.errors),
            limit_non_clients: text.get(tcp.limit_non_clients, self.errors),
        };
        if limits.reserve_for_clients >= limits.channels {
            self.notice(
                tcp.reserve_for_clients,
                "this reserve keeps every non-client out",
            );
        }
        if let (Some(all), Some(others)) = (limits.limit_per_address, limits.limit_non_clients)
            && others > all
        {
            let message = format!(
                "limit_non_clients ({others}) is larger than limit_per_address ({all}); expected at most that"
            );
            text.complain(tcp.limit_non_clients, self.errors, message);
        }
        let handshake_timeout = duration(text, tcp.handshake_timeout, self.errors);
        let idle_timeout = duration(text, tcp.idle_timeout, self.errors);
        let (name, entry, settings) = self.module(tcp.module);
        let Some((entry, settings)) = entry.zip(settings) else {
            return (name, None);
        };
        let Some(build) = entry.tcp else {
            let message = format!("module {name} speaks UDP only; this listener is Tcp");
            text.complain(tcp.module, self.errors, message);
            return (name, None);
        };
        if name == "Imap" {
            self.notice_few_connections(tcp);
        }
        let module = build(&mut self.settings(settings));
        let protocol = module.map(|module| {
            let handshake_timeout = handshake_timeout.unwrap_or(Duration::from_secs(10));
            Protocol::Tcp(TcpPlan {
                module,
                limits,
                handshake_timeout,
                idle_timeout,
            })
        });
        (name, protocol)
    }

    fn udp(&mut self, udp: &raw::Udp<'a>) -> (String, Option<Protocol>) {
        for (field, key) in [
            (udp.channels, "channels"),
            (udp.reserve_for_clients, "reserve_for_clients"),
            (udp.limit_per_address, "limit_per_address"),
            (udp.limit_non_clients, "limit_non_clients"),
            (udp.handshake_timeout, "handshake_timeout"),
            (udp.idle_timeout, "idle_timeout"),
            (udp.backlog, "backlog"),
        ] {
            if field.is_set() {
                let message = format!("a UDP listener has no {key}: datagrams are not connections");
                self.text.complain(field, self.errors, message);
            }
        }
        let others = self.rate(udp.rate_per_address);
        let clients = self.rate(udp.rate_per_client).or(others);
        let rates = RateSettings { others, clients };
        let kernel_filter = self.text.get(udp.kernel_filter, self.errors);
        let (name, entry, settings) = self.module(udp.module);
        let Some((entry, settings)) = entry.zip(settings) else {
            return (name, None);
        };
        let Some(build) = entry.udp else {
            let message = format!("module {name} speaks TCP only; this listener is Udp");
            self.text.complain(udp.module, self.errors, message);
            return (name, None);
        };
        let module = build(&mut self.settings(settings));
        (
            name,
            module.map(|module| {
                Protocol::Udp(UdpPlan {
                    module,
                    rates,
                    kernel_filter: kernel_filter.unwrap_or(false),
                })
            }),
        )
    }

    /// A rate; one datagram in a nanosecond is the highest that can be counted.
    fn rate(&mut self, field: Field<'a, raw::Rate<'a>>) -> Option<Rate> {
        let text = self.text;
        let raw: raw::Rate<'a> = text.read(field.raw()?, self.errors)?;
        let positive = |count: u32| match count {
            1..=1_000_000_000 => Ok(count),
            _ => Err(format!("expected 1 to 1000000000 datagrams, found {count}")),
        };
        if !raw.packets.is_set() {
            let message = "expected a rate: (packets: 100, per: \"1s\", burst: 200)";
            text.complain(field, self.errors, message);
        }
        let packets = text.map(raw.packets, self.errors, positive);
        let burst = text.map(raw.burst, self.errors, positive);
        let per = duration(text, raw.per, self.errors);
        Some(Rate {
            packets: packets?,
            per: per.unwrap_or(Duration::from_secs(1)),
            burst: burst.or(packets)?,
        })
    }

    /// The module's name, its entry in the table, and the text of its settings.
    fn module(
        &mut self,
        field: Field<'a, ()>,
    ) -> (
        String,
        Option<&'static modules::ModuleEntry>,
        Option<&'a str>,
    ) {
        let Some(raw) = field.raw() else {
            let message = "expected a module: one of ".to_owned() + &modules::names();
            self.errors.push(self.text.error(0, message));
            return (String::new(), None, None);
        };
        let (name, settings) = match raw.find('(') {
            Some(start) => (raw[..start].trim_end(), &raw[start..]),
            None => raw.split_at(raw.len()),
        };
        let entry = modules::TABLE.iter().find(|entry| entry.name == name);
        if entry.is_none() {
            let message = format!(
                "there is no module {name}; expected one of {}",
                modules::names()
            );
            self.text.complain(field, self.errors, message);
        }
        (name.to_owned(), entry, Some(settings))
    }

    fn settings<'s>(&'s mut self, settings: &'a str) -> Settings<'a, 's> {
        Settings {
            text: self.text,
            settings,
            state_dir: self.state_dir,
            ipv6_prefix: self.ipv6_prefix,
            link: self.link,
            accounts: self.accounts,
            errors: self.errors,
            notices: self.notices,
        }
    }

    /// One client of IMAP has a connection for each mailbox that it watches.
    fn notice_few_connections(&mut self, tcp: &raw::Tcp<'a>) {
        for field in [tcp.limit_per_address, tcp.limit_non_clients] {
            let mut quiet = Vec::new();
            if self
                .text
                .get(field, &mut quiet)
                .is_some_and(|limit| limit < 5)
            {
                self.notice(
                    field,
                    "IMAP clients open several connections; expected at least 5",
                );
            }
        }
    }

    pub(super) fn notice<T>(&mut self, field: Field<'a, T>, message: &str) {
        let offset = field.raw().map_or(0, |raw| self.text.offset(raw));
        self.notices
            .push(self.text.error(offset, message.to_owned()).to_string());
    }
}

fn level(level: raw::LogLevel) -> log::LevelFilter {
    match level {
        raw::LogLevel::Off => log::LevelFilter::Off,
        raw::LogLevel::Error => log::LevelFilter::Error,
        raw::LogLevel::Warn => log::LevelFilter::Warn,
        raw::LogLevel::Info => log::LevelFilter::Info,
        raw::LogLevel::Debug => log::LevelFilter::Debug,
        raw::LogLevel::Trace => log::LevelFilter::Trace,
    }
}
