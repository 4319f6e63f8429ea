//! Another process in the daemon's place: nobody is refused or cut for it, and one that cannot serve changes nothing.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};

use crate::harness::{
    Conf, DEADLINE, Daemon, admitted, assert_says, binary, connect_from, echoes, ending_of, exits,
    free_port, output_of, try_connect, try_echo, wait_until,
};

/// A daemon that can be upgraded, by way of a link of its own to the program, and all that come after it.
struct Line {
    first: Daemon,
    /// All that ever served, the first one not among them.
    heirs: Vec<u32>,
}

impl Line {
    fn start(conf: Conf) -> Self {
        let command = Command::new(conf.home().join("portreeve"));
        Self::start_with(conf, command)
    }

    /// The command ends up as the daemon.
    fn start_with(conf: Conf, mut command: Command) -> Self {
        symlink(binary(), conf.home().join("portreeve")).unwrap();
        command.arg("run").arg("--config").arg(conf.path());
        command.arg("--pid-file").arg(conf.home().join("pid"));
        Line {
            first: Daemon::start_with(conf, command),
            heirs: Vec::new(),
        }
    }

    fn echo(port: u16, server: &str) -> Self {
        let tcp = format!("Tcp(module: Echo, channels: 2000, sockets: [(port: {port})])");
        let udp = format!("Udp(module: Echo, sockets: [(port: {port})])");
        let conf = Conf::new(&format!("workers: 4, {server}"));
        Self::start(conf.listener("echo", &tcp).listener("udp", &udp))
    }

    fn program(&self) -> PathBuf {
        self.first.conf().home().join("portreeve")
    }

    /// The process id in the file.
    #[track_caller]
    fn pid(&self) -> u32 {
        let text = fs::read_to_string(self.first.conf().home().join("pid")).unwrap();
        text.trim().parse().unwrap()
    }

    #[track_caller]
    fn upgrade(&mut self) -> u32 {
        let before = self.pid();
        let said = exits(&self.try_to_upgrade(), 0);
        let pid = self.pid();
        self.heirs.push(pid);
        assert_ne!(pid, before);
        assert_says(
            &said,
            &[
                &format!("process {pid} serves"),
                &format!("place of process {before}"),
            ],
        );
        pid
    }

    fn try_to_upgrade(&self) -> Output {
        self.first.portreeve(&["upgrade"])
    }

    /// Puts another program where this one was.
    fn install(&self, script: &str) {
        fs::remove_file(self.program()).unwrap();
        fs::write(self.program(), script).unwrap();
        fs::set_permissions(self.program(), fs::Permissions::from_mode(0o755)).unwrap();
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        for pid in &self.heirs {
            if is_portreeve(*pid) {
                let _ = kill(Pid::from_raw(i32::try_from(*pid).unwrap()), Signal::SIGKILL);
            }
        }
    }
}

fn is_portreeve(pid: u32) -> bool {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&command).contains("portreeve")
}

/// Whether a process is there and no zombie.
fn runs(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .unwrap()
            .trim_start()
            .starts_with('Z')
    })
}

/// Clients that connect, talk and leave, again and again, each from an address of its own.
struct Crowd {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<(), String>>>,
}

impl Crowd {
    fn of(count: u8, port: u16) -> Self {
        let (stop, served) = (
            Arc::new(AtomicBool::new(false)),
            Arc::<AtomicU64>::default(),
        );
        let client = |index: u8| {
            let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
            std::thread::spawn(move || {
                let source = format!("127.0.77.{}", index + 1);
                while !stop.load(Ordering::Relaxed) {
                    visit(&source, port).map_err(|error| format!("{source}: {error}"))?;
                    served.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        };
        let threads = (0..count).map(client).collect();
        Crowd {
            stop,
            served,
            threads,
        }
    }

    /// How many visits there were; one that failed is the test's failure.
    #[track_caller]
    fn leave(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap().unwrap();
        }
        self.served.load(Ordering::Relaxed)
    }
}

fn visit(source: &str, port: u16) -> std::io::Result<()> {
    let mut stream = try_connect(source, port)?;
    try_echo(&mut stream, b"a visit")?;
    stream.shutdown(Shutdown::Write)?;
    match stream.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(std::io::Error::other("a byte too many")),
    }
}

/// Asks a datagram echo and waits for the answer, again and again; each question is asked once.
fn datagrams(port: u16, stop: Arc<AtomicBool>) -> JoinHandle<Result<u64, String>> {
    std::thread::spawn(move || {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(("127.0.0.1", port)).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut answered = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            socket
                .send(&answered.to_be_bytes())
                .map_err(|error| error.to_string())?;
            let mut answer = [0; 8];
            socket
                .recv(&mut answer)
                .map_err(|error| format!("datagram {answered}: {error}"))?;
            if u64::from_be_bytes(answer) != answered {
                return Err("the answer of another question".to_owned());
            }
            answered += 1;
        }
        Ok(answered)
    })
}

