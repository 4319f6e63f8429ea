//! The Debian package on this machine: installed, driven by its init script, used, and taken away again.

use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use nix::unistd::{Uid, User};

use crate::harness::{assert_says, binary, curl, exits, output_within, wait_until};

const PATIENCE: Duration = Duration::from_secs(120);

/// A loopback address that nobody else here uses, so that its low ports are free.
const ADDRESS: &str = "127.44.0.1";

/// Says that what is installed is this test's, if an earlier run was cut off.
const MARK: &str = "/etc/portreeve/.test";

const PIDFILE: &str = "/run/portreeve/portreeve.pid";

/// What an installation leaves on a machine until it is purged.
const TRACES: &[&str] = &[
    "/etc/portreeve",
    "/etc/default/portreeve",
    "/etc/init.d/portreeve",
    "/etc/logrotate.d/portreeve",
    "/etc/rc2.d/S01portreeve",
    "/run/portreeve",
    "/usr/lib/portreeve",
    "/usr/sbin/portreeve",
    "/usr/share/doc/portreeve",
    "/usr/share/man/man8/portreeve.8.gz",
    "/var/lib/portreeve",
    "/var/log/portreeve",
];

fn run(words: &[&str], input: &[u8]) -> Output {
    let (program, arguments) = words.split_first().unwrap();
    let mut command = match Uid::effective().is_root() {
        true => Command::new(program),
        false => {
            let mut sudo = Command::new("sudo");
            sudo.args(["-n", program]);
            sudo
        }
    };
    // An administrator's search path, and a directory without a configuration of its own.
    command
        .args(arguments)
        .current_dir("/")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    output_within(command, input, PATIENCE)
}

#[track_caller]
fn root(words: &[&str]) -> String {
    exits(&run(words, b""), 0)
}

#[track_caller]
fn service(action: &str, code: i32) -> String {
    exits(&run(&["service", "portreeve", action], b""), code)
}

#[track_caller]
fn write(path: &str, text: &str) {
    exits(&run(&["tee", path], text.as_bytes()), 0);
}

fn listener(name: &str, text: &str) {
    write(&format!("/etc/portreeve/listeners/{name}.ron"), text);
}

