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

/// Opens connections one after the other and has each echo once, so that the server has served it, and its
/// backlog never fills.
///
/// # Errors
/// One cannot be opened or is not served.
pub(super) fn open(load: &Load, count: usize) -> io::Result<Vec<TcpStream>> {
    let mut sources = Sources::of(load);
    let mut buffer = vec![b'o'; usize::from(load.size)];
    let mut streams = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = sources.connect_blocking()?;
        stream.write_all(&buffer)?;
        stream.read_exact(&mut buffer)?;
        streams.push(stream);
    }
    Ok(streams)
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
    for number in 0..load.connections {
        let began = Instant::now();
        let result = held.one_more();
        let failed = result.is_err();
        measured.ended(began.elapsed(), result);
        progress.show(start.elapsed(), number as u64);
        // The first that fails is mostly where descriptors end: more of them would tell nothing new.
        if failed {
            break;
        }
    }
    std::thread::sleep(idle);
    let with = watch.anonymous();
    let seconds = start.elapsed().as_secs_f64();
    let mut report = Report::of(measured, None, seconds, watch.end())?;
    report.held = Some((held.plain.len() + held.secure.len(), before, with));
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

    fn one_more(&mut self) -> io::Result<()> {
        let mut stream = self.sources.connect_blocking()?;
        match &self.tls {
            None => {
                stream.write_all(&self.buffer)?;
                stream.read_exact(&mut self.buffer)?;
                self.plain.push(stream);
            }
            Some(config) => {
                // Each a handshake in full, as if each were a client of its own.
                self.store.forget();
                let mut session = tls::client(config)?;
                while session.is_handshaking() || self.store.len() == 0 {
                    if session.complete_io(&mut stream)? == (0, 0) {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                self.secure.push((stream, session));
            }
        }
        Ok(())
    }
}