/// `upgrades` one after the other, under 50 clients that come and go and 200 that stay.
#[track_caller]
fn nothing_is_lost(upgrades: u32) {
    let port = free_port();
    let mut line = Line::echo(port, "");
    let first = line.pid();
    let mut stay: Vec<TcpStream> = (0..200).map(|_| admitted("127.0.0.1", port)).collect();
    let crowd = Crowd::of(50, port);
    let stop = Arc::new(AtomicBool::new(false));
    let asking = datagrams(port, Arc::clone(&stop));
    let start = Instant::now();
    for round in 0..upgrades {
        line.upgrade();
        let visits = crowd.served.load(Ordering::Relaxed);
        wait_until("the new process serves everybody", DEADLINE, || {
            crowd.served.load(Ordering::Relaxed) >= visits + 50
        });
        // Some stay with each of the processes in between, too.
        if round % 10 == 4 {
            stay.push(admitted("127.0.0.1", port));
        }
        for stream in &mut stay {
            echoes(stream, b"still here");
        }
    }
    let took = start.elapsed();
    stop.store(true, Ordering::Relaxed);
    let (visits, answers) = (crowd.leave(), asking.join().unwrap().unwrap());
    println!(
        "{upgrades} upgrades in {took:.1?}: {visits} visits, {answers} datagrams, {} stayed; none lost",
        stay.len()
    );
    assert!(runs(first), "it still has connections");
    for mut stream in stay {
        echoes(&mut stream, b"good bye");
    }
    let last = line.pid();
    for pid in std::iter::once(first)
        .chain(line.heirs.iter().copied())
        .filter(|pid| *pid != last)
    {
        wait_until("those who have nobody left are gone", DEADLINE, || {
            !runs(pid)
        });
    }
    assert_eq!(line.first.rejected("echo", "full"), 0);
    line.first.wait_for_active("echo", 0);
}

#[test]
fn ten_upgrades_refuse_and_cut_nobody() {
    nothing_is_lost(10);
}

#[test]
#[ignore = "takes some minutes on two cores; run by hand with --ignored"]
fn a_hundred_upgrades_refuse_and_cut_nobody() {
    nothing_is_lost(100);
}

#[test]
fn the_new_process_has_the_files_as_they_are_now_and_the_bans() {
    let (port, more) = (free_port(), free_port());
    let mut line = Line::echo(port, "");
    exits(
        &line.first.portreeve(&["ban", "127.0.78.1", "--for", "1h"]),
        0,
    );
    let text = format!("Tcp(module: Daytime, sockets: [(port: {port}), (port: {more})])");
    line.first.conf().write("listeners/echo.ron", &text);
    line.upgrade();
    let mut said = String::new();
    connect_from("127.0.0.1", more)
        .read_to_string(&mut said)
        .unwrap();
    assert!(said.ends_with("\r\n"), "{said:?}");
    crate::harness::refused("127.0.78.1", port);
    assert_says(&exits(&line.first.portreeve(&["bans"]), 0), &["127.0.78.1"]);
    exits(&line.first.portreeve(&["unban", "127.0.78.1"]), 0);
    // A socket that was handed over can be closed, and opened again.
    let at = more.to_string();
    exits(&line.first.portreeve(&["socket", "remove", "echo", &at]), 0);
    assert!(TcpStream::connect(("127.0.0.1", more)).is_err());
    exits(&line.first.portreeve(&["socket", "add", "echo", &at]), 0);
    line.upgrade();
    connect_from("127.0.78.1", more)
        .read_to_string(&mut said)
        .unwrap();
}

