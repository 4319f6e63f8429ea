#![forbid(unsafe_code)]
//! Bytes between a socket and the buffers. The only file that names rustls' connection types.

use std::io::{self, Read, Write};
use std::sync::Arc;

use mio::net::TcpStream;
use nix::sys::sendfile::sendfile64;
use rustls::server::{Acceptor, ClientHello};
use rustls::{ServerConfig, ServerConnection};

use crate::session::{Input, Output, TlsFacts};

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

/// How far a handshake got.
#[derive(Debug)]
pub(crate) enum Shaken {
    /// It goes on when the socket is ready: for writing when true, else for reading.
    Waits { write: bool },
    /// It is complete.
    Done(TlsFacts),
    /// It failed.
    Failed(io::Error),
}

/// Chooses the settings once the client has named a server: the domain and its settings.
pub(crate) type Choose<'a> = dyn FnMut(Option<&str>) -> Option<(String, Arc<ServerConfig>)> + 'a;

/// A connection's way to the wire.
pub(crate) enum Transport {
    /// Clear bytes.
    Clear,
    /// The client's first message is awaited.
    Hello(Box<Acceptor>),
    /// The handshake goes on, for this domain.
    Handshake(Box<ServerConnection>, String),
    /// Protected bytes.
    Tls(Box<ServerConnection>),
}

/// How much one read may bring: a TLS record's worth (RFC 8446, 5.1).
const CHUNK: usize = 16 * 1024;

impl Transport {
    /// Turns clear bytes into the beginning of a handshake.
    pub(crate) fn secure(&mut self) {
        *self = Transport::Hello(Box::default());
    }

    /// Goes on with the handshake as far as the socket lets it.
    pub(crate) fn shake(&mut self, stream: &mut TcpStream, choose: &mut Choose<'_>) -> Shaken {
        loop {
            match self {
                Transport::Hello(acceptor) => match hello(acceptor, stream, choose) {
                    Ok(Some((connection, domain))) => {
                        *self = Transport::Handshake(connection, domain);
                    }
                    Ok(None) => return Shaken::Waits { write: false },
                    Err(error) => return Shaken::Failed(error),
                },
                Transport::Handshake(connection, domain) => {
                    match shake(connection, stream) {
                        Ok(None) => {}
                        Ok(Some(write)) => return Shaken::Waits { write },
                        Err(error) => return Shaken::Failed(error),
                    }
                    let facts = facts(connection, std::mem::take(domain));
                    let Transport::Handshake(connection, _) =
                        std::mem::replace(self, Transport::Clear)
                    else {
                        return Shaken::Failed(io::ErrorKind::InvalidData.into());
                    };
                    *self = Transport::Tls(connection);
                    return Shaken::Done(facts);
                }
                Transport::Clear | Transport::Tls(_) => {
                    return Shaken::Failed(io::ErrorKind::InvalidInput.into());
                }
            }
        }
    }

