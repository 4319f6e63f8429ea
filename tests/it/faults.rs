//! System calls that fail while the daemon serves: `strace` makes them, by a seed. What a client sees may be an
//! error; the daemon goes on, spins nowhere, gives back slots and descriptors, and confirms no mail that is lost.

use std::collections::HashSet;
use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::descriptors::cpu_seconds;
use crate::harness::{
    Conf, DEADLINE, Daemon, admitted, connect_from, echoes, exits, free_port, output_of, pause,
    try_connect, try_echo, wait_until,
};

/// What clients may see of a fault.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// Nothing but a delay.
    Nothing,
    /// Answers of failure, and connections that are closed; no wrong bytes.
    Errors,
    /// The same, and at least one message that is refused for the time being.
    MailRefused,
}

/// Calls by name (`?` where not each machine has the call), the error, and what may be seen.
const FAULTS: &[(&str, &str, Seen)] = &[
    ("accept4", "EMFILE", Seen::Nothing),
    ("accept4", "ENOMEM", Seen::Nothing),
    ("accept4", "EINTR", Seen::Nothing),
    ("accept4", "ECONNABORTED", Seen::Nothing),
    ("?epoll_wait,?epoll_pwait", "EINTR", Seen::Nothing),
    ("?epoll_wait,?epoll_pwait", "ENOMEM", Seen::Nothing),
    ("epoll_ctl", "ENOMEM", Seen::Errors),
    ("epoll_ctl", "ENOSPC", Seen::Errors),
    ("recvmmsg", "EINTR", Seen::Nothing),
    ("recvmmsg", "ENOMEM", Seen::Nothing),
    ("sendmmsg", "EINTR", Seen::Nothing),
    ("sendmmsg", "ENOMEM", Seen::Errors),
    ("recvfrom", "EINTR", Seen::Nothing),
    ("recvfrom", "ENOMEM", Seen::Errors),
    ("sendto,?writev", "EINTR", Seen::Nothing),
    ("sendto,?writev", "ENOMEM", Seen::Errors),
    ("sendfile,splice", "EINTR", Seen::Nothing),
    ("sendfile,splice", "ENOMEM", Seen::Errors),
    ("socket,connect,pipe2", "EMFILE", Seen::Errors),
    ("openat", "EMFILE", Seen::Errors),
    ("fsync,fdatasync", "EINTR", Seen::Nothing),
    ("fsync,fdatasync", "ENOSPC", Seen::MailRefused),
    ("?rename,?renameat,?renameat2", "ENOSPC", Seen::MailRefused),
    ("mmap", "ENOMEM", Seen::Errors),
    ("?clone,clone3,?vfork", "ENOMEM", Seen::Errors),
];

/// Calls that fail each time for a while, where the daemon could be tempted to try again and again.
const STUBBORN: &[(&str, &str)] = &[
    ("accept4", "EMFILE"),
    ("?epoll_wait,?epoll_pwait", "ENOMEM"),
    ("epoll_ctl", "ENOSPC"),
    ("recvmmsg", "ENOMEM"),
    ("recvfrom", "ENOMEM"),
    ("sendto", "ENOBUFS"),
];

/// Another one is chosen by the environment; a failure names it.
const SEED: u64 = 20_26;
/// So many faults are enough for a row.
const ENOUGH: usize = 5;
/// How long a row may take to meet them; machines that run tests are busy.
const ROW: Duration = Duration::from_secs(20);
/// How much of one processor a daemon may use that has nothing to do.
const AT_REST: f64 = 0.5;

/// Pipes that workers keep for the next relay.
const POOLED: usize = 8;
/// Sockets of a daemon at rest: those it listens on, and that of its commands; and one in hand.
const SOCKETS: usize = 12;

const BODY: usize = 1 << 20;

/// `strace`, attached to a daemon; dropping it lets go.
struct Strace {
    child: Child,
    output: PathBuf,
}

