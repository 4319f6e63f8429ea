//! The server in this process, with small modules, over real sockets.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Handle, Server};
use crate::admission::address_list::{AddressList, Source};
use crate::admission::ladder::Restriction;
use crate::config::plan::{ListenerPlan, Plan, Protocol};
use crate::session::datagram::{ExchangeContext, ExchangeEvent, ExchangeHandle, ExchangeNext};
use crate::session::{
    Context, Dial, Event, Exchange, Lane, Module, Next, Peer, Relay, Session, Target, Upstream,
    Waker, Work,
};
use crate::tls::{self, Certificate, Domain, Domains};

const DEADLINE: Duration = Duration::from_secs(20);

/// Does what each line asks for, so that a test reaches every part of the contract.
struct Probe {
    waker_out: Arc<parking_lot::Mutex<Option<Waker>>>,
}

struct ProbeSession(Arc<parking_lot::Mutex<Option<Waker>>>, u32);

impl Module for Probe {
    fn open(&self, _peer: &Peer) -> Box<dyn Session> {
        Box::new(ProbeSession(Arc::clone(&self.waker_out), 0))
    }
}

impl Session for ProbeSession {
    fn handle(&mut self, event: Event<'_>, cx: &mut Context<'_>) -> Next {
        match event {
            Event::Open => Next::Read,
            Event::Input(input) => {
                while let Some(line) = input.take_line() {
                    match &line[..] {
                        b"panic" => panic!("asked to"),
                        b"alarm" => cx.set_alarm(Some(Duration::from_millis(20))),
                        b"wake" => {
                            *self.0.lock() = Some(cx.waker());
                            cx.write(b"kept\n");
                        }
                        b"work" => return Next::Work(Work::new(Lane::Compute, || 6 * 7)),
                        b"badwork" => {
                            return Next::Work(Work::new(Lane::Wait, || -> u32 {
                                panic!("asked to")
                            }));
                        }
                        b"long" => {
                            self.1 = 64;
                            return Next::Drain;
                        }
                        b"tls" => {
                            cx.write(b"go ahead\n");
                            return Next::StartTls;
                        }
                        [b'r', b'e', b'l', b'a', b'y', b' ', port @ ..] => {
                            let port = std::str::from_utf8(port).unwrap().parse().unwrap();
                            return Next::Relay(Relay {
                                upstream: Upstream::Dial(Box::new(Targets(vec![port, 1]))),
                                ahead: b"ahead ".to_vec(),
                            });
                        }
                        b"bye" => {
                            cx.write(b"bye\n");
                            return Next::Close;
                        }
                        _ => {
                            cx.write(&line);
                            cx.write(b"\n");
                        }
                    }
                }
                Next::Read
            }
            Event::Drained if self.1 > 0 => {
                self.1 -= 1;
                cx.write(&[b'x'; 32 * 1024]);
                Next::Drain
            }
            Event::Drained => Next::Read,
            Event::Done(outcome) => {
                match outcome.take::<i32>() {
                    Some(answer) => cx.write(format!("{answer}\n").as_bytes()),
                    None => cx.write(b"no answer\n"),
                }
                Next::Read
            }
            Event::Secured => {
                assert!(cx.peer().is_secure());
                Next::Read
            }
            Event::Unreachable => {
                cx.write(b"unreachable\n");
                Next::Read
            }
            Event::Woken => {
                cx.write(b"woken\n");
                Next::Read
            }
            Event::Alarm => {
                cx.write(b"alarm\n");
                Next::Read
            }
            Event::Timeout => {
                cx.write(b"timeout\n");
                Next::Close
            }
            _ => Next::Close,
        }
    }
}

/// Ports of this machine, to be tried from the last to the first.
#[derive(Debug)]
struct Targets(Vec<u16>);

impl Dial for Targets {
    fn next(&mut self, _now: Instant) -> Option<(Target, Duration)> {
        let port = self.0.pop()?;
        Some((
            Target::Tcp(SocketAddr::from(([127, 0, 0, 1], port))),
            DEADLINE,
        ))
    }

    fn outcome(&mut self, _result: &std::io::Result<()>, _now: Instant) {}
}

