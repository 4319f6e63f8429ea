#![forbid(unsafe_code)]
//! Batches of datagrams per system call, with the local address that was asked.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg,
    sendmmsg, setsockopt, sockopt,
};

use crate::session::datagram::Route;

/// Datagrams in one system call.
pub(super) const BATCH: usize = 32;
/// Room for the largest datagram there is (RFC 768).
const ROOM: usize = 65_536;

/// Lets a wildcard socket tell which local address was asked.
pub(crate) fn prepare(socket: &socket2::Socket, ipv6: bool, wildcard: bool) -> io::Result<()> {
    if wildcard {
        if ipv6 {
            setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        } else {
            setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?;
        }
    }
    Ok(())
}

/// A thread's room for one batch. Pages that no datagram has reached are never touched.
#[derive(Default)]
pub(crate) struct Receiver {
    /// By kind of socket, made by the first of its kind. The lengths of addresses and control data that a call
    /// leaves there are the room of the next one, so another kind's would cut its addresses short.
    headers: [Option<MultiHeaders<SockaddrStorage>>; 4],
    /// Made by the first call.
    buffers: Vec<u8>,
}

impl Receiver {
    /// One receive call: each datagram's sender, the local address it was sent to, and its bytes.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there.
    pub(crate) fn receive(
        &mut self,
        socket: &impl AsRawFd,
        ipv6: bool,
        wildcard: bool,
        mut each: impl FnMut(SocketAddr, Option<IpAddr>, &[u8]),
    ) -> io::Result<usize> {
        if self.buffers.is_empty() {
            self.buffers = vec![0; BATCH * ROOM];
        }
        let mut slices: Vec<[IoSliceMut<'_>; 1]> = self
            .buffers
            .chunks_exact_mut(ROOM)
            .map(|room| [IoSliceMut::new(room)])
            .collect();
        let kind = usize::from(ipv6) * 2 + usize::from(wildcard);
        let headers = self.headers[kind].get_or_insert_with(|| {
            let control = cmsg_space!(in6_pktinfo);
            MultiHeaders::preallocate(BATCH, Some(control))
        });
        let flags = MsgFlags::MSG_DONTWAIT;
        let results = recvmmsg(socket.as_raw_fd(), headers, slices.iter_mut(), flags, None)?;
        let mut count = 0;
        for received in results {
            count += 1;
            let Some(remote) = received.address.as_ref().and_then(address) else {
                continue;
            };
            let local = received
                .cmsgs()
                .ok()
                .and_then(|mut messages| messages.find_map(asked));
            // An empty datagram is one, too (RFC 768), and has no piece of memory.
            each(remote, local, received.iovs().next().unwrap_or_default());
        }
        Ok(count)
    }
}

fn asked(message: ControlMessageOwned) -> Option<IpAddr> {
    match message {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            Some(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)).into())
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            Some(IpAddr::V6(Ipv6Addr::from(info.ipi6_addr.s6_addr)).to_canonical())
        }
        _ => None,
    }
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let address: SocketAddr = match (storage.as_sockaddr_in(), storage.as_sockaddr_in6()) {
        (Some(v4), _) => SocketAddr::V4((*v4).into()),
        (_, Some(v6)) => SocketAddr::V6((*v6).into()),
        _ => return None,
    };
    // A link-local sender is answered through its scope, so only mapped addresses are rewritten.
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => Some(SocketAddr::new(v4.into(), address.port())),
        IpAddr::V6(_) => Some(address),
    }
}

/// How many of a batch could be handed to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) sent: usize,
    pub(crate) failed: usize,
}

/// Sends datagrams, each from the local address given with it. One that cannot be sent is skipped; a full
/// socket buffer drops the rest, as a network may.
pub(crate) fn send(
    socket: &(impl AsFd + AsRawFd),
    ipv6: bool,
    datagrams: &[(&Route, &[u8])],
) -> io::Result<Sent> {
    let mut result = Sent { sent: 0, failed: 0 };
    let mut rest = datagrams;
    while let Some((Route { local, .. }, _)) = rest.first() {
        let together = rest
            .iter()
            .take(BATCH)
            .take_while(|(other, _)| other.local == *local)
            .count();
        let slices: Vec<[IoSlice<'_>; 1]> = rest[..together]
            .iter()
            .map(|(_, bytes)| [IoSlice::new(bytes)])
            .collect();
        let addresses: Vec<_> = rest[..together]
            .iter()
            .map(|(route, _)| Some(storage(route.remote, ipv6)))
            .collect();
        let (v4, v6);
        let control = match (local, ipv6) {
            (Some(IpAddr::V4(local)), false) => {
                let ipi_spec_dst = in_addr {
                    s_addr: u32::from(*local).to_be(),
                };
                v4 = in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst,
                    ipi_addr: in_addr { s_addr: 0 },
                };
                vec![ControlMessage::Ipv4PacketInfo(&v4)]
            }
            (Some(local), true) => {
                let ipi6_addr = in6_addr {
                    s6_addr: mapped(*local).octets(),
                };
                v6 = in6_pktinfo {
                    ipi6_ifindex: 0,
                    ipi6_addr,
                };
                vec![ControlMessage::Ipv6PacketInfo(&v6)]
            }
            _ => Vec::new(),
        };
        let flags = MsgFlags::MSG_DONTWAIT;
        // Room for control data that then is not used would be read as bad control data.
        let room = (!control.is_empty()).then(|| cmsg_space!(in6_pktinfo));
        let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(together, room);
        match sendmmsg(
            socket.as_raw_fd(),
            &mut headers,
            &slices,
            &addresses,
            &control,
            flags,
        ) {
            Ok(sent) => {
                let sent = sent.count();
                result.sent += sent;
                rest = &rest[sent..];
            }
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) => {
                result.failed += rest.len();
                break;
            }
            Err(_) => {
                result.failed += 1;
                rest = &rest[1..];
            }
        }
    }
    Ok(result)
}

fn storage(remote: SocketAddr, ipv6: bool) -> SockaddrStorage {
    match remote {
        SocketAddr::V4(v4) if ipv6 => {
            SocketAddr::new(mapped(IpAddr::V4(*v4.ip())).into(), v4.port()).into()
        }
        _ => remote.into(),
    }
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}
