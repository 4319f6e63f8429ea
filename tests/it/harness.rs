//! A running daemon, its configuration in a directory of its own, and clients with chosen addresses.

use std::collections::HashSet;
use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, LazyLock, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tempfile::TempDir;

/// How long anything may take that should happen at once; generous, since machines that run tests are busy.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

const STEP: Duration = Duration::from_millis(20);

/// Ports below the range from which the kernel picks those of clients, so that no outgoing
/// connection of another test can sit on a port between our choosing it and the daemon's binding it.
const FIRST_PORT: u16 = 12_000;
const LAST_PORT: u16 = 31_999;

static TAKEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

/// A port that is free for TCP and UDP on all addresses, and given to no other test of this process.
pub(crate) fn free_port() -> u16 {
    let mut taken = TAKEN.lock().unwrap();
    let span = u32::from(LAST_PORT - FIRST_PORT) + 1;
    let offset = std::process::id().wrapping_mul(97) % span;
    for step in 0..span {
        let port = FIRST_PORT + u16::try_from((offset + step) % span).unwrap();
        if !taken.contains(&port) && is_free(port) {
            taken.insert(port);
            return port;
        }
    }
    panic!("no free port between {FIRST_PORT} and {LAST_PORT}");
}

fn is_free(port: u16) -> bool {
    let wildcard = (Ipv6Addr::UNSPECIFIED, port);
    TcpListener::bind(wildcard).is_ok() && UdpSocket::bind(wildcard).is_ok()
}

/// A configuration on disk: `conf/portreeve.ron`, `conf/listeners/NAME.ron`, and `var` beside `conf`.
pub(crate) struct Conf {
    dir: TempDir,
}

impl Conf {
    /// `server` is what stands between the parentheses of `portreeve.ron`.
    pub(crate) fn new(server: &str) -> Self {
        let dir = TempDir::new().unwrap();
        fs::create_dir_all(dir.path().join("conf/listeners")).unwrap();
        fs::create_dir_all(dir.path().join("var")).unwrap();
        Self { dir }.file("portreeve.ron", &format!("(\n{server}\n)\n"))
    }

    pub(crate) fn listener(self, name: &str, text: &str) -> Self {
        self.file(&format!("listeners/{name}.ron"), text)
    }

    /// Writes a file below `conf`.
    pub(crate) fn file(self, name: &str, text: &str) -> Self {
        fs::write(self.dir.path().join("conf").join(name), text).unwrap();
        self
    }

    /// Writes a file below `conf` while a daemon runs.
    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join("conf").join(name), text).unwrap();
    }

    /// Reads a file below `conf`.
    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join("conf").join(name)).unwrap()
    }

    /// Sends one request to the control socket and answers what comes back; nothing when nobody answers.
    pub(crate) fn try_ask(&self, request: &Value) -> Option<Value> {
        let path = self.dir.path().join("var/control.sock");
        let mut stream = UnixStream::connect(path).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(format!("{request}\n").as_bytes()).ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).ok()?;
        serde_json::from_str(&line).ok()
    }

    #[track_caller]
    pub(crate) fn ask(&self, request: &Value) -> Value {
        self.try_ask(request)
            .unwrap_or_else(|| panic!("no answer to {request}"))
    }

    /// The directory of `conf` and `var`.
    pub(crate) fn home(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("conf/portreeve.ron")
    }

    /// Runs `portreeve ARGS --config FILE` to its end.
    pub(crate) fn portreeve(&self, args: &[&str]) -> Output {
        let mut command = Command::new(binary());
        command.args(args).arg("--config").arg(self.path());
        output_of(command, b"")
    }

    /// The listeners the files declare.
    fn listeners(&self) -> usize {
        fs::read_dir(self.dir.path().join("conf/listeners"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "ron"))
            .count()
    }
}

pub(crate) fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_portreeve"))
}

/// Runs a command with `input` on its standard input; one that outlives the deadline is a failure.
#[track_caller]
pub(crate) fn output_of(command: Command, input: &[u8]) -> Output {
    output_within(command, input, DEADLINE)
}

/// The same for a command that takes its time.
#[track_caller]
pub(crate) fn output_within(mut command: Command, input: &[u8], within: Duration) -> Output {
    let shown = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{shown}: {error}"));
    // A program that has ended without reading its input is judged by its output, not by EPIPE.
    let _ = child.stdin.take().unwrap().write_all(input);
    let mut stdout = child.stdout.take().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let out = std::thread::spawn(move || read_all(&mut stdout));
    let err = std::thread::spawn(move || read_all(&mut stderr));
    let Some(status) = wait_for_exit(&mut child, within) else {
        let _ = child.kill();
        let _ = child.wait();
        let said = String::from_utf8_lossy(&err.join().unwrap()).into_owned();
        panic!("{shown} was still running after {within:?}; it said: {said}");
    };
    Output {
        status,
        stdout: out.join().unwrap(),
        stderr: err.join().unwrap(),
    }
}

