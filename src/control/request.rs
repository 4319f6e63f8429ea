#![forbid(unsafe_code)]
//! What the daemon can be asked and what it answers: plain values and their JSON form, which is also that of
//! the Admin module's API. docs/control.md shows each by example. A field may be added, none may go away.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Deserializer, Serialize};

/// A request. As JSON: `{"command":"status"}`, with its other fields beside `command`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Request {
    /// The answer is a [`Status`](crate::server::status::Status).
    Status,
    /// The answer is a text in the OpenMetrics format.
    Metrics,
    /// Reads the files again and puts them in force, all or nothing. The answer is a [`Reloaded`].
    Reload {
        /// Only says what would change.
        #[serde(default)]
        dry_run: bool,
    },
    /// Starts the program as it is on disk now in this one's place, with the listening sockets. The answer is an
    /// [`Upgraded`], once the new process serves; an error when it cannot, and then nothing has changed.
    Upgrade,
    /// Keeps an address or network out for a time, and closes its connections. The answer is a [`Banned`].
    Ban {
        /// An address or CIDR. A single IPv6 address stands for its prefix of `ipv6_prefix` bits.
        address: String,
        /// How long, like `"10m"`; a day where it is absent.
        #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
        lasts: Option<String>,
    },
    /// Takes a ban back. The answer is the [`Ban`] that was.
    Unban {
        /// As it was given to `ban`.
        address: String,
    },
    /// The answer is a list of [`Ban`], those that end soonest first.
    Bans,
    /// The answer is a list of [`ConnectionRow`], the oldest first.
    Connections,
    /// Closes connections at once. The answer is a [`Disconnected`]. Just one of the fields is set.
    Disconnect {
        /// One connection, as [`ConnectionRow::id`] names it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        /// All connections of an address or CIDR.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        address: Option<String>,
    },
    /// Opens one more socket and writes it into the listener's file. The answer is a [`Changed`].
    SocketAdd {
        /// The listener's name.
        listener: String,
        /// The new row; its `index` is not looked at.
        row: Box<Row>,
    },
    /// Closes a socket and takes it out of the listener's file. The answer is a [`Changed`].
    SocketRemove {
        /// The listener's name.
        listener: String,
        /// The port.
        #[serde(deserialize_with = "text")]
        port: String,
        /// The address; empty for a socket of all addresses.
        #[serde(default, deserialize_with = "text")]
        address: String,
    },
    /// The answer is a list of [`ListenerForm`] in the order of their names.
    Listeners,
    /// Puts the rows and limits of one listener into its file and in force, all or nothing. The answer is a
    /// [`Changed`], or [`Response::Invalid`](super::Response::Invalid) with row and field of each fault.
    EditListener {
        /// The listener's name.
        name: String,
        /// [`ListenerForm::version`] as it was when the form was shown: a file that somebody else has
        /// changed meanwhile is left alone. Empty takes the file as it is.
        #[serde(default)]
        version: String,
        /// All rows that the listener is to have. Those with port 0 or an empty port are removed, as are
        /// those of the file that are not here.
        sockets: Vec<Row>,
        /// Absent for UDP, and where they stay as they are.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limits: Option<LimitsForm>,
    },
    /// The answer is the [`Lists`].
    Lists,
    /// Puts a server-wide list into its file and in force. The answer is a [`Changed`], or
    /// [`Response::Invalid`](super::Response::Invalid) with line and column of each fault in `text`.
    EditList {
        /// Which one.
        which: List,
        /// The whole list, comments included.
        text: String,
        /// [`Lists::version`] as it was when the list was shown: a file that somebody else has changed
        /// meanwhile is left alone. Empty takes the file as it is.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        version: String,
    },
    /// Why an address is admitted or refused. The answer is an [`Explained`].
    Explain {
        /// The listener's name.
        listener: String,
        /// The remote address.
        address: IpAddr,
        /// Only this socket; all of the listener where it is absent. An unspecified address with a port is
        /// the socket of all addresses.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        socket: Option<SocketAddr>,
    },
}

