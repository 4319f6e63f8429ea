#![forbid(unsafe_code)]
//! Runs a module against a dialogue as an RFC prints one: `C:` and `S:` lines. No socket.
//!
//! The same rules that drive a session on a worker drive it here. After the dialogue as written, the same
//! bytes are sent again cut at every chunk size, and must get the same answers.
//!
//! ```text
//! ; lines that start with a semicolon are comments
//! S: 220 ready
//! C: HELO a.example
//! S: 250 hello
//! C: QUIT
//! S: 221 *            ; a lone star at the end matches the rest of the line
//! S: <close>
//! ```
//!
//! Besides text, `C:` takes `<eof>`, `<timeout>`, `<alarm>`, `<wake>`, `<shutdown>` and `<secured>` (the
//! handshake of an upgrade); `S:` takes `<close>`, `<abort>`, `<starttls>` and `<relay>`. Lines end with
//! CRLF; a trailing `\` means that none follows.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::connection::driver::{Driver, Surroundings, Wait};
use crate::session::{Class, Module, Peer, Security, Waker};

/// A peer for tests: a client from 192.0.2.1 that connected to 192.0.2.25 in clear.
#[must_use]
pub fn test_peer() -> Peer {
    Peer {
        remote: SocketAddr::from(([192, 0, 2, 1], 50_000)),
        local: SocketAddr::from(([192, 0, 2, 25], 25)),
        class: Class::Client,
        cluster: false,
        blacklisted: false,
        security: Security::Clear,
        may_start_tls: true,
        listener: "test".into(),
    }
}

/// Checks a module against a dialogue, in whole lines and then cut at every chunk size.
///
/// # Panics
/// The answers differ from the dialogue's; the message names the line.
#[track_caller]
pub fn check(module: &dyn Module, dialogue: &str) {
    check_as(module, &test_peer(), dialogue);
}

/// The same with a peer of the caller's.
///
/// # Panics
/// As [`check`].
#[track_caller]
pub fn check_as(module: &dyn Module, peer: &Peer, dialogue: &str) {
    let script = Script::parse(dialogue);
    let longest = script.steps.iter().map(Step::len).max().unwrap_or(1);
    for chunk in std::iter::once(usize::MAX).chain(1..=longest) {
        if let Err(complaint) = Run::new(module, peer, chunk).play(&script) {
            let how = if chunk == usize::MAX {
                String::new()
            } else {
                format!(" (in chunks of {chunk})")
            };
            panic!("{complaint}{how}");
        }
    }
}

/// All that a session says to these bytes, in chunks, until it ends or would wait.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn answer(module: &dyn Module, peer: &Peer, bytes: &[u8], chunk: usize) -> Vec<u8> {
    let mut run = Run::new(module, peer, chunk);
    run.send(bytes);
    run.said
}

/// A conversation of bytes, for protocols that have no lines.
#[cfg(test)]
pub(crate) struct Talk(Run);

#[cfg(test)]
impl Talk {
    pub(crate) fn new(module: &dyn Module, peer: &Peer, chunk: usize) -> Self {
        Talk(Run::new(module, peer, chunk))
    }

    /// What is said to these bytes.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.0.send(bytes);
        std::mem::take(&mut self.0.said)
    }

    /// What is said when something happens; the events are those of a dialogue.
    #[track_caller]
    pub(crate) fn event(&mut self, what: &str) -> Vec<u8> {
        self.0.event(0, what).expect("an event");
        std::mem::take(&mut self.0.said)
    }

    /// Whether the session has come to this end.
    pub(crate) fn is_at(&mut self, end: &str) -> bool {
        self.0.end(0, end).is_ok()
    }

    /// Everything that was reported of the peer.
    pub(crate) fn abuse(&self) -> &[crate::session::Abuse] {
        self.0.driver.abuse.as_deref().map_or(&[], Vec::as_slice)
    }
}

struct Script {
    steps: Vec<Step>,
}

enum Step {
    Send(Vec<u8>),
    Happen(usize, String),
    /// The line, what it must be, and whether only its beginning counts.
    Expect(usize, Vec<u8>, bool),
    End(usize, String),
}

impl Step {
    fn len(&self) -> usize {
        match self {
            Step::Send(bytes) => bytes.len(),
            _ => 1,
        }
    }
}

