#![forbid(unsafe_code)]
//! The command line of the load generator.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, Parser, Subcommand, ValueEnum};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::sources::Sources;

/// Loads a listener on this machine and tells rate, latency and what it cost the server.
#[derive(Parser)]
#[command(name = "portreeve-load", version)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) mode: Mode,
}

/// What an operation is.
#[derive(Subcommand)]
pub(super) enum Mode {
    /// Connect, send bytes, get them back, close
    Echo {
        #[command(flatten)]
        load: Load,
        /// Connections opened before, which stay silent
        #[arg(long, default_value_t = 0)]
        parked: usize,
    },
    /// Connect and be closed without a byte
    Refused {
        #[command(flatten)]
        load: Load,
    },
    /// Send bytes and get them back on connections that stay
    Pingpong {
        #[command(flatten)]
        load: Load,
        /// Connections a second beside it that are refused
        #[arg(long, value_parser = rate)]
        refused_rate: Option<f64>,
        /// The first address these come from
        #[arg(long, default_value = "127.32.0.0")]
        refused_source: Ipv4Addr,
        /// How many addresses these come from
        #[arg(long, default_value_t = 1024)]
        refused_sources: u32,
    },
    /// Complete a TLS 1.3 handshake (X25519, TLS_AES_128_GCM_SHA256), get a ticket, close
    Tls {
        #[command(flatten)]
        load: Load,
        /// Resume by tickets
        #[arg(long)]
        resume: bool,
    },
    /// Open connections, let each echo once (or, with TLS, shake hands), hold them
    Hold {
        #[command(flatten)]
        load: Load,
        /// With TLS
        #[arg(long)]
        tls: bool,
        /// How long they are held before the server's memory is read
        #[arg(long, default_value = "500ms", value_parser = humantime::parse_duration)]
        idle: Duration,
    },
    /// Move bytes: through an echo server and back, or from an upstream that this program plays
    Bulk {
        #[command(flatten)]
        load: Load,
        /// How many
        #[arg(long, default_value = "1GiB")]
        bytes: ByteSize,
        /// Listen here, where the server under load connects to, and send the bytes
        #[arg(long, value_parser = loopback)]
        upstream: Option<SocketAddr>,
    },
    /// Keep windows of datagrams under way
    Udp {
        #[command(flatten)]
        load: Load,
        /// Datagrams under way a socket
        #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=256))]
        window: u16,
        /// What they say
        #[arg(long, value_enum, default_value = "echo")]
        speaks: Speaks,
    },
    /// Run a command in a network namespace of its own (needs root)
    Netns {
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

/// What datagrams say.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Speaks {
    /// Bytes that mean nothing
    Echo,
    /// SNMPv2c, community public: GET sysUpTime.0
    Snmp,
    /// RADIUS, secret testing123: Access-Request of nemo, User-Password arctangent
    RadiusPap,
    /// The same with CHAP-Password
    RadiusChap,
}

impl Mode {
    /// The mode's name, and what all loads have.
    pub(super) fn load(&self) -> Option<(&'static str, &Load)> {
        match self {
            Mode::Echo { load, .. } => Some(("echo", load)),
            Mode::Refused { load } => Some(("refused", load)),
            Mode::Pingpong { load, .. } => Some(("pingpong", load)),
            Mode::Tls {
                load,
                resume: false,
            } => Some(("tls-full", load)),
            Mode::Tls { load, .. } => Some(("tls-resumed", load)),
            Mode::Hold { load, .. } => Some(("hold", load)),
            Mode::Bulk { load, .. } => Some(("bulk", load)),
            Mode::Udp { load, .. } => Some(("udp", load)),
            Mode::Netns { .. } => None,
        }
    }
}

/// What all loads have.
#[derive(Args)]
pub(super) struct Load {
    /// The server, a loopback address
    #[arg(value_parser = loopback)]
    pub(super) target: SocketAddr,
    /// Connections (or UDP sockets) at once
    #[arg(long, short, default_value_t = 64, value_parser = connections)]
    pub(super) connections: usize,
    /// Consecutive ports from the target's on, taken in turn
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) ports: u16,
    /// Bytes an operation
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) size: u16,
    /// How long to measure, at most an hour
    #[arg(long, default_value = "2s", value_parser = time)]
    pub(super) time: Duration,
    /// Load before measuring begins
    #[arg(long, default_value = "0s", value_parser = time)]
    pub(super) warmup: Duration,
    /// End after so many operations
    #[arg(long)]
    pub(super) count: Option<u64>,
    /// Begin so many operations a second whatever comes back; latency counts from the intended time
    #[arg(long, value_parser = rate)]
    pub(super) rate: Option<f64>,
    /// The first address that connections come from
    #[arg(long, default_value = "127.1.0.1")]
    pub(super) source: Ipv4Addr,
    /// How many addresses they come from; 0 leaves the choice to the kernel
    #[arg(long, default_value_t = 4096)]
    pub(super) sources: u32,
    /// From one of these addresses to the next
    #[arg(long, default_value_t = 1)]
    pub(super) source_step: u32,
    /// A process of the server; its CPU and memory are told, with those of its children
    #[arg(long, value_name = "PID")]
    pub(super) watch: Vec<u32>,
    /// A process that belongs to the load, such as a backend
    #[arg(long, value_name = "PID")]
    pub(super) aside: Vec<u32>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// The addresses from which refused connections come beside a ping-pong.
pub(super) fn refused_sources(mode: &Mode) -> Sources {
    match mode {
        Mode::Pingpong {
            load,
            refused_source,
            refused_sources,
            ..
        } => Sources::new(load.target, 1, *refused_source, *refused_sources, 1),
        _ => unreachable!("only a ping-pong has refusals beside it"),
    }
}

/// A load generator that can be pointed anywhere is a weapon.
fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| "not ADDRESS:PORT".to_owned())?;
    match address.ip().to_canonical().is_loopback() {
        true => Ok(address),
        false => Err("not an address of this machine's loopback".to_owned()),
    }
}

fn connections(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=100_000) => Ok(count),
        _ => Err("not 1 to 100000".to_owned()),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.001..=10_000_000.0).contains(&rate) => Ok(rate),
        _ => Err("not 0.001 to 10000000 a second".to_owned()),
    }
}

fn time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match time <= Duration::from_secs(3600) {
        true => Ok(time),
        false => Err("more than an hour".to_owned()),
    }
}

/// As many descriptors as we may have.
pub(super) fn raise_descriptors() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
