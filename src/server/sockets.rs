#![forbid(unsafe_code)]
//! Opens listening sockets, and says clearly why one cannot be opened.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::udp_io;
use crate::config::plan::SocketPlan;
use crate::upgrade::Given;

/// Why the server cannot start, or a socket not be opened. Displays as a whole sentence without a trailing dot.
#[derive(Debug)]
pub struct StartError {
    message: String,
    /// The socket that is meant.
    pub(crate) place: Option<(u16, Option<IpAddr>)>,
}

impl StartError {
    pub(crate) fn new(message: String) -> Self {
        StartError {
            message,
            place: None,
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for StartError {}

/// A bound UDP socket and how it was bound.
pub(crate) struct BoundUdp {
    pub(crate) socket: mio::net::UdpSocket,
    pub(crate) ipv6: bool,
}

/// Binds, or takes the socket that was `given` for this place, and listens. Accepted sockets inherit TCP_NODELAY and
/// keepalive.
pub(crate) fn bind_tcp(
    listener: &Arc<str>,
    plan: &SocketPlan,
    given: Option<Given>,
) -> Result<mio::net::TcpListener, StartError> {
    let options = |socket: &Socket| {
        // Without it a restart fails while old connections are in TIME_WAIT; it hides no conflict on Linux.
        socket.set_reuse_address(true)?;
        socket.set_tcp_nodelay(true)?;
        // Two hours, the system's default, is longer than most middleboxes remember a silent connection.
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(300))
            .with_interval(Duration::from_secs(60));
        socket.set_tcp_keepalive(&keepalive)
    };
    let socket = match given {
        Some(Given::Tcp(given)) => adopt(Socket::from(given), options),
        _ => bind(plan, Type::STREAM, Protocol::TCP, options),
    };
    let (socket, _) = socket
        .and_then(|(socket, ipv6)| socket.listen(plan.backlog).map(|()| (socket, ipv6)))
        .map_err(|error| explain(listener, "tcp", plan, &error))?;
    Ok(mio::net::TcpListener::from_std(socket.into()))
}

/// A socket that somebody else has bound, with the options that one of ours has.
fn adopt(
    socket: Socket,
    options: impl Fn(&Socket) -> io::Result<()>,
) -> io::Result<(Socket, bool)> {
    socket.set_nonblocking(true)?;
    options(&socket)?;
    let ipv6 = socket.domain()? == Domain::IPV6;
    Ok((socket, ipv6))
}

/// Binds a datagram socket that can tell which local address was asked, or takes the one that was `given`. It
/// `shares` its port with one of ours that is about to be closed, and that lets it.
pub(crate) fn bind_udp(
    listener: &Arc<str>,
    plan: &SocketPlan,
    shares: bool,
    given: Option<Given>,
) -> Result<BoundUdp, StartError> {
    let options = |socket: &Socket| socket.set_reuse_address(shares);
    let socket = match given {
        Some(Given::Udp(given)) => adopt(Socket::from(given), options),
        _ => bind(plan, Type::DGRAM, Protocol::UDP, options),
    };
    let (socket, ipv6) = socket
        .and_then(|(socket, ipv6)| {
            udp_io::prepare(&socket, ipv6, plan.address.is_none())?;
            // A burst waits here while a batch is handled; the kernel caps it at net.core.rmem_max.
            let _ = socket.set_recv_buffer_size(4 << 20);
            // Asked at the binding only: from here on nobody shares the port with it.
            socket.set_reuse_address(false)?;
            Ok((socket, ipv6))
        })
        .map_err(|error| explain(listener, "udp", plan, &error))?;
    Ok(BoundUdp {
        socket: mio::net::UdpSocket::from_std(socket.into()),
        ipv6,
    })
}

/// Binds and lets go again, without listening.
pub(crate) fn try_bind(
    listener: &Arc<str>,
    transport: &str,
    plan: &SocketPlan,
) -> Result<(), StartError> {
    let bound = match transport {
        "udp" => bind(plan, Type::DGRAM, Protocol::UDP, |_| Ok(())),
        _ => bind(plan, Type::STREAM, Protocol::TCP, |socket| {
            socket.set_reuse_address(true)
        }),
    };
    let bound = bound.map_err(|error| explain(listener, transport, plan, &error));
    bound.map(drop)
}

/// The address that a TCP peer connected to, an IPv4-mapped one as IPv4.
pub(crate) fn local_address(
    stream: &mio::net::TcpStream,
    plan: &SocketPlan,
) -> io::Result<SocketAddr> {
    match plan.address {
        // Known without asking the kernel.
        Some(address) if plan.port > 0 => Ok(SocketAddr::new(address, plan.port)),
        _ => Ok(canonical(stream.local_addr()?)),
    }
}

/// An IPv4-mapped address as IPv4.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Makes the close of a refused connection a reset, which leaves no state behind.
pub(crate) fn reset(stream: mio::net::TcpStream) {
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    drop(stream);
}

fn bind(
    plan: &SocketPlan,
    kind: Type,
    protocol: Protocol,
    options: impl Fn(&Socket) -> io::Result<()>,
) -> io::Result<(Socket, bool)> {
    let open = |address: SocketAddr, dual: bool| -> io::Result<(Socket, bool)> {
        let socket = Socket::new(
            Domain::for_address(address),
            kind.nonblocking(),
            Some(protocol),
        )?;
        if address.is_ipv6() {
            socket.set_only_v6(!dual)?;
        }
        options(&socket)?;
        socket.bind(&address.into())?;
        Ok((socket, address.is_ipv6()))
    };
    let Some(address) = plan.address else {
        let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), plan.port);
        return match open(any, true) {
            // A kernel without IPv6.
            Err(error)
                if matches!(
                    error.raw_os_error().map(nix::errno::Errno::from_raw),
                    Some(nix::errno::Errno::EAFNOSUPPORT | nix::errno::Errno::EADDRNOTAVAIL)
                ) =>
            {
                open(
                    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), plan.port),
                    false,
                )
            }
            result => result,
        };
    };
    open(SocketAddr::new(address, plan.port), false)
}

fn explain(
    listener: &Arc<str>,
    transport: &str,
    plan: &SocketPlan,
    error: &io::Error,
) -> StartError {
    let place = match plan.address {
        Some(address) => SocketAddr::new(address, plan.port).to_string(),
        None => format!("port {} of all addresses", plan.port),
    };
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!(
                "; another program holds it (see: ss -lpn 'sport = :{}')",
                plan.port
            )
        }
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need root or CAP_NET_BIND_SERVICE".to_owned()
        }
        io::ErrorKind::AddrNotAvailable => {
            "; no interface of this machine has that address".to_owned()
        }
        _ => String::new(),
    };
    StartError {
        message: format!("listener {listener}: cannot open {transport} {place}: {error}{hint}"),
        place: Some((plan.port, plan.address)),
    }
}
