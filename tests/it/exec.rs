//! Programs on connections: real ones of the system, in the environment that UCSPI promises.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::time::Duration;

use socket2::SockRef;

use crate::harness::{
    Conf, DEADLINE, Daemon, admitted, assert_says, connect_from, exits, free_port, output_of,
    wait_until,
};

/// A program on a clear and on a secured port.
fn exec(command: &[&str], keys: &str) -> (Daemon, u16, u16) {
    let (clear, secured) = (free_port(), free_port());
    let text = format!(
        "Tcp(module: Exec(command: {command:?}, {keys}), channels: 300,
         sockets: [(port: {clear}), (port: {secured}, tls: On)])"
    );
    let conf = Conf::new(
        "workers: 4, drain: \"1s\",
         domains: [(name: \"a.test\", certificate: SelfSigned)], default_domain: \"a.test\",",
    );
    (Daemon::start(conf.listener("exec", &text)), clear, secured)
}

/// All that a connection brings after our side is finished.
#[track_caller]
fn hear(mut stream: TcpStream, say: &str) -> String {
    stream.write_all(say.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).unwrap();
    heard
}

#[track_caller]
fn s_client(port: u16, arguments: &[&str], input: &[u8]) -> String {
    let mut command = Command::new("openssl");
    command.args([
        "s_client",
        "-quiet",
        "-connect",
        &format!("127.0.0.1:{port}"),
    ]);
    command.args(arguments);
    let output = output_of(command, input);
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// The processes whose parent is the daemon, zombies among them.
fn children(daemon: &Daemon) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
    let mut children = Vec::new();
    for task in tasks {
        let list = std::fs::read_to_string(task.unwrap().path().join("children"));
        children.extend(
            list.unwrap_or_default()
                .split_whitespace()
                .map(str::to_owned),
        );
    }
    children
}

#[test]
fn the_environment_is_that_of_ucspi_and_nothing_else() {
    let (_daemon, clear, secured) = exec(&["/usr/bin/env"], "env: {\"GREETING\": \"a b\"},");
    let stream = connect_from("127.0.81.1", clear);
    let port = stream.local_addr().unwrap().port();
    let heard = hear(stream, "");
    let mut lines: Vec<&str> = heard.lines().collect();
    lines.sort_unstable();
    let remote = format!("TCPREMOTEPORT={port}");
    let local = format!("TCPLOCALPORT={clear}");
    let expected = [
        "GREETING=a b",
        "PATH=",
        "PROTO=TCP",
        "TCPLOCALIP=127.0.0.1",
        &local,
        "TCPREMOTEIP=127.0.81.1",
        &remote,
    ];
    assert_eq!(lines.len(), expected.len(), "{heard}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(expected), "{line} is not {expected}");
    }
    let heard = hear(connect_from("::1", clear), "");
    assert_says(
        &heard,
        &["PROTO=TCP6\n", "TCPREMOTEIP=::1\n", "TCP6LOCALIP=::1\n"],
    );
    let heard = s_client(secured, &["-servername", "www.a.test", "-tls1_3"], b"");
    assert_says(
        &heard,
        &[
            "PROTO=SSL\n",
            "TCPREMOTEIP=127.0.0.1\n",
            "SSLLOCALIP=127.0.0.1\n",
            "SSL_PROTOCOL=TLSv1.3\n",
            "SSL_CIPHER=TLS_AES_256_GCM_SHA384\n",
            "SSL_TLS_SNI=www.a.test\n",
            "SSL_SERVER_NAME=a.test\n",
            "SSL_CLIENT_VERIFY=NONE\n",
        ],
    );
}

#[test]
fn the_socket_is_its_input_output_and_error_and_it_has_no_other_descriptor() {
    let script = "ls -l /proc/self/fd | wc -l; head -n 1; echo told >&2; tr a-z A-Z < /proc/self/cmdline | head -c 2";
    let (daemon, clear, secured) = exec(&["/bin/sh", "-c", script], "");
    // `ls` has its directory and the pipe to `wc`: total, 0, 1, 2 and that directory.
    let expected = "5\nhello\ntold\nTR";
    assert_eq!(hear(connect_from("127.0.82.1", clear), "hello\n"), expected);
    assert_says(&s_client(secured, &[], b"hello\n"), &[expected]);
    daemon.wait_for_active("exec", 0);
    wait_until("no zombie is left", DEADLINE, || {
        children(&daemon).is_empty()
    });
}

#[test]
fn two_hundred_at_once_hold_no_worker_and_leave_no_zombie() {
    let (daemon, clear, _) = exec(&["/bin/cat"], "");
    let streams: Vec<TcpStream> = (0..200).map(|_| admitted("127.0.83.1", clear)).collect();
    assert_eq!(daemon.active("exec"), 200);
    assert_eq!(children(&daemon).len(), 200);
    assert_eq!(daemon.status()["workers"]["busy"], 0);
    for stream in streams {
        assert_eq!(hear(stream, "bye"), "bye");
    }
    daemon.wait_for_active("exec", 0);
    wait_until("no zombie is left", DEADLINE, || {
        children(&daemon).is_empty()
    });
}

#[test]
fn a_program_ends_with_its_connection() {
    // What it starts ends with it, and it does not listen to reason.
    let script = "trap '' TERM; echo up; sleep 1000 & wait; sleep 1000";
    let (mut daemon, clear, secured) = exec(&["/bin/sh", "-c", script], "");
    let mut stream = connect_from("127.0.84.1", clear);
    stream.read_exact(&mut [0; 3]).unwrap();
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(stream);
    daemon.wait_for_active("exec", 0);
    wait_until("it is killed", DEADLINE, || children(&daemon).is_empty());
    // And with the daemon.
    let mut stream = connect_from("127.0.84.1", clear);
    stream.read_exact(&mut [0; 3]).unwrap();
    let left = children(&daemon);
    assert_eq!(left.len(), 1);
    let _held = connect_from("127.0.84.1", secured);
    assert!(daemon.terminate().success());
    let gone = !std::path::Path::new(&format!("/proc/{}", left[0])).exists();
    assert!(gone, "{left:?} outlived the daemon");
}

/// True while a process runs with these words in its command line.
fn runs(words: &str) -> bool {
    let mut command = Command::new("pgrep");
    command.args(["-f", "--", words]);
    output_of(command, b"").status.success()
}

/// Connects, waits for the program, and leaves with a reset.
fn vanish(port: u16) {
    let mut stream = connect_from("127.0.84.1", port);
    stream.read_exact(&mut [0; 3]).unwrap();
    let reset = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    reset.unwrap();
}

#[test]
fn a_program_that_has_heard_of_the_reset_itself_ends_too() {
    // cat takes the error off the socket; what follows it would never hear of it.
    let script = "echo up; cat > /dev/null 2>&1; sleep 1000";
    let (daemon, clear, secured) = exec(&["/bin/sh", "-c", script], "");
    for _ in 0..20 {
        vanish(clear);
    }
    daemon.wait_for_active("exec", 0);
    let _held = connect_from("127.0.84.1", secured);
    wait_until("all are killed", DEADLINE, || children(&daemon).is_empty());
}

#[test]
fn what_a_program_started_ends_with_it_though_it_ignores_the_request() {
    let script = "(trap '' TERM; echo up; exec sleep 98765.4321) & wait";
    let (daemon, clear, _) = exec(&["/bin/sh", "-c", script], "");
    vanish(clear);
    daemon.wait_for_active("exec", 0);
    wait_until("it is killed", DEADLINE, || !runs("^sleep 98765.4321"));
}

#[test]
fn a_client_that_only_finished_sending_is_heard_to_the_end() {
    let (daemon, clear, _) = exec(
        &["/bin/sh", "-c", "cat > /dev/null; sleep 0.3; echo done"],
        "",
    );
    assert_eq!(hear(connect_from("127.0.85.1", clear), "all"), "done\n");
    daemon.wait_for_active("exec", 0);
}

#[test]
fn a_program_may_run_as_another_user() {
    if !nix::unistd::Uid::effective().is_root() {
        let (status, said) = check("command: [\"/usr/bin/id\"], user: \"nobody\"");
        assert_eq!(status, 2);
        assert_says(&said, &["only root may run programs as nobody"]);
        return;
    }
    let (_daemon, clear, _) = exec(&["/usr/bin/id"], "user: \"nobody\",");
    let heard = hear(connect_from("127.0.86.1", clear), "");
    assert_says(&heard, &["(nobody)", "gid="]);
    let groups = heard.split("groups=").nth(1).unwrap();
    assert!(!groups.contains(','), "more groups than its own: {heard}");
}

/// What `check` says of a listener with these keys.
fn check(keys: &str) -> (i32, String) {
    let text = format!("Tcp(module: Exec({keys}), sockets: [(port: 7000)])");
    let output = Conf::new("").listener("exec", &text).portreeve(&["check"]);
    let code = output.status.code().unwrap();
    (code, exits(&output, code))
}

#[test]
fn what_cannot_run_is_an_error_of_the_configuration() {
    for (keys, words) in [
        ("", "exec.ron:1:17: expected a command"),
        ("command: []", "expected a program and its arguments"),
        ("command: [\"cat\"]", "expected an absolute path, found cat"),
        ("command: [\"/no/such/program\"]", "No such file"),
        ("command: [\"/etc/passwd\"]", "/etc/passwd is no program"),
        (
            "command: [\"/bin/cat\"], user: \"no-such-user\"",
            "this system has no user no-such-user",
        ),
        (
            "command: [\"/bin/cat\"], env: {\"A=B\": \"c\"}",
            "expected a variable's name without = and NUL, found \"A=B\"",
        ),
        (
            "command: [\"/bin/cat\", \"a\\u{0}b\"]",
            "expected words without NUL",
        ),
    ] {
        let (code, said) = check(keys);
        assert_eq!(code, 2, "{keys}: {said}");
        assert_says(&said, &[words]);
    }
}

#[test]
fn git_serves_a_repository_through_us() {
    let home = tempfile::tempdir().unwrap();
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.current_dir(home.path()).args(arguments);
        command.env("GIT_CONFIG_GLOBAL", "/dev/null");
        exits(&output_of(command, b""), 0)
    };
    git(&["init", "-q", "work"]);
    std::fs::write(home.path().join("work/file"), "content\n".repeat(10_000)).unwrap();
    git(&["-C", "work", "add", "file"]);
    let identity = ["-c", "user.name=a", "-c", "user.email=a@a.test"];
    git(&[&["-C", "work"], &identity[..], &["commit", "-qm", "first"]].concat());
    git(&["clone", "-q", "--bare", "work", "served"]);
    let base = format!("--base-path={}", home.path().display());
    let program = Command::new("sh")
        .args(["-c", "command -v git"])
        .output()
        .unwrap();
    let program = String::from_utf8(program.stdout).unwrap();
    let command = [program.trim(), "daemon", "--inetd", "--export-all", &base];
    let (daemon, clear, _) = exec(
        &command,
        "env: {\"GIT_CONFIG_COUNT\": \"1\", \"GIT_CONFIG_KEY_0\": \"safe.directory\", \"GIT_CONFIG_VALUE_0\": \"*\"},",
    );
    git(&[
        "clone",
        "-q",
        &format!("git://127.0.0.1:{clear}/served"),
        "copy",
    ]);
    let copy = std::fs::read_to_string(home.path().join("copy/file")).unwrap();
    assert_eq!(copy.len(), 80_000);
    daemon.wait_for_active("exec", 0);
}