impl Script {
    #[track_caller]
    fn parse(text: &str) -> Script {
        let mut steps = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim_start();
            if line.is_empty() || line.starts_with(';') {
                continue;
            }
            let (who, rest) = line.split_at_checked(2).unwrap_or((line, ""));
            let rest = rest.strip_prefix(' ').unwrap_or(rest);
            let word = rest
                .strip_prefix('<')
                .and_then(|rest| rest.strip_suffix('>'));
            steps.push(match (who, word) {
                ("C:", Some(word)) => Step::Happen(number, word.to_owned()),
                ("S:", Some(word)) => Step::End(number, word.to_owned()),
                ("C:", None) => Step::Send(bytes(rest)),
                ("S:", None) => match rest.strip_suffix('*') {
                    Some(start) => Step::Expect(number, start.as_bytes().to_vec(), true),
                    None => Step::Expect(number, bytes(rest), false),
                },
                _ => panic!("line {number} of the dialogue starts with neither C: nor S:"),
            });
        }
        Script { steps }
    }
}

fn bytes(text: &str) -> Vec<u8> {
    match text.strip_suffix('\\') {
        Some(text) => text.as_bytes().to_vec(),
        None => [text.as_bytes(), b"\r\n"].concat(),
    }
}

/// A session and what it has said.
pub(crate) struct Run {
    driver: Driver,
    peer: Peer,
    now: Instant,
    pub(crate) said: Vec<u8>,
    woken: Arc<AtomicBool>,
    chunk: usize,
}

impl Run {
    pub(crate) fn new(module: &dyn Module, peer: &Peer, chunk: usize) -> Run {
        let now = Instant::now();
        let mut driver = Driver::new(module.idle_timeout(), now);
        driver.open(module.open(peer), now);
        let woken = Arc::new(AtomicBool::new(false));
        let mut run = Run {
            driver,
            peer: peer.clone(),
            now,
            said: Vec::new(),
            woken,
            chunk,
        };
        run.settle();
        run
    }

    fn play(&mut self, script: &Script) -> Result<(), String> {
        let mut waiting: Vec<u8> = Vec::new();
        let mut steps = script.steps.iter().peekable();
        while let Some(step) = steps.next() {
            match step {
                Step::Send(bytes) => {
                    waiting.extend_from_slice(bytes);
                    // Lines that follow each other arrive together, as from a pipelining client.
                    if !matches!(steps.peek(), Some(Step::Send(..))) {
                        self.send(&waiting);
                        waiting.clear();
                    }
                }
                Step::Happen(line, what) => self.event(*line, what)?,
                Step::Expect(line, wanted, start) => self.expect(*line, wanted, *start)?,
                Step::End(line, what) => self.end(*line, what)?,
            }
        }
        match &self.said[..] {
            [] => Ok(()),
            rest => Err(format!(
                "the session said more: {:?}",
                String::from_utf8_lossy(rest)
            )),
        }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(self.chunk.min(bytes.len()).max(1)) {
            self.driver.input.extend(piece);
            self.happen(|driver, around| {
                if matches!(driver.wait, Wait::Read) {
                    driver.take_input(around);
                }
            });
        }
    }

    fn event(&mut self, line: usize, what: &str) -> Result<(), String> {
        match what {
            "eof" => self.driver.finish(false),
            "truncated" => self.driver.finish(true),
            "wake" => self.driver.request_wake(),
            "shutdown" => self.driver.request_shutdown(),
            "timeout" | "alarm" => self.now = self.driver.deadline(),
            "secured" => {
                self.driver.input.clear();
                self.peer.security = Security::Tls(Arc::default());
                self.peer.may_start_tls = false;
                self.happen(Driver::secured);
                return Ok(());
            }
            other => return Err(format!("line {line}: there is no event <{other}>")),
        }
        self.settle();
        Ok(())
    }

    fn expect(&mut self, line: usize, wanted: &[u8], start: bool) -> Result<(), String> {
        let end = memchr::memchr(b'\n', &self.said).map_or(self.said.len(), |end| end + 1);
        let end = if start || wanted.ends_with(b"\n") {
            end
        } else {
            wanted.len().min(self.said.len())
        };
        let line_said: Vec<u8> = self.said.drain(..end).collect();
        let matches = if start {
            line_said.starts_with(wanted)
        } else {
            line_said == wanted
        };
        if matches {
            return Ok(());
        }
        let (wanted, said) = (
            String::from_utf8_lossy(wanted),
            String::from_utf8_lossy(&line_said),
        );
        Err(format!(
            "line {line}: expected {wanted:?}, the session said {said:?}"
        ))
    }

