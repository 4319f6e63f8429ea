#![forbid(unsafe_code)]
//! The thread behind the control socket: accepts, checks who calls, reads a line, answers, closes.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mio::net::{UnixListener, UnixStream};
use mio::{Events, Interest, Poll, Token, Waker};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::Uid;

use super::{Commands, MAX_REQUEST, Parting, Request, Response, parse};
use crate::patience;

/// Callers at once. More wait in the backlog, each at most a deadline or two.
const MAX_CALLERS: usize = 32;

/// When to try again to accept where the system refused (no descriptors left, for one).
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

const WAKE: Token = Token(0);
const LISTENER: Token = Token(1);
const FIRST_CALLER: usize = 2;

/// Starts the thread; it ends when `stop` is set and the waker was used, which is put into `parting`.
pub(super) fn start(
    mut listener: UnixListener,
    commands: Arc<dyn Commands>,
    (stop, parting): (Arc<AtomicBool>, Arc<Parting>),
    deadline: Duration,
) -> io::Result<JoinHandle<()>> {
    let poll = Poll::new()?;
    let _ = parting.waker.set(Waker::new(poll.registry(), WAKE)?);
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)?;
    let desk = Desk {
        poll,
        listener: Some(listener),
        parting,
        commands,
        deadline,
        callers: BTreeMap::new(),
        next: FIRST_CALLER,
        more_to_accept: true,
    };
    let thread = thread::Builder::new()
        .name("control".into())
        .spawn(move || {
            if let Err(error) = desk.run(&stop) {
                log::error!("the control socket is closed: {error}");
            }
        })?;
    Ok(thread)
}

struct Desk {
    poll: Poll,
    /// `None` once it was given away.
    listener: Option<UnixListener>,
    parting: Arc<Parting>,
    commands: Arc<dyn Commands>,
    deadline: Duration,
    callers: BTreeMap<usize, Caller>,
    next: usize,
    /// Accepting ended before the backlog was empty, and poll is edge-triggered.
    more_to_accept: bool,
}

impl Desk {
    fn run(mut self, stop: &AtomicBool) -> io::Result<()> {
        let mut events = Events::with_capacity(64);
        while !stop.load(Ordering::Acquire) {
            let timeout = self.timeout(Instant::now());
            patience::poll(&mut self.poll, &mut events, timeout)?;
            for event in &events {
                match event.token() {
                    WAKE => {}
                    LISTENER => self.more_to_accept = true,
                    Token(key) => self.turn(key),
                }
            }
            self.expire(Instant::now());
            self.accept();
        }
        Ok(())
    }

    fn timeout(&self, now: Instant) -> Option<Duration> {
        let retry = self.more_to_accept.then_some(ACCEPT_PAUSE);
        let expiry = self
            .callers
            .values()
            .map(|caller| caller.deadline.saturating_duration_since(now))
            .min();
        retry.into_iter().chain(expiry).min()
    }