#[test]
fn a_new_process_that_cannot_serve_changes_nothing() {
    let (port, taken) = (free_port(), free_port());
    // Landlock would let no shell run in the daemon's place.
    let line = Line::echo(port, "sandbox: (landlock: false),");
    let pid = line.pid();
    let mut held = admitted("127.0.0.1", port);
    let mut fails = |what: &str, words: &[&str]| {
        let said = exits(&line.try_to_upgrade(), 1);
        assert_says(&said, words);
        assert_eq!(line.pid(), pid, "{what}");
        echoes(&mut held, b"held");
        admitted("127.0.0.1", port);
        line.first.wait_for_active("echo", 1);
    };
    let conf = line.first.conf();
    let good = conf.read("listeners/echo.ron");
    conf.write("listeners/echo.ron", "Tcp(module: Echo, sokets: [])");
    fails("a bad file", &["echo.ron:1:19: ", "sokets"]);
    let elsewhere = std::net::TcpListener::bind(("0.0.0.0", taken)).unwrap();
    let two =
        format!("Tcp(module: Echo, channels: 2000, sockets: [(port: {port}), (port: {taken})])");
    conf.write("listeners/echo.ron", &two);
    fails(
        "a port that is taken",
        &["listener echo: cannot open tcp", &taken.to_string()],
    );
    drop(elsewhere);
    conf.write("listeners/echo.ron", &good);
    line.install("#!/bin/sh\nexit 7\n");
    fails(
        "a program that ends",
        &["ended before it was ready", "exit status: 7"],
    );
    line.install("#!/bin/sh\nkill -SEGV $$\n");
    fails(
        "a program that crashes",
        &["ended before it was ready", "signal: 11"],
    );
    line.install("this is no program");
    fails(
        "a file that is no program",
        &["ended before it was ready", "127"],
    );
    fs::remove_file(line.program()).unwrap();
    fails("a program that is gone", &["cannot start", "No such file"]);
    // All of that was no hindrance.
    symlink(binary(), line.program()).unwrap();
    let mut line = line;
    line.upgrade();
    echoes(&mut held, b"held");
}

#[test]
fn sigusr2_upgrades_too() {
    let port = free_port();
    let mut line = Line::echo(port, "");
    let before = line.pid();
    line.first.signal(Signal::SIGUSR2);
    wait_until("another process serves", DEADLINE, || line.pid() != before);
    line.heirs.push(line.pid());
    assert_eq!(line.first.wait_for_exit(DEADLINE).code(), Some(0));
    let _inside = admitted("127.0.0.1", port);
    assert_eq!(line.first.active("echo"), 1);
}

#[test]
fn what_stays_with_the_old_process_ends_at_its_time_and_sigterm_ends_it_sooner() {
    let port = free_port();
    let mut line = Line::echo(port, "upgrade_drain: \"1s\", drain: \"5s\",");
    let mut held = admitted("127.0.0.1", port);
    line.upgrade();
    echoes(&mut held, b"a second left");
    ending_of(&mut held);
    assert_eq!(line.first.wait_for_exit(DEADLINE).code(), Some(0));

    let port = free_port();
    let mut line = Line::echo(port, "drain: \"5s\",");
    let mut held = admitted("127.0.0.1", port);
    line.upgrade();
    echoes(&mut held, b"an hour left");
    line.first.signal(Signal::SIGTERM);
    ending_of(&mut held);
    assert_eq!(line.first.wait_for_exit(DEADLINE).code(), Some(0));
    admitted("127.0.0.1", port);
}

#[test]
fn a_header_of_a_proxy_may_be_under_way_meanwhile() {
    let port = free_port();
    let text =
        format!("Tcp(module: Echo, sockets: [(port: {port}, proxy_from: \"127.0.51.0/24\")])");
    let mut line = Line::start(Conf::new("workers: 2,").listener("echo", &text));
    let mut stream = connect_from("127.0.51.1", port);
    stream.write_all(b"PROXY TCP4 192.0.2.1 ").unwrap();
    line.upgrade();
    stream.write_all(b"192.0.2.25 4000 25\r\n").unwrap();
    echoes(&mut stream, b"through");
}

