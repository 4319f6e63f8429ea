#![forbid(unsafe_code)]
//! The new process's part: the sockets it was given, by its predecessor or by a service manager, and what it says
//! to the predecessor.

use std::fmt::Display;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use listenfd::ListenFd;

use super::{MARK, names, word};

/// How long the predecessor may take to let go. It is asked to by a thread that does little else.
const PATIENCE: Duration = Duration::from_secs(30);

/// The sockets that this process was given.
#[derive(Default)]
pub(crate) struct Heritage {
    sockets: Vec<Named>,
    control: Vec<(String, UnixListener)>,
}

/// The process whose place this one takes, if there is one.
#[derive(Default)]
pub(crate) struct Predecessor(Option<UnixStream>);

struct Named {
    name: String,
    bound: SocketAddr,
    given: Given,
}

/// A socket that is bound already.
pub(crate) enum Given {
    /// One that listens, or may.
    Tcp(TcpListener),
    /// One for datagrams.
    Udp(UdpSocket),
}

impl Given {
    fn transport(&self) -> &'static str {
        match self {
            Given::Tcp(_) => "tcp",
            Given::Udp(_) => "udp",
        }
    }
}

impl Heritage {
    /// What the environment speaks of. To be called once, while this process has one thread.
    pub(crate) fn from_environment() -> (Self, Predecessor) {
        let parent = std::os::unix::process::parent_id().to_string();
        let is_heir = std::env::var(MARK).is_ok_and(|mark| mark == parent);
        let own = std::process::id().to_string();
        let is_meant = std::env::var("LISTEN_PID").is_ok_and(|pid| pid == own);
        if !is_heir && !is_meant {
            return Default::default();
        }
        let named = names::split(&std::env::var("LISTEN_FDNAMES").unwrap_or_default());
        let heritage = Heritage::take(&mut ListenFd::from_env(), &named);
        let channel = io::stdin().as_fd().try_clone_to_owned();
        let channel = channel.ok().filter(|_| is_heir);
        (heritage, Predecessor(channel.map(UnixStream::from)))
    }

    fn take(given: &mut ListenFd, named: &[String]) -> Self {
        let mut heritage = Heritage::default();
        for index in 0..given.len() {
            let name = named.get(index).cloned().unwrap_or_default();
            let socket = match given.take_tcp_listener(index) {
                Ok(Some(listener)) => listener
                    .local_addr()
                    .map(|bound| (bound, Given::Tcp(listener))),
                _ => match given.take_udp_socket(index) {
                    Ok(Some(socket)) => {
                        socket.local_addr().map(|bound| (bound, Given::Udp(socket)))
                    }
                    _ => {
                        match given.take_unix_listener(index) {
                            Ok(Some(listener)) => heritage.control.push((name, listener)),
                            _ => heritage.ignore(index, &name),
                        }
                        continue;
                    }
                },
            };
            match socket {
                Ok((bound, given)) => {
                    let bound = SocketAddr::new(bound.ip().to_canonical(), bound.port());
                    heritage.sockets.push(Named { name, bound, given });
                }
                Err(_) => heritage.ignore(index, &name),
            }
        }
        heritage
    }

    fn ignore(&self, index: usize, name: &str) {
        let name = names::shown(name);
        log::warn!(
            "descriptor {} ({name}) that was handed over is no socket of a kind that is used here",
            index + 3
        );
    }

    /// The socket of that transport, port and address (`None` is all), if it was given.
    pub(crate) fn socket(
        &mut self,
        transport: &str,
        port: u16,
        address: Option<IpAddr>,
    ) -> Option<Given> {
        let is_it = |one: &Named| {
            let place = match address {
                Some(address) => one.bound.ip() == address,
                None => one.bound.ip().is_unspecified(),
            };
            one.given.transport() == transport && one.bound.port() == port && place
        };
        let index = self.sockets.iter().position(is_it)?;
        Some(self.sockets.swap_remove(index).given)
    }

    /// The control socket of that path, if it was given.
    pub(crate) fn control(&mut self, path: &Path) -> Option<UnixListener> {
        let is_it = |(name, _): &(String, UnixListener)| names::is_control(name, path);
        let index = self.control.iter().position(is_it)?;
        Some(self.control.swap_remove(index).1)
    }

    /// Closes what nobody asked for, and says so.
    pub(crate) fn close_rest(&mut self) {
        for one in self.sockets.drain(..) {
            let (transport, bound) = (one.given.transport(), one.bound);
            let name = names::shown(&one.name);
            log::warn!(
                "{transport} {bound} ({name}) was handed over, and is no socket of the configuration: closed"
            );
        }
        self.control.clear();
    }
}

impl Predecessor {
    /// Whether there is one.
    pub(crate) fn is_there(&self) -> bool {
        self.0.is_some()
    }

    /// Says that nothing can fail any more, and waits until the predecessor has let go. One that is gone has.
    pub(crate) fn relieve(&mut self) {
        let Some(predecessor) = &mut self.0 else {
            return;
        };
        let _ = predecessor.set_read_timeout(Some(PATIENCE));
        let told = writeln!(predecessor, "{}", word::READY);
        let mut line = String::new();
        let heard = told.and_then(|()| BufReader::new(predecessor).read_line(&mut line));
        match heard {
            Ok(_) if line.trim_end() == word::YOURS => {}
            Ok(0) => log::warn!("the process before this one has ended without a word"),
            Ok(_) => log::warn!("the process before this one said {line:?}"),
            Err(error) => log::warn!("the process before this one is silent: {error}"),
        }
    }

    /// Says that callers are answered here.
    pub(crate) fn serves(&mut self) {
        if let Some(mut predecessor) = self.0.take() {
            let _ = writeln!(predecessor, "{}", word::SERVING);
        }
    }

    /// Says why this process cannot start.
    pub(crate) fn fail(&mut self, why: &impl Display) {
        if let Some(mut predecessor) = self.0.take() {
            let why = why.to_string().replace('\n', "\t");
            let _ = writeln!(predecessor, "{}{why}", word::FAILED);
        }
    }
}
