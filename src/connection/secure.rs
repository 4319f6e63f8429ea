#![forbid(unsafe_code)]
//! TLS over a non-blocking socket. The only file that names rustls' connection types.
//!
//! rustls' unbuffered interface is used: records are decrypted from, and encrypted to, storage that belongs
//! to the worker, so an idle connection keeps no buffer of its own (rustls' own would be 4 KiB each).

use std::io::{self, Read, Write};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{Acceptor, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};

use super::transport::{Flushed, Got, retry};
use crate::session::TlsFacts;
use crate::session::store::Store;

/// The most plaintext in one record (RFC 8446, 5.1).
const RECORD: usize = 16 * 1024;
/// The most a record adds to it: header, tag, padding of TLS 1.2 (RFC 5246, 6.2.3).
const OVERHEAD: usize = 5 + 2048;
/// The most bytes kept of messages that are not whole: what rustls takes for a handshake message, and a
/// record.
const MOST_INCOMING: usize = 64 * 1024 + RECORD + OVERHEAD;
/// Above this many encrypted bytes that the peer does not take, nothing more of its is looked at.
const MOST_OUTGOING: usize = 4 * (RECORD + OVERHEAD);

/// The most reads from the socket for one byte of the peer's.
const MOST_READS: usize = 1024;

/// Chooses the settings once the client has named a server: the domain and its settings.
pub(crate) type Choose<'a> = dyn FnMut(Option<&str>) -> Option<(String, Arc<ServerConfig>)> + 'a;

/// Storage that a turn borrows from its worker.
#[derive(Debug, Default)]
pub(crate) struct SecureScratch {
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
}

/// A connection's TLS.
pub(crate) struct Secure {
    /// Absent until the client's first message is whole and its settings are chosen.
    connection: Option<UnbufferedServerConnection>,
    /// The domain and the name that the client asked for, until the handshake is complete.
    chosen: Option<Box<(String, Option<String>)>>,
    incoming: Store,
    outgoing: Store,
    /// Decrypted bytes that nobody has asked for yet.
    plain: Store,
    /// The peer has sent close_notify.
    peer_closed: bool,
    /// We have.
    closed: bool,
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

/// What the record layer wants next.
enum Step {
    /// More bytes of the peer's.
    Starved,
    /// Application data may be written.
    Writable,
    /// As much as there was room for was decrypted.
    Read(usize),
}

impl Secure {
    pub(super) fn new() -> Box<Self> {
        Box::new(Secure {
            connection: None,
            chosen: None,
            incoming: Store::default(),
            outgoing: Store::default(),
            plain: Store::default(),
            peer_closed: false,
            closed: false,
        })
    }

    pub(super) fn lend(&mut self, scratch: &mut SecureScratch) {
        self.incoming.lend(&mut scratch.incoming);
        self.outgoing.lend(&mut scratch.outgoing);
    }

    pub(super) fn give_back(&mut self, scratch: &mut SecureScratch) {
        self.incoming.give_back(&mut scratch.incoming);
        self.outgoing.give_back(&mut scratch.outgoing);
        if self.plain.is_empty() {
            self.plain = Store::default();
        }
    }

    /// Goes on with the handshake as far as the socket lets it.
    pub(super) fn shake(
        &mut self,
        stream: &mut (impl Read + Write),
        choose: &mut Choose<'_>,
    ) -> Shaken {
        match self.try_shake(stream, choose) {
            Ok(None) => Shaken::Done(self.facts()),
            Ok(Some(write)) => Shaken::Waits { write },
            Err(error) => {
                // The alert says what was wrong; whether it arrives changes nothing.
                let _ = self.flush(stream);
                Shaken::Failed(error)
            }
        }
    }

