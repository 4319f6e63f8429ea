//! Changes of a running server in this process, with small modules: what no module that is shipped shows.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Handle, Server};
use crate::admission::address_list::{AddressList, Source};
use crate::admission::ladder::Restriction;
use crate::config::plan::{AutoBan, ListenerPlan, Network, Plan};
use crate::control::{Commands, Link, Request, Response};
use crate::session::datagram::{ExchangeContext, ExchangeEvent, ExchangeNext};
use crate::session::{
    Abuse, Context, Datagram, DatagramContext, DatagramModule, Event, Exchange, Lane, Module, Next,
    Peer, Session, Work,
};

const DEADLINE: Duration = Duration::from_secs(20);

/// Answers each line with its number, and takes it for a wrong password.
struct Guess(AtomicU32);

impl Module for Guess {
    fn open(&self, _peer: &Peer) -> Box<dyn Session> {
        Box::new(Guessing(self.0.fetch_add(1, Ordering::Relaxed)))
    }

    fn keeps_state(&self) -> bool {
        true
    }
}

struct Guessing(u32);

impl Session for Guessing {
    fn handle(&mut self, event: Event<'_>, cx: &mut Context<'_>) -> Next {
        match event {
            Event::Open => Next::Read,
            Event::Input(input) => {
                while let Some(line) = input.take_line() {
                    if &line[..] == b"block" {
                        std::thread::sleep(Duration::from_millis(2500));
                    } else {
                        cx.report(Abuse::FailedLogin);
                    }
                    cx.write(format!("{}\n", self.0).as_bytes());
                }
                Next::Read
            }
            _ => Next::Close,
        }
    }
}

impl DatagramModule for Guess {
    fn answer(&self, datagram: &Datagram<'_>, cx: &mut DatagramContext<'_>) {
        cx.report(Abuse::Protocol);
        cx.open(datagram.route, None, Box::new(Silent));
        cx.reply(datagram.bytes);
    }
}

/// Ends when it must.
struct Silent;

impl Exchange for Silent {
    fn handle(&mut self, _: ExchangeEvent<'_>, _: &mut ExchangeContext<'_>) -> ExchangeNext {
        ExchangeNext::Wait
    }
}

fn list(text: &str) -> AddressList {
    AddressList::parse(&Source::file(Path::new("list"), text)).unwrap()
}

/// Three misdeeds, and 127.0.0.1 is a client.
fn plan(home: &Path) -> Plan {
    let rule = AutoBan {
        failures: 3,
        within: DEADLINE,
        lasts: Duration::from_secs(3600),
        never: list("127.0.0.3"),
    };
    Plan {
        workers: 2,
        state_dir: home.to_owned(),
        auto_ban: Some(rule),
        network: Arc::new(Network {
            clients: list("127.0.0.1"),
            ..Network::default()
        }),
        ..Plan::default()
    }
}

fn guess() -> ListenerPlan {
    let mut plan = ListenerPlan::tcp("guess", Arc::new(Guess(AtomicU32::new(0))));
    plan.settings = "Guess".to_owned();
    plan.socket("127.0.0.1:0".parse().unwrap())
}

struct Running {
    handle: Handle,
    address: SocketAddr,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Running {
    fn start(plan: Plan) -> Self {
        let server = Server::bind(plan).unwrap();
        let (handle, address) = (server.handle(), server.addresses()[0].2);
        let thread = Some(std::thread::spawn(move || server.run()));
        Running {
            handle,
            address,
            thread,
        }
    }

    fn rejected(&self, reason: &str) -> u64 {
        let status = self.handle.status();
        status.listeners[0]
            .rejected
            .get(reason)
            .copied()
            .unwrap_or(0)
    }

    fn wait_for(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let end = Instant::now() + DEADLINE;
        while !condition(self) {
            assert!(Instant::now() < end, "{what}: {:?}", self.handle.status());
            std::thread::yield_now();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.shutdown();
        self.handle.shutdown();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap().unwrap();
        }
    }
}

fn connect(source: &str, address: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let source: SocketAddr = format!("{source}:0").parse().unwrap();
    socket.bind(&source.into()).unwrap();
    socket.connect(&address.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

fn ask(stream: &mut TcpStream, line: &str) -> std::io::Result<String> {
    stream.write_all(line.as_bytes())?;
    let mut answer = [0; 64];
    let count = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..count]).into_owned())
}