/// Something wrong in what was asked for, and where. Absent parts are left out of the JSON form.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Fault {
    /// The place among the rows that were sent, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row: Option<usize>,
    /// The field's name in [`Row`] or [`LimitsForm`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The file; absent where the text that was sent is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The line, from 1: of the file, or of the list in the field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The column, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
    /// What is wrong and what was expected.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{file}:")?;
        }
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, "{line}:{column}: ")?;
        }
        if let Some(row) = self.row {
            write!(f, "row {}: ", row + 1)?;
        }
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// The answer to [`Request::Reload`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Reloaded {
    /// False for a dry run.
    pub applied: bool,
    /// A line for each thing that changes; none when nothing does.
    pub changes: Vec<String>,
    /// Keys that keep their old value until the daemon is started anew.
    pub needs_restart: Vec<String>,
    /// Remarks of the check.
    pub notices: Vec<String>,
    /// Connections open now that the new rules would refuse; they stay open. Filled by a dry run.
    pub would_refuse: Vec<WouldRefuse>,
}

/// The answer to [`Request::Upgrade`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Upgraded {
    /// The process that serves from now on.
    pub pid: u32,
    /// The process that did.
    pub old_pid: u32,
    /// Sockets that were handed over.
    pub sockets: usize,
    /// Connections and exchanges that the old process goes on with.
    pub staying: usize,
}

/// A connection that would not be let in again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WouldRefuse {
    /// As [`ConnectionRow::id`].
    pub id: String,
    /// The listener it came to.
    pub listener: String,
    /// Its remote address.
    pub address: IpAddr,
    /// The rung's reason, or `no_socket` where nobody would listen.
    pub reason: String,
}

/// A change of a file and of what runs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Changed {
    /// A line for each thing that changed; none when nothing did.
    pub changes: Vec<String>,
    /// Remarks of the check.
    pub notices: Vec<String>,
}

/// One ban.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    /// An address, or a network in CIDR notation.
    pub address: String,
    /// Its end, in seconds since 1970.
    pub until: u64,
    /// Seconds until then, rounded up.
    pub left: u64,
    /// `hand` or `automatic`.
    pub by: String,
}

/// The answer to [`Request::Ban`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Banned {
    /// The ban in force now.
    #[serde(flatten)]
    pub ban: Ban,
    /// Connections that were closed for it.
    pub closed: usize,
}

/// One open connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionRow {
    /// Names it for `disconnect`; never used again.
    pub id: String,
    /// Its listener.
    pub listener: String,
    /// Its remote address and port; behind `proxy_from`, those in the header.
    pub address: SocketAddr,
    /// The address and port it came to.
    pub local: SocketAddr,
    /// `client` or `other`.
    pub class: String,
    /// Seconds since it was admitted.
    pub age: u64,
    /// Payload bytes received; absent where a program has the socket to itself.
    pub received: Option<u64>,
    /// Payload bytes sent.
    pub sent: Option<u64>,
    /// `TLSv1.3`, `TLSv1.2` or `Ext`; absent for clear bytes.
    pub tls: Option<String>,
    /// `header` (of a proxy in front, awaited), `handshake`, `idle` (parked), `working` (queued or in a
    /// worker), `waiting` (for a disk, an upstream, a hash), `relay`, `program`, `closing`.
    pub state: String,
}

/// The answer to [`Request::Disconnect`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Disconnected {
    /// Connections that are gone.
    pub closed: usize,
    /// Connections whose module is at work and that end when it pauses.
    pub closing: usize,
}

/// One listener as it can be edited: what its file says now.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ListenerForm {
    /// Its name.
    pub name: String,
    /// `tcp` or `udp`.
    pub transport: String,
    /// Its module's name.
    pub module: String,
    /// Its file; empty where a program built it, and then it cannot be edited.
    pub file: String,
    /// Names this state of the file, for [`Request::EditListener`].
    pub version: String,
    /// False when the file was changed on disk and not put in force since.
    pub in_force: bool,
    /// Connections now; 0 for UDP.
    pub active: u32,
    /// Its sockets in the order of the file, without those of port 0.
    pub sockets: Vec<Row>,
    /// Absent for UDP.
    pub limits: Option<LimitsForm>,
    /// Why the file cannot be read; the rest is empty then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A row of the table of sockets. All fields are texts as a form sends them, so that what was typed can be