fn http(root: &str, port: u16) {
    listener(
        "http",
        &format!(
            "Tcp(module: Http(root: \"{root}\"),
             sockets: [(port: 80, address: \"{ADDRESS}\"), (port: {port}, address: \"{ADDRESS}\")])"
        ),
    );
}

fn pid() -> u32 {
    root(&["cat", PIDFILE]).trim().parse().unwrap()
}

/// Leaves the machine as it was, however the test ends.
struct Installed;

impl Installed {
    #[track_caller]
    fn new(package: &str) -> Self {
        if Path::new("/var/lib/dpkg/info/portreeve.list").exists() {
            assert!(
                Path::new(MARK).exists(),
                "portreeve is installed on this machine; this test would take it away"
            );
            drop(Installed);
        }
        let installed = Installed;
        exits(&run(&["dpkg", "--install", package], b""), 0);
        write(MARK, "");
        installed
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let _ = run(&["service", "portreeve", "stop"], b"");
        let _ = run(&["dpkg", "--purge", "portreeve"], b"");
    }
}

/// One test installs at a time on a machine.
fn alone() -> fs::File {
    let lock = fs::File::create("/tmp/portreeve-package.lock").unwrap();
    lock.lock().unwrap();
    lock
}

#[test]
fn the_package_serves_mail_and_web_on_low_ports_as_an_unprivileged_user_and_leaves_nothing() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().to_str().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/package");
    let mut build = Command::new(script);
    build.args(["--output", output, "--binary"]).arg(binary());
    let built = output_within(build, b"", PATIENCE);
    exits(&built, 0);
    let package = String::from_utf8(built.stdout).unwrap();
    let installed = Installed::new(package.trim());

    assert_says(&root(&["portreeve", "check"]), &["admin", "7070"]);
    assert_says(&service("status", 3), &["not running"]);
    root(&["rm", "/etc/portreeve/listeners/admin.ron"]);
    listener(
        "smtp",
        &format!(
            "Tcp(module: Smtp(domains: [\"example.org\"]), sockets: [(port: 25, address: \"{ADDRESS}\")])"
        ),
    );
    listener(
        "pop",
        &format!("Tcp(module: Pop, sockets: [(port: 110, address: \"{ADDRESS}\")])"),
    );
    let www = "/usr/share/doc/portreeve/examples/www";
    http(www, 81);
    let account = ["portreeve", "account", "set", "ann", "--password-stdin"];
    exits(&run(&account, b"secret"), 0);

    service("start", 0);
    service("start", 0);
    assert_says(&service("status", 0), &["is running"]);
    let first = pid();
    is_unprivileged(first);
    assert_says(&root(&["portreeve", "status"]), &["smtp", "127.44.0.1:25"]);

    let mail = folder.path().join("mail");
    fs::write(&mail, "Subject: hello\r\n\r\nfrom a low port\r\n").unwrap();
    curl(&[
        &format!("smtp://{ADDRESS}:25"),
        "--mail-from",
        "bob@example.net",
        "--mail-rcpt",
        "ann@example.org",
        "-T",
        mail.to_str().unwrap(),
    ]);
    let got = curl(&[&format!("pop3://{ADDRESS}:110/1"), "-u", "ann:secret"]);
    assert_says(&got, &["from a low port", "Received:"]);
    let page = fs::read_to_string(format!("{www}/index.html")).unwrap();
    assert_eq!(curl(&[&format!("http://{ADDRESS}/")]), page);

    reloads(www, &page);
    assert_eq!(pid(), first, "reloads change no process");

    service("upgrade", 0);
    let heir = pid();
    assert_ne!(heir, first);
    is_unprivileged(heir);
    assert_says(&service("status", 0), &["is running", &heir.to_string()]);
    assert_eq!(curl(&[&format!("http://{ADDRESS}/")]), page);
    // Somebody stays with the one before, and a stop ends both.
    let mut held = TcpStream::connect((ADDRESS, 25)).unwrap();
    held.read_exact(&mut [0; 4]).unwrap();
    service("upgrade", 0);
    reloads(www, &page);
    service("restart", 0);
    assert!(!Path::new(&format!("/proc/{heir}")).exists());
    assert_ne!(pid(), heir);
    assert_eq!(curl(&[&format!("http://{ADDRESS}/")]), page);
    let second = pid();
    root(&["kill", "-9", &second.to_string()]);
    wait_until("the killed daemon is gone", PATIENCE, || {
        !Path::new(&format!("/proc/{second}")).exists()
    });
    assert_says(&service("status", 1), &["is dead"]);
    service("start", 0);
    service("stop", 0);
    service("stop", 0);
    service("status", 3);
    service("reload", 7);
    service("upgrade", 7);
    service("nonsense", 2);
    assert!(TcpStream::connect((ADDRESS, 80)).is_err());

    root(&["dpkg", "--remove", "portreeve"]);
    assert!(Path::new("/var/lib/portreeve/mail").exists() || !Uid::effective().is_root());
    assert!(Path::new("/etc/portreeve").exists());
    drop(installed);
    let left: Vec<_> = TRACES
        .iter()
        .filter(|path| Path::new(path).exists())
        .collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    assert_eq!(User::from_name("portreeve").unwrap(), None);
}

/// Of root nothing is left but the right to bind low ports.
#[track_caller]
fn is_unprivileged(pid: u32) {
    let user = User::from_name("portreeve").unwrap().unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let uids = ["Uid:"; 1].map(|key| format!("{key}\t{0}\t{0}\t{0}\t{0}", user.uid));
    assert_says(&status, &[&uids[0]]);
    assert_says(
        &status,
        &[
            "CapInh:\t0000000000000000",
            "CapPrm:\t0000000000000400",
            "CapEff:\t0000000000000400",
            "CapBnd:\t0000000000000400",
            "CapAmb:\t0000000000000000",
            "NoNewPrivs:\t1",
            "Seccomp:\t2",
        ],
    );
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    for task in tasks {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        assert_says(
            &status,
            &["CapEff:\t0000000000000400", "Seccomp:\t2", &uids[0]],
        );
    }
    let accounts = fs::metadata("/etc/portreeve/accounts.ron").unwrap();
    assert_eq!(
        (accounts.uid(), accounts.mode() & 0o777),
        (user.uid.as_raw(), 0o600)
    );
}

/// Good, live and bad changes while it runs.
#[track_caller]
fn reloads(www: &str, page: &str) {
    http(www, 82);
    service("reload", 0);
    assert_eq!(curl(&[&format!("http://{ADDRESS}:82/")]), page);
    assert!(TcpStream::connect((ADDRESS, 81)).is_err());
    // The daemon binds a low port, and writes its own listener's file, after root is gone.
    root(&[
        "portreeve",
        "socket",
        "add",
        "http",
        "83",
        "--address",
        ADDRESS,
    ]);
    assert_eq!(curl(&[&format!("http://{ADDRESS}:83/")]), page);
    assert_says(
        &root(&["cat", "/etc/portreeve/listeners/http.ron"]),
        &["83"],
    );
    http("/etc", 82);
    service("reload", 1);
    let said = exits(&run(&["portreeve", "reload"], b""), 2);
    assert_says(
        &said,
        &[
            "listeners/http.ron:1:",
            "/etc lies outside",
            "a restart is needed",
        ],
    );
    listener("http", "Tcp(");
    service("reload", 1);
    // A restart finds that out before it stops anything.
    service("restart", 6);
    assert_eq!(curl(&[&format!("http://{ADDRESS}:83/")]), page);
    http(www, 82);
    service("force-reload", 0);
}

#[test]
fn an_installation_by_hand_is_taken_away_but_for_its_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/install");
    let install = |arguments: &[&str]| {
        let mut command = Command::new(&script);
        command
            .args(arguments)
            .env("DESTDIR", folder.path())
            .env("PREFIX", "/usr/local");
        let manual = folder.path().join("manual");
        let mut pages = Command::new(binary().with_file_name("portreeve-manual"));
        pages.arg(&manual);
        exits(&output_within(pages, b"", PATIENCE), 0);
        command.arg("--manual").arg(&manual);
        command.arg("--binary").arg(binary());
        exits(&output_within(command, b"", PATIENCE), 0)
    };
    install(&[]);
    let there = |path: &str| folder.path().join(path).exists();
    for path in [
        "usr/local/sbin/portreeve",
        "usr/local/share/man/man8/portreeve-socket-add.8.gz",
        "usr/local/share/man/man5/portreeve.ron.5.gz",
        "usr/local/share/bash-completion/completions/portreeve",
        "usr/local/lib/systemd/system/portreeve.service",
        "etc/init.d/portreeve",
    ] {
        assert!(there(path), "{path} is not there");
    }
    let own = folder.path().join("etc/portreeve/portreeve.ron");
    fs::write(&own, "// changed\n()").unwrap();
    assert_says(&install(&[]), &["portreeve.ron is there and stays"]);
    install(&["--uninstall"]);
    assert_eq!(fs::read_to_string(&own).unwrap(), "// changed\n()");
    assert!(!there("usr/local/sbin/portreeve") && !there("etc/init.d/portreeve"));
    let mut find = Command::new("find");
    find.arg(folder.path().join("usr"))
        .args(["-type", "f", "-o", "-type", "l"]);
    assert_eq!(exits(&output_within(find, b"", PATIENCE), 0), "");
}
