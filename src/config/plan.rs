#![forbid(unsafe_code)]
//! What the configuration means, checked: addresses, lists, durations and modules are values here.
//! The rest of the program sees nothing else of the configuration.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::admission::address_list::AddressList;
use crate::admission::ladder::Restriction;
use crate::admission::limits::LimitSettings;
use crate::admission::rates::RateSettings;
use crate::config::ConfigError;
use crate::control::Link;
use crate::privileges::RunAs;
use crate::sandbox::{Need, Switches, What};
use crate::session::{DatagramModule, Module};
use crate::tls::{ClientAuthority, Domains};

/// A whole configuration.
#[derive(Debug)]
pub struct Plan {
    /// The file it was read from; empty for one built by a program, which cannot be reloaded.
    pub file: PathBuf,
    /// The way from the modules to the server; bound by [`Server::bind`](crate::server::Server::bind).
    pub link: Link,
    /// Threads that run sessions.
    pub workers: usize,
    /// Where the daemon keeps what must survive it, and its control socket.
    pub state_dir: PathBuf,
    /// Server-wide lists.
    pub network: Arc<Network>,
    /// Domains and their certificates.
    pub domains: Arc<Domains>,
    /// How long connections may go on after SIGTERM.
    pub drain: Duration,
    /// How long connections may go on in the old process after an upgrade.
    pub upgrade_drain: Duration,
    /// How much memory, in bytes, the stages of overload keep the daemon under; `None` is what its control group
    /// allows.
    pub memory: Option<u64>,
    /// The URL of a Redis or Valkey server by which daemons know bans and counts together.
    pub shared: Option<String>,
    /// Bans for misdeeds that modules report; `None` makes none.
    pub auto_ban: Option<AutoBan>,
    /// Whom the daemon runs as; `None` is whoever started it. [`portreeve run`](crate::cli) sees to it, no
    /// server does.
    pub run_as: Option<RunAs>,
    /// What the process may still do when it serves; put in force by [`sandbox::enter`](crate::sandbox::enter).
    pub sandbox: Switches,
    /// What the files ask for beside sockets.
    pub(crate) needs: Vec<Need>,
    /// Listeners by name, in the order of their names.
    pub listeners: Vec<ListenerPlan>,
    /// Remarks that are no errors, as `FILE:LINE:COLUMN: message`.
    pub notices: Vec<String>,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            file: PathBuf::new(),
            link: Link::default(),
            workers: 64,
            state_dir: PathBuf::from("var"),
            network: Arc::new(Network::default()),
            domains: Arc::default(),
            drain: Duration::from_secs(10),
            upgrade_drain: Duration::from_secs(3600),
            memory: None,
            shared: None,
            auto_ban: None,
            run_as: None,
            sandbox: Switches::default(),
            needs: Vec::new(),
            listeners: Vec::new(),
            notices: Vec::new(),
        }
    }
}

impl Plan {
    /// Adds a listener, for programs that bring their own modules.
    #[must_use]
    pub fn listen(mut self, listener: ListenerPlan) -> Self {
        self.listeners.push(listener);
        self
    }
}

impl Plan {
    /// The same, and the sandbox lets a file be made where `file` is.
    pub(crate) fn writing_beside(mut self, file: &Path) -> Self {
        let folder = file.parent().unwrap_or(Path::new(""));
        self.needs.push(Need {
            what: What::Writable(Path::new(".").join(folder)),
            place: ConfigError {
                file: file.to_owned(),
                line: 1,
                column: 1,
                message: String::new(),
            },
        });
        self
    }
}

impl ListenerPlan {
    /// A TCP listener without sockets, with default limits.
    #[must_use]
    pub fn tcp(name: &str, module: Arc<dyn Module>) -> Self {
        let tcp = TcpPlan {
            module,
            limits: LimitSettings::default(),
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: None,
        };
        Self::new(name, Protocol::Tcp(tcp))
    }

    /// A UDP listener without sockets.
    #[must_use]
    pub fn udp(name: &str, module: Arc<dyn DatagramModule>) -> Self {
        Self::new(
            name,
            Protocol::Udp(UdpPlan {
                module,
                rates: RateSettings::default(),
                kernel_filter: false,
            }),
        )
    }

    /// Adds a socket of one address, or of all for an unspecified one; port 0 lets the kernel choose.
    #[must_use]
    pub fn socket(mut self, address: SocketAddr) -> Self {
        let ip = address.ip().to_canonical();
        self.sockets.push(SocketPlan {
            port: address.port(),
            address: (!ip.is_unspecified()).then_some(ip),
            ..SocketPlan::default()
        });
        self
    }

