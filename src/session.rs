#![forbid(unsafe_code)]
//! The contract between the server and a protocol: events in, effects out. No socket, no clock, no thread.
//!
//! A [`Module`] makes a [`Session`] for each admitted connection. The server calls
//! [`Session::handle`] with one [`Event`] at a time; the session writes its answer through the
//! [`Context`] and says with [`Next`] what it waits for. Nothing here blocks on the peer: a session
//! that waits is parked and uses no thread.
//!
//! Datagram protocols have their own half of the contract in [`datagram`].

pub mod datagram;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod datagram_bench;
mod input;
mod output;
mod peer;
mod program;
mod relay;
pub(crate) mod store;
mod work;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

pub use crate::upstream::Far;
pub use datagram::{Datagram, DatagramContext, DatagramModule, Exchange};
pub use input::Input;
pub use output::{Output, Segment};
pub use peer::{Class, Peer, Security, TlsFacts};
pub use program::{Program, User};
pub use relay::{Dial, Relay, Target, Upstream, UpstreamStream};
pub use work::{Lane, Outcome, Work};

/// A stream protocol: makes one session per connection. One value serves all of a listener's sockets.
pub trait Module: Send + Sync {
    /// A session for a connection that was admitted (and, on a `tls: On` socket, secured).
    fn open(&self, peer: &Peer) -> Box<dyn Session>;

    /// How long a session may go without consuming input or finishing output before
    /// [`Event::Timeout`]; used where the listener sets no `idle_timeout`.
    fn idle_timeout(&self) -> Duration {
        // RFC 5321, 4.5.3.2.7 asks for at least five minutes; a fair default for the others.
        Duration::from_secs(300)
    }

    /// ALPN protocol names offered on a secured socket, in order of preference (RFC 7301).
    fn alpn(&self) -> Vec<Vec<u8>> {
        Vec::new()
    }

    /// True where a reload that leaves the module's settings as they are keeps this value with all it
    /// knows; false, the default, puts one in its place that has read its files anew. Sessions that are
    /// open stay with the value they came from in any case.
    fn keeps_state(&self) -> bool {
        false
    }
}

/// One connection's protocol state.
pub trait Session: Send {
    /// Takes one event, writes through `cx`, and says what to wait for.
    ///
    /// A panic here closes this connection only.
    fn handle(&mut self, event: Event<'_>, cx: &mut Context<'_>) -> Next;
}

/// What happened to a connection.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The first event: the connection is up, and secured if its socket says so.
    Open,
    /// Bytes arrived. What the session leaves in the input stays there and comes again with more;
    /// at the input's limit nothing more is read until the session consumes.
    Input(&'a mut Input),
    /// The handshake asked for with [`Next::StartTls`] is complete. Bytes sent ahead of it are gone.
    Secured,
    /// The peer finished sending (FIN, or close_notify under TLS). What it left unread is in
    /// [`Context::leftover`]. Writing is still possible.
    Eof,
    /// The stream ended without close_notify under TLS: what came before may have been cut short.
    Truncated,
    /// All output has been written to the socket; the answer to [`Next::Drain`].
    Drained,
    /// The work given with [`Next::Work`] is finished, or panicked ([`Outcome::take`] is `None`).
    Done(Outcome),
    /// A [`Waker`] of this session was used. Several wakes may become one event.
    Woken,
    /// The time set with [`Context::set_alarm`] has come.
    Alarm,
    /// Nothing consumed for the idle timeout. [`Next::Read`] starts the time anew.
    Timeout,
    /// The daemon is draining. Sessions that go on are cut when `drain` has passed.
    Shutdown,
    /// No upstream of the [`Relay`] could be reached; the answer to [`Next::Relay`].
    Unreachable,
    /// The socket of [`Next::Await`] may go on, or its time (the alarm's or the idle time) has come: the
    /// session tries, and looks at [`Context::now`].
    Far(Box<Far>),
}

