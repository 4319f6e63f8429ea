//! A relay for datagrams that loses, doubles and reorders them, as told by a seed.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// What happens to datagrams, in percent.
#[derive(Clone, Copy)]
pub(crate) struct Weather {
    pub(crate) loses: u64,
    pub(crate) doubles: u64,
    pub(crate) reorders: u64,
}

/// Stands between clients and a server whose answers come from any of its ports. Dropping it ends it.
pub(crate) struct Relay {
    pub(crate) port: u16,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// How long a held datagram waits for another one to overtake it.
const HELD: Duration = Duration::from_millis(5);

impl Relay {
    pub(crate) fn start(server: SocketAddr, weather: Weather, seed: u64) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(HELD)).unwrap();
        let port = socket.local_addr().unwrap().port();
        let ends = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&ends);
        let thread = std::thread::spawn(move || run(&socket, server, weather, seed, &stop));
        Relay {
            port,
            ends,
            thread: Some(thread),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

fn run(
    socket: &UdpSocket,
    server: SocketAddr,
    weather: Weather,
    seed: u64,
    ends: &Arc<AtomicBool>,
) {
    let mut flows: HashMap<SocketAddr, (Arc<UdpSocket>, JoinHandle<()>)> = HashMap::new();
    let mut buffer = vec![0; 65_536];
    let mut dice = Dice(seed);
    while !ends.load(Ordering::Relaxed) {
        let Some((length, client)) = receive(socket, &mut buffer) else {
            continue;
        };
        let number = flows.len() as u64;
        let (flow, _) = flows.entry(client).or_insert_with(|| {
            let flow = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
            flow.set_read_timeout(Some(HELD)).unwrap();
            let (shared, ends) = (Arc::clone(&flow), Arc::clone(ends));
            let dice = Dice(seed ^ (number + 1));
            let thread = std::thread::spawn(move || carry(&shared, client, weather, dice, &ends));
            (flow, thread)
        });
        if dice.below(100) >= weather.loses {
            let _ = flow.send_to(&buffer[..length], server);
        }
    }
    for (_, (_, thread)) in flows {
        let _ = thread.join();
    }
}

/// Carries between a client and whoever of the server spoke last.
fn carry(
    flow: &UdpSocket,
    client: SocketAddr,
    weather: Weather,
    mut dice: Dice,
    ends: &AtomicBool,
) {
    let mut far = None;
    let mut held: Option<(Vec<u8>, SocketAddr)> = None;
    let mut buffer = vec![0; 65_536];
    while !ends.load(Ordering::Relaxed) {
        let received = receive(flow, &mut buffer);
        if let Some((length, from)) = received {
            let to = match from == client {
                true => far,
                false => {
                    far = Some(from);
                    Some(client)
                }
            };
            let Some(to) = to else { continue };
            let bytes = &buffer[..length];
            if dice.below(100) >= weather.loses {
                if held.is_none() && dice.below(100) < weather.reorders {
                    held = Some((bytes.to_vec(), to));
                    continue;
                }
                let _ = flow.send_to(bytes, to);
                if dice.below(100) < weather.doubles {
                    let _ = flow.send_to(bytes, to);
                }
            }
        }
        if let Some((bytes, to)) = held.take() {
            let _ = flow.send_to(&bytes, to);
        }
    }
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
    match socket.recv_from(buffer) {
        Ok(received) => Some(received),
        Err(error) => {
            let expected = [
                ErrorKind::WouldBlock,
                ErrorKind::TimedOut,
                ErrorKind::ConnectionRefused,
                ErrorKind::Interrupted,
            ];
            assert!(expected.contains(&error.kind()), "{error}");
            None
        }
    }
}

/// Numbers from a seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}
