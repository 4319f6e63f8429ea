//! Foreign servers beside the daemon: nginx, haproxy, dnsmasq, slapd, socat, FreeRADIUS. Each is stopped when its value is
//! dropped.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::harness::{DEADLINE, output_of, wait_until};

/// A server of somebody else's, in the foreground, with a directory of its own.
pub(crate) struct Foreign {
    child: Child,
    home: TempDir,
}

impl Foreign {
    /// Starts a command made for a fresh directory, and waits until `ready` says that it serves.
    #[track_caller]
    fn start(command: impl FnOnce(&Path) -> Command, ready: impl Fn(&Path) -> bool) -> Self {
        let home = TempDir::new().unwrap();
        let mut command = command(home.path());
        let log = fs::File::create(home.path().join("log")).unwrap();
        let shown = format!("{command:?}");
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{shown}: {error}"));
        let mut foreign = Foreign { child, home };
        wait_until(&shown, DEADLINE, || {
            if let Some(status) = foreign.child.try_wait().unwrap() {
                panic!("{shown} ended, {status}: {}", foreign.read("log"));
            }
            ready(foreign.home.path())
        });
        foreign
    }

    /// nginx with these blocks inside `http`.
    #[track_caller]
    pub(crate) fn nginx(http: &str, port: u16) -> Self {
        let command = |home: &Path| {
            let text = format!(
                "daemon off; master_process off; pid nginx.pid; error_log stderr;\n\
                 events {{ worker_connections 1024; }}\n\
                 http {{ access_log off; client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f;\n\
                 uwsgi_temp_path u; scgi_temp_path s;\n{http}\n}}\n"
            );
            fs::write(home.join("nginx.conf"), text).unwrap();
            let mut command = Command::new("nginx");
            command
                .arg("-p")
                .arg(home)
                .arg("-c")
                .arg(home.join("nginx.conf"));
            command
        };
        Self::start(command, move |_| serves(port))
    }

    /// A Redis server that keeps nothing on disk.
    #[track_caller]
    pub(crate) fn redis(port: u16) -> Self {
        let command = |home: &Path| {
            let mut command = Command::new("redis-server");
            command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
            command.arg("--port").arg(port.to_string());
            command.arg("--dir").arg(home);
            command
        };
        Self::start(command, move |_| serves(port))
    }

    /// A script of ours that listens on a port.
    #[track_caller]
    pub(crate) fn python(script: &Path, port: u16) -> Self {
        let command = |_: &Path| {
            let mut command = Command::new("python3");
            command.arg(script).arg(port.to_string());
            command
        };
        Self::start(command, move |_| serves(port))
    }

    /// FreeRADIUS with these settings, in which HOME is its directory, once it has its UDP ports.
    #[track_caller]
    pub(crate) fn freeradius(settings: &str, ports: [u16; 2]) -> Self {
        let command = |home: &Path| {
            let settings = settings.replace("HOME", &home.display().to_string());
            fs::write(home.join("radiusd.conf"), settings).unwrap();
            let mut command = Command::new("freeradius");
            command.args(["-f", "-l", "stdout", "-D", "/usr/share/freeradius", "-d"]);
            command.arg(home);
            command
        };
        Self::start(command, move |_| {
            let table = fs::read_to_string("/proc/net/udp").unwrap();
            ports
                .iter()
                .all(|port| table.contains(&format!(":{port:04X} ")))
        })
    }

    /// haproxy in TCP mode with these sections.
    #[track_caller]
    pub(crate) fn haproxy(sections: &str, port: u16) -> Self {
        let command = |home: &Path| {
            let text = format!(
                "defaults\n mode tcp\n timeout connect 5s\n timeout client 20s\n timeout server 20s\n{sections}\n"
            );
            fs::write(home.join("haproxy.cfg"), text).unwrap();
            let mut command = Command::new("haproxy");
            command.arg("-db").arg("-f").arg(home.join("haproxy.cfg"));
            command
        };
        Self::start(command, move |_| serves(port))
    }

    /// Postfix that takes mail for ann@example.org into a Maildir, `mail/ann` in its directory.
    #[track_caller]
    pub(crate) fn postfix(port: u16) -> Self {
        let command = |home: &Path| {
            for part in ["conf", "queue", "data", "mail"] {
                fs::create_dir(home.join(part)).unwrap();
            }
            // Its programs run as other users than the one that owns the directory.
            fs::set_permissions(home, fs::Permissions::from_mode(0o755)).unwrap();
            chown(&home.join("data"), "postfix");
            chown(&home.join("mail"), "nobody");
            let main = include_str!("../data/postfix/main.cf")
                .replace("HOME", &home.display().to_string());
            fs::write(home.join("conf/main.cf"), main).unwrap();
            let master =
                include_str!("../data/postfix/master.cf").replace("PORT", &port.to_string());
            fs::write(home.join("conf/master.cf"), master).unwrap();
            let mut check = Command::new("/usr/sbin/postfix");
            check.arg("-c").arg(home.join("conf")).arg("check");
            assert!(output_of(check, b"").status.success());
            let mut command = Command::new("/usr/lib/postfix/sbin/master");
            command.arg("-d").arg("-c").arg(home.join("conf"));
            command
        };
        Self::start(command, move |_| serves(port))
    }

