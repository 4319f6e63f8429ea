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
use crate::session::{Context, Event, Lane, Module, Next, Peer, Session, Waker, Work};

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
