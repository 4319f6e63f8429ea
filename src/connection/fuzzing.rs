#![forbid(unsafe_code)]
//! The parts of a connection under any bytes, in any pieces. No socket.

use std::io::{self, Cursor, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::driver::{Driver, Surroundings, Wait};
use super::secure::{Secure, SecureScratch, Shaken};
use super::transport::Got;
use crate::config::{load_texts, plan::Protocol};
use crate::dialogue::test_peer;
use crate::session::{Module, Peer, Waker};
use crate::tls::{Acceptors, Domain, Domains, Source, ticketer};

/// What stands in for a socket.
#[derive(Default)]
struct Wire {
    incoming: Vec<u8>,
    ended: bool,
    outgoing: Vec<u8>,
    /// How many bytes it takes before it blocks.
    room: usize,
}

impl Read for Wire {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.incoming.len().min(into.len());
        if count == 0 && !self.ended {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        into[..count].copy_from_slice(&self.incoming[..count]);
        self.incoming.drain(..count);
        Ok(count)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(self.room);
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.room -= count;
        self.outgoing.extend(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

static SERVER: LazyLock<Acceptors> = LazyLock::new(|| {
    let domain = Domain {
        name: "localhost".to_owned(),
        aliases: Vec::new(),
        addresses: Vec::new(),
        certificate: Source::SelfSigned,
    };
    let home = std::env::temp_dir().join(format!("portreeve-fuzz-{}", std::process::id()));
    let domains = Domains::new(vec![domain], Some("localhost")).prepare(&home, SystemTime::now());
    let _ = std::fs::remove_dir_all(home);
    let domains = Arc::new(domains.expect("a certificate"));
    let ticketer = ticketer().expect("a ticketer");
    Acceptors::new(&domains, &[], None, &ticketer).expect("settings")
});

static CLIENT: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let (_, server) = SERVER
        .choose(None, [127, 0, 0, 1].into())
        .expect("the default");
    let provider = Arc::clone(server.crypto_provider());
    let mut roots = RootCertStore::empty();
    roots
        .add(SERVER.certificate())
        .expect("our own certificate");
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder
        .with_safe_default_protocol_versions()
        .expect("versions");
    Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
});

/// One turn of a handshake.
fn shake(secure: &mut Secure, wire: &mut Wire, scratch: &mut SecureScratch) -> Shaken {
    secure.lend(scratch);
    let shaken = secure.shake(wire, &mut |name| {
        let (domain, config) = SERVER.choose(name, [127, 0, 0, 1].into()).ok()?;
        Some((domain.to_owned(), Arc::clone(config)))
    });
    secure.give_back(scratch);
    shaken
}

/// The first bytes of a TLS connection, in pieces as long as the first of them says: no handshake is complete
/// without a key, and nothing is said but handshake messages and alerts.
///
/// # Panics
/// Otherwise.
pub fn tls_opening(bytes: &[u8]) {
    let Some((piece, opening)) = bytes.split_first() else {
        return;
    };
    let mut scratch = SecureScratch::default();
    let mut secure = Secure::new();
    let mut wire = Wire {
        room: usize::MAX,
        ..Wire::default()
    };
    for piece in opening.chunks(usize::from(*piece) + 1) {
        wire.incoming.extend(piece);
        match shake(&mut secure, &mut wire, &mut scratch) {
            Shaken::Waits { write } => assert!(!write && wire.incoming.is_empty()),
            Shaken::Failed(_) => break,
            Shaken::Done(_) => panic!("a handshake without a key"),
        }
    }
    wire.ended = true;
    assert!(matches!(
        shake(&mut secure, &mut wire, &mut scratch),
        Shaken::Failed(_)
    ));
    let first = wire.outgoing.first();
    assert!(
        first.is_none_or(|first| matches!(first, 0x15 | 0x16)),
        "{first:?}"
    );
}

/// A whole TLS connection with rustls' own client. Each byte of the script is a step of the client's, the wire's
/// or ours; what arrives is what was sent, in order.
///
/// # Panics
/// Otherwise.
pub fn tls_records(script: &[u8]) {
    let mut link = Link::new();
    link.shake();
    let mut sent = Vec::new();
    let mut refreshes = 0;
    for (number, step) in script.iter().enumerate().take(200) {
        let size = usize::from(step & 31).pow(2) * 40;
        match step >> 5 {
            0..=2 => {
                let text: Vec<u8> = (0..size).map(|at| (at + number).to_le_bytes()[0]).collect();
                link.client.writer().write_all(&text).expect("a buffer");
                sent.extend(text);
            }
            3 if refreshes < MOST_REFRESHES => {
                refreshes += 1;
                link.client.refresh_traffic_keys().expect("TLS 1.3");
            }
            3 => {}
            4 => link.carry(size),
            5 => link.receive(size + 1),
            6 => link.send(size),
            _ => link.wire.room = size,
        }
    }
    link.wire.room = usize::MAX;
    link.client.send_close_notify();
    link.carry(usize::MAX);
    while link.receive_one(16 * 1024).is_some() {}
    assert!(
        link.heard == sent,
        "{} of {} bytes",
        link.heard.len(),
        sent.len()
    );
    link.flush();
    assert!(
        link.answered == link.said,
        "{} of {}",
        link.answered.len(),
        link.said.len()
    );
}

/// rustls takes more than 32 in a row for an attack.
const MOST_REFRESHES: u32 = 30;

struct Link {
    client: ClientConnection,
    secure: Box<Secure>,
    scratch: SecureScratch,
    wire: Wire,
    /// What the client has said and the wire has not carried.
    on_the_way: Vec<u8>,
    heard: Vec<u8>,
    said: Vec<u8>,
    answered: Vec<u8>,
}

impl Link {
    fn new() -> Self {
        let name = ServerName::try_from("localhost").expect("a name");
        let mut client = ClientConnection::new(Arc::clone(&CLIENT), name).expect("a client");
        client.set_buffer_limit(None);
        Link {
            client,
            secure: Secure::new(),
            scratch: SecureScratch::default(),
            wire: Wire {
                room: usize::MAX,
                ..Wire::default()
            },
            on_the_way: Vec::new(),
            heard: Vec::new(),
            said: Vec::new(),
            answered: Vec::new(),
        }
    }

    fn shake(&mut self) {
        loop {
            self.carry(usize::MAX);
            match shake(&mut self.secure, &mut self.wire, &mut self.scratch) {
                Shaken::Done(facts) => break assert_eq!(facts.domain, "localhost"),
                Shaken::Waits { .. } => self.hear(),
                Shaken::Failed(error) => panic!("{error}"),
            }
        }
        self.hear();
    }

    /// Moves what the client has to say onto the wire, at most so many bytes.
    fn carry(&mut self, most: usize) {
        while self.client.wants_write() {
            self.client.write_tls(&mut self.on_the_way).expect("memory");
        }
        let count = most.min(self.on_the_way.len());
        self.wire.incoming.extend(self.on_the_way.drain(..count));
    }

    /// Lets the client take in what we have said.
    fn hear(&mut self) {
        let said = std::mem::take(&mut self.wire.outgoing);
        let mut said = Cursor::new(said);
        while said.position() < said.get_ref().len() as u64 {
            self.client.read_tls(&mut said).expect("memory");
            self.client
                .process_new_packets()
                .expect("our records are good");
            let mut plain = Vec::new();
            match self.client.reader().read_to_end(&mut plain) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("{error}"),
            }
            self.answered.extend(plain);
        }
    }

    /// Reads once; `None` at the end and when nothing is there.
    fn receive_one(&mut self, room: usize) -> Option<()> {
        let mut into = vec![0; room];
        self.secure.lend(&mut self.scratch);
        let received = self.secure.receive(&mut self.wire, &mut into);
        self.secure.give_back(&mut self.scratch);
        match received {
            Ok((0, Got::Truncated)) => panic!("nothing was truncated"),
            Ok((0, _)) => None,
            Ok((count, _)) => {
                self.heard.extend(&into[..count]);
                Some(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn receive(&mut self, room: usize) {
        self.receive_one(room);
    }

    fn send(&mut self, size: usize) {
        let text: Vec<u8> = (0..size).map(|at| (at * 7).to_le_bytes()[0]).collect();
        self.secure.lend(&mut self.scratch);
        let taken = self.secure.send(&mut self.wire, &text);
        self.secure.give_back(&mut self.scratch);
        self.said
            .extend(&text[..taken.expect("a peer that is there")]);
        self.hear();
    }

    fn flush(&mut self) {
        self.secure.lend(&mut self.scratch);
        self.secure.flush(&mut self.wire).expect("room");
        self.secure.give_back(&mut self.scratch);
        self.hear();
    }
}

/// Listeners whose modules need nothing beside them.
const MODULES: [&str; 7] = [
    "Echo",
    "Discard",
    "Daytime",
    "Smtp(domains: [\"a.test\"])",
    "Pop",
    "Http(root: \"/usr/share\")",
    "Imap",
];

static SESSIONS: LazyLock<Vec<Arc<dyn Module>>> =
    LazyLock::new(|| MODULES.iter().map(|name| module("()", name)).collect());

/// The module that a listener of a configuration names.
pub(crate) fn module(server: &str, name: &str) -> Arc<dyn Module> {
    let plan = load_texts(server, &format!("Tcp(module: {name}, sockets: [])"));
    let listener = plan.expect("a good configuration").listeners.remove(0);
    match listener.protocol {
        Protocol::Tcp(tcp) => tcp.module,
        Protocol::Udp(_) => unreachable!("it says Tcp"),
    }
}

/// A module's session: the first byte chooses the module, the second the pieces in which the rest arrives; the
/// same bytes in one piece get the same answer, but for the time of day.
///
/// # Panics
/// They do not.
pub fn session(bytes: &[u8]) {
    let [module, piece, input @ ..] = bytes else {
        return;
    };
    let module = usize::from(*module) % MODULES.len();
    let peer = test_peer();
    let whole = converse(&SESSIONS[module], &peer, input, usize::MAX);
    let pieces = converse(&SESSIONS[module], &peer, input, usize::from(*piece) + 1);
    assert!(whole == pieces, "{}: {whole:?} {pieces:?}", MODULES[module]);
}

/// The same for a module of the caller's, in pieces as long as the first byte says.
pub(crate) fn pieces(module: &Arc<dyn Module>, input: &[u8]) {
    let piece = usize::from(input.first().copied().unwrap_or_default()) + 1;
    let peer = test_peer();
    let (whole, pieces) = (
        converse(module, &peer, input, usize::MAX),
        converse(module, &peer, input, piece),
    );
    assert!(whole == pieces, "{whole:?} {pieces:?}");
}

/// What a session says, and whether it closed before the peer did. What waits for the clock need not wait.
pub(crate) fn converse(
    module: &Arc<dyn Module>,
    peer: &Peer,
    input: &[u8],
    piece: usize,
) -> (Vec<u8>, bool) {
    let now = Instant::now();
    let woken = Arc::new(AtomicBool::new(false));
    let mut waker = || {
        let woken = Arc::clone(&woken);
        Waker::new(move || woken.store(true, Ordering::Relaxed))
    };
    let mut around = Surroundings {
        peer,
        now,
        wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_514_400),
        waker: &mut waker,
    };
    let mut driver = Driver::new(module.idle_timeout(), now);
    driver.open(module.open(peer), now);
    let mut said = Vec::new();
    let mut run = |driver: &mut Driver, bytes: &[u8]| {
        if !bytes.is_empty() {
            driver.input.extend(bytes);
            driver.take_input(&mut around);
        }
        loop {
            said.extend(driver.output.take_all().expect("memory"));
            if woken.swap(false, Ordering::Relaxed) {
                driver.request_wake();
            }
            if let Wait::Work(work) = &mut driver.wait
                && let Some(work) = work.take()
            {
                driver.done(work.run(), &mut around);
            } else if matches!(driver.wait, Wait::Pause) {
                around.now = driver.deadline();
                if !driver.step(&mut around) {
                    break;
                }
            } else if !driver.step(&mut around) && !woken.load(Ordering::Relaxed) {
                break;
            }
        }
        said.extend(driver.output.take_all().expect("memory"));
    };
    run(&mut driver, &[]);
    for piece in input.chunks(piece.min(16 * 1024)) {
        if !driver.may_read() {
            break;
        }
        run(&mut driver, piece);
    }
    let closed = !matches!(driver.wait, Wait::Read);
    driver.finish(false);
    run(&mut driver, &[]);
    assert!(
        !matches!(driver.wait, Wait::Read),
        "a session ends with its peer"
    );
    (said, closed)
}