    fn accept(&mut self) {
        if self.parting.has_left()
            && let Some(mut listener) = self.listener.take()
        {
            // The other process has it too, so that closing it would not end its events.
            let _ = self.poll.registry().deregister(&mut listener);
        }
        while self.more_to_accept && self.callers.len() < MAX_CALLERS {
            let Some(listener) = &self.listener else {
                self.more_to_accept = false;
                return;
            };
            match listener.accept() {
                Ok((stream, _)) => self.admit(stream),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.more_to_accept = false
                }
                Err(error) => {
                    log::debug!("the control socket cannot accept: {error}");
                    return;
                }
            }
        }
    }

    fn admit(&mut self, mut stream: UnixStream) {
        let allowed = getsockopt(&stream, PeerCredentials).is_ok_and(|peer| {
            let uid = Uid::from_raw(peer.uid());
            uid.is_root() || uid == Uid::effective()
        });
        if !allowed {
            log::warn!("a caller of the control socket is neither root nor our own user: closed");
            return;
        }
        let key = self.next;
        self.next += 1;
        let interest = Interest::READABLE | Interest::WRITABLE;
        if self
            .poll
            .registry()
            .register(&mut stream, Token(key), interest)
            .is_ok()
        {
            let deadline = Instant::now() + self.deadline;
            self.callers.insert(
                key,
                Caller {
                    stream,
                    request: Vec::new(),
                    answer: None,
                    deadline,
                },
            );
            self.turn(key);
        }
    }

    /// As far as it goes without waiting. A late event for a caller that has left finds nobody.
    fn turn(&mut self, key: usize) {
        let Some(caller) = self.callers.get_mut(&key) else {
            return;
        };
        if caller.answer.is_none() {
            match caller.read() {
                Ok(None) => return,
                Ok(Some(line)) => {
                    let response = line
                        .and_then(|line| parse(&line))
                        .map_or_else(Response::Error, |request| {
                            execute(&*self.commands, &request)
                        });
                    caller.answer(&response);
                    caller.deadline = Instant::now() + self.deadline;
                }
                Err(_gone) => {
                    self.callers.remove(&key);
                    return;
                }
            }
        }
        if caller.write().is_break() {
            self.callers.remove(&key);
        }
    }

    fn expire(&mut self, now: Instant) {
        // Their requests may have come while a slow one was carried out.
        let overdue: Vec<usize> = self
            .callers
            .iter()
            .filter(|(_, caller)| caller.deadline <= now && caller.answer.is_none())
            .map(|(key, _)| *key)
            .collect();
        overdue.into_iter().for_each(|key| self.turn(key));
        let deadline = self.deadline;
        self.callers.retain(|_, caller| {
            if caller.deadline > now {
                return true;
            }
            if caller.answer.is_none() {
                let text = format!("no request within {}", humantime::format_duration(deadline));
                caller.answer(&Response::Error(text));
                let _ = caller.write();
            }
            false
        });
    }
}

/// A command that panics is an error of its own: the next one is carried out.
fn execute(commands: &dyn Commands, request: &Request) -> Response {
    catch_unwind(AssertUnwindSafe(|| commands.execute(request))).unwrap_or_else(|_| {
        log::error!("a command of the control socket panicked");
        Response::Error("the daemon panicked over this command".to_owned())
    })
}

struct Caller {
    stream: UnixStream,
    request: Vec<u8>,
    /// What is still to be written.
    answer: Option<Vec<u8>>,
    deadline: Instant,
}

/// A request's line, or why there is none.
type Line = Result<Vec<u8>, String>;

impl Caller {
    /// `None` is: more is needed. An error is a caller that left.
    fn read(&mut self) -> io::Result<Option<Line>> {
        let mut chunk = [0; 4096];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) if self.request.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(0) => return Ok(Some(Ok(std::mem::take(&mut self.request)))),
                Ok(count) => {
                    let fresh = &chunk[..count];
                    if let Some(end) = memchr::memchr(b'\n', fresh) {
                        self.request.extend_from_slice(&fresh[..end]);
                        if self.request.len() < MAX_REQUEST {
                            return Ok(Some(Ok(std::mem::take(&mut self.request))));
                        }
                    } else {
                        self.request.extend_from_slice(fresh);
                    }
                    if self.request.len() >= MAX_REQUEST {
                        return Ok(Some(Err(format!(
                            "a request has at most {MAX_REQUEST} bytes"
                        ))));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    fn answer(&mut self, response: &Response) {
        let mut line = serde_json::to_vec(response).unwrap_or_default();
        line.push(b'\n');
        self.answer = Some(line);
    }

    /// Break when all is written or nobody reads any more.
    fn write(&mut self) -> std::ops::ControlFlow<()> {
        use std::ops::ControlFlow::{Break, Continue};
        let Some(rest) = &mut self.answer else {
            return Continue(());
        };
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(0) => return Break(()),
                Ok(count) => drop(rest.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Continue(()),
                Err(_gone) => return Break(()),
            }
        }
        Break(())
    }
}
