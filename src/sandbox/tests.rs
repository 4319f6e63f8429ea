#![forbid(unsafe_code)]
//! A module that tries to break out, in a process of its own, since a sandbox is for good.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType};

use super::{Need, Switches, What, complaints, enter};
use crate::config::ConfigError;
use crate::config::plan::{ListenerPlan, Plan};
use crate::server::Server;
use crate::session::{Context, Event, Lane, Module, Next, Peer, Session, Work};

/// Tells the process that plays the server where its home is.
const HOME: &str = "PORTREEVE_TEST_HOME";

/// Makes that process try without a sandbox; the address of a neighbour.
const FREE: &str = "PORTREEVE_TEST_FREE";

const NAME: &str =
    "sandbox::tests::a_module_in_the_sandbox_can_neither_open_nor_run_nor_connect_elsewhere";

/// Whoever has taken over a module, and tries what can be done from there.
struct Burglar(PathBuf);

impl Module for Burglar {
    fn open(&self, _peer: &Peer) -> Box<dyn Session> {
        Box::new(Thief(self.0.clone()))
    }
}

struct Thief(PathBuf);

impl Session for Thief {
    fn handle(&mut self, event: Event<'_>, cx: &mut Context<'_>) -> Next {
        match event {
            Event::Open => Next::Read,
            // In a turn of a worker, and then once more on a lane: other threads, the same walls.
            Event::Input(input) => {
                let Some(line) = input.take_line() else {
                    return Next::Read;
                };
                let near = String::from_utf8_lossy(&line).trim().to_owned();
                cx.output().write(raid(&self.0, &near).as_bytes());
                let home = self.0.clone();
                Next::Work(Work::new(Lane::Wait, move || raid(&home, &near)))
            }
            Event::Done(outcome) => {
                let loot: String = outcome.take().unwrap_or_default();
                cx.output().write(loot.as_bytes());
                Next::Close
            }
            _ => Next::Close,
        }
    }
}

/// One line for each try: what it was and how it ended.
fn raid(home: &Path, near: &str) -> String {
    let mut lines = String::new();
    let mut tell = |what: &str, outcome: Result<(), std::io::Error>| {
        let outcome = match outcome {
            Ok(()) => "done".to_owned(),
            Err(error) => match error.kind() {
                ErrorKind::PermissionDenied => "refused".to_owned(),
                _ => error.to_string(),
            },
        };
        lines += &format!("{what}: {outcome}\n");
    };
    let outside = home.join("outside");
    tell("read inside", File::open(home.join("state/mine")).map(drop));
    tell("write inside", fs::write(home.join("state/new"), "mine"));
    tell("read outside", File::open(outside.join("secret")).map(drop));
    tell("read shadow", File::open("/etc/shadow").map(drop));
    tell("list outside", fs::read_dir(&outside).map(drop));
    let append = OpenOptions::new().append(true).open(outside.join("secret"));
    tell("write outside", append.map(drop));
    tell("make outside", File::create(outside.join("new")).map(drop));
    tell("remove outside", fs::remove_file(outside.join("secret")));
    let link = fs::hard_link(outside.join("secret"), home.join("state/link"));
    tell(
        "link in",
        link.map_err(|error| match error.raw_os_error() {
            // Another directory's rights would be gained by it.
            Some(code) if code == Errno::EXDEV as i32 => ErrorKind::PermissionDenied.into(),
            _ => error,
        }),
    );
    let run = |program: &str| {
        Command::new(program)
            .stdout(Stdio::null())
            .status()
            .map(drop)
    };
    tell("exec", run("/bin/true"));
    let tool = home.join("state/tool");
    fs::write(&tool, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&tool, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    tell("exec of its own making", run(tool.to_str().unwrap()));
    tell("connect", TcpStream::connect(near).map(drop));
    let unix = UnixStream::connect(home.join("outside/socket"));
    tell("connect to a unix socket", unix.map(drop));
    let udp = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.connect(near));
    tell("connect udp", udp);
    let raw = nix::sys::socket::socket(
        AddressFamily::Packet,
        SockType::Datagram,
        SockFlag::empty(),
        None,
    );
    tell("packet socket", raw.map(drop).map_err(Into::into));
    #[expect(
        deprecated,
        reason = "the call without unsafe; what it may break is refused"
    )]
    let space = rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET);
    tell("namespace", space.map_err(Into::into));
    tell("chroot", nix::unistd::chroot(home).map_err(Into::into));
    lines
}

