#![forbid(unsafe_code)]
//! Drives one session: which event comes next, what its answer means. No socket and no clock, so the
//! server and the dialogue tester run sessions by the same rules.

use std::time::{Duration, Instant, SystemTime};

use crate::moment::Moment;
use crate::session::{
    Abuse, Context, Event, Far, Input, Next, Outcome, Output, Peer, Program, Relay, Session, Waker,
    Work,
};

/// What surrounds a session in one turn.
pub(crate) struct Surroundings<'a> {
    pub(crate) peer: &'a Peer,
    pub(crate) now: Instant,
    pub(crate) wall: SystemTime,
    pub(crate) waker: &'a mut dyn FnMut() -> Waker,
}

/// What a session waits for; [`Next`] with its payloads taken out once.
#[derive(Debug)]
pub(crate) enum Wait {
    /// To be opened.
    Open,
    Read,
    Pause,
    Drain,
    StartTls,
    // Boxed, since every idle connection holds one of these.
    Work(Option<Box<Work>>),
    Relay(Option<Box<Relay>>),
    Exec(Option<Box<Program>>),
    Far(Option<Box<Far>>),
    Close,
    Abort,
}

/// How far the peer's side of the stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Finished,
    Truncated,
    Told,
}

/// A session with its buffers, its alarm and its idle deadline.
pub(crate) struct Driver {
    /// Absent until the connection is secured, where its socket says so.
    session: Option<Box<dyn Session>>,
    pub(crate) input: Input,
    pub(crate) output: Output,
    pub(crate) wait: Wait,
    /// Taken by whoever runs the session after each event.
    #[expect(
        clippy::box_collection,
        reason = "8 bytes instead of 24 in every idle connection"
    )]
    pub(crate) abuse: Option<Box<Vec<Abuse>>>,
    alarm: Option<Moment>,
    /// Milliseconds.
    idle_timeout: u32,
    idle_at: Moment,
    end: End,
    /// Input was left when the session turned to something else; it has not seen it since.
    unseen: bool,
    shutdown: bool,
    woken: bool,
}

/// Idle times beyond seven weeks are as good as none.
fn milliseconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

impl Driver {
    pub(crate) fn new(idle_timeout: Duration, now: Instant) -> Self {
        Driver {
            session: None,
            input: Input::default(),
            output: Output::default(),
            wait: Wait::Open,
            abuse: None,
            alarm: None,
            idle_timeout: milliseconds(idle_timeout),
            idle_at: (now + idle_timeout).into(),
            end: End::Open,
            unseen: false,
            shutdown: false,
            woken: false,
        }
    }

    /// Gives the connection its session.
    pub(crate) fn open(&mut self, session: Box<dyn Session>, now: Instant) {
        self.session = Some(session);
        self.restart_idle(now);
    }

    /// True once there is a session.
    pub(crate) fn is_open(&self) -> bool {
        self.session.is_some()
    }

    /// The daemon drains; the session is told when it waits for input.
    pub(crate) fn request_shutdown(&mut self) {
        self.shutdown = true;
    }

    /// A waker was used; the session is told when it waits for input.
    pub(crate) fn request_wake(&mut self) {
        self.woken = true;
    }

    /// The peer finished sending.
    pub(crate) fn finish(&mut self, truncated: bool) {
        self.end = if truncated {
            End::Truncated
        } else {
            End::Finished
        };
    }

    /// True once the peer's end was seen.
    pub(crate) fn is_finished(&self) -> bool {
        self.end != End::Open
    }

    /// Something moved: the idle time starts anew.
    pub(crate) fn restart_idle(&mut self, now: Instant) {
        self.idle_at = (now + Duration::from_millis(self.idle_timeout.into())).into();
    }

    /// When something is to happen even if the peer stays silent.
    pub(crate) fn deadline(&self) -> Instant {
        let deadline = match (&self.wait, self.alarm) {
            (Wait::Read | Wait::Far(_), Some(alarm)) => alarm.min(self.idle_at),
            (Wait::Pause, Some(alarm)) => alarm,
            _ => self.idle_at,
        };
        deadline.into()
    }

    /// True when the idle time has passed.
    pub(crate) fn is_idle(&self, now: Instant) -> bool {
        Moment::from(now) >= self.idle_at
    }

    fn has_alarm(&self, now: Instant) -> bool {
        self.alarm.is_some_and(|alarm| alarm <= now.into())
    }

    /// True when more of the peer's bytes may be read.
    pub(crate) fn may_read(&self) -> bool {
        matches!(self.wait, Wait::Read)
            && self.end == End::Open
            && !self.output.is_high()
            && !self.input.is_full()
    }