    /// Reads once into the input.
    pub(crate) fn read(&mut self, stream: &mut TcpStream, input: &mut Input) -> io::Result<Got> {
        let buffer = input.buffer();
        let before = buffer.len();
        buffer.resize(before + CHUNK, 0);
        let result = self.receive(stream, &mut buffer[before..]);
        buffer.truncate(before + result.as_ref().map_or(0, |(count, _)| *count));
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
        match self {
            Transport::Tls(connection) => read_tls(connection, stream, into),
            Transport::Clear => retry(|| stream.read(into)).map(|count| (count, Got::End)),
            Transport::Hello(_) | Transport::Handshake(..) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Writes once: how many bytes were taken, 0 when the socket takes no more for now.
    pub(crate) fn send(&mut self, stream: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
        let taken = match self {
            Transport::Clear => retry(|| stream.write(bytes)),
            Transport::Tls(connection) => {
                let taken = connection.writer().write(bytes)?;
                // What the socket does not take now is pending.
                write_tls(connection, stream).map(|_| taken)
            }
            Transport::Hello(_) | Transport::Handshake(..) => Ok(0),
        };
        match taken {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            taken => taken,
        }
    }

    /// True where bytes go to the wire as they are.
    pub(crate) fn is_clear(&self) -> bool {
        matches!(self, Transport::Clear)
    }

    /// True when protected bytes wait for the socket.
    pub(crate) fn is_pending(&self) -> bool {
        matches!(self, Transport::Tls(connection) if connection.wants_write())
    }

    /// Writes as much of the output as the socket takes.
    pub(crate) fn flush(
        &mut self,
        stream: &mut TcpStream,
        output: &mut Output,
    ) -> io::Result<Flushed> {
        match self {
            Transport::Clear => flush_clear(stream, output),
            Transport::Tls(connection) => flush_tls(connection, stream, output),
            Transport::Hello(_) | Transport::Handshake(..) => Ok(Flushed::All),
        }
    }

    /// Says that no more bytes follow, where the protocol has a word for it.
    pub(crate) fn finish(&mut self, stream: &mut TcpStream) {
        if let Transport::Tls(connection) = self {
            connection.send_close_notify();
            // A peer that does not take it in has no use for it.
            let _ = write_tls(connection, stream);
        }
    }
}

fn hello(
    acceptor: &mut Acceptor,
    stream: &mut TcpStream,
    choose: &mut Choose<'_>,
) -> io::Result<Option<(Box<ServerConnection>, String)>> {
    loop {
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let hello: ClientHello<'_> = accepted.client_hello();
                let Some((domain, config)) = choose(hello.server_name()) else {
                    return Err(io::Error::new(io::ErrorKind::NotFound, "no certificate"));
                };
                return match accepted.into_connection(config) {
                    Ok(connection) => Ok(Some((Box::new(connection), domain))),
                    Err((error, mut alert)) => {
                        let _ = alert.write_all(stream);
                        Err(io::Error::new(io::ErrorKind::InvalidData, error))
                    }
                };
            }
            Ok(None) => {}
            Err((error, mut alert)) => {
                let _ = alert.write_all(stream);
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
        match retry(|| acceptor.read_tls(stream)) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// `None` when the handshake is complete and sent; else whether it waits for writing.
fn shake(connection: &mut ServerConnection, stream: &mut TcpStream) -> io::Result<Option<bool>> {
    loop {
        if write_tls(connection, stream)? == Flushed::Blocked {
            return Ok(Some(true));
        }
        if !connection.is_handshaking() {
            return Ok(None);
        }
        match retry(|| connection.read_tls(stream)) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => process(connection, stream)?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Some(false)),
            Err(error) => return Err(error),
        }
    }
}

fn facts(connection: &ServerConnection, domain: String) -> TlsFacts {
    let version = match connection.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
        _ => "TLSv1.2",
    };
    let cipher = connection.negotiated_cipher_suite();
    TlsFacts {
        version,
        cipher: cipher
            .and_then(|suite| suite.suite().as_str())
            .unwrap_or_default()
            .replace("TLS13_", "TLS_"),
        server_name: connection.server_name().map(str::to_owned),
        alpn: connection.alpn_protocol().map(<[u8]>::to_vec),
        domain,
        client_certificate: connection
            .peer_certificates()
            .and_then(|chain| chain.first())
            .map(|certificate| certificate.to_vec()),
    }
}

fn process(connection: &mut ServerConnection, stream: &mut TcpStream) -> io::Result<()> {
    connection
        .process_new_packets()
        .map(|_| ())
        .map_err(|error| {
            // The alert says what was wrong; whether it arrives changes nothing.
            let _ = write_tls(connection, stream);
            io::Error::new(io::ErrorKind::InvalidData, error)
        })
}

/// Bytes read, and what it means when there are none.
fn read_tls(
    connection: &mut ServerConnection,
    stream: &mut TcpStream,
    into: &mut [u8],
) -> io::Result<(usize, Got)> {
    loop {
        match connection.reader().read(into) {
            Ok(0) => return Ok((0, Got::End)),
            Ok(count) => return Ok((count, Got::End)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Ok((0, Got::Truncated));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        retry(|| connection.read_tls(stream))?;
        process(connection, stream)?;
        if connection.wants_write() {
            // Key updates and the like; what does not fit goes out with the next flush.
            let _ = write_tls(connection, stream)?;
        }
    }
}

fn flush_tls(
    connection: &mut ServerConnection,
    stream: &mut TcpStream,
    output: &mut Output,
) -> io::Result<Flushed> {
    use std::os::unix::fs::FileExt;
    loop {
        if write_tls(connection, stream)? == Flushed::Blocked {
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
            connection.writer().write_all(&chunk[..count])?;
            *offset += count as u64;
            *length -= count as u64;
            if *length == 0 {
                output.pop_file();
            }
        } else {
            let count = connection.writer().write(output.front())?;
            output.advance(count);
        }
    }
}

fn write_tls(connection: &mut ServerConnection, stream: &mut TcpStream) -> io::Result<Flushed> {
    while connection.wants_write() {
        match retry(|| connection.write_tls(stream)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Flushed::Blocked),
            Err(error) => return Err(error),
        }
    }
    Ok(Flushed::All)
}

fn flush_clear(stream: &mut TcpStream, output: &mut Output) -> io::Result<Flushed> {
    while !output.is_empty() {
        let written = if let Some((file, offset, length)) = output.front_file() {
            let count = usize::try_from(*length).unwrap_or(usize::MAX).min(1 << 20);
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
