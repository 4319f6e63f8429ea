#![forbid(unsafe_code)]
//! What the files say, key by key. Unknown keys are errors.

use serde::Deserialize;

use super::field::Field;

/// `portreeve.ron`.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Server<'a> {
    #[serde(borrow, default)]
    pub(super) workers: Field<'a, u32>,
    #[serde(borrow, default)]
    pub(super) state_dir: Field<'a, String>,
    #[serde(borrow, default)]
    pub(super) network: Field<'a, Network<'a>>,
    #[serde(borrow, default)]
    pub(super) domains: Field<'a, Vec<Field<'a, Domain<'a>>>>,
    #[serde(borrow, default)]
    pub(super) default_domain: Field<'a, String>,
    #[serde(borrow, default)]
    pub(super) accounts: Field<'a, String>,
    #[serde(borrow, default)]
    pub(super) drain: Field<'a, String>,
    #[serde(borrow, default)]
    pub(super) upgrade_drain: Field<'a, String>,
    #[serde(borrow, default)]
    pub(super) memory: Field<'a, String>,
    #[serde(borrow, default)]
    pub(super) shared: Field<'a, Shared<'a>>,
    #[serde(borrow, default)]
    pub(super) auto_ban: Field<'a, AutoBan<'a>>,
    #[serde(borrow, default)]
    pub(super) run_as: Field<'a, RunAs<'a>>,
    #[serde(borrow, default)]
    pub(super) sandbox: Field<'a, Sandbox<'a>>,
}

/// `run_as: (..)`.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RunAs<'a> {
    #[serde(borrow, default)]
    pub(super) user: Field<'a, String>,
    #[serde(borrow, default)]
    pub(super) group: Field<'a, String>,
}

/// `sandbox: (..)`.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Sandbox<'a> {
    #[serde(borrow, default)]
    pub(super) landlock: Field<'a, bool>,
    #[serde(borrow, default)]
    pub(super) seccomp: Field<'a, bool>,
    #[serde(borrow, default)]
    pub(super) connect: Field<'a, bool>,
}

/// `shared: ..`.
#[derive(Deserialize)]
pub(super) enum Shared<'a> {
    #[serde(borrow)]
    Redis(Field<'a, String>),
}

/// `auto_ban: (..)`.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct AutoBan<'a> {
    #[serde(borrow, default)]
    pub(super) failures: Field<'a, u32>,
    #[serde(borrow, default)]
    pub(super) within: Field<'a, String>,
    #[serde(borrow, default)]
    pub(super) r#for: Field<'a, String>,
    #[serde(borrow, default)]
    pub(super) never: Field<'a, String>,
}

/// `network: (..)`.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Network<'a> {
    #[serde(borrow, default)]
    pub(super) clients: Field<'a, String>,
    #[serde(borrow, default)]
    pub(super) denied: Field<'a, String>,
    #[serde(borrow, default)]
    pub(super) blacklist: Field<'a, String>,
    #[serde(borrow, default)]
    pub(super) cluster: Field<'a, String>,
    #[serde(borrow, default)]
    pub(super) ipv6_prefix: Field<'a, u8>,
}

/// One of `domains: [..]`.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Domain<'a> {
    #[serde(borrow, default)]
    pub(super) name: Field<'a, String>,
    #[serde(borrow, default)]
    pub(super) aliases: Field<'a, Vec<Field<'a, String>>>,
    #[serde(borrow, default)]
    pub(super) addresses: Field<'a, Vec<Field<'a, String>>>,
    #[serde(borrow, default)]
    pub(super) certificate: Field<'a, Certificate<'a>>,
}

/// `certificate: ..`.
#[derive(Deserialize)]
pub(super) enum Certificate<'a> {
    SelfSigned,
    #[serde(borrow)]
    Files(Files<'a>),
}

/// `Files(..)`.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Files<'a> {
    #[serde(borrow, default)]
    pub(super) chain: Field<'a, String>,
    #[serde(borrow, default)]
    pub(super) key: Field<'a, String>,
}