#[test]
fn the_third_wrong_password_bans_at_once_but_no_client_and_nobody_of_the_never_list() {
    let home = tempfile::tempdir().unwrap();
    let server = Running::start(plan(home.path()).listen(guess()));
    for source in ["127.0.0.1", "127.0.0.3", "127.0.0.9"] {
        let mut stream = connect(source, server.address);
        for _ in 0..3 {
            assert!(ask(&mut stream, "secret\n").unwrap().ends_with('\n'));
        }
        // What is open stays open.
        assert!(ask(&mut stream, "block\n").unwrap().ends_with('\n'));
        let again = ask(&mut connect(source, server.address), "secret\n");
        let banned = u64::from(source == "127.0.0.9");
        assert_eq!(
            again.is_ok_and(|answer| !answer.is_empty()),
            banned == 0,
            "{source}"
        );
        assert_eq!(server.rejected("banned"), banned, "{source}");
    }
    drop(server);
    // The end of the server writes what was not written yet.
    let again = Running::start(plan(home.path()).listen(guess()));
    let answer = ask(&mut connect("127.0.0.9", again.address), "x\n");
    assert!(answer.map_or(true, |answer| answer.is_empty()));
    let Response::Ok(bans) = again.handle.execute(&Request::Bans) else {
        panic!("no answer")
    };
    assert_eq!(
        (&bans[0]["address"], &bans[0]["by"]),
        (&"127.0.0.9".into(), &"automatic".into())
    );
}

#[test]
fn datagrams_can_lead_to_a_ban_and_exchanges_end_with_their_listener() {
    let home = tempfile::tempdir().unwrap();
    let udp = || {
        let listener = ListenerPlan::udp("udp", Arc::new(Guess(AtomicU32::new(0))));
        listener.socket("127.0.0.1:0".parse().unwrap())
    };
    let server = Running::start(plan(home.path()).listen(udp()));
    let socket = UdpSocket::bind("127.0.0.9:0").unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    for _ in 0..3 {
        socket.send_to(b"x", server.address).unwrap();
        socket.recv(&mut [0; 8]).unwrap();
    }
    socket.send_to(b"x", server.address).unwrap();
    server.wait_for("the fourth is dropped", |server| {
        server.rejected("banned") == 1
    });
    let state = server.handle.0.state.load();
    let super::state::RunningKind::Udp(group) = state.listeners[0].kind.clone() else {
        panic!("no UDP")
    };
    drop(state);
    assert_eq!(group.exchanges.load(Ordering::Relaxed), 3);
    server
        .handle
        .replace(plan(home.path()).listen(guess()))
        .unwrap();
    server.wait_for("exchanges end", |_| {
        group.exchanges.load(Ordering::Relaxed) == 0
    });
}

#[test]
fn a_module_that_keeps_its_state_outlives_a_reload_that_leaves_its_settings() {
    let home = tempfile::tempdir().unwrap();
    let server = Running::start(plan(home.path()).listen(guess()));
    let mut first = connect("127.0.0.1", server.address);
    assert_eq!(ask(&mut first, "a\n").unwrap(), "0\n");
    server
        .handle
        .replace(plan(home.path()).listen(guess()))
        .unwrap();
    assert_eq!(
        ask(&mut connect("127.0.0.1", server.address), "a\n").unwrap(),
        "1\n"
    );
    let mut other = guess();
    other.settings = "Guess(other)".to_owned();
    let changed = server
        .handle
        .replace(plan(home.path()).listen(other))
        .unwrap();
    assert_eq!(
        changed.changes,
        ["listener guess has other settings of its module"]
    );
    assert_eq!(
        ask(&mut connect("127.0.0.1", server.address), "a\n").unwrap(),
        "0\n"
    );
    assert_eq!(
        ask(&mut first, "a\n").unwrap(),
        "0\n",
        "it stays with the module it came to"
    );
    assert_eq!(server.handle.status().listeners[0].accepted, 3);
}

