#![forbid(unsafe_code)]
//! What `portreeve status` shows: plain values, and the JSON form that users' scripts read. No sockets, no clock.
//!
//! Field names and their order are fixed; a field may be added, none may go away.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The daemon at one moment.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Status {
    /// Listeners in the order of their names.
    pub listeners: Vec<ListenerStatus>,
    /// The threads that run sessions.
    pub workers: WorkerStatus,
    /// How near the server is to its limits; absent in an answer of an older version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overload: Option<OverloadStatus>,
    /// How it stands with daemons that share bans and counts; absent where none do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<SharedStatus>,
}

/// How it stands with daemons that share bans and counts with this one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SharedStatus {
    /// The server that carries the news.
    pub server: String,
    /// News come and go; else this daemon goes on by its own counts.
    pub connected: bool,
    /// Other daemons that are alive.
    pub nodes: usize,
    /// Why it is not connected.
    pub error: Option<String>,
}

/// How near the server is to its limits, and what it does about it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct OverloadStatus {
    /// 0 (calm) to 3.
    pub stage: u8,
    /// `calm`, `strained`, `guarded` or `slowed`.
    pub name: String,
    /// What asked for the stage: `queue wait`, `descriptors` or `memory`; null when it is 0.
    pub cause: Option<String>,
    /// How long turns wait for a worker, in seconds.
    pub queue_wait: f64,
    /// Open descriptors.
    pub descriptors: ShareStatus,
    /// Resident memory in bytes.
    pub memory: ShareStatus,
}

/// A part of what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ShareStatus {
    /// What is in use.
    pub used: u64,
    /// What may be; null where there is no limit.
    pub limit: Option<u64>,
}

/// One listener and its counters since the daemon started.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// The stem of its file.
    pub name: String,
    /// `tcp` or `udp`.
    pub transport: String,
    /// The most connections at once; 0 for UDP.
    pub channels: u32,
    /// Connections now, those in their handshake included; 0 for UDP.
    pub active: u32,
    /// Connections, or datagrams, that were admitted.
    pub accepted: u64,
    /// Connections refused, or datagrams dropped, by reason; a reason that never occurred may be absent.
    pub rejected: BTreeMap<String, u64>,
    /// Its sockets.
    pub sockets: Vec<SocketStatus>,
}

/// One open socket.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SocketStatus {
    /// The bound port: where a program asked for port 0, the one that the kernel chose.
    pub port: u16,
    /// `None` (null in JSON) is every local address.
    pub address: Option<IpAddr>,
    /// `Off`, `On` or `Ext`.
    pub tls: String,
}

/// The threads that run sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// How many there are; fixed while the daemon runs.
    pub total: usize,
    /// How many are in a turn.
    pub busy: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text of the contract, keys in its order.
    const FIXED: &str = concat!(
        r#"{"listeners":[{"name":"smtp","transport":"tcp","channels":200,"active":2,"accepted":9,"#,
        r#""rejected":{"denied":3,"full":1},"sockets":[{"port":25,"address":null,"tls":"Off"},"#,
        r#"{"port":2525,"address":"192.0.2.1","tls":"Ext"}]}],"workers":{"total":64,"busy":1}}"#
    );

    #[test]
    fn the_json_is_the_one_of_the_contract_and_reads_back() {
        let status = Status {
            listeners: vec![ListenerStatus {
                name: "smtp".into(),
                transport: "tcp".into(),
                channels: 200,
                active: 2,
                accepted: 9,
                rejected: [("full".to_owned(), 1), ("denied".to_owned(), 3)].into(),
                sockets: vec![
                    SocketStatus {
                        port: 25,
                        address: None,
                        tls: "Off".into(),
                    },
                    SocketStatus {
                        port: 2525,
                        address: "192.0.2.1".parse().ok(),
                        tls: "Ext".into(),
                    },
                ],
            }],
            workers: WorkerStatus { total: 64, busy: 1 },
            overload: None,
            shared: None,
        };
        assert_eq!(serde_json::to_string(&status).expect("plain values"), FIXED);
        assert_eq!(
            serde_json::from_str::<Status>(FIXED).expect("its own text"),
            status
        );
    }
}