/// shown again beside its fault; JSON may have numbers in their place, and null for an empty one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Row {
    /// Its place in the file's `sockets`, from 0, so that it keeps its comments. Without it, a row of the
    /// same port and address is looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// 1 to 65535; 0 or empty means no socket.
    #[serde(deserialize_with = "text")]
    pub port: String,
    /// A local address; empty means all.
    #[serde(deserialize_with = "text")]
    pub address: String,
    /// `Off`, `On` or `Ext`; empty is `Off`. Always `Off` for UDP.
    #[serde(deserialize_with = "text")]
    pub tls: String,
    /// `none`, `Grant` or `Deny`; empty is `none`.
    #[serde(deserialize_with = "text")]
    pub restriction: String,
    /// The restriction's list with its comments. A list is kept in the file only by a restriction.
    #[serde(deserialize_with = "text")]
    pub list: String,
    /// The list of proxies in front. Absent in an edit: as it was; empty: none any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_from: Option<String>,
    /// The file of authorities for client certificates, relative to the listener's file. Absent in an edit: as
    /// it was; empty: none any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<String>,
}

/// The limits of a TCP listener, as texts. An empty one stands for the default (100 channels, reserve 0, no
/// limit) and takes the key out of the file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsForm {
    /// The most connections at once.
    #[serde(deserialize_with = "text")]
    pub channels: String,
    /// The last so many channels are for clients.
    #[serde(deserialize_with = "text")]
    pub reserve_for_clients: String,
    /// The most connections of one client address.
    #[serde(deserialize_with = "text")]
    pub limit_per_address: String,
    /// The same for other addresses.
    #[serde(deserialize_with = "text")]
    pub limit_non_clients: String,
}

/// The server-wide lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum List {
    /// Addresses of class client.
    Clients,
    /// Refused on every socket.
    Denied,
    /// Heard out and refused by the SMTP module.
    Blacklist,
    /// Our own other servers.
    Cluster,
}

impl List {
    /// All of them.
    pub const ALL: [List; 4] = [List::Clients, List::Denied, List::Blacklist, List::Cluster];

    /// The key in the server's file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            List::Clients => "clients",
            List::Denied => "denied",
            List::Blacklist => "blacklist",
            List::Cluster => "cluster",
        }
    }
}

/// The texts of the server-wide lists as the file has them now, comments included.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Lists {
    /// Addresses of class client.
    pub clients: String,
    /// Refused on every socket.
    pub denied: String,
    /// Heard out and refused by the SMTP module.
    pub blacklist: String,
    /// Our own other servers.
    pub cluster: String,
    /// Names this state of the file, for [`Request::EditList`].
    #[serde(default)]
    pub version: String,
}

/// The answer to [`Request::Explain`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Explained {
    /// True for the rules, counts and bans of the running daemon; false for the files alone.
    pub running: bool,
    /// Each socket that was asked about.
    pub sockets: Vec<ExplainedSocket>,
}

/// What one socket says to an address.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ExplainedSocket {
    /// Its listener.
    pub listener: String,
    /// Its port.
    pub port: u16,
    /// Its address; absent for all.
    pub local: Option<IpAddr>,
    /// The six rungs in their order.
    pub rungs: Vec<ExplainedRung>,
    /// The domain of a client that names no server, and what chose it; absent for UDP.
    pub domain: Option<String>,
    /// The reason of the rung that refuses; absent when the address is admitted.
    pub refused: Option<String>,
}

/// One rung.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ExplainedRung {
    /// The reason it refuses with.
    pub name: String,
    /// `pass`, `refuse`, `not reached` or `not applicable`.
    pub verdict: String,
    /// The list's line that decided, or the numbers.
    pub because: String,
}

/// A text; a number as its text, null as the empty one.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Any {
        Text(String),
        Number(serde_json::Number),
    }
    Ok(match Option::deserialize(deserializer)? {
        Some(Any::Text(text)) => text,
        Some(Any::Number(number)) => number.to_string(),
        None => String::new(),
    })
}
