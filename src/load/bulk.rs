#![forbid(unsafe_code)]
//! Many bytes over one connection: through an echo server and back, or from an upstream played here.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::options::Load;
use super::progress::Progress;
use super::report::{Measured, Report};
use super::sources::Sources;
use super::watch::Watch;

const CHUNK: usize = 256 * 1024;
const PATIENCE: Duration = Duration::from_secs(10);

/// Moves the bytes `load.count` times, once where that is not given.
pub(super) fn run(load: &Load, bytes: u64, upstream: Option<SocketAddr>) -> io::Result<Report> {
    let mut watch = Watch::new(load);
    let mut sources = Sources::of(load);
    let mut measured = Measured::new();
    let mut progress = Progress::new(load.time);
    let upstream = upstream.map(TcpListener::bind).transpose()?;
    watch.begin();
    let start = Instant::now();
    let times = load.count.unwrap_or(1);
    for _ in 0..times {
        let began = Instant::now();
        let stream = sources.connect_blocking()?;
        let result = match &upstream {
            Some(listener) => from(&stream, bytes, &mut progress, || {
                let (source, _) = listener.accept()?;
                send(&source, bytes)
            }),
            None => {
                let source = stream.try_clone()?;
                from(&stream, bytes, &mut progress, || send(&source, bytes))
            }
        };
        measured.ended(began.elapsed(), result);
    }
    let seconds = start.elapsed().as_secs_f64();
    let mut report = Report::of(measured, None, seconds, watch.end())?;
    report.bytes = Some(bytes.saturating_mul(times));
    Ok(report)
}

/// Reads the bytes while `source` sends them from a thread of its own.
fn from(
    mut stream: &TcpStream,
    bytes: u64,
    progress: &mut Progress,
    source: impl FnOnce() -> io::Result<()> + Send,
) -> io::Result<()> {
    std::thread::scope(|scope| {
        let sender = scope.spawn(source);
        let start = Instant::now();
        let mut buffer = vec![0; CHUNK];
        let mut missing = bytes;
        while missing > 0 {
            match stream.read(&mut buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => missing = missing.saturating_sub(count as u64),
            }
            progress.show(start.elapsed(), bytes - missing);
        }
        sender
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the sender panicked")))
    })
}

fn send(mut stream: &TcpStream, bytes: u64) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let chunk = vec![0; CHUNK];
    let mut missing = bytes;
    while missing > 0 {
        let count = usize::try_from(missing).unwrap_or(CHUNK).min(CHUNK);
        stream.write_all(&chunk[..count])?;
        missing -= count as u64;
    }
    Ok(())
}