    /// `None` when the handshake is complete and sent; else whether it waits for writing.
    fn try_shake(
        &mut self,
        stream: &mut (impl Read + Write),
        choose: &mut Choose<'_>,
    ) -> io::Result<Option<bool>> {
        loop {
            let handshaking = self.step(None).map(|step| matches!(step, Step::Starved))?;
            if self.flush(stream)? == Flushed::Blocked {
                return Ok(Some(true));
            }
            if !handshaking && !self.is_handshaking() {
                return Ok(None);
            }
            match self.fill(stream) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => self.begin(choose)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Some(false)),
                Err(error) => return Err(error),
            }
        }
    }

    fn is_handshaking(&self) -> bool {
        let connection = self.connection.as_ref();
        connection.is_none_or(|connection| connection.is_handshaking())
    }

    /// Makes the connection once the client's first message is whole.
    fn begin(&mut self, choose: &mut Choose<'_>) -> io::Result<()> {
        if self.connection.is_some() {
            return Ok(());
        }
        let mut acceptor = Acceptor::default();
        let mut hello = self.incoming.filled();
        // It takes a bounded piece at a time.
        while !hello.is_empty() && acceptor.read_tls(&mut hello)? > 0 {}
        let accepted = match acceptor.accept() {
            Ok(Some(accepted)) => accepted,
            Ok(None) => return Ok(()),
            Err((error, mut alert)) => {
                let _ = alert.write_all(&mut StoreWriter(&mut self.outgoing));
                return Err(invalid(error));
            }
        };
        let name = accepted.client_hello().server_name().map(str::to_owned);
        let Some((domain, config)) = choose(name.as_deref()) else {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no certificate"));
        };
        self.connection = Some(UnbufferedServerConnection::new(config).map_err(invalid)?);
        self.chosen = Some(Box::new((domain, name)));
        Ok(())
    }

    /// The facts of a handshake that is complete.
    fn facts(&mut self) -> TlsFacts {
        let (domain, server_name) = self.chosen.take().map(|chosen| *chosen).unwrap_or_default();
        let Some(connection) = &self.connection else {
            return TlsFacts::default();
        };
        let version = match connection.protocol_version() {
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "TLSv1.2",
        };
        let suite = connection.negotiated_cipher_suite();
        let cipher = suite.and_then(|suite| suite.suite().as_str());
        let chain = connection.peer_certificates();
        TlsFacts {
            version,
            cipher: cipher.unwrap_or_default().replace("TLS13_", "TLS_"),
            server_name,
            alpn: connection.alpn_protocol().map(<[u8]>::to_vec),
            domain,
            client_certificate: chain
                .and_then(<[_]>::first)
                .map(|certificate| certificate.to_vec()),
        }
    }

    /// Reads once: how many bytes, and what it means when there are none.
    pub(super) fn receive(
        &mut self,
        stream: &mut (impl Read + Write),
        into: &mut [u8],
    ) -> io::Result<(usize, Got)> {
        for _ in 0..MOST_READS {
            if !self.plain.is_empty() {
                let count = self.plain.len().min(into.len());
                into[..count].copy_from_slice(&self.plain.filled()[..count]);
                self.plain.consume(count);
                return Ok((count, Got::End));
            }
            if self.peer_closed {
                return Ok((0, Got::End));
            }
            match self.step(Some(into)) {
                Ok(Step::Read(count)) if count > 0 => return Ok((count, Got::End)),
                Ok(Step::Read(_)) => continue,
                Ok(Step::Starved | Step::Writable) => {}
                Err(error) => {
                    let _ = self.flush(stream);
                    return Err(error);
                }
            }
            // Key updates and the like; what does not fit goes out with the next flush.
            self.flush(stream)?;
            if self.peer_closed {
                continue;
            }
            if self.outgoing.len() > MOST_OUTGOING {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            if self.fill(stream)? == 0 {
                return Ok((0, Got::Truncated));
            }
        }
        // Records without a byte in them; an honest peer has no reason to send so many.
        Err(invalid("too many empty records"))
    }

    /// Encrypts at most a record: how many bytes were taken.
    pub(super) fn send(
        &mut self,
        stream: &mut (impl Read + Write),
        bytes: &[u8],
    ) -> io::Result<usize> {
        if self.flush(stream)? == Flushed::Blocked {
            return Ok(0);
        }
        let piece = &bytes[..bytes.len().min(RECORD)];
        let room = piece.len() + OVERHEAD;
        self.write(|writer, out| writer.encrypt(piece, out), room)?;
        self.flush(stream)?;
        Ok(piece.len())
    }

    /// Writes what is encrypted.
    pub(super) fn flush(&mut self, stream: &mut (impl Read + Write)) -> io::Result<Flushed> {
        while !self.outgoing.is_empty() {
            match retry(|| stream.write(self.outgoing.filled())) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.outgoing.consume(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Flushed::Blocked);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Flushed::All)
    }

    /// True when encrypted bytes wait for the socket.
    pub(super) fn is_pending(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Says that nothing more follows (RFC 8446, 6.1), once.
    pub(super) fn finish(&mut self, stream: &mut (impl Read + Write)) {
        if self.closed || self.is_handshaking() {
            return;
        }
        self.closed = true;
        // A peer that does not take it in has no use for it.
        let _ = self.write(|writer, out| writer.queue_close_notify(out), OVERHEAD);
        let _ = self.flush(stream);
    }

    fn fill(&mut self, stream: &mut (impl Read + Write)) -> io::Result<usize> {
        if self.incoming.len() > MOST_INCOMING {
            return Err(invalid("a message is too long"));
        }
        let room = self.incoming.room(RECORD + OVERHEAD);
        let count = retry(|| stream.read(room))?;
        self.incoming.add(count);
        Ok(count)
    }

    /// Lets the record layer write: its own messages first, then what `write` says.
    fn write(
        &mut self,
        write: impl FnOnce(
            &mut rustls::unbuffered::WriteTraffic<'_, rustls::server::ServerConnectionData>,
            &mut [u8],
        ) -> Result<usize, rustls::unbuffered::EncryptError>,
        room: usize,
    ) -> io::Result<()> {
        // Brings everything else to an end, so that the state below is the wanted one.
        match self.step(None)? {
            Step::Writable => {}
            Step::Starved | Step::Read(_) => return Err(io::ErrorKind::NotConnected.into()),
        }
        let Some(connection) = &mut self.connection else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let UnbufferedStatus { discard, state } =
            connection.process_tls_records(self.incoming.filled_mut());
        let Ok(ConnectionState::WriteTraffic(mut writer)) = state else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let count = write(&mut writer, self.outgoing.room(room)).map_err(invalid)?;
        self.outgoing.add(count);
        self.incoming.consume(discard);
        Ok(())
    }

    /// Runs the record layer until it wants something. Application data goes to `into` where it fits, else it
    /// is kept.
    fn step(&mut self, mut into: Option<&mut [u8]>) -> io::Result<Step> {
        let Some(connection) = &mut self.connection else {
            return Ok(Step::Starved);
        };
        let mut failed = None;
        loop {
            let UnbufferedStatus { discard, state } =
                connection.process_tls_records(self.incoming.filled_mut());
            let mut read = None;
            let mut next = None;
            match state {
                Ok(ConnectionState::ReadTraffic(mut records)) => {
                    let mut count = 0;
                    while let Some(record) = records.next_record() {
                        let payload = record.map_err(invalid)?.payload;
                        match into.as_deref_mut().and_then(|into| into.get_mut(count..)) {
                            Some(room) if room.len() >= payload.len() => {
                                room[..payload.len()].copy_from_slice(payload);
                                count += payload.len();
                            }
                            _ => self.plain.extend(payload),
                        }
                    }
                    read = into.is_some().then_some(count);
                }
                Ok(ConnectionState::EncodeTlsData(mut message)) => {
                    let mut room = OVERHEAD;
                    let count = loop {
                        match message.encode(self.outgoing.room(room)) {
                            Ok(count) => break count,
                            Err(rustls::unbuffered::EncodeError::InsufficientSize(size)) => {
                                room = size.required_size;
                            }
                            Err(error) => return Err(invalid(error)),
                        }
                    };
                    self.outgoing.add(count);
                }
                Ok(ConnectionState::TransmitTlsData(sent)) => sent.done(),
                Ok(ConnectionState::PeerClosed) => self.peer_closed = true,
                Ok(ConnectionState::WriteTraffic(_) | ConnectionState::Closed) => {
                    next = Some(Step::Writable);
                }
                Ok(ConnectionState::BlockedHandshake) => next = Some(Step::Starved),
                Ok(state) => return Err(invalid(format!("unexpected {state:?}"))),
                // Once more, for the alert that tells the peer.
                Err(error) if failed.is_none() => failed = Some(error),
                Err(_) => next = Some(Step::Starved),
            }
            self.incoming.consume(discard);
            if let Some(count) = read {
                return Ok(Step::Read(count));
            }
            match (next, failed.take()) {
                (Some(_), Some(error)) => return Err(invalid(error)),
                (Some(step), None) => return Ok(step),
                (None, kept) => failed = kept,
            }
        }
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Appends to a store.
struct StoreWriter<'a>(&'a mut Store);

impl Write for StoreWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