/// What curl prints; its failure is the test's. Certificates are not looked at: they are of our own making.
#[track_caller]
pub(crate) fn curl(arguments: &[&str]) -> String {
    let mut command = Command::new("curl");
    command
        .args(["-sS", "-k", "--max-time", "20"])
        .args(arguments);
    exits(&output_of(command, b""), 0)
}

fn read_all(source: &mut impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    source.read_to_end(&mut bytes).unwrap();
    bytes
}

fn wait_for_exit(child: &mut Child, within: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + within;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if Instant::now() >= end {
            return None;
        }
        pause(STEP);
    }
}

/// Asserts the exit code, showing what was printed when it is another; answers stdout and stderr as one text.
#[track_caller]
pub(crate) fn exits(output: &Output, code: i32) -> String {
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(output.status.code(), Some(code), "printed:\n{text}");
    text
}

#[track_caller]
pub(crate) fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "`{word}` is missing in:\n{text}");
    }
}

/// A daemon in the foreground; dropping it ends it.
pub(crate) struct Daemon {
    conf: Conf,
    child: Child,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Daemon {
    #[track_caller]
    pub(crate) fn start(conf: Conf) -> Self {
        let mut command = Command::new(binary());
        command.arg("run").arg("--config").arg(conf.path());
        Self::start_with(conf, command)
    }

    /// Starts with one more variable in its environment.
    #[track_caller]
    pub(crate) fn start_with_variable(conf: Conf, name: &str, value: &Path) -> Self {
        let mut command = Command::new(binary());
        command.arg("run").arg("--config").arg(conf.path());
        command.env(name, value);
        Self::start_with(conf, command)
    }

    /// Starts with at most this many descriptors, soft and hard.
    #[track_caller]
    pub(crate) fn start_with_descriptors(conf: Conf, limit: u32) -> Self {
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(format!(
                "ulimit -n {limit} && exec \"$0\" run --config \"$1\""
            ))
            .arg(binary())
            .arg(conf.path());
        Self::start_with(conf, command)
    }

    /// Starts with a command of one's own that ends up as the daemon.
    #[track_caller]
    pub(crate) fn start_with(conf: Conf, mut command: Command) -> Self {
        let mut child = command
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let sink = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut log = sink.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
            }
        });
        let mut daemon = Self {
            conf,
            child,
            log,
            reader: Some(reader),
        };
        daemon.wait_until_ready();
        daemon
    }

    #[track_caller]
    fn wait_until_ready(&mut self) {
        let expected = self.conf.listeners();
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                pause(STEP);
                panic!(
                    "the daemon ended at its start, {status}; log:\n{}",
                    self.log()
                );
            }
            let up = self
                .try_status()
                .and_then(|status| status["listeners"].as_array().map(Vec::len))
                .is_some_and(|listeners| listeners >= expected);
            if up {
                return;
            }
            assert!(
                Instant::now() < end,
                "`status --json` does not show {expected} listeners; log:\n{}",
                self.log()
            );
            pause(STEP);
        }
    }

    pub(crate) fn conf(&self) -> &Conf {
        &self.conf
    }

    /// Another daemon with the files of one that has ended.
    #[track_caller]
    pub(crate) fn restart(mut self) -> Self {
        let conf = std::mem::replace(&mut self.conf, Conf::new(""));
        drop(self);
        Self::start(conf)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn portreeve(&self, args: &[&str]) -> Output {
        self.conf.portreeve(args)
    }

    /// One metric's value by its name and labels, as they stand before it; 0 when it is not there.
    #[track_caller]
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = exits(&self.portreeve(&["status", "--metrics"]), 0);
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map_or(0.0, |value| value.trim().parse().unwrap())
    }

    /// What the daemon has written to standard error so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    fn try_status(&self) -> Option<Value> {
        let output = self.portreeve(&["status", "--json"]);
        serde_json::from_slice(&output.stdout)
            .ok()
            .filter(|_| output.status.success())
    }

    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        self.try_status()
            .unwrap_or_else(|| panic!("`status --json` failed; log:\n{}", self.log()))
    }

    /// One listener's part of `status --json`.
    #[track_caller]
    pub(crate) fn listener(&self, name: &str) -> Value {
        let status = self.status();
        status["listeners"]
            .as_array()
            .and_then(|all| all.iter().find(|listener| listener["name"] == name))
            .unwrap_or_else(|| panic!("no listener `{name}` in {status}"))
            .clone()
    }

    #[track_caller]
    pub(crate) fn active(&self, name: &str) -> u64 {
        let listener = self.listener(name);
        listener["active"]
            .as_u64()
            .unwrap_or_else(|| panic!("no `active` in {listener}"))
    }

    /// How often a reason refused; a reason that never did may be absent.
    #[track_caller]
    pub(crate) fn rejected(&self, name: &str, reason: &str) -> u64 {
        self.listener(name)["rejected"][reason]
            .as_u64()
            .unwrap_or(0)
    }

    #[track_caller]
    pub(crate) fn wait_for_active(&self, name: &str, count: u64) {
        wait_until(&format!("{name} has {count} active"), DEADLINE, || {
            self.active(name) == count
        });
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    #[track_caller]
    pub(crate) fn wait_for_exit(&mut self, within: Duration) -> ExitStatus {
        wait_for_exit(&mut self.child, within)
            .unwrap_or_else(|| panic!("still running after {within:?}; log:\n{}", self.log()))
    }

    /// SIGKILL, at once.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and the way it ended.
    #[track_caller]
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait_for_exit(DEADLINE)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Child::kill does nothing to a process that was waited for, so a reused pid is safe.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        if std::thread::panicking() {
            eprintln!("log of the daemon:\n{}", self.log());
        }
    }
}