#[test]
fn whoever_waits_for_a_header_while_the_rules_change_is_decided_by_the_new_ones() {
    let home = tempfile::tempdir().unwrap();
    let with = |restriction: Restriction| {
        let mut listener = guess();
        listener.sockets[0].proxy_from = Some(list("127.0.0.1"));
        listener.sockets[0].restriction = restriction;
        plan(home.path()).listen(listener)
    };
    let server = Running::start(with(Restriction::Open));
    let mut waiting = connect("127.0.0.1", server.address);
    waiting.write_all(b"PROXY TCP4 ").unwrap();
    server.wait_for("the header is awaited", |server| {
        let state = server.handle.0.state.load();
        state.listeners[0]
            .counters()
            .prefaces
            .load(Ordering::Relaxed)
            == 1
    });
    server
        .handle
        .replace(with(Restriction::Deny(list("192.0.2.1"))))
        .unwrap();
    let answer = ask(&mut waiting, "192.0.2.1 192.0.2.2 1 2\r\nx\n");
    assert!(answer.map_or(true, |answer| answer.is_empty()));
    assert_eq!(server.rejected("restricted"), 1);
}

#[test]
fn one_whose_module_is_at_work_is_cut_when_that_pauses() {
    let home = tempfile::tempdir().unwrap();
    let server = Running::start(plan(home.path()).listen(guess()));
    let mut stream = connect("127.0.0.1", server.address);
    stream.write_all(b"block\n").unwrap();
    server.wait_for("it is at work", |server| {
        server.handle.status().workers.busy == 1
    });
    let Response::Ok(done) = server.handle.execute(&Request::Disconnect {
        id: None,
        address: Some("127.0.0.1".to_owned()),
    }) else {
        panic!("no answer")
    };
    assert_eq!((&done["closed"], &done["closing"]), (&0.into(), &1.into()));
    assert_ne!(stream.read(&mut [0; 8]).ok(), Some(8));
    server.wait_for("it is gone", |server| {
        server.handle.status().listeners[0].active == 0
    });
}

/// Bans its peer through its link, and says what came of it.
struct Asks(Link);

impl Module for Asks {
    fn open(&self, _peer: &Peer) -> Box<dyn Session> {
        Box::new(Asks(self.0.clone()))
    }
}

impl Session for Asks {
    fn handle(&mut self, event: Event<'_>, cx: &mut Context<'_>) -> Next {
        match event {
            Event::Open => Next::Read,
            Event::Input(input) => {
                let line = input.take_line().unwrap_or_default();
                let address = String::from_utf8_lossy(&line).into_owned();
                let link = self.0.clone();
                let lasts = None;
                Next::Work(Work::new(Lane::Wait, move || {
                    link.execute(&Request::Ban { address, lasts })
                }))
            }
            Event::Done(outcome) => {
                let said = match outcome.take::<Response>() {
                    Some(Response::Ok(_)) => "done\n",
                    _ => "no\n",
                };
                cx.write(said.as_bytes());
                Next::Read
            }
            _ => Next::Close,
        }
    }
}

#[test]
fn a_module_reaches_the_daemon_through_its_link_even_to_cut_itself() {
    let home = tempfile::tempdir().unwrap();
    let plan = plan(home.path());
    let listener = ListenerPlan::tcp("asks", Arc::new(Asks(plan.link.clone())));
    let server = Running::start(plan.listen(listener.socket("127.0.0.1:0".parse().unwrap())));
    let mut stream = connect("127.0.0.1", server.address);
    assert_eq!(ask(&mut stream, "127.0.0.9\n").unwrap(), "done\n");
    assert_eq!(ask(&mut stream, "nobody\n").unwrap(), "no\n");
    assert!(
        ask(&mut connect("127.0.0.9", server.address), "x\n").map_or(true, |said| said.is_empty())
    );
    assert!(ask(&mut stream, "127.0.0.1\n").map_or(true, |said| said.is_empty()));
    server.wait_for("it is gone", |server| {
        server.handle.status().listeners[0].active == 0
    });
}
