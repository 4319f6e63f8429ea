//! The daemon seen from outside: every test starts the binary, talks to its sockets and reads
//! what its commands print. Nothing here knows the library.
//!
//! | file | what it asks |
//! |---|---|
//! | `harness.rs` | starts a daemon on free ports, connects from chosen addresses, waits with deadlines |
//! | `ladder.rs` | who is let in, how many, for which reason not, and that the counts are right |
//! | `churn.rs` | slots are given back exactly once, however fast or rudely a peer leaves |
//! | `idle.rs` | ten thousand silent clients hold no worker; timeouts end the silent ones only |
//! | `datagrams.rs` | UDP answers come from the address asked, whole, or not at all |
//! | `forward.rs` | flows of datagrams: dig through the daemon to dnsmasq, forged answers, full tables, dead upstreams |
//! | `kernel_filter.rs` | lists that the kernel minds, through reloads and edits; floods with and without it |
//! | `modules.rs` | echo, discard and daytime on TCP |
//! | `sockets.rs` | which sockets are opened, which conflict, and what is said when one cannot be |
//! | `signals.rs` | SIGTERM drains, twice stops at once |
//! | `foreign.rs` | starts nginx, haproxy, dnsmasq and socat beside the daemon, and makes certificates with openssl |
//! | `tls.rs` | handshakes with openssl and gnutls, domains, client certificates, bad and silent openings |
//! | `proxy_from.rs` | PROXY headers of proxies in front, haproxy among them |
//! | `proxy.rs` | relays: to nginx and Unix sockets, half-closed, slow, in bulk, and with upstreams that die |
//! | `admin.rs` | the Admin pages in Chromium, its API with curl, its metrics with Prometheus' parser |
//! | `http.rs` | files over HTTP with curl, Python and wrk; slow readers, deadlines, the access log |
//! | `reverse_proxy.rs` | requests passed to nginx and to a server that answers as asked (`upstream.py`) |
//! | `ldap.rs` | a directory, to OpenLDAP's tools, python and shelldap, and before slapd |
//! | `exec.rs` | programs on connections: their environment, descriptors, users and ends |
//! | `radius.rs` | access and accounting with radclient and pyrad, and behind FreeRADIUS |
//! | `sip.rs` | registrations and calls with sipsak and sipp, over UDP and TCP, in bad weather and over restarts |
//! | `snmp.rs` | net-snmp's tools in every version, and the MIB before smilint and snmptranslate |
//! | `tftp.rs` | files over TFTP with tftp-hpa, atftp and curl, and what leads out of the root |
//! | `weather.rs` | a relay that loses, doubles and reorders datagrams |
//! | `smtp.rs` | mail in, from curl, swaks, smtplib and smtp-source; what is on disk after kill -9 |
//! | `pop.rs` | mail out, to curl, poplib and mpop |
//! | `imap.rs` | mail kept, with curl, imaplib and mbsync; IDLE of thousands, and kill -9 |
//! | `mail_gates.rs` | before Postfix and Dovecot, and before servers that die or never answer |
//! | `descriptors.rs` | running out of descriptors costs no CPU and loses no connection |
//! | `faults.rs` | system calls that fail by a seed: slots, descriptors, processor and mail afterwards |
//! | `overload.rs` | what a daemon near its limits stops doing, and that it takes it up again |
//! | `reload.rs` | reloads lose no connection, change all or nothing, and say what they do |
//! | `upgrade.rs` | another process in the daemon's place: nobody is refused or cut |
//! | `shared.rs` | three daemons and a Redis server: bans and counts known together, and what is done while it is away |
//! | `bans.rs` | who is kept out by hand, for how long, and over a restart |
//! | `connections.rs` | who is connected, and how a person ends it |
//! | `live_sockets.rs` | sockets and lists changed in file and daemon alike, kill -9 included |
//! | `account.rs` | accounts as the command line sets them |
//! | `package.rs` | the Debian package, installed and driven by its init script, where the feature `manual` builds its pages |
//! | `cli.rs` | exit codes and texts of the commands, and foreign clients |
//! | `load.rs` | the load generator of the benchmarks, where the feature `load` builds it |
//! | `demo.rs` | the configuration that is shipped |

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on says where by panicking"
)]

mod account;
mod admin;
mod bans;
mod churn;
mod cli;
mod connections;
mod datagrams;
mod demo;
mod descriptors;
mod exec;
mod faults;
mod foreign;
mod forward;
mod harness;
mod http;
mod idle;
mod imap;
mod kernel_filter;
mod ladder;
mod ldap;
mod live_sockets;
#[cfg(feature = "load")]
mod load;
mod mail_gates;
mod modules;
mod overload;
#[cfg(feature = "manual")]
mod package;
mod pop;
mod proxy;
mod proxy_from;
mod radius;
mod reload;
mod reverse_proxy;
mod shared;
mod signals;
mod sip;
mod smtp;
mod snmp;
mod sockets;
mod tftp;
mod tls;
mod upgrade;
mod weather;