#[test]
fn a_program_in_the_sandbox_finds_neither_files_nor_servers_that_are_not_configured() {
    let port = free_port();
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret");
    std::fs::write(&secret, "not for you\n").unwrap();
    let neighbour = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let script = format!(
        "cat {0} 2>&1; echo spoilt >> {0}; socat -u OPEN:/dev/null TCP4:{1} 2>&1; \
         unshare --net true 2>&1; echo end",
        secret.display(),
        neighbour.local_addr().unwrap(),
    );
    let text = format!(
        "Tcp(module: Exec(command: [\"/bin/sh\", \"-c\", {script:?}]), sockets: [(port: {port})])"
    );
    let conf = Conf::new("sandbox: (landlock: true, seccomp: true, connect: false),");
    let daemon = Daemon::start(conf.listener("exec", &text));
    let heard = hear(connect_from("127.0.0.1", port), "");
    assert!(!heard.contains("not for you"), "{heard}");
    assert_says(
        &heard,
        &[
            "cat:",
            "Permission denied",
            "Operation not permitted",
            "end",
        ],
    );
    assert_eq!(std::fs::read_to_string(&secret).unwrap(), "not for you\n");
    assert!(
        heard.matches("not permitted").count() >= 2,
        "connect and unshare: {heard}"
    );
    assert_says(
        &daemon.log(),
        &["sandbox: landlock (ABI", "seccomp refuses", "no outgoing"],
    );
    // The same without a sandbox, which is what a listener with programs has unless it is asked for.
    let port = free_port();
    let text = format!(
        "Tcp(module: Exec(command: [\"/bin/cat\", \"{}\"]), sockets: [(port: {port})])",
        secret.display()
    );
    let daemon = Daemon::start(Conf::new("").listener("exec", &text));
    let heard = hear(connect_from("127.0.0.1", port), "");
    assert_says(&heard, &["not for you"]);
    assert_says(&daemon.log(), &["sandbox: landlock off", "seccomp off"]);
}