#[test]
fn programs_of_the_new_process_get_none_of_its_descriptors() {
    let port = free_port();
    let text = format!(
        "Tcp(module: Exec(command: [\"/bin/sh\", \"-c\", \"ls /proc/self/fd; env\"]), sockets: [(port: {port})])"
    );
    let mut line = Line::start(Conf::new("workers: 2,").listener("exec", &text));
    let hear = || {
        let mut said = String::new();
        connect_from("127.0.0.1", port)
            .read_to_string(&mut said)
            .unwrap();
        said
    };
    let before = hear();
    line.upgrade();
    let after = hear();
    let descriptors = |said: &str| {
        said.lines()
            .filter(|line| line.parse::<u32>().is_ok())
            .count()
    };
    assert_eq!(descriptors(&after), descriptors(&before), "{after}");
    assert!(
        !after.contains("LISTEN_") && !after.contains("PORTREEVE"),
        "{after}"
    );
}

/// Somebody without rights whom a daemon that is started as root becomes, and the command that starts it.
fn unprivileged(conf: &Conf) -> (User, Command) {
    let program = conf.home().join("portreeve");
    let own = nix::unistd::Uid::effective();
    if own.is_root() {
        let user = User::from_name("nobody").unwrap().unwrap();
        let mut chown = Command::new("chown");
        chown.args(["-R", &format!("{}:{}", user.uid, user.gid)]);
        chown.arg(conf.home());
        exits(&output_of(chown, b""), 0);
        return (user, Command::new(program));
    }
    let mut sudo = Command::new("sudo");
    sudo.arg("-n").arg(program);
    (User::from_uid(own).unwrap().unwrap(), sudo)
}

#[test]
fn twenty_upgrades_as_an_unprivileged_user_in_the_sandbox_keep_low_ports_and_bans() {
    const ADDRESS: &str = "127.44.0.2";
    let own = nix::unistd::Uid::effective();
    let name = match own.is_root() {
        true => "nobody".to_owned(),
        false => User::from_uid(own).unwrap().unwrap().name,
    };
    let listener = |ports: &str| format!("Tcp(module: Echo, sockets: [{ports}])");
    let at = |port: u16| format!("(port: {port}, address: \"{ADDRESS}\"), ");
    // A socket that all who wait for the daemon find, too.
    let conf = Conf::new(&format!("run_as: (user: {name:?}), workers: 2,"))
        .listener("echo", &listener(&(at(97) + &at(free_port()))));
    let (user, command) = unprivileged(&conf);
    let mut line = Line::start_with(conf, command);
    exits(
        &line.first.portreeve(&["ban", "127.0.78.9", "--for", "1h"]),
        0,
    );
    // More than there can be Landlock domains, one in the other.
    for _ in 0..20 {
        let pid = line.upgrade();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let uid = format!("Uid:\t{0}\t{0}\t{0}\t{0}", user.uid);
        let rest = [
            uid.as_str(),
            "CapInh:\t0000000000000000",
            "CapPrm:\t0000000000000400",
            "CapEff:\t0000000000000400",
            "CapAmb:\t0000000000000000",
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
            "Seccomp_filters:\t2",
        ];
        assert_says(&status, &rest);
        let mut stream = TcpStream::connect((ADDRESS, 97)).unwrap();
        echoes(&mut stream, b"low");
    }
    assert_says(&exits(&line.first.portreeve(&["bans"]), 0), &["127.0.78.9"]);
    // What it measures itself by can be read by each of them.
    wait_until("it has measured itself", DEADLINE, || {
        let overload = line.first.status()["overload"].clone();
        ["descriptors", "memory"]
            .iter()
            .all(|what| overload[what]["used"].as_u64().unwrap() > 0)
    });
    let add = ["socket", "add", "echo", "98", "--address", ADDRESS];
    exits(&line.first.portreeve(&add), 0);
    echoes(&mut TcpStream::connect((ADDRESS, 98)).unwrap(), b"lower");

    // The walls are those of the first of them.
    let conf = line.first.conf();
    let outside = tempfile::tempdir().unwrap();
    let log = format!(
        "Tcp(module: Http(access_log: {:?}), sockets: [{}])",
        outside.path().join("log"),
        at(free_port())
    );
    fs::set_permissions(outside.path(), fs::Permissions::from_mode(0o777)).unwrap();
    // The usual root.
    fs::create_dir(conf.home().join("conf/listeners/www")).unwrap();
    conf.write("listeners/http.ron", &log);
    let said = exits(&line.first.portreeve(&["reload"]), 2);
    assert_says(&said, &["http.ron:1:", "a restart is needed"]);
    let exec = format!(
        "Tcp(module: Exec(command: [\"/bin/cat\"]), sockets: [{}])",
        at(free_port())
    );
    conf.write("listeners/http.ron", &exec);
    let said = exits(&line.try_to_upgrade(), 1);
    assert_says(
        &said,
        &["http.ron:1:", "without programs", "a restart is needed"],
    );
    let ldap = format!(
        "Tcp(module: Ldap(store: Ldif({:?})), sockets: [{}])",
        outside.path().join("entries"),
        at(free_port())
    );
    fs::write(outside.path().join("entries"), "").unwrap();
    conf.write("listeners/http.ron", &ldap);
    for refused in [
        exits(&line.first.portreeve(&["reload"]), 2),
        exits(&line.try_to_upgrade(), 1),
    ] {
        assert_says(&refused, &["Permission denied", "a restart is needed"]);
    }
    fs::remove_file(conf.home().join("conf/listeners/http.ron")).unwrap();
    line.upgrade();
    let log = line.first.log();
    assert_eq!(log.matches("landlock (ABI").count(), 1, "{log}");
    assert_eq!(
        log.matches("landlock as the predecessor had it; seccomp as")
            .count(),
        21,
        "{log}"
    );
}

