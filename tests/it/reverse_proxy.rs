//! The reverse proxy in front of nginx and of a server that answers as asked.

use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::foreign::Foreign;
use crate::harness::{
    Conf, DEADLINE, Daemon, assert_says, connect_from, curl, exits, free_port, output_of,
    wait_until,
};

/// A proxy, and what is behind it.
struct Front {
    daemon: Daemon,
    port: u16,
    _behind: Option<Foreign>,
}

impl Front {
    #[track_caller]
    fn start(upstream: &str, keys: &str, behind: Option<Foreign>) -> Front {
        let port = free_port();
        let text =
            format!("Tcp(module: Http(upstream: {upstream}, {keys}), sockets: [(port: {port})])");
        let daemon = Daemon::start(Conf::new("workers: 4,").listener("front", &text));
        Front {
            daemon,
            port,
            _behind: behind,
        }
    }

    /// In front of `upstream.py`.
    #[track_caller]
    fn of_script(keys: &str) -> Front {
        let port = free_port();
        let behind = Foreign::python(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/upstream.py"),
            port,
        );
        Front::start(&format!("\"127.0.0.1:{port}\""), keys, Some(behind))
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// All that is answered to these bytes until the connection ends.
    fn raw(&self, request: &str) -> String {
        let mut stream = connect_from("127.0.0.1", self.port);
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

/// What the daemon says reaches us a little later than what it answers.
#[track_caller]
fn wait_for_log(front: &Front, words: &str) {
    wait_until(words, DEADLINE, || front.daemon.log().contains(words));
}

#[test]
fn requests_reach_the_server_with_their_host_and_who_sent_them() {
    let front = Front::of_script("");
    let said = curl(&[
        "-H",
        "Host: name.example",
        "-H",
        "X-Forwarded-For: 6.6.6.6",
        "-H",
        "Forwarded: for=6.6.6.6",
        "-H",
        "Connection: close, X-One",
        "-H",
        "X-One: gone",
        "-d",
        "body",
        &front.url("/echo"),
    ]);
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(said["body"], "body");
    let lines = said["lines"].to_string();
    assert_says(
        &lines,
        &[
            "POST /echo HTTP/1.1",
            "Host: name.example",
            "X-Forwarded-For: 127.0.0.1",
            "Content-Length: 4",
        ],
    );
    assert_says(
        &lines,
        &[
            "Forwarded: for=127.0.0.1;proto=http;host=\\\"name.example\\\"",
            "X-Forwarded-Proto: http",
        ],
    );
    assert!(
        !lines.contains("6.6.6.6") && !lines.contains("X-One") && !lines.contains("Connection"),
        "{lines}"
    );
    let front = Front::of_script("trusted: \"127.0.0.0/8\"");
    let said = curl(&["-H", "X-Forwarded-For: 6.6.6.6", &front.url("/echo")]);
    assert_says(&said, &["X-Forwarded-For: 6.6.6.6, 127.0.0.1"]);
}

#[test]
fn bodies_pass_both_ways_in_every_framing() {
    let front = Front::of_script("");
    assert_eq!(curl(&[&front.url("/chunked")]), "one two three");
    assert_eq!(curl(&["-0", &front.url("/chunked")]), "one two three");
    assert_eq!(curl(&[&front.url("/to-the-end")]).len(), 300_000);
    assert_eq!(curl(&["-0", &front.url("/to-the-end")]).len(), 300_000);
    assert_eq!(curl(&[&front.url("/interim")]), "final");
    assert_says(
        &curl(&["-I", &front.url("/count")]),
        &["HTTP/1.1 200 OK", "Content-Length: "],
    );
    let big = front.daemon.conf().home().join("big");
    std::fs::write(&big, vec![b'z'; 5_000_000]).unwrap();
    let big = format!("@{}", big.display());
    assert_eq!(
        curl(&["--data-binary", &big, &front.url("/length")]),
        "5000000"
    );
    assert_eq!(
        curl(&[
            "--data-binary",
            &big,
            "-H",
            "Transfer-Encoding: chunked",
            &front.url("/length")
        ]),
        "5000000"
    );
    assert_eq!(
        curl(&[
            "--data-binary",
            &big,
            "-H",
            "Expect: 100-continue",
            &front.url("/length")
        ]),
        "5000000"
    );
    let small = Front::of_script("max_body: \"1KiB\"");
    let status = curl(&[
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "--data-binary",
        &big,
        &small.url("/length"),
    ]);
    assert_eq!(status, "413");
}

#[test]
fn connections_to_the_server_are_used_again_also_by_other_clients_and_after_a_silent_close() {
    let front = Front::of_script("");
    for _ in 0..20 {
        assert_eq!(
            curl(&[&front.url("/echo"), &front.url("/chunked")])
                .matches("three")
                .count(),
            1
        );
    }
    // One was made for all of them, and one to see that the server is up.
    assert_eq!(curl(&[&front.url("/count")]), "2");
    for _ in 0..20 {
        assert_says(
            &curl(&[&front.url("/once"), &front.url("/count")]),
            &["once"],
        );
    }
}

#[test]
fn an_upgraded_connection_carries_bytes_both_ways() {
    let front = Front::of_script("");
    let mut stream = connect_from("127.0.0.1", front.port);
    stream
        .write_all(
            b"GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\n",
        )
        .unwrap();
    let mut said = String::new();
    let mut byte = [0];
    while !said.ends_with("hello\n") {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "{said}");
        said.push(char::from(byte[0]));
    }
    assert_says(
        &said,
        &["HTTP/1.1 101 ", "Connection: upgrade\r\nUpgrade: shout\r\n"],
    );
    stream.write_all(b"loud\n").unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"LOUD\n");
    drop(stream);
    front.daemon.wait_for_active("front", 0);
}

#[test]
fn a_server_that_fails_gives_502_or_504_and_the_log_says_why() {
    let front = Front::of_script("upstream_timeout: \"500ms\"");
    let status = |path: &str| curl(&["-o", "/dev/null", "-w", "%{http_code}", &front.url(path)]);
    assert_eq!(status("/nonsense"), "502");
    assert_eq!(status("/silent"), "504");
    wait_for_log(&front, "the framing of its answer is not clear");
    // What broke off must not look whole.
    let mut stream = connect_from("127.0.0.1", front.port);
    stream
        .write_all(b"GET /broken HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let mut got = Vec::new();
    let end = stream.read_to_end(&mut got);
    assert!(
        end.is_err() || got.is_empty() || !got.ends_with(b"half"),
        "{}",
        got.escape_ascii()
    );
    let nobody = free_port();
    let front = Front::start(
        &format!("[\"127.0.0.1:{nobody}\"]"),
        "connect_timeout: \"1s\"",
        None,
    );
    let answer = front.raw(
        "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    );
    assert_eq!(
        answer.matches("HTTP/1.1 502 Bad Gateway").count(),
        2,
        "{answer}"
    );
    wait_for_log(&front, "no upstream can be reached");
}

#[test]
fn a_smuggled_request_does_not_pass() {
    let front = Front::of_script("");
    for bad in [
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /count HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\nGET /count HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let answer = front.raw(bad);
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    let pipelined = "POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    let answer = front.raw(&format!(
        "{pipelined}{pipelined}GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    ));
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 3, "{answer}");
}

#[test]
fn nginx_behind_it_serves_a_hundred_connections_of_wrk() {
    let port = free_port();
    let http = format!("server {{ listen 127.0.0.1:{port}; location / {{ return 200 hello; }} }}");
    let front = Front::start(
        &format!("\"127.0.0.1:{port}\""),
        "",
        Some(Foreign::nginx(&http, port)),
    );
    assert_eq!(curl(&[&front.url("/")]), "hello");
    let mut command = Command::new("wrk");
    command.args(["-t1", "-c100", "-d2s", &front.url("/")]);
    let said = exits(&output_of(command, b""), 0);
    assert!(
        said.contains("Requests/sec")
            && !said.contains("Socket errors")
            && !said.contains("Non-2xx"),
        "{said}"
    );
    front.daemon.wait_for_active("front", 0);
}
