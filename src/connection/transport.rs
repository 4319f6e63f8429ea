#![forbid(unsafe_code)]
//! Bytes between a socket and the buffers, clear or protected.

use std::io::{self, Read, Write};

use mio::net::TcpStream;
use nix::sys::sendfile::sendfile64;

use super::secure::{Choose, Secure, SecureScratch, Shaken};
use crate::session::{Input, Output};

/// How far a write got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// Everything is written.
    All,
    /// The socket takes no more for now.
    Blocked,
}

/// What a read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Got {
    /// Bytes; `more` when the socket or rustls may hold further ones.
    Bytes { more: bool },
    /// Nothing for now.
    Nothing,
    /// The peer finished.
    End,
    /// The stream ended without close_notify: what came before may be cut short.
    Truncated,
}

/// A connection's way to the wire, and how many payload bytes have gone it.
#[derive(Default)]
pub(crate) struct Transport {
    way: Way,
    pub(super) received: u64,
    pub(super) sent: u64,
}

#[derive(Default)]
enum Way {
    /// Clear bytes.
    #[default]
    Clear,
    /// Protected bytes, or the handshake that leads there.
    Secure(Box<Secure>),
}

/// How much one read may bring: a TLS record's worth (RFC 8446, 5.1).
const CHUNK: usize = 16 * 1024;

impl Transport {
    /// Turns clear bytes into the beginning of a handshake.
    pub(crate) fn secure(&mut self, scratch: Option<&mut SecureScratch>) {
        let mut secure = Secure::new();
        if let Some(scratch) = scratch {
            secure.lend(scratch);
        }
        self.way = Way::Secure(secure);
    }

    /// Borrows storage for a turn.
    pub(crate) fn lend(&mut self, scratch: &mut SecureScratch) {
        if let Way::Secure(secure) = &mut self.way {
            secure.lend(scratch);
        }
    }

    /// Gives it back.
    pub(crate) fn give_back(&mut self, scratch: &mut SecureScratch) {
        if let Way::Secure(secure) = &mut self.way {
            secure.give_back(scratch);
        }
    }

    /// Goes on with the handshake as far as the socket lets it.
    pub(crate) fn shake(&mut self, stream: &mut TcpStream, choose: &mut Choose<'_>) -> Shaken {
        match &mut self.way {
            Way::Secure(secure) => secure.shake(stream, choose),
            Way::Clear => Shaken::Failed(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// Reads once into the input.
    pub(crate) fn read(&mut self, stream: &mut TcpStream, input: &mut Input) -> io::Result<Got> {
        let result = self.receive(stream, &mut input.room(CHUNK)[..CHUNK]);
        input.add(result.as_ref().map_or(0, |(count, _)| *count));
        match result {
            Ok((0, got)) => Ok(got),
            Ok((count, _)) => Ok(Got::Bytes {
                more: count == CHUNK || !self.is_clear(),
            }),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Got::Nothing),
            Err(error) => Err(error),
        }
    }

    /// Reads once: how many bytes, and what it means when there are none.
    pub(crate) fn receive(
        &mut self,
        stream: &mut TcpStream,
        into: &mut [u8],
    ) -> io::Result<(usize, Got)> {
        let received = match &mut self.way {
            Way::Secure(secure) => secure.receive(stream, into),
            Way::Clear => retry(|| stream.read(into)).map(|count| (count, Got::End)),
        };
        if let Ok((count, _)) = received {
            self.received += count as u64;
        }
        received
    }

    /// Writes once: how many bytes were taken, 0 when the socket takes no more for now.
    pub(crate) fn send(&mut self, stream: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
        let taken = match &mut self.way {
            Way::Clear => retry(|| stream.write(bytes)),
            Way::Secure(secure) => secure.send(stream, bytes),
        };
        match taken {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            taken => taken.inspect(|count| self.sent += *count as u64),
        }
    }

    /// True where bytes go to the wire as they are.
    pub(crate) fn is_clear(&self) -> bool {
        matches!(self.way, Way::Clear)
    }

    /// True when protected bytes wait for the socket.
    pub(crate) fn is_pending(&self) -> bool {
        matches!(&self.way, Way::Secure(secure) if secure.is_pending())
    }

    /// Writes as much of the output as the socket takes.
    pub(crate) fn flush(
        &mut self,
        stream: &mut TcpStream,
        output: &mut Output,
    ) -> io::Result<Flushed> {
        let sent = &mut self.sent;
        match &mut self.way {
            Way::Clear => flush_clear(stream, output, sent),
            Way::Secure(secure) => flush_secure(secure, stream, output, sent),
        }
    }

    /// Says that no more bytes follow, where the protocol has a word for it.
    pub(crate) fn finish(&mut self, stream: &mut TcpStream) {
        if let Way::Secure(secure) = &mut self.way {
            secure.finish(stream);
        }
    }
}

fn flush_secure(
    secure: &mut Secure,
    stream: &mut TcpStream,
    output: &mut Output,
    sent: &mut u64,
) -> io::Result<Flushed> {
    use std::os::unix::fs::FileExt;
    loop {
        if secure.flush(stream)? == Flushed::Blocked {
            return Ok(Flushed::Blocked);
        }
        if output.is_empty() {
            return Ok(Flushed::All);
        }
        if let Some((file, offset, length)) = output.front_file() {
            let mut chunk = [0; CHUNK];
            let want = usize::try_from(*length).unwrap_or(CHUNK).min(CHUNK);
            let count = file.read_at(&mut chunk[..want], *offset)?;
            if count == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "a file became shorter",
                ));
            }
            // The whole piece is taken: nothing is pending, and it fits a record.
            let count = secure.send(stream, &chunk[..count])?;
            *offset += count as u64;
            *length -= count as u64;
            *sent += count as u64;
            if *length == 0 {
                output.pop_file();
            }
        } else {
            let count = secure.send(stream, output.front())?;
            output.advance(count);
            *sent += count as u64;
        }
    }
}

fn flush_clear(
    stream: &mut TcpStream,
    output: &mut Output,
    total: &mut u64,
) -> io::Result<Flushed> {
    while !output.is_empty() {
        let written = if let Some((file, offset, length)) = output.front_file() {
            let count = usize::try_from(*length).unwrap_or(usize::MAX).min(2 << 20);
            let mut at = i64::try_from(*offset).map_err(io::Error::other)?;
            let sent = retry(|| Ok(sendfile64(&*stream, file, Some(&mut at), count)?));
            if let Ok(sent) = sent {
                if sent == 0 {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "a file became shorter",
                    ));
                }
                *offset += sent as u64;
                *length -= sent as u64;
                *total += sent as u64;
                if *length == 0 {
                    output.pop_file();
                }
            }
            sent.map(|_| ())
        } else {
            retry(|| stream.write(output.front())).and_then(|count| {
                if count == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                output.advance(count);
                *total += count as u64;
                Ok(())
            })
        };
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Flushed::Blocked),
            Err(error) => return Err(error),
        }
    }
    Ok(Flushed::All)
}

/// Repeats a call that a signal interrupted.
pub(super) fn retry(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
