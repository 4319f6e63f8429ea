#![forbid(unsafe_code)]
//! Connections that are opened, served once, and then silent.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConnection;

use super::options::Load;
use super::progress::Progress;
use super::report::{Measured, Report};
use super::sources::Sources;
use super::tls::{self, Store};
use super::watch::Watch;

/// Connections that are opened together: few enough for any backlog.
const TOGETHER: usize = 16;

/// Opens connections and has each echo once, so that the server has served it when this returns.
///
/// # Errors
/// One cannot be opened or is not served.
pub(super) fn open(load: &Load, count: usize) -> io::Result<Vec<TcpStream>> {
    let mut held = Held::new(load, false)?;
    while held.plain.len() < count {
        held.more(TOGETHER.min(count - held.plain.len()))?;
    }
    Ok(held.plain)
}

/// Holds connections and tells what memory they cost.
pub(super) fn run(load: &Load, with_tls: bool, idle: Duration) -> io::Result<Report> {
    let mut watch = Watch::new(load);
    let mut progress = Progress::new(load.time);
    let mut measured = Measured::new();
    let before = watch.anonymous();
    watch.begin();
    let start = Instant::now();
    let mut held = Held::new(load, with_tls)?;
    while held.len() < load.connections {
        let count = TOGETHER.min(load.connections - held.len());
        let began = Instant::now();
        // Where descriptors end the first that fails tells as much as all that would follow.
        held.more(count)?;
        let each = began.elapsed() / u32::try_from(count).unwrap_or(1);
        (0..count).for_each(|_| measured.ended(each, Ok(())));
        progress.show(start.elapsed(), held.len() as u64);
    }
    std::thread::sleep(idle);
    let with = watch.anonymous();
    let seconds = start.elapsed().as_secs_f64();
    let mut report = Report::of(measured, None, seconds, watch.end())?;
    report.held = Some((held.len(), before, with));
    Ok(report)
}

struct Held {
    sources: Sources,
    buffer: Vec<u8>,
    tls: Option<Arc<rustls::ClientConfig>>,
    store: Arc<Store>,
    plain: Vec<TcpStream>,
    secure: Vec<(TcpStream, ClientConnection)>,
}

impl Held {
    fn new(load: &Load, with_tls: bool) -> io::Result<Self> {
        let store = Arc::new(Store::default());
        Ok(Held {
            sources: Sources::of(load),
            buffer: vec![b'h'; usize::from(load.size)],
            tls: match with_tls {
                true => Some(tls::config(&store)?),
                false => None,
            },
            store,
            plain: Vec::new(),
            secure: Vec::new(),
        })
    }

    fn len(&self) -> usize {
        self.plain.len() + self.secure.len()
    }

    /// Opens so many; each has its first bytes under way before the first is waited for.
    fn more(&mut self, count: usize) -> io::Result<()> {
        let Some(config) = self.tls.clone() else {
            let from = self.plain.len();
            for _ in 0..count {
                let mut stream = self.sources.connect_blocking()?;
                stream.write_all(&self.buffer)?;
                self.plain.push(stream);
            }
            let mut fresh = self.plain[from..].iter_mut();
            return fresh.try_for_each(|stream| stream.read_exact(&mut self.buffer));
        };
        // Each a handshake in full, as if each were a client of its own.
        self.store.forget();
        let from = self.secure.len();
        for _ in 0..count {
            let mut stream = self.sources.connect_blocking()?;
            let mut session = tls::client(&config)?;
            session.write_tls(&mut stream)?;
            self.secure.push((stream, session));
        }
        for (stream, session) in &mut self.secure[from..] {
            let tickets = self.store.ever();
            while session.is_handshaking() || self.store.ever() == tickets {
                if session.complete_io(stream)? == (0, 0) {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
        Ok(())
    }
}