#[test]
fn a_service_manager_is_told_who_the_daemon_is_now() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(DEADLINE)).unwrap();
    let heard = || {
        let mut text = [0; 256];
        let count = manager.recv(&mut text).unwrap();
        String::from_utf8_lossy(&text[..count]).into_owned()
    };
    let text = format!("Tcp(module: Echo, sockets: [(port: {})])", free_port());
    // Also where nobody may be connected to.
    let conf = Conf::new("sandbox: (connect: false),").listener("echo", &text);
    let mut command = Command::new(conf.home().join("portreeve"));
    command.env("NOTIFY_SOCKET", &path);
    let mut line = Line::start_with(conf, command);
    assert_eq!(heard(), "READY=1\n");
    let pid = line.upgrade();
    assert_eq!(heard(), format!("MAINPID={pid}\n"));
    assert_eq!(heard(), "READY=1\n");
    // The old one stops, and the service does not.
    assert_eq!(line.first.wait_for_exit(DEADLINE).code(), Some(0));
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGHUP).unwrap();
    assert!(heard().starts_with("RELOADING=1\n"));
    assert_eq!(heard(), "READY=1\n");
}

#[test]
fn sockets_of_a_service_manager_are_taken_over() {
    let (port, other, unused) = (free_port(), free_port(), free_port());
    let text = format!(
        "Tcp(module: Echo, sockets: [(port: {port}, address: \"127.0.0.1\"), (port: {other}, address: \"127.0.0.1\")])"
    );
    let conf = Conf::new("workers: 2,").listener("echo", &text);
    let mut command = Command::new("systemd-socket-activate");
    command.args([
        "-l",
        &format!("127.0.0.1:{port}"),
        "-l",
        &format!("127.0.0.1:{unused}"),
    ]);
    command.args(["--fdname", "web:spare"]).arg(binary());
    command.arg("run").arg("--config").arg(conf.path());
    // It starts the daemon for the first who comes.
    let first = std::thread::spawn(move || {
        wait_until("somebody listens", DEADLINE, || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
    });
    let daemon = Daemon::start_with(conf, command);
    first.join().unwrap();
    admitted("127.0.0.1", port);
    admitted("127.0.0.1", other);
    assert!(TcpStream::connect(("127.0.0.1", unused)).is_err());
    assert_says(&daemon.log(), &["(spare) was handed over", "closed"]);
}