#[test]
fn a_module_in_the_sandbox_can_neither_open_nor_run_nor_connect_elsewhere() {
    if let Some(home) = std::env::var_os(HOME) {
        match std::env::var(FREE) {
            Ok(near) => println!("\n{}", raid(Path::new(&home), &near)),
            Err(_) => serve_burglar(Path::new(&home)),
        }
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let place = |name: &str| home.path().join(name);
    fs::create_dir(place("state")).unwrap();
    fs::create_dir(place("outside")).unwrap();
    fs::write(place("state/mine"), "mine").unwrap();
    fs::write(place("outside/secret"), "secret").unwrap();
    let _unix = std::os::unix::net::UnixListener::bind(place("outside/socket")).unwrap();
    let neighbour = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = neighbour.local_addr().unwrap().to_string();
    // The same tries end otherwise where nobody forbids them.
    let output = play(home.path(), Some(&near)).wait_with_output().unwrap();
    let free = String::from_utf8(output.stdout).unwrap();
    for what in [
        "read outside",
        "write outside",
        "exec",
        "connect",
        "connect udp",
        "connect to a unix socket",
    ] {
        assert!(free.contains(&format!("{what}: done\n")), "{free}");
    }
    fs::write(place("outside/secret"), "secret").unwrap();
    fs::remove_file(place("outside/new")).unwrap();

    let mut server = play(home.path(), None);
    let mut said = BufReader::new(server.stdout.take().unwrap()).lines();
    let address: SocketAddr = loop {
        let line = said.next().expect("the server came up").unwrap();
        if let Some(address) = line.strip_prefix("serving on ") {
            break address.parse().unwrap();
        }
    };
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(format!("{near}\n").as_bytes()).unwrap();
    let mut told = String::new();
    stream.read_to_string(&mut told).unwrap();
    let _ = stream.shutdown(Shutdown::Both);
    // Its end of input is the server's sign to stop.
    drop(server.stdin.take());
    assert!(server.wait().unwrap().success());

    let lines: Vec<&str> = told.lines().collect();
    let tries = free
        .lines()
        .filter(|line| line.contains(": ") && !line.starts_with("test "));
    let tries = tries.count();
    assert_eq!(lines.len(), 2 * tries, "{told}\n\n{free}");
    for line in lines {
        let wanted = match line.split(": ").next() {
            Some("read inside" | "write inside") => "done",
            _ => "refused",
        };
        assert!(line.ends_with(&format!(": {wanted}")), "{line}\n\n{told}");
    }
    assert_eq!(
        fs::read_to_string(place("outside/secret")).unwrap(),
        "secret"
    );
    assert!(!place("outside/new").exists());
}

/// This test in a process of its own: with an address as a burglar whom nothing holds, else as the server.
fn play(home: &Path, free: Option<&str>) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "--nocapture", NAME])
        .env(HOME, home)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command.envs(free.map(|near| (FREE, near)));
    command.spawn().unwrap()
}

/// The process in the sandbox.
fn serve_burglar(home: &Path) {
    let module = Arc::new(Burglar(home.to_owned()));
    let mut plan = Plan {
        state_dir: home.join("state"),
        workers: 2,
        ..Plan::default()
    };
    plan.sandbox = Switches {
        landlock: Some(true),
        seccomp: Some(true),
        connect: false,
    };
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let plan = plan.listen(ListenerPlan::tcp("burglar", module).socket(loopback));
    enter(&plan);
    reloads_are_told_what_lies_outside(home);
    let server = Server::bind(plan).unwrap();
    println!("serving on {}", server.addresses()[0].2);
    let handle = server.handle();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        handle.shutdown();
    });
    server.run().unwrap();
}

fn reloads_are_told_what_lies_outside(home: &Path) {
    let need = |what| Need {
        what,
        place: ConfigError {
            file: "x.ron".into(),
            line: 3,
            column: 4,
            message: String::new(),
        },
    };
    let allowed = [
        What::File(home.join("state/mine")),
        What::Directory(home.join("state")),
        What::Writable(home.join("state")),
    ];
    assert_eq!(complaints(&allowed.map(need)), []);
    let outside = [
        What::File(home.join("outside/secret")),
        What::Directory(home.join("outside")),
        What::Writable("/lib".into()),
        What::Connect { by_name: false },
        What::Programs,
    ];
    let told = complaints(&outside.map(need));
    assert_eq!(told.len(), 5, "{told:?}");
    for error in told {
        let text = error.to_string();
        assert!(
            text.starts_with("x.ron:3:4: ") && text.ends_with("a restart is needed"),
            "{text}"
        );
    }
}