impl Strace {
    /// `when` as in strace(1): `FIRST+STEP`, counted for each thread; empty is always.
    #[track_caller]
    fn attach(daemon: &Daemon, calls: &str, errno: &str, when: &str) -> Self {
        let output = daemon.conf().home().join("strace.txt");
        let _ = fs::remove_file(&output);
        let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
        let alone = matches!(scope.trim(), "" | "0") || nix::unistd::geteuid().is_root();
        let mut command = Command::new(if alone { "strace" } else { "sudo" });
        if !alone {
            command.args(["-n", "strace"]);
        }
        let when = match when {
            "" => String::new(),
            when => format!(":when={when}"),
        };
        let mut child = command
            .args(["-f", "-p", &daemon.pid().to_string()])
            .args(["-e", "signal=none", "-e", &format!("trace={calls}")])
            .args(["-e", &format!("inject={calls}:error={errno}{when}")])
            .arg("-o")
            .arg(&output)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        while !said.contains("attached") {
            let read = stderr.read_line(&mut said).unwrap();
            assert_ne!(read, 0, "strace ended: {said}");
        }
        // Nobody is held up by what it says from now on.
        std::thread::spawn(move || io::copy(&mut stderr, &mut io::sink()));
        Strace { child, output }
    }

    /// Faults so far.
    fn faults(&self) -> usize {
        let text = fs::read(&self.output).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        text.matches("(INJECTED)").count()
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).unwrap();
        let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
        let _ = self.child.wait();
    }
}

/// Everything there is to serve.
struct Town {
    echo: u16,
    secure: u16,
    http: u16,
    smtp: u16,
    relay: u16,
    exec: u16,
    datagrams: u16,
    forward: u16,
}

/// What happened to messages, by their subjects.
#[derive(Default)]
struct Mail {
    number: AtomicUsize,
    /// Datagrams are lost in this row: nobody waits long for an answer.
    lossy: AtomicBool,
    confirmed: Mutex<HashSet<String>>,
    refused: Mutex<HashSet<String>>,
}

const LISTENERS: [&str; 5] = ["echo", "http", "smtp", "relay", "exec"];

impl Town {
    #[track_caller]
    fn start() -> (Daemon, Town) {
        let town = Town {
            echo: free_port(),
            secure: free_port(),
            http: free_port(),
            smtp: free_port(),
            relay: free_port(),
            exec: free_port(),
            datagrams: free_port(),
            forward: free_port(),
        };
        let tcp = |module: &str, port: u16, rest: &str| {
            format!("Tcp(module: {module}, channels: 500, sockets: [(port: {port}){rest}])")
        };
        let udp =
            |module: &str, port: u16| format!("Udp(module: {module}, sockets: [(port: {port})])");
        let secure = format!(", (port: {}, tls: On)", town.secure);
        let relay = format!("Proxy(upstreams: [\"127.0.0.1:{}\"])", town.http);
        let forward = format!(
            "Forward(upstreams: [\"127.0.0.1:{}\"], idle: \"1s\")",
            town.datagrams
        );
        let smtp = "Smtp(hostname: \"mx.example.org\", domains: [\"example.org\"])";
        let conf = Conf::new(
            "workers: 4, domains: [(name: \"example.org\", certificate: SelfSigned)],\n\
             default_domain: \"example.org\",",
        )
        .listener("echo", &tcp("Echo", town.echo, ""))
        .listener("http", &tcp("Http(root: \"../www\")", town.http, &secure))
        .listener("smtp", &tcp(smtp, town.smtp, ""))
        .listener("relay", &tcp(&relay, town.relay, ""))
        .listener("exec", &tcp("Exec(command: [\"/bin/cat\"])", town.exec, ""))
        .listener("datagrams", &udp("Echo", town.datagrams))
        .listener("forward", &udp(&forward, town.forward));
        fs::create_dir(conf.home().join("conf/www")).unwrap();
        fs::write(conf.home().join("conf/www/bulk"), vec![b'b'; BODY]).unwrap();
        let mut set = Command::new(crate::harness::binary());
        set.args(["account", "set", "ann", "--password-stdin", "--config"]);
        set.arg(conf.path());
        exits(&output_of(set, b"ann"), 0);
        (Daemon::start(conf), town)
    }