    fn new(name: &str, protocol: Protocol) -> Self {
        ListenerPlan {
            name: name.into(),
            file: PathBuf::new(),
            version: 0,
            module: String::new(),
            settings: String::new(),
            protocol,
            log_level: log::LevelFilter::Info,
            sockets: Vec::new(),
        }
    }
}

impl Default for SocketPlan {
    fn default() -> Self {
        SocketPlan {
            port: 0,
            address: None,
            tls: TlsMode::Off,
            restriction: Restriction::Open,
            proxy_from: None,
            client_ca: None,
            // mio's own bind takes 128, which overflows at 300 quick connects and costs them a second.
            backlog: 4096,
        }
    }
}

impl Default for Network {
    fn default() -> Self {
        Network {
            clients: AddressList::default(),
            denied: AddressList::default(),
            blacklist: AddressList::default(),
            cluster: AddressList::default(),
            ipv6_prefix: 64,
        }
    }
}

/// Server-wide address lists.
#[derive(Debug)]
pub struct Network {
    /// Addresses of class client.
    pub clients: AddressList,
    /// Refused on every socket.
    pub denied: AddressList,
    /// Heard out and refused by the SMTP module.
    pub blacklist: AddressList,
    /// Our own other servers: exempt from the per-address rung.
    pub cluster: AddressList,
    /// Bits of an IPv6 address that are counted as one, 1 to 128.
    pub ipv6_prefix: u8,
}

/// When misdeeds lead to a ban.
#[derive(Debug, Clone)]
pub struct AutoBan {
    /// How many, 1 to 255.
    pub failures: u32,
    /// Within which time.
    pub within: Duration,
    /// How long the ban lasts.
    pub lasts: Duration,
    /// Who is never banned; clients are not, either.
    pub never: AddressList,
}

/// One listener.
#[derive(Debug)]
pub struct ListenerPlan {
    /// Its file's stem.
    pub name: Arc<str>,
    /// The file it was read from; empty for one built by a program.
    pub file: PathBuf,
    /// The text of that file, by its hash; 0 for one built by a program.
    pub version: u64,
    /// The name of its module in the table.
    pub module: String,
    /// The module with its settings as they stand in the file; empty for one built by a program.
    pub settings: String,
    /// Its protocol and what belongs to it.
    pub protocol: Protocol,
    /// Log lines of this listener above this level are left out.
    pub log_level: log::LevelFilter,
    /// Its sockets; rows with port 0 are not here.
    pub sockets: Vec<SocketPlan>,
}

/// A listener's transport and module.
pub enum Protocol {
    /// Streams.
    Tcp(TcpPlan),
    /// Datagrams.
    Udp(UdpPlan),
}

/// What a TCP listener has.
pub struct TcpPlan {
    /// Makes its sessions.
    pub module: Arc<dyn Module>,
    /// Channels, reserve and limits per address.
    pub limits: LimitSettings,
    /// The most time for a PROXY header and a TLS handshake.
    pub handshake_timeout: Duration,
    /// Overrides the module's own.
    pub idle_timeout: Option<Duration>,
}

/// What a UDP listener has.
pub struct UdpPlan {
    /// Answers its datagrams.
    pub module: Arc<dyn DatagramModule>,
    /// How many datagrams an address may send.
    pub rates: RateSettings,
    /// The kernel drops what the lists refuse, uncounted, as far as they fit into a socket filter.
    pub kernel_filter: bool,
}

/// One socket of a listener.
#[derive(Debug, Clone)]
pub struct SocketPlan {
    /// 1 to 65535; 0 only in programs and tests, where the kernel chooses.
    pub port: u16,
    /// `None` is every local address.
    pub address: Option<IpAddr>,
    /// When TLS starts.
    pub tls: TlsMode,
    /// Who may connect.
    pub restriction: Restriction,
    /// Senders that begin each connection with a PROXY header.
    pub proxy_from: Option<AddressList>,
    /// Who must have signed the clients' certificates.
    pub client_ca: Option<ClientAuthority>,
    /// Connections the kernel holds until they are accepted.
    pub backlog: i32,
}

/// When TLS starts on a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsMode {
    /// Not by itself; a module may upgrade.
    #[default]
    Off,
    /// Right after admission.
    On,
    /// Something in front did it.
    Ext,
}

impl TlsMode {
    /// As written in a configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            TlsMode::Off => "Off",
            TlsMode::On => "On",
            TlsMode::Ext => "Ext",
        }
    }
}

impl std::fmt::Debug for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Protocol::Tcp(_) => "Tcp",
            Protocol::Udp(_) => "Udp",
        })
    }
}
