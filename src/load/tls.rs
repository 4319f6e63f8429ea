#![forbid(unsafe_code)]
//! TLS 1.3 handshakes, with one group and one suite, so that every server does the same work.
//!
//! The client's own flight completes the handshake for the client; that the server has done its part is known
//! from the ticket it sends after that (RFC 8446, 4.6.1). So an operation ends with the first ticket.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use mio::Interest;
use mio::net::TcpStream;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, NamedGroup,
    SignatureScheme,
};

use super::engine::{Handle, OneOff};
use super::options::Load;
use super::sources::Sources;

/// The name that clients ask for.
const NAME: &str = "bench.test";
/// Tickets kept; more than connections at once need no more.
const TICKETS: usize = 4096;

/// Handshakes, full or resumed.
pub(super) struct Handshakes {
    sources: Sources,
    config: Arc<ClientConfig>,
    store: Arc<Store>,
    resume: bool,
    slots: Vec<Option<Open>>,
    full: u64,
    resumed: u64,
}

struct Open {
    stream: TcpStream,
    session: ClientConnection,
}

impl Handshakes {
    /// # Errors
    /// The cryptography refuses its own defaults.
    pub(super) fn new(load: &Load, resume: bool) -> io::Result<Self> {
        let store = Arc::new(Store::default());
        Ok(Handshakes {
            sources: Sources::of(load),
            config: config(&store)?,
            store,
            resume,
            slots: (0..load.connections).map(|_| None).collect(),
            full: 0,
            resumed: 0,
        })
    }

    /// Full handshakes and resumed ones.
    pub(super) fn kinds(&self) -> (u64, u64) {
        (self.full, self.resumed)
    }
}

impl Open {
    fn flush(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            match self.session.write_tls(&mut self.stream) {
                Ok(_) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::NotConnected
                    ) =>
                {
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl OneOff for Handshakes {
    fn count(&self) -> usize {
        self.slots.len()
    }

    fn open(&mut self, slot: usize, poll: &Handle<'_>) -> io::Result<()> {
        if !self.resume {
            self.store.forget();
        }
        let stream = self.sources.connect()?;
        let session = client(&self.config)?;
        let open = self.slots[slot].insert(Open { stream, session });
        open.flush()?;
        poll.register(
            slot,
            &mut open.stream,
            Interest::READABLE | Interest::WRITABLE,
        )
    }

    fn go_on(&mut self, slot: usize) -> io::Result<bool> {
        let Some(open) = &mut self.slots[slot] else {
            return Ok(false);
        };
        let tickets = self.store.ever();
        loop {
            open.flush()?;
            match open.session.read_tls(&mut open.stream) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => {
                    open.session
                        .process_new_packets()
                        .map_err(io::Error::other)?;
                }
                Err(error) => {
                    return match error.kind() {
                        ErrorKind::WouldBlock | ErrorKind::NotConnected => Ok(false),
                        _ => Err(error),
                    };
                }
            }
            // No other connection was looked at meanwhile.
            if self.store.ever() > tickets {
                match open.session.handshake_kind() {
                    Some(HandshakeKind::Resumed) => self.resumed += 1,
                    _ => self.full += 1,
                }
                open.session.send_close_notify();
                let _ = open.flush();
                return Ok(true);
            }
        }
    }

    fn forget(&mut self, slot: usize) {
        self.slots[slot] = None;
    }
}

/// A session that has not begun.
pub(super) fn client(config: &Arc<ClientConfig>) -> io::Result<ClientConnection> {
    let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
    ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)
}

/// TLS 1.3 alone, X25519 alone, TLS_AES_128_GCM_SHA256 alone.
pub(super) fn config(store: &Arc<Store>) -> io::Result<Arc<ClientConfig>> {
    let mut provider = aws_lc_rs::default_provider();
    provider
        .kx_groups
        .retain(|group| group.name() == NamedGroup::X25519);
    provider.cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unchecked))
        .with_no_client_auth();
    config.resumption = Resumption::store(Arc::clone(store) as Arc<dyn ClientSessionStore>);
    Ok(Arc::new(config))
}

/// Tickets, the newest first, and how many ever came.
#[derive(Debug, Default)]
pub(super) struct Store {
    tickets: Mutex<VecDeque<Tls13ClientSessionValue>>,
    inserted: AtomicUsize,
}

impl Store {
    /// How many tickets ever came.
    pub(super) fn ever(&self) -> usize {
        self.inserted.load(Ordering::Relaxed)
    }

    pub(super) fn forget(&self) {
        self.with(VecDeque::clear);
    }

    fn with<T>(&self, f: impl FnOnce(&mut VecDeque<Tls13ClientSessionValue>) -> T) -> T {
        f(&mut self
            .tickets
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

impl ClientSessionStore for Store {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.inserted.fetch_add(1, Ordering::Relaxed);
        self.with(|tickets| {
            tickets.push_front(value);
            tickets.truncate(TICKETS);
        });
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.with(VecDeque::pop_front)
    }
}

/// Checks nothing: the server is measured here, not trusted, and the client is to be cheap.
#[derive(Debug)]
struct Unchecked;

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