/// What a session waits for.
#[must_use]
#[derive(Debug)]
#[non_exhaustive]
pub enum Next {
    /// More input, or any other event.
    Read,
    /// Any event but input: the peer's bytes wait, [`Event::Woken`] or [`Event::Alarm`] goes on. A session that
    /// pauses sets an alarm: the idle time does not count.
    Pause,
    /// Nothing until all output is written, then [`Event::Drained`]: back-pressure for long answers.
    Drain,
    /// Write what is pending in clear, discard what the client sent ahead, and shake hands;
    /// then [`Event::Secured`] (RFC 3207, 4; RFC 2595, 4).
    StartTls,
    /// Run this on a thread made for work that blocks, then [`Event::Done`].
    Work(Work),
    /// Carry bytes between the peer and an upstream until both have finished; the session ends.
    Relay(Relay),
    /// Nothing of the peer until this socket can be read or written, or the alarm or the idle time has
    /// come; then [`Event::Far`]. Output is written meanwhile.
    Await(Box<Far>),
    /// Run a program with the connection as its standard input, output and error; the session ends.
    Exec(Program),
    /// Write what is pending, then close.
    Close,
    /// Close at once, unwritten output is lost (the peer may see a reset).
    Abort,
}

/// A misdeed of the peer that a session reports to the admission side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Abuse {
    /// A wrong password or an unknown account.
    FailedLogin,
    /// Protocol misuse that no honest client commits.
    Protocol,
}

/// Wakes a session from any thread: it gets [`Event::Woken`]. Harmless after the session's end.
#[derive(Clone)]
pub struct Waker(Arc<dyn Fn() + Send + Sync>);

impl Waker {
    /// A waker that calls `wake`.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Waker(Arc::new(wake))
    }

    /// Asks for [`Event::Woken`].
    pub fn wake(&self) {
        (self.0)();
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waker")
    }
}

/// What surrounds a session during one event: its peer, the time, and where its effects go.
pub struct Context<'a> {
    pub(crate) peer: &'a Peer,
    pub(crate) now: Instant,
    pub(crate) wall: SystemTime,
    pub(crate) output: &'a mut Output,
    pub(crate) leftover: &'a [u8],
    pub(crate) effects: &'a mut Effects,
    pub(crate) waker: &'a mut dyn FnMut() -> Waker,
}

/// Effects other than output, carried out after the event.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    pub(crate) alarm: Option<Option<Instant>>,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) abuse: Vec<Abuse>,
}

impl Context<'_> {
    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        self.peer
    }

    /// The monotonic time of this event.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// The wall-clock time of this event.
    #[must_use]
    pub fn wall(&self) -> SystemTime {
        self.wall
    }

    /// Appends to the output. Never blocks; the server stops reading from a peer that does not read.
    pub fn write(&mut self, bytes: &[u8]) {
        self.output.write(bytes);
    }

    /// The output itself, for files and for formatting through [`std::io::Write`].
    pub fn output(&mut self) -> &mut Output {
        self.output
    }

    /// Input that was not consumed, as seen at [`Event::Eof`] and the other events without input.
    #[must_use]
    pub fn leftover(&self) -> &[u8] {
        self.leftover
    }

    /// [`Event::Alarm`] after `delay`; replaces an alarm set before. `None` takes it back.
    pub fn set_alarm(&mut self, delay: Option<Duration>) {
        self.effects.alarm = Some(delay.map(|delay| self.now + delay));
    }

    /// Replaces the idle timeout of this connection, from now on.
    pub fn set_idle_timeout(&mut self, timeout: Duration) {
        self.effects.idle_timeout = Some(timeout);
    }

    /// A waker for this session, to be kept by whoever has news for it.
    pub fn waker(&mut self) -> Waker {
        (self.waker)()
    }

    /// Reports a misdeed of the peer to the admission side.
    pub fn report(&mut self, abuse: Abuse) {
        self.effects.abuse.push(abuse);
    }
}