    /// One round of each kind of client, as functions that several threads call again and again.
    fn clients(&self) -> [(&'static str, Round<'_>); 8] {
        [
            ("echo", Box::new(|_| echo(self.echo))),
            ("http", Box::new(|_| fetch(self.http))),
            ("https", Box::new(|_| fetch_secure(self.secure))),
            ("relay", Box::new(|_| fetch(self.relay))),
            ("smtp", Box::new(|mail| send(self.smtp, mail))),
            ("exec", Box::new(|_| cat(self.exec))),
            ("udp", Box::new(|mail| datagram(self.datagrams, mail))),
            ("forward", Box::new(|mail| datagram(self.forward, mail))),
        ]
    }

    /// All clients at once until `enough`; what went wrong, by client.
    fn busy(&self, mail: &Mail, mut enough: impl FnMut() -> bool) -> Vec<String> {
        let stop = AtomicBool::new(false);
        let failures = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for (name, round) in self.clients() {
                let (stop, failures) = (&stop, &failures);
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        if let Err(error) = round(mail) {
                            failures.lock().unwrap().push(format!("{name}: {error}"));
                        }
                    }
                });
            }
            let end = Instant::now() + ROW;
            pause(Duration::from_millis(500));
            while !enough() && Instant::now() < end {
                pause(Duration::from_millis(100));
            }
            stop.store(true, Ordering::Relaxed);
        });
        failures.into_inner().unwrap()
    }

    /// Nobody is left inside.
    #[track_caller]
    fn is_empty(daemon: &Daemon, what: &str) {
        for name in LISTENERS {
            wait_until(&format!("{name} is empty after {what}"), DEADLINE, || {
                daemon.active(name) == 0
            });
        }
    }
}

type Round<'a> = Box<dyn Fn(&Mail) -> io::Result<()> + Send + 'a>;

fn other(what: impl Into<String>) -> io::Error {
    io::Error::other(what.into())
}

fn echo(port: u16) -> io::Result<()> {
    let mut stream = try_connect("127.0.0.1", port)?;
    (0..3).try_for_each(|_| try_echo(&mut stream, &[b'e'; 700]))
}

fn cat(port: u16) -> io::Result<()> {
    let mut stream = try_connect("127.0.0.1", port)?;
    stream.write_all(b"meow")?;
    stream.shutdown(Shutdown::Write)?;
    let mut said = Vec::new();
    stream.read_to_end(&mut said)?;
    match said.as_slice() {
        b"meow" => Ok(()),
        // The program meets the faults, too, and then says so.
        said => Err(other(String::from_utf8_lossy(said))),
    }
}

fn fetch(port: u16) -> io::Result<()> {
    let mut stream = try_connect("127.0.0.1", port)?;
    stream.write_all(b"GET /bulk HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let Some(end) = end else {
        return Err(other("no answer"));
    };
    if !answer.starts_with(b"HTTP/1.1 200 ") {
        return Err(other(String::from_utf8_lossy(&answer[..end])));
    }
    let body = &answer[end + 4..];
    assert!(body.iter().all(|byte| *byte == b'b') && body.len() <= BODY);
    match body.len() {
        BODY => Ok(()),
        length => Err(other(format!("{length} bytes of {BODY}"))),
    }
}

fn fetch_secure(port: u16) -> io::Result<()> {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "-f", "-k", "--max-time", "10"]);
    let output = output_of(
        {
            curl.arg(format!("https://127.0.0.1:{port}/bulk"));
            curl
        },
        b"",
    );
    match output.status.success() && output.stdout.len() == BODY {
        true => Ok(()),
        false => Err(other(String::from_utf8_lossy(&output.stderr))),
    }
}