/// `listeners/NAME.ron`.
#[derive(Deserialize)]
pub(super) enum Listener<'a> {
    #[serde(borrow)]
    Tcp(Tcp<'a>),
    #[serde(borrow)]
    Udp(Udp<'a>),
}

/// `Tcp(..)`.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Tcp<'a> {
    #[serde(borrow, default)]
    pub(super) module: Field<'a, ()>,
    #[serde(borrow, default)]
    pub(super) channels: Field<'a, u32>,
    #[serde(borrow, default)]
    pub(super) reserve_for_clients: Field<'a, u32>,
    #[serde(borrow, default)]
    pub(super) limit_per_address: Field<'a, u32>,
    #[serde(borrow, default)]
    pub(super) limit_non_clients: Field<'a, u32>,
    #[serde(borrow, default)]
    pub(super) handshake_timeout: Field<'a, String>,
    #[serde(borrow, default)]
    pub(super) idle_timeout: Field<'a, String>,
    #[serde(borrow, default)]
    pub(super) backlog: Field<'a, u32>,
    #[serde(borrow, default)]
    pub(super) log_level: Field<'a, LogLevel>,
    #[serde(borrow, default)]
    pub(super) sockets: Field<'a, Vec<Field<'a, Socket<'a>>>>,
}

/// `Udp(..)`. Keys that only TCP has are read to be refused in words.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Udp<'a> {
    #[serde(borrow, default)]
    pub(super) module: Field<'a, ()>,
    #[serde(borrow, default)]
    pub(super) log_level: Field<'a, LogLevel>,
    #[serde(borrow, default)]
    pub(super) sockets: Field<'a, Vec<Field<'a, Socket<'a>>>>,
    #[serde(borrow, default)]
    pub(super) rate_per_address: Field<'a, Rate<'a>>,
    #[serde(borrow, default)]
    pub(super) rate_per_client: Field<'a, Rate<'a>>,
    #[serde(borrow, default)]
    pub(super) kernel_filter: Field<'a, bool>,
    #[serde(borrow, default)]
    pub(super) channels: Field<'a, ()>,
    #[serde(borrow, default)]
    pub(super) reserve_for_clients: Field<'a, ()>,
    #[serde(borrow, default)]
    pub(super) limit_per_address: Field<'a, ()>,
    #[serde(borrow, default)]
    pub(super) limit_non_clients: Field<'a, ()>,
    #[serde(borrow, default)]
    pub(super) handshake_timeout: Field<'a, ()>,
    #[serde(borrow, default)]
    pub(super) idle_timeout: Field<'a, ()>,
    #[serde(borrow, default)]
    pub(super) backlog: Field<'a, ()>,
}

/// `rate_per_address: (..)`.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Rate<'a> {
    #[serde(borrow, default)]
    pub(super) packets: Field<'a, u32>,
    #[serde(borrow, default)]
    pub(super) per: Field<'a, String>,
    #[serde(borrow, default)]
    pub(super) burst: Field<'a, u32>,
}

/// One of `sockets: [..]`.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Socket<'a> {
    #[serde(borrow, default)]
    pub(super) port: Field<'a, u16>,
    #[serde(borrow, default)]
    pub(super) address: Field<'a, String>,
    #[serde(borrow, default)]
    pub(super) tls: Field<'a, Tls>,
    #[serde(borrow, default)]
    pub(super) restriction: Field<'a, Restriction<'a>>,
    #[serde(borrow, default)]
    pub(super) proxy_from: Field<'a, String>,
    #[serde(borrow, default)]
    pub(super) client_ca: Field<'a, String>,
}

/// `tls: ..`.
#[derive(Deserialize, Clone, Copy)]
pub(super) enum Tls {
    Off,
    On,
    Ext,
}

/// `restriction: ..`.
#[derive(Deserialize)]
pub(super) enum Restriction<'a> {
    #[serde(borrow)]
    Grant(Field<'a, String>),
    #[serde(borrow)]
    Deny(Field<'a, String>),
}

/// `log_level: ..`.
#[derive(Deserialize, Clone, Copy)]
pub(super) enum LogLevel {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}