/// Calls `reached` again and again until it answers yes; past the deadline it is a failure.
#[track_caller]
pub(crate) fn wait_until(what: &str, deadline: Duration, mut reached: impl FnMut() -> bool) {
    let end = Instant::now() + deadline;
    while !reached() {
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        pause(STEP);
    }
}

/// Lets time pass where time itself is what a test is about: a pace of bytes, a window of measuring.
pub(crate) fn pause(time: Duration) {
    let never = Mutex::new(());
    let end = Instant::now() + time;
    let mut guard = never.lock().unwrap();
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        guard = Condvar::new().wait_timeout(guard, left).unwrap().0;
    }
}

/// Lets this process open as many descriptors as it is allowed to, and answers how many that is.
pub(crate) fn raise_descriptors() -> u64 {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    hard
}

/// The loopback address of the family of `source`, which is where tests connect to.
fn target(source: IpAddr, port: u16) -> SocketAddr {
    match source {
        IpAddr::V4(_) => (Ipv4Addr::LOCALHOST, port).into(),
        IpAddr::V6(_) => (Ipv6Addr::LOCALHOST, port).into(),
    }
}

pub(crate) fn try_connect(source: &str, port: u16) -> io::Result<TcpStream> {
    let source: IpAddr = source.parse().unwrap();
    let target = target(source, port);
    let socket = Socket::new(
        Domain::for_address(target),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.bind(&SockAddr::from(SocketAddr::from((source, 0))))?;
    socket.connect_timeout(&target.into(), DEADLINE)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    Ok(stream)
}

/// A connection from `source` to the loopback address of its family; that says nothing of being admitted.
#[track_caller]
pub(crate) fn connect_from(source: &str, port: u16) -> TcpStream {
    try_connect(source, port)
        .unwrap_or_else(|error| panic!("{source} cannot connect to port {port}: {error}"))
}

/// Sends a text and asserts that it comes back.
#[track_caller]
pub(crate) fn echoes(stream: &mut TcpStream, text: &[u8]) {
    if let Err(error) = try_echo(stream, text) {
        panic!("no echo for {:?}: {error}", stream.local_addr());
    }
}

pub(crate) fn try_echo(stream: &mut TcpStream, text: &[u8]) -> io::Result<()> {
    stream.write_all(text)?;
    let mut answer = vec![0; text.len()];
    stream.read_exact(&mut answer)?;
    assert_eq!(answer, text, "the echo is another text");
    Ok(())
}

/// A connection that an Echo listener has admitted and answered.
#[track_caller]
pub(crate) fn admitted(source: &str, port: u16) -> TcpStream {
    let mut stream = connect_from(source, port);
    if let Err(error) = try_echo(&mut stream, b"in?") {
        panic!("{source} was not admitted on port {port}: {error}");
    }
    stream
}

/// How a connection attempt that must not be served ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    /// Nobody listens.
    NotListening,
    Reset,
    EndOfFile,
}

/// Connects, sends nothing and reads; a served connection, one left open, or a single byte is a failure.
#[track_caller]
pub(crate) fn turned_away(source: &str, port: u16) -> Ending {
    let mut stream = match try_connect(source, port) {
        Ok(stream) => stream,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ending::NotListening,
        // The reset can be faster than the return of connect.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ending::Reset,
        Err(error) => panic!("{source} to port {port}: {error}"),
    };
    ending_of(&mut stream)
}

/// Reads to the end of a connection that must bring nothing any more.
#[track_caller]
pub(crate) fn ending_of(stream: &mut TcpStream) -> Ending {
    let mut byte = [0];
    match stream.read(&mut byte) {
        Ok(0) => Ending::EndOfFile,
        Ok(_) => panic!("a byte came: {byte:?}"),
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ending::Reset,
        Err(error) => panic!("the connection was left open: {error}"),
    }
}

/// Asserts that a listener closes the connection at once without a byte.
#[track_caller]
pub(crate) fn refused(source: &str, port: u16) {
    let ending = turned_away(source, port);
    assert_ne!(
        ending,
        Ending::NotListening,
        "nobody listens on port {port}"
    );
}
