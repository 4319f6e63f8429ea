#![forbid(unsafe_code)]
//! Connections from many addresses of 127.0.0.0/8, as if many clients came.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Socket, Type};

use super::options::Load;

/// How long a connection that is opened before the measuring may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Targets and sources, taken in turn.
pub(super) struct Sources {
    target: SocketAddr,
    ports: u16,
    first: u32,
    count: u32,
    step: u32,
    turn: u32,
}

impl Sources {
    pub(super) fn of(load: &Load) -> Self {
        Self::new(
            load.target,
            load.ports,
            load.source,
            load.sources,
            load.source_step,
        )
    }

    /// `count` addresses from `first` on, `step` apart; 0 leaves the source to the kernel.
    pub(super) fn new(
        target: SocketAddr,
        ports: u16,
        first: Ipv4Addr,
        count: u32,
        step: u32,
    ) -> Self {
        Sources {
            target,
            ports: ports.max(1),
            first: u32::from(first),
            count: if target.is_ipv4() { count } else { 0 },
            step,
            turn: 0,
        }
    }

    /// The next pair. Neighbours in time are far apart in address: multiplying by an odd number visits every
    /// address of a power of two once before it repeats.
    fn next(&mut self) -> (SocketAddr, Option<SocketAddr>) {
        self.turn = self.turn.wrapping_add(1);
        let mut target = self.target;
        let offset = self.turn % u32::from(self.ports);
        target.set_port(
            self.target
                .port()
                .saturating_add(u16::try_from(offset).unwrap_or(0)),
        );
        let source = (self.count > 0).then(|| {
            let number = self.turn.wrapping_mul(0x9E37_79B1) % self.count;
            let address = self.first.wrapping_add(number.wrapping_mul(self.step));
            SocketAddr::new(IpAddr::V4(Ipv4Addr::from(address)), 0)
        });
        (target, source)
    }

    fn socket(&mut self, kind: Type) -> io::Result<(Socket, SocketAddr)> {
        let (target, source) = self.next();
        let socket = Socket::new(Domain::for_address(target), kind, None)?;
        if let Some(source) = source {
            // The port is chosen at connect, by all four parts: else the ports of an address run out.
            setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
            socket.bind(&source.into())?;
        }
        Ok((socket, target))
    }

    /// Begins to connect.
    pub(super) fn connect(&mut self) -> io::Result<mio::net::TcpStream> {
        let (socket, target) = self.socket(Type::STREAM.nonblocking())?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&target.into()) {
            Err(error) if error.raw_os_error() != Some(nix::libc::EINPROGRESS) => Err(error),
            _ => Ok(mio::net::TcpStream::from_std(socket.into())),
        }
    }

    /// Connects, and waits for it.
    pub(super) fn connect_blocking(&mut self) -> io::Result<TcpStream> {
        let (socket, target) = self.socket(Type::STREAM)?;
        socket.connect_timeout(&target.into(), PATIENCE)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        Ok(socket.into())
    }

    /// A connected datagram socket.
    pub(super) fn datagrams(&mut self) -> io::Result<UdpSocket> {
        let (socket, target) = self.socket(Type::DGRAM.nonblocking())?;
        socket.connect(&target.into())?;
        Ok(socket.into())
    }
}
