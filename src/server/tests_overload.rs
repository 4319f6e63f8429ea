//! A server whose only worker is held up by what it runs: who may still come in, and that it is calm again later.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Handle, Server};
use crate::admission::address_list::{AddressList, Source};
use crate::config::plan::{ListenerPlan, Network, Plan};
use crate::session::{Context, Event, Module, Next, Peer, Session};

const DEADLINE: Duration = Duration::from_secs(30);

/// Takes its time for each byte, and says that it has.
struct Slow;

impl Module for Slow {
    fn open(&self, _peer: &Peer) -> Box<dyn Session> {
        Box::new(Slow)
    }
}

impl Session for Slow {
    fn handle(&mut self, event: Event<'_>, cx: &mut Context<'_>) -> Next {
        match event {
            Event::Open => Next::Read,
            Event::Input(input) => {
                let bytes = input.len();
                input.clear();
                for _ in 0..bytes {
                    std::thread::sleep(Duration::from_millis(150));
                    cx.write(b".");
                }
                Next::Read
            }
            _ => Next::Close,
        }
    }
}

fn stage(handle: &Handle) -> (u8, Option<String>) {
    let overload = handle.status().overload.unwrap();
    (overload.stage, overload.cause)
}

#[track_caller]
fn wait_for(handle: &Handle, what: &str, is_it: impl Fn(u8) -> bool) {
    let end = Instant::now() + DEADLINE;
    while !is_it(stage(handle).0) {
        assert!(Instant::now() < end, "{what}: {:?}", handle.status());
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn from(source: &str, port: u16) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let source: std::net::SocketAddr = format!("{source}:0").parse().unwrap();
    socket.bind(&source.into()).unwrap();
    let target: std::net::SocketAddr = ([127, 0, 0, 1], port).into();
    socket.connect(&target.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

#[test]
fn turns_that_wait_long_keep_others_than_clients_out_until_they_do_not() {
    let home = tempfile::tempdir().unwrap();
    let source = Source::file(Path::new("clients"), "127.0.0.1");
    let clients = AddressList::parse(&source).unwrap();
    let address = ([127, 0, 0, 1], 0).into();
    let listener = ListenerPlan::tcp("slow", Arc::new(Slow)).socket(address);
    let plan = Plan {
        workers: 1,
        state_dir: home.path().to_path_buf(),
        network: Arc::new(Network {
            clients,
            ..Network::default()
        }),
        ..Plan::default()
    };
    let server = Server::bind(plan.listen(listener)).unwrap();
    let (port, handle) = (server.addresses()[0].2.port(), server.handle());
    let runs = std::thread::spawn(move || server.run().unwrap());

    assert_eq!(stage(&handle), (0, None));
    let mut crowd: Vec<TcpStream> = (0..12).map(|_| from("127.0.0.1", port)).collect();
    for stream in &mut crowd {
        stream.write_all(b"xx").unwrap();
    }
    wait_for(&handle, "turns wait", |stage| stage >= 2);
    assert_eq!(stage(&handle).1.as_deref(), Some("queue wait"));
    // Decided by the poll thread, which is not held up.
    let mut other = from("127.0.0.2", port);
    assert!(
        !matches!(other.read(&mut [0]), Ok(1..)),
        "served, or a byte came"
    );
    let rejected = handle.status().listeners[0].rejected.clone();
    assert_eq!(rejected.get("reserved"), Some(&1));
    assert!(handle.metrics().contains("portreeve_overload_stage "));

    for stream in &mut crowd {
        stream.read_exact(&mut [0; 2]).unwrap();
    }
    drop(crowd);
    wait_for(&handle, "it is calm again", |stage| stage == 0);
    assert_eq!(stage(&handle).1, None);
    let mut other = from("127.0.0.2", port);
    other.write_all(b"x").unwrap();
    other.read_exact(&mut [0]).unwrap();
    handle.shutdown();
    handle.shutdown();
    runs.join().unwrap();
}
