#![forbid(unsafe_code)]
//! The far socket of a relay: TCP or Unix.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use mio::event::Source;
use mio::net::{TcpStream, UnixStream};

use crate::session::{Target, UpstreamStream};

/// A non-blocking upstream socket.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Begins to connect.
    pub(crate) fn open(target: &Target) -> io::Result<Socket> {
        match target {
            Target::Tcp(address) => {
                let stream = TcpStream::connect(*address)?;
                let _ = stream.set_nodelay(true);
                Ok(Socket::Tcp(stream))
            }
            Target::Unix(path) => UnixStream::connect(path).map(Socket::Unix),
        }
    }

    /// Takes over a connected socket.
    pub(crate) fn adopt(stream: UpstreamStream) -> io::Result<Socket> {
        Ok(match stream {
            UpstreamStream::Tcp(stream) => {
                stream.set_nonblocking(true)?;
                Socket::Tcp(TcpStream::from_std(stream))
            }
            UpstreamStream::Unix(stream) => {
                stream.set_nonblocking(true)?;
                Socket::Unix(UnixStream::from_std(stream))
            }
        })
    }

    /// For the poll.
    pub(crate) fn source(&mut self) -> &mut dyn Source {
        match self {
            Socket::Tcp(stream) => stream,
            Socket::Unix(stream) => stream,
        }
    }

    /// Lets the close of the socket be a reset, where the protocol has one.
    pub(crate) fn reset(&self) {
        if let Socket::Tcp(stream) = self {
            let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }

    /// Whether a connect under way has succeeded.
    pub(crate) fn connected(&self) -> io::Result<bool> {
        let peer = match self {
            Socket::Tcp(stream) => stream.peer_addr().map(|_| ()),
            Socket::Unix(stream) => stream.peer_addr().map(|_| ()),
        };
        match peer {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                let error = match self {
                    Socket::Tcp(stream) => stream.take_error()?,
                    Socket::Unix(stream) => stream.take_error()?,
                };
                error.map_or(Ok(false), Err)
            }
            Err(error) => Err(error),
        }
    }

    /// Says that no more bytes follow.
    pub(crate) fn finish(&self) {
        let _ = match self {
            Socket::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Socket::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
    }
}

impl Socket {
    /// Gives a connected socket to whoever goes on with it.
    pub(crate) fn into_stream(self) -> UpstreamStream {
        match self {
            Socket::Tcp(stream) => UpstreamStream::Tcp(stream.into()),
            Socket::Unix(stream) => UpstreamStream::Unix(stream.into()),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.read(into),
            Socket::Unix(stream) => stream.read(into),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Socket::Tcp(stream) => stream.write(bytes),
            Socket::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Tcp(stream) => stream.as_fd(),
            Socket::Unix(stream) => stream.as_fd(),
        }
    }
}