    /// Delivers one event that needs no new bytes. False when there is none.
    pub(crate) fn step(&mut self, around: &mut Surroundings<'_>) -> bool {
        if self.session.is_none() {
            return false;
        }
        if matches!(self.wait, Wait::Open) {
            self.tell(Event::Open, around);
            return true;
        }
        if matches!(self.wait, Wait::Drain) && self.output.is_empty() {
            self.restart_idle(around.now);
            self.tell(Event::Drained, around);
            return true;
        }
        if !matches!(self.wait, Wait::Read | Wait::Pause) {
            return false;
        }
        let pauses = matches!(self.wait, Wait::Pause);
        if self.shutdown {
            self.shutdown = false;
            self.tell(Event::Shutdown, around);
        } else if self.woken {
            self.woken = false;
            self.tell(Event::Woken, around);
        } else if self.has_alarm(around.now) {
            self.alarm = None;
            self.tell(Event::Alarm, around);
        } else if self.output.is_high() && !pauses {
            return false;
        } else if self.unseen && !self.input.is_empty() && !pauses {
            self.take_input(around);
        } else if self.end == End::Finished && !pauses {
            self.end = End::Told;
            self.tell(Event::Eof, around);
        } else if self.end == End::Truncated && !pauses {
            self.end = End::Told;
            self.tell(Event::Truncated, around);
        } else if self.is_idle(around.now) && !(pauses && self.alarm.is_some()) {
            self.restart_idle(around.now);
            if self.output.is_empty() {
                self.tell(Event::Timeout, around);
            } else {
                self.wait = Wait::Abort;
            }
        } else {
            return false;
        }
        true
    }

    /// Delivers the bytes that were just added to the input.
    pub(crate) fn take_input(&mut self, around: &mut Surroundings<'_>) {
        self.unseen = false;
        let before = self.input.consumed();
        let mut effects = crate::session::Effects::default();
        let mut cx = Context {
            peer: around.peer,
            now: around.now,
            wall: around.wall,
            output: &mut self.output,
            leftover: &[],
            effects: &mut effects,
            waker: around.waker,
        };
        let Some(session) = &mut self.session else {
            return;
        };
        let next = session.handle(Event::Input(&mut self.input), &mut cx);
        if self.input.consumed() != before {
            self.restart_idle(around.now);
        }
        self.apply(next, effects, around.now);
        if matches!(self.wait, Wait::Read)
            && self.input.is_full()
            && self.input.consumed() == before
        {
            // A session that neither consumes nor gives up would wait for ever.
            self.wait = Wait::Abort;
        }
    }

    /// Work given away has ended.
    pub(crate) fn done(&mut self, outcome: Outcome, around: &mut Surroundings<'_>) {
        self.restart_idle(around.now);
        self.tell(Event::Done(outcome), around);
    }

    /// The handshake of an upgrade is complete.
    pub(crate) fn secured(&mut self, around: &mut Surroundings<'_>) {
        self.wait = Wait::Read;
        self.restart_idle(around.now);
        self.tell(Event::Secured, around);
    }

    /// The session's own socket may go on, or its time has come.
    pub(crate) fn far(&mut self, far: Box<Far>, around: &mut Surroundings<'_>) {
        if self.has_alarm(around.now) {
            self.alarm = None;
        }
        self.restart_idle(around.now);
        self.tell(Event::Far(far), around);
    }

    /// No upstream could be reached.
    pub(crate) fn unreachable(&mut self, around: &mut Surroundings<'_>) {
        self.tell(Event::Unreachable, around);
    }

    fn tell(&mut self, event: Event<'_>, around: &mut Surroundings<'_>) {
        let mut effects = crate::session::Effects::default();
        let mut cx = Context {
            peer: around.peer,
            now: around.now,
            wall: around.wall,
            output: &mut self.output,
            leftover: &self.input,
            effects: &mut effects,
            waker: around.waker,
        };
        let Some(session) = &mut self.session else {
            return;
        };
        let next = session.handle(event, &mut cx);
        self.apply(next, effects, around.now);
    }

    fn apply(&mut self, next: Next, effects: crate::session::Effects, now: Instant) {
        if let Some(alarm) = effects.alarm {
            self.alarm = alarm.map(Moment::from);
        }
        if let Some(timeout) = effects.idle_timeout {
            self.idle_timeout = milliseconds(timeout);
            self.restart_idle(now);
        }
        if !effects.abuse.is_empty() {
            self.abuse.get_or_insert_default().extend(effects.abuse);
        }
        if matches!((&self.wait, &next), (Wait::Pause, Next::Read)) {
            self.restart_idle(now);
        }
        self.wait = match next {
            Next::Read => Wait::Read,
            Next::Pause => Wait::Pause,
            Next::Drain => Wait::Drain,
            Next::StartTls => Wait::StartTls,
            Next::Work(work) => Wait::Work(Some(Box::new(work))),
            Next::Relay(relay) => Wait::Relay(Some(Box::new(relay))),
            Next::Exec(program) => Wait::Exec(Some(Box::new(program))),
            Next::Await(far) => Wait::Far(Some(far)),
            Next::Close => Wait::Close,
            Next::Abort => Wait::Abort,
        };
        if !matches!(self.wait, Wait::Read) {
            self.unseen = true;
        }
    }
}