    fn end(&mut self, line: usize, what: &str) -> Result<(), String> {
        let is = match self.driver.wait {
            Wait::Close => "close",
            Wait::Abort => "abort",
            Wait::StartTls => "starttls",
            Wait::Relay(_) => "relay",
            Wait::Exec(_) => "exec",
            Wait::Far(_) => "far",
            Wait::Open | Wait::Read | Wait::Pause | Wait::Drain | Wait::Work(_) => {
                "an open session"
            }
        };
        if is == what {
            Ok(())
        } else {
            Err(format!("line {line}: expected <{what}>, found {is}"))
        }
    }

    /// Lets everything happen that can.
    pub(crate) fn settle(&mut self) {
        self.happen(|_, _| {});
    }

    /// Lets something happen, then every event that follows from it.
    fn happen(&mut self, what: impl FnOnce(&mut Driver, &mut Surroundings<'_>)) {
        let woken = Arc::clone(&self.woken);
        let mut waker = || {
            let woken = Arc::clone(&woken);
            Waker::new(move || woken.store(true, Ordering::Release))
        };
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_514_400);
        let mut around = Surroundings {
            peer: &self.peer,
            now: self.now,
            wall,
            waker: &mut waker,
        };
        what(&mut self.driver, &mut around);
        loop {
            if self.woken.swap(false, Ordering::AcqRel) {
                self.driver.request_wake();
            }
            self.said
                .append(&mut self.driver.output.take_all().expect("a file of the test"));
            if let Wait::Work(work) = &mut self.driver.wait
                && let Some(work) = work.take()
            {
                self.driver.done(work.run(), &mut around);
            } else if !self.driver.step(&mut around) {
                break;
            }
        }
        self.said
            .append(&mut self.driver.output.take_all().expect("a file of the test"));
    }
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::session::{Context, Event, Lane, Module, Next, Peer, Session, Work};
    use std::time::Duration;

    struct Shout;
    struct Shouting;

    impl Module for Shout {
        fn open(&self, _peer: &Peer) -> Box<dyn Session> {
            Box::new(Shouting)
        }
    }

    impl Session for Shouting {
        fn handle(&mut self, event: Event<'_>, cx: &mut Context<'_>) -> Next {
            match event {
                Event::Open => cx.write(b"220 ready\r\n"),
                Event::Secured => assert!(cx.peer().is_secure()),
                Event::Alarm => cx.write(b"150 alarm\r\n"),
                Event::Woken => cx.write(b"150 woken\r\n"),
                Event::Done(outcome) => {
                    cx.write(outcome.take::<Vec<u8>>().unwrap_or_default().as_slice())
                }
                Event::Input(input) => {
                    while let Some(line) = input.take_line() {
                        match &line[..] {
                            b"QUIT" => return Next::Close,
                            b"STARTTLS" => {
                                cx.write(b"220 go ahead\r\n");
                                return Next::StartTls;
                            }
                            b"ALARM" => cx.set_alarm(Some(Duration::from_secs(5))),
                            b"WAKE" => cx.waker().wake(),
                            b"WORK" => {
                                return Next::Work(Work::new(Lane::Compute, || {
                                    b"250 worked\r\n".to_vec()
                                }));
                            }
                            _ => {
                                cx.write(line.to_ascii_uppercase().as_slice());
                                cx.write(b"\r\n");
                            }
                        }
                    }
                }
                Event::Shutdown => {
                    cx.write(b"421 going down\r\n");
                    return Next::Close;
                }
                _ => return Next::Close,
            }
            Next::Read
        }
    }

    #[test]
    fn a_dialogue_reads_as_in_an_rfc() {
        check(
            &Shout,
            "S: 220 ready\nC: hello\nS: HELLO\nC: again\nS: AG*\nC: QUIT\nS: <close>",
        );
        check(
            &Shout,
            "S: 220 ready\nC: ALARM\nC: <alarm>\nS: 150 alarm\nC: WAKE\nS: 150 woken\nC: <eof>\nS: <close>",
        );
        check(
            &Shout,
            "S: 220 ready\nC: WORK\nC: hello\nS: 250 worked\nS: HELLO\nC: <shutdown>\nS: 421 *\nS: <close>",
        );
    }

    #[test]
    fn bytes_sent_ahead_of_a_handshake_are_gone() {
        check(
            &Shout,
            "S: 220 ready\nC: STARTTLS\nC: injected\nS: 220 go ahead\nS: <starttls>\nC: <secured>\nC: hello\nS: HELLO",
        );
    }

    #[test]
    #[should_panic(expected = "line 3: expected \"OTHER\\r\\n\", the session said \"HELLO\\r\\n\"")]
    fn a_wrong_answer_names_the_line() {
        check(&Shout, "S: 220 ready\nC: hello\nS: OTHER");
    }
}