fn datagram(port: u16, mail: &Mail) -> io::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let patience = match mail.lossy.load(Ordering::Relaxed) {
        true => Duration::from_millis(500),
        false => Duration::from_secs(5),
    };
    socket.set_read_timeout(Some(patience))?;
    socket.send_to(b"ping", ("127.0.0.1", port))?;
    let mut answer = [0; 16];
    let (length, _) = socket.recv_from(&mut answer)?;
    assert_eq!(&answer[..length], b"ping");
    Ok(())
}

/// A message whose subject says which one it is; remembers what was answered.
fn send(port: u16, mail: &Mail) -> io::Result<()> {
    let subject = format!("m{}e", mail.number.fetch_add(1, Ordering::Relaxed));
    let mut stream = BufReader::new(try_connect("127.0.0.1", port)?);
    expect(&mut stream, "", '2')?;
    expect(&mut stream, "HELO c.example", '2')?;
    expect(&mut stream, "MAIL FROM:<me@c.example>", '2')?;
    expect(&mut stream, "RCPT TO:<ann@example.org>", '2')?;
    expect(&mut stream, "DATA", '3')?;
    let text = format!("Subject: {subject}\r\n\r\nhello\r\n.");
    match expect(&mut stream, &text, '2') {
        Ok(()) => {
            mail.confirmed.lock().unwrap().insert(subject);
            let _ = stream.get_mut().write_all(b"QUIT\r\n");
            Ok(())
        }
        Err(error) => {
            if error.to_string().starts_with('4') {
                mail.refused.lock().unwrap().insert(subject);
            }
            Err(error)
        }
    }
}

fn expect(stream: &mut BufReader<TcpStream>, command: &str, wanted: char) -> io::Result<()> {
    if !command.is_empty() {
        stream.get_mut().write_all(command.as_bytes())?;
        stream.get_mut().write_all(b"\r\n")?;
    }
    let mut line = String::new();
    stream.read_line(&mut line)?;
    if line.is_empty() {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    match line.starts_with(wanted) {
        true => Ok(()),
        false => Err(other(line)),
    }
}

impl Mail {
    /// What was confirmed is there, and what was refused is not.
    #[track_caller]
    fn is_kept(&self, new: &Path, what: &str) {
        let there = |file: &PathBuf| {
            let text = fs::read_to_string(file).unwrap();
            let subject = text.lines().find_map(|line| line.strip_prefix("Subject: "));
            subject.unwrap().to_owned()
        };
        let there: HashSet<String> = crate::smtp::files(new).iter().map(there).collect();
        let confirmed = self.confirmed.lock().unwrap();
        let lost = confirmed.difference(&there).collect::<Vec<_>>();
        assert!(lost.is_empty(), "{what}: confirmed and lost: {lost:?}");
        let refused = self.refused.lock().unwrap();
        let kept = refused.intersection(&there).collect::<Vec<_>>();
        assert!(kept.is_empty(), "{what}: refused and there: {kept:?}");
    }
}

/// The share of a processor that a daemon uses for a second.
fn load(daemon: &Daemon) -> f64 {
    let window = Duration::from_secs(1);
    let before = cpu_seconds(daemon.pid());
    pause(window);
    (cpu_seconds(daemon.pid()) - before) / window.as_secs_f64()
}

/// What a daemon has open.
fn descriptors(daemon: &Daemon) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap();
    // One that is closed meanwhile is gone.
    let links = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links.map(|link| link.display().to_string()).collect()
}

/// Numbers from a seed (SplitMix64).
fn dice(seed: &mut u64, bound: u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*seed ^ (*seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 27)) % bound
}