    /// Dovecot with the account ann, password secret: POP3, IMAP and LMTP.
    #[track_caller]
    pub(crate) fn dovecot(pop: u16, imap: u16, lmtp: u16) -> Self {
        let command = |home: &Path| {
            fs::set_permissions(home, fs::Permissions::from_mode(0o755)).unwrap();
            fs::create_dir(home.join("mail")).unwrap();
            chown(&home.join("mail"), "nobody");
            let conf = include_str!("../data/dovecot.conf")
                .replace("HOME", &home.display().to_string())
                .replace("POP_PORT", &pop.to_string())
                .replace("IMAP_PORT", &imap.to_string())
                .replace("LMTP_PORT", &lmtp.to_string());
            fs::write(home.join("dovecot.conf"), conf).unwrap();
            let mut command = Command::new("/usr/sbin/dovecot");
            command.arg("-F").arg("-c").arg(home.join("dovecot.conf"));
            command
        };
        Self::start(command, move |_| {
            serves(pop) && serves(imap) && serves(lmtp)
        })
    }

    /// slapd with these entries; its administrator is cn=admin,dc=example,dc=org, password adminpw.
    #[track_caller]
    pub(crate) fn slapd(port: u16, entries: &str) -> Self {
        let command = |home: &Path| {
            fs::create_dir(home.join("db")).unwrap();
            let conf =
                include_str!("../data/slapd.conf").replace("HOME", &home.display().to_string());
            fs::write(home.join("slapd.conf"), conf).unwrap();
            let mut add = Command::new("/usr/sbin/slapadd");
            add.arg("-f").arg(home.join("slapd.conf"));
            let output = output_of(add, entries.as_bytes());
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "slapadd: {said}");
            let mut command = Command::new("/usr/sbin/slapd");
            command.args(["-d", "0", "-h", &format!("ldap://127.0.0.1:{port}"), "-f"]);
            command.arg(home.join("slapd.conf"));
            command
        };
        Self::start(command, move |_| serves(port))
    }

    /// The directory of its files.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// dnsmasq that answers on a port of 127.0.0.1 with one address for every name.
    #[track_caller]
    pub(crate) fn dnsmasq(port: u16, address: &str) -> Self {
        let command = |_: &Path| {
            let user = nix::unistd::User::from_uid(nix::unistd::Uid::current()).unwrap();
            let mut command = Command::new("dnsmasq");
            command
                .args([
                    "--keep-in-foreground",
                    "--conf-file=/dev/null",
                    "--pid-file",
                ])
                .args(["--no-resolv", "--no-hosts", "--no-poll", "--log-facility=-"])
                .args(["--bind-interfaces", "--listen-address=127.0.0.1"])
                .arg(format!("--user={}", user.unwrap().name))
                .arg(format!("--port={port}"))
                .arg(format!("--address=/#/{address}"));
            command
        };
        // It serves TCP on the same port.
        Self::start(command, move |_| serves(port))
    }

    /// socat that answers each connection to a Unix socket with what comes in.
    #[track_caller]
    pub(crate) fn echo_on_a_unix_socket() -> (Self, PathBuf) {
        let command = |home: &Path| {
            let mut command = Command::new("socat");
            command.arg(format!("UNIX-LISTEN:{}/echo,fork", home.display()));
            command.arg("EXEC:cat");
            command
        };
        let foreign = Self::start(command, |home| {
            UnixStream::connect(home.join("echo")).is_ok()
        });
        let path = foreign.home.path().join("echo");
        (foreign, path)
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.home.path().join(file)).unwrap_or_default()
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("log of the foreign server:\n{}", self.read("log"));
        }
    }
}

fn chown(path: &Path, user: &str) {
    let user = nix::unistd::User::from_name(user).unwrap().unwrap();
    nix::unistd::chown(path, Some(user.uid), Some(user.gid)).unwrap();
}

fn serves(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// Makes a key and a certificate for `name`, valid for `days`; signed by `authority` or by itself.
/// The files are `NAME.key` and `NAME.pem` in `home`.
#[track_caller]
pub(crate) fn make_certificate(home: &Path, name: &str, days: u32, authority: Option<&str>) {
    let mut command = Command::new("openssl");
    command
        .current_dir(home)
        .args(["req", "-x509", "-newkey", "ec", "-nodes"]);
    command.args(["-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    command.args([
        "-keyout",
        &format!("{name}.key"),
        "-out",
        &format!("{name}.pem"),
    ]);
    command.args(["-days", &days.to_string(), "-subj", &format!("/CN={name}")]);
    command.args(["-addext", &format!("subjectAltName=DNS:{name}")]);
    if let Some(authority) = authority {
        command.args([
            "-CA",
            &format!("{authority}.pem"),
            "-CAkey",
            &format!("{authority}.key"),
        ]);
        command.args(["-addext", "basicConstraints=critical,CA:false"]);
    }
    let output = output_of(command, b"");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl: {said}");
}