struct Running {
    handle: Handle,
    address: SocketAddr,
    waker: Arc<parking_lot::Mutex<Option<Waker>>>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Running {
    fn start(change: impl FnOnce(&mut ListenerPlan)) -> Running {
        let waker = Arc::new(parking_lot::Mutex::new(None));
        let module = Arc::new(Probe {
            waker_out: Arc::clone(&waker),
        });
        let mut listener =
            ListenerPlan::tcp("probe", module).socket("127.0.0.1:0".parse().unwrap());
        change(&mut listener);
        let plan = Plan {
            workers: 2,
            domains: domains().0,
            ..Plan::default()
        };
        let server = Server::bind(plan.listen(listener)).unwrap();
        let (handle, address) = (server.handle(), server.addresses()[0].2);
        let thread = Some(std::thread::spawn(move || server.run()));
        Running {
            handle,
            address,
            waker,
            thread,
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    fn active(&self) -> u32 {
        self.handle.status().listeners[0].active
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

fn ask(stream: &mut TcpStream, question: &str) -> String {
    stream.write_all(question.as_bytes()).unwrap();
    let mut answer = vec![0; 64];
    let count = stream.read(&mut answer).unwrap();
    String::from_utf8(answer[..count].to_vec()).unwrap()
}

fn limit(listener: &mut ListenerPlan, channels: u32, per_address: Option<u32>) {
    if let Protocol::Tcp(tcp) = &mut listener.protocol {
        tcp.limits.channels = channels;
        tcp.limits.limit_per_address = per_address;
    }
}

#[test]
fn every_event_of_the_contract_arrives_over_a_socket() {
    let server = Running::start(|_| {});
    let mut stream = server.connect();
    assert_eq!(ask(&mut stream, "hello\n"), "hello\n");
    assert_eq!(ask(&mut stream, "alarm\n"), "alarm\n");
    assert_eq!(ask(&mut stream, "work\n"), "42\n");
    assert_eq!(ask(&mut stream, "badwork\n"), "no answer\n");
    assert_eq!(ask(&mut stream, "wake\n"), "kept\n");
    server.waker.lock().as_ref().unwrap().wake();
    assert_eq!(ask(&mut stream, ""), "woken\n");
    assert_eq!(ask(&mut stream, "bye\n"), "bye\n");
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
    server.wait_for("slots are free", |server| server.active() == 0);
}

#[test]
fn lines_behind_work_are_handled_after_it() {
    let server = Running::start(|_| {});
    let mut stream = server.connect();
    stream.write_all(b"work\nhello\nbye\n").unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    assert_eq!(all, "42\nhello\nbye\n");
}

#[test]
fn a_long_answer_waits_for_a_slow_reader_without_growing() {
    let server = Running::start(|_| {});
    let mut stream = server.connect();
    stream.write_all(b"long\nbye\n").unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), 64 * 32 * 1024 + 4);
}

#[test]
fn a_panic_closes_its_own_connection_only() {
    let server = Running::start(|_| {});
    let (mut bad, mut good) = (server.connect(), server.connect());
    assert_eq!(ask(&mut good, "hello\n"), "hello\n");
    bad.write_all(b"panic\n").unwrap();
    assert!(matches!(bad.read(&mut [0; 8]), Ok(0) | Err(_)));
    assert_eq!(ask(&mut good, "still\n"), "still\n");
    drop(good);
    server.wait_for("slots are free", |server| server.active() == 0);
}

#[test]
fn an_idle_connection_is_told_so() {
    let server = Running::start(|listener| {
        if let Protocol::Tcp(tcp) = &mut listener.protocol {
            tcp.idle_timeout = Some(Duration::from_millis(50));
        }
    });
    let mut stream = server.connect();
    let mut all = String::new();
    stream.read_to_string(&mut all).unwrap();
    assert_eq!(all, "timeout\n");
}

#[test]
fn an_address_that_reconnects_at_once_is_never_refused() {
    let server = Running::start(|listener| limit(listener, 100, Some(1)));
    for _ in 0..2000 {
        let mut stream = server.connect();
        assert_eq!(ask(&mut stream, "hello\n"), "hello\n");
    }
    for _ in 0..2000 {
        drop(server.connect());
    }
    let mut last = server.connect();
    assert_eq!(ask(&mut last, "hello\n"), "hello\n");
    assert!(
        server.handle.status().listeners[0].rejected.is_empty(),
        "{:?}",
        server.handle.status()
    );
}

#[test]
fn one_too_many_is_refused_without_a_byte() {
    let server = Running::start(|listener| limit(listener, 2, None));
    let mut held = [server.connect(), server.connect()];
    for stream in &mut held {
        assert_eq!(ask(stream, "hello\n"), "hello\n");
    }
    let mut third = server.connect();
    assert!(matches!(third.read(&mut [0; 8]), Ok(0) | Err(_)));
    assert_eq!(server.handle.status().listeners[0].rejected["full"], 1);
    drop(held);
    server.wait_for("slots are free", |server| server.active() == 0);
    assert_eq!(ask(&mut server.connect(), "hello\n"), "hello\n");
}

#[test]
fn resets_at_any_moment_leave_no_slot_taken() {
    let server = Running::start(|_| {});
    for round in 0..300 {
        let mut stream = server.connect();
        socket2::SockRef::from(&stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        match round % 4 {
            0 => {}
            1 => stream.write_all(b"hello\n").unwrap(),
            2 => stream.write_all(b"long\n").unwrap(),
            _ => stream.write_all(b"work\nhello\n").unwrap(),
        }
    }
    server.wait_for("slots are free", |server| server.active() == 0);
}

#[test]
fn a_shutdown_tells_the_parked_and_ends() {
    let server = Running::start(|_| {});
    let mut stream = server.connect();
    assert_eq!(ask(&mut stream, "hello\n"), "hello\n");
    server.handle.shutdown();
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
    server.wait_for("the run ends", |server| {
        server.thread.as_ref().unwrap().is_finished()
    });
}

struct Reverse;

impl crate::session::DatagramModule for Reverse {
    fn answer(
        &self,
        datagram: &crate::session::Datagram<'_>,
        cx: &mut crate::session::DatagramContext<'_>,
    ) {
        let mut bytes = datagram.bytes.to_vec();
        bytes.reverse();
        match bytes.first() {
            Some(b'L') => cx.set_alarm(Duration::from_millis(10), 1),
            Some(b'W') => {
                let route = datagram.route;
                cx.work(Lane::Wait, move |outbox| outbox.send(route, b"worked"));
            }
            _ => cx.reply(&bytes),
        }
    }
}

#[test]
fn datagrams_are_answered_from_the_address_that_was_asked() {
    let listener =
        ListenerPlan::udp("reverse", Arc::new(Reverse)).socket("[::]:0".parse().unwrap());
    let server = Server::bind(
        Plan {
            workers: 2,
            ..Plan::default()
        }
        .listen(listener),
    )
    .unwrap();
    let (handle, port) = (server.handle(), server.addresses()[0].2.port());
    let thread = std::thread::spawn(move || server.run());
    for (from, to) in [("127.0.0.9:0", "127.0.0.5"), ("[::1]:0", "::1")] {
        let socket = UdpSocket::bind(from).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        // A connected socket hears only the address it asked.
        socket
            .connect(SocketAddr::new(to.parse().unwrap(), port))
            .unwrap();
        let mut answer = vec![0; 70_000];
        socket.send(b"abc").unwrap();
        let count = socket.recv(&mut answer).unwrap();
        assert_eq!(&answer[..count], b"cba");
        socket.send(&vec![b'x'; 60_000]).unwrap();
        assert_eq!(socket.recv(&mut answer).unwrap(), 60_000);
        socket.send(b"W").unwrap();
        let count = socket.recv(&mut answer).unwrap();
        assert_eq!(&answer[..count], b"worked");
    }
    handle.shutdown();
    thread.join().unwrap().unwrap();
}

#[test]
fn a_denied_datagram_is_dropped_and_counted() {
    let mut listener =
        ListenerPlan::udp("reverse", Arc::new(Reverse)).socket("127.0.0.1:0".parse().unwrap());
    let list = AddressList::parse(&Source::file("list".as_ref(), "127.0.0.66")).unwrap();
    listener.sockets[0].restriction = Restriction::Deny(list);
    let server = Server::bind(
        Plan {
            workers: 2,
            ..Plan::default()
        }
        .listen(listener),
    )
    .unwrap();
    let (handle, address) = (server.handle(), server.addresses()[0].2);
    let thread = std::thread::spawn(move || server.run());
    let (bad, good) = (
        UdpSocket::bind("127.0.0.66:0").unwrap(),
        UdpSocket::bind("127.0.0.1:0").unwrap(),
    );
    good.set_read_timeout(Some(DEADLINE)).unwrap();
    bad.send_to(b"abc", address).unwrap();
    good.send_to(b"abc", address).unwrap();
    good.recv(&mut [0; 8]).unwrap();
    assert_eq!(handle.status().listeners[0].rejected["restricted"], 1);
    handle.shutdown();
    thread.join().unwrap().unwrap();
}

/// A domain with a certificate that was made once, and the certificate.
fn domains() -> (Arc<Domains>, rustls::pki_types::CertificateDer<'static>) {
    static MADE: std::sync::OnceLock<(Arc<Domains>, rustls::pki_types::CertificateDer<'static>)> =
        std::sync::OnceLock::new();
    MADE.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(["example.org".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let certificate = made.cert.der().clone();
        let made = Certificate::from_der(vec![certificate.clone()], key).unwrap();
        let domain = Domain {
            name: "example.org".to_owned(),
            aliases: Vec::new(),
            addresses: Vec::new(),
            certificate: tls::Source::Given(Arc::new(made)),
        };
        (
            Arc::new(Domains::new(vec![domain], Some("example.org"))),
            certificate,
        )
    })
    .clone()
}

type TlsStream = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

fn secure(stream: TcpStream) -> TlsStream {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(domains().1).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "example.org".try_into().unwrap();
    rustls::StreamOwned::new(
        rustls::ClientConnection::new(Arc::new(config), name).unwrap(),
        stream,
    )
}

#[test]
fn an_upgrade_in_mid_session_drops_what_was_sent_ahead_of_it() {
    let server = Running::start(|_| {});
    let mut stream = server.connect();
    assert_eq!(ask(&mut stream, "tls\ninjected\n"), "go ahead\n");
    let mut stream = secure(stream);
    stream.write_all(b"hello\nbye\n").unwrap();
    let mut all = String::new();
    // Without a close_notify this would be an error: the stream was ended, not cut.
    stream.read_to_string(&mut all).unwrap();
    assert_eq!(all, "hello\nbye\n");
    server.wait_for("slots are free", |server| server.active() == 0);
}

#[test]
fn a_secured_socket_says_nothing_in_clear() {
    let server =
        Running::start(|listener| listener.sockets[0].tls = crate::config::plan::TlsMode::On);
    let mut stream = secure(server.connect());
    stream.write_all(b"long\nbye\n").unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), 64 * 32 * 1024 + 4);
    let mut clear = server.connect();
    clear
        .write_all(b"hello there, this is no handshake\n")
        .unwrap();
    let mut all = Vec::new();
    let _ = clear.read_to_end(&mut all);
    assert!(!all.windows(5).any(|window| window == b"hello"), "{all:?}");
    server.wait_for("slots are free", |server| server.active() == 0);
}

#[test]
fn a_half_handshake_ends_in_time_and_holds_no_worker() {
    let server = Running::start(|listener| {
        listener.sockets[0].tls = crate::config::plan::TlsMode::On;
        if let Protocol::Tcp(tcp) = &mut listener.protocol {
            tcp.handshake_timeout = Duration::from_millis(300);
        }
    });
    let mut stalled: Vec<TcpStream> = (0..50).map(|_| server.connect()).collect();
    for stream in &mut stalled {
        stream.write_all(&[22, 3, 1, 0, 100]).unwrap();
    }
    let mut fresh = secure(server.connect());
    fresh.write_all(b"bye\n").unwrap();
    let mut all = String::new();
    fresh.read_to_string(&mut all).unwrap();
    assert_eq!(all, "bye\n");
    for stream in &mut stalled {
        assert!(matches!(stream.read(&mut [0; 64]), Ok(0) | Err(_)));
    }
    server.wait_for("slots are free", |server| server.active() == 0);
}

#[test]
fn a_relay_carries_both_ways_and_tries_the_next_upstream() {
    let upstream = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = upstream.local_addr().unwrap().port();
    let echo = std::thread::spawn(move || {
        let (mut stream, _) = upstream.accept().unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(&all).unwrap();
    });
    let server = Running::start(|_| {});
    let mut stream = server.connect();
    stream
        .write_all(format!("relay {port}\nrest").as_bytes())
        .unwrap();
    let body = vec![b'y'; 1 << 20];
    stream.write_all(&body).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    assert_eq!(&all[..10], b"ahead rest");
    assert_eq!(all.len(), 10 + body.len());
    echo.join().unwrap();
    server.wait_for("slots are free", |server| server.active() == 0);
}

#[test]
fn a_session_is_told_when_no_upstream_answers() {
    let server = Running::start(|_| {});
    let mut stream = server.connect();
    assert_eq!(ask(&mut stream, "relay 1\n"), "unreachable\n");
}

/// Goes on from a fresh port; a `B` on the listener's port is passed to the exchange.
#[derive(Default)]
struct Fresh(parking_lot::Mutex<Option<ExchangeHandle>>);
struct Talk;

impl crate::session::DatagramModule for Fresh {
    fn answer(
        &self,
        datagram: &crate::session::Datagram<'_>,
        cx: &mut crate::session::DatagramContext<'_>,
    ) {
        if datagram.bytes == b"A" {
            *self.0.lock() = cx.open(datagram.route, None, Box::new(Talk));
        } else if let Some(handle) = &*self.0.lock() {
            handle.pass(datagram.bytes);
        }
    }
}

impl Exchange for Talk {
    fn handle(&mut self, event: ExchangeEvent<'_>, cx: &mut ExchangeContext<'_>) -> ExchangeNext {
        let remote = cx.route().remote;
        match event {
            ExchangeEvent::Open => cx.send(remote, b"open"),
            ExchangeEvent::Received { from, .. } => {
                cx.send(from, b"received");
                cx.set_alarm(Some(Duration::from_millis(10)));
            }
            ExchangeEvent::Passed(_) => cx.reply(b"passed"),
            ExchangeEvent::Alarm => {
                cx.send(remote, b"alarm");
                return ExchangeNext::Close;
            }
            _ => return ExchangeNext::Close,
        }
        ExchangeNext::Wait
    }
}

#[test]
fn an_exchange_goes_on_from_a_fresh_port_of_the_address_that_was_asked() {
    let listener =
        ListenerPlan::udp("fresh", Arc::new(Fresh::default())).socket("[::]:0".parse().unwrap());
    let server = Server::bind(
        Plan {
            workers: 2,
            ..Plan::default()
        }
        .listen(listener),
    )
    .unwrap();
    let (handle, port) = (server.handle(), server.addresses()[0].2.port());
    let thread = std::thread::spawn(move || server.run());
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let listener = SocketAddr::new("127.0.0.5".parse().unwrap(), port);
    let mut buffer = [0; 64];
    let mut hear = || {
        let (count, from) = socket.recv_from(&mut buffer).unwrap();
        (String::from_utf8(buffer[..count].to_vec()).unwrap(), from)
    };
    socket.send_to(b"A", listener).unwrap();
    let (said, fresh) = hear();
    assert_eq!((said.as_str(), fresh.ip()), ("open", listener.ip()));
    assert_ne!(fresh.port(), port);
    socket.send_to(b"B", listener).unwrap();
    assert_eq!(hear(), ("passed".to_owned(), listener));
    socket.send_to(b"C", fresh).unwrap();
    assert_eq!(hear(), ("received".to_owned(), fresh));
    assert_eq!(hear(), ("alarm".to_owned(), fresh));
    handle.shutdown();
    thread.join().unwrap().unwrap();
}