#[test]
fn failing_system_calls_cost_no_slot_no_descriptor_and_no_confirmed_mail() {
    let mut seed = std::env::var("PORTREEVE_FAULTS").map_or(SEED, |text| text.parse().unwrap());
    println!("PORTREEVE_FAULTS={seed}");
    let (mut daemon, town) = Town::start();
    let new = daemon.conf().home().join("var/mail/ann/new");
    let mail = Mail::default();
    let failures = town.busy(&mail, || true);
    assert!(failures.is_empty(), "without any fault: {failures:?}");
    Town::is_empty(&daemon, "a fair start");
    // Its flows end, too.
    wait_until("the flows have ended", DEADLINE, || {
        descriptors(&daemon)
            .iter()
            .filter(|it| it.contains("socket"))
            .count()
            <= SOCKETS
    });
    let before = descriptors(&daemon);
    for (calls, errno, seen) in FAULTS {
        let when = format!("{}+{}", 1 + dice(&mut seed, 4), 3 + dice(&mut seed, 4));
        let what = format!("{calls} {errno} when={when}");
        let (start, refused) = (Instant::now(), mail.refused.lock().unwrap().len());
        mail.lossy.store(*seen == Seen::Errors, Ordering::Relaxed);
        let strace = Strace::attach(&daemon, calls, errno, &when);
        let failures = town.busy(&mail, || {
            strace.faults() >= ENOUGH
                && (*seen != Seen::MailRefused || mail.refused.lock().unwrap().len() > refused)
        });
        let faults = strace.faults();
        let load = load(&daemon);
        drop(strace);
        println!(
            "{what}: {faults} faults, {} failures, {:.0} % at rest, {:.1} s",
            failures.len(),
            load * 100.0,
            start.elapsed().as_secs_f64()
        );
        assert!(daemon.is_running(), "{what}: the daemon is gone");
        assert_ne!(faults, 0, "{what}: no such call was made");
        assert!(load < AT_REST, "{what}: {load} of a processor at rest");
        match seen {
            Seen::Nothing => assert!(failures.is_empty(), "{what}: {failures:?}"),
            Seen::Errors => {}
            Seen::MailRefused => {
                let refused = mail.refused.lock().unwrap().len() - refused;
                assert_ne!(refused, 0, "{what}: no mail was refused: {failures:?}");
            }
        }
        Town::is_empty(&daemon, &what);
        mail.is_kept(&new, &what);
        mail.lossy.store(false, Ordering::Relaxed);
        for (name, round) in town.clients() {
            if let Err(error) = round(&mail) {
                panic!("{name} fails after {what}: {error}");
            }
        }
        Town::is_empty(&daemon, &what);
        let (end, mut now) = (Instant::now() + DEADLINE, descriptors(&daemon));
        while now.len() > before.len() + POOLED && Instant::now() < end {
            pause(Duration::from_millis(100));
            now = descriptors(&daemon);
        }
        println!("{} descriptors, {} before", now.len(), before.len());
        assert!(
            now.len() <= before.len() + POOLED,
            "after {what}: {now:#?}, where there were {before:#?}"
        );
    }
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
    assert!(daemon.terminate().success());
}

#[test]
fn calls_that_fail_again_and_again_cost_no_processor() {
    let (mut daemon, town) = Town::start();
    let mail = Mail::default();
    for (calls, errno) in STUBBORN {
        let mut held = admitted("127.0.0.1", town.echo);
        let strace = Strace::attach(&daemon, calls, errno, "");
        // Each has something to do.
        let mut waits = connect_from("127.0.0.1", town.echo);
        waits.write_all(b"x").unwrap();
        held.write_all(b"x").unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket
            .send_to(b"ping", ("127.0.0.1", town.datagrams))
            .unwrap();
        wait_until(&format!("{calls} fails"), ROW, || strace.faults() > 0);
        let load = load(&daemon);
        println!("{calls} {errno}: {:.0} %", load * 100.0);
        assert!(load < AT_REST, "{calls} {errno}: {load} of a processor");
        drop(strace);
        drop((held, waits));
        assert!(daemon.is_running(), "{calls} {errno}: the daemon is gone");
        Town::is_empty(&daemon, calls);
        for (name, round) in town.clients() {
            if let Err(error) = round(&mail) {
                panic!("{name} fails after {calls} {errno}: {error}");
            }
        }
    }
    echoes(&mut admitted("127.0.0.1", town.echo), b"as before");
    assert!(daemon.terminate().success());
}
