//! The Admin pages in Chromium, the API with curl, the metrics with Prometheus' own parser.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{
    Conf, Daemon, assert_says, binary, curl, exits, free_port, output_of, output_within,
};

struct Panel {
    daemon: Daemon,
    clear: u16,
    tls: u16,
    echo: u16,
}

impl Panel {
    #[track_caller]
    fn start() -> Panel {
        let (clear, tls, echo) = (free_port(), free_port(), free_port());
        let server = "workers: 4, domains: [(name: \"localhost\", certificate: SelfSigned)], default_domain: \"localhost\",";
        let admin = format!(
            "Tcp(module: Admin(metrics_token: \"0123456789abcdef\"), sockets: [(port: {clear}), (port: {tls}, tls: On)])"
        );
        let listener = format!(
            "// Kept.\nTcp(\n    module: Echo,\n    sockets: [\n        (port: {echo}), // the first\n    ],\n)\n"
        );
        let conf = Conf::new(server)
            .listener("admin", &admin)
            .listener("echo", &listener);
        let mut command = Command::new(binary());
        command
            .args([
                "account",
                "set",
                "admin",
                "--admin",
                "--password-stdin",
                "--config",
            ])
            .arg(conf.path());
        exits(&output_of(command, b"correct horse\n"), 0);
        Panel {
            daemon: Daemon::start(conf),
            clear,
            tls,
            echo,
        }
    }

    fn url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.tls)
    }
}

/// A directory below `target`, filled once by a command that is given it.
#[track_caller]
fn installed(name: &str, sign: &str, install: impl FnOnce(&Path) -> Command) -> PathBuf {
    let place = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target")
        .join(name);
    if !place.join(sign).exists() {
        fs::create_dir_all(&place).unwrap();
        exits(
            &output_within(install(&place), b"", Duration::from_secs(300)),
            0,
        );
    }
    place
}

#[test]
fn a_person_with_a_browser_watches_and_changes_the_daemon() {
    let panel = Panel::start();
    let place = installed(
        "browser",
        "node_modules/playwright-core/package.json",
        |place| {
            let mut npm = Command::new("npm");
            npm.args([
                "install",
                "--no-audit",
                "--no-fund",
                "--ignore-scripts",
                "--prefix",
            ])
            .arg(place);
            npm.arg("playwright-core@1.56.1");
            npm
        },
    );
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/admin_browser/drive.mjs");
    for url in [format!("http://127.0.0.1:{}", panel.clear), panel.url("")] {
        let mut node = Command::new("node");
        node.arg(&script)
            .arg(place.join("node_modules/playwright-core"));
        node.args([&url, &panel.echo.to_string(), &free_port().to_string()]);
        // PORTREEVE_SCREENSHOTS=docs/screenshots renews the pictures of the documentation.
        node.args(std::env::var_os("PORTREEVE_SCREENSHOTS").filter(|_| url.starts_with("https")));
        assert_eq!(
            exits(&output_within(node, b"", Duration::from_secs(120)), 0),
            "fine\n"
        );
    }
    let file =
        fs::read_to_string(panel.daemon.conf().home().join("conf/listeners/echo.ron")).unwrap();
    assert_says(&file, &["// Kept.", "// the first", "channels: 90"]);
    assert_says(
        &panel.daemon.log(),
        &[
            "audit: admin from 127.0.0.1: logged in",
            "edit_listener",
            "(done)",
            "(refused)",
        ],
    );
}

#[test]
fn a_script_changes_the_daemon_with_curl() {
    let panel = Panel::start();
    let jar = panel.daemon.conf().home().join("jar");
    let jar = jar.to_str().unwrap();
    let login = curl(&[
        "-c",
        jar,
        "-d",
        "{\"name\":\"admin\",\"password\":\"correct horse\"}",
        &panel.url("/api/login"),
    ]);
    let login: Value = serde_json::from_str(&login).unwrap();
    let token = format!("X-CSRF-Token: {}", login["ok"]["csrf"].as_str().unwrap());
    let get = |what: &str| -> Value {
        serde_json::from_str(&curl(&["-b", jar, &panel.url(what)])).unwrap()
    };
    let post = |what: &str, body: &str| -> Value {
        let said = curl(&["-b", jar, "-H", &token, "-d", body, &panel.url(what)]);
        serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}"))
    };
    assert_eq!(get("/api/status")["ok"]["listeners"][1]["name"], "echo");
    assert!(post("/api/ban", "{\"address\":\"192.0.2.9\",\"for\":\"10m\"}")["ok"].is_object());
    assert_eq!(get("/api/bans")["ok"][0]["address"], "192.0.2.9");
    let port = free_port();
    let body = format!("{{\"listener\":\"echo\",\"row\":{{\"port\":{port}}}}}");
    assert!(post("/api/socket_add", &body)["ok"].is_object());
    crate::harness::admitted("127.0.0.1", port);
    let explained = get("/api/explain?listener=echo&address=192.0.2.9");
    assert_eq!(explained["ok"]["sockets"][0]["refused"], "banned");
    let refused = curl(&[
        "-b",
        jar,
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "-d",
        "{}",
        &panel.url("/api/reload"),
    ]);
    assert_eq!(refused, "403");
}

#[test]
fn prometheus_own_parser_reads_the_metrics() {
    let panel = Panel::start();
    let place = installed("venv", "bin/prometheus-client-0.26.0", |place| {
        let mut shell = Command::new("sh");
        shell.arg("-ec").arg(
            "python3 -m venv \"$0\" && \"$0\"/bin/pip install -q prometheus-client==0.26.0 && touch \"$0\"/bin/prometheus-client-0.26.0",
        );
        shell.arg(place);
        shell
    });
    crate::harness::admitted("127.0.0.1", panel.echo);
    let text = curl(&[
        "-H",
        "Authorization: Bearer 0123456789abcdef",
        &panel.url("/metrics"),
    ]);
    let script = "import sys\n\
                  from prometheus_client.openmetrics.parser import text_string_to_metric_families\n\
                  for family in text_string_to_metric_families(sys.stdin.read()):\n\
                  \x20   for sample in family.samples:\n\
                  \x20       print(sample.name, sorted(sample.labels.items()), sample.value)\n";
    let mut python = Command::new(place.join("bin/python"));
    python.args(["-c", script]);
    let parsed = exits(&output_of(python, text.as_bytes()), 0);
    assert_says(
        &parsed,
        &[
            "portreeve_connections_accepted_total [('listener', 'echo')] 1\n",
            "portreeve_workers_busy",
        ],
    );
    let refused = curl(&[
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        &panel.url("/metrics"),
    ]);
    assert_eq!(refused, "401");
}
