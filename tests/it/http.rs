//! The web server seen by curl, by Python and by wrk.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::harness::{
    Conf, DEADLINE, Daemon, Ending, assert_says, connect_from, curl, ending_of, exits, free_port,
    output_of, output_within, pause, raise_descriptors, wait_until,
};

/// A web server in clear and under TLS.
struct Site {
    daemon: Daemon,
    clear: u16,
    tls: u16,
}

impl Site {
    #[track_caller]
    fn start(keys: &str, limits: &str) -> Site {
        let (clear, tls) = (free_port(), free_port());
        let text = format!(
            "Tcp(module: Http(root: \"../www\", {keys}), {limits} channels: 20000, sockets: [(port: {clear}), (port: {tls}, tls: On)])"
        );
        let server = "workers: 4, domains: [(name: \"localhost\", certificate: SelfSigned)], default_domain: \"localhost\",";
        let conf = Conf::new(server).listener("http", &text);
        let www = conf.home().join("conf/www");
        fs::create_dir(&www).unwrap();
        fs::write(www.join("index.html"), "<p>hello\n").unwrap();
        fs::write(www.join("digits.txt"), "0123456789").unwrap();
        Site {
            daemon: Daemon::start(conf),
            clear,
            tls,
        }
    }

    fn www(&self) -> std::path::PathBuf {
        self.daemon.conf().home().join("conf/www")
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.clear)
    }

    fn secure_url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.tls)
    }
}

#[test]
fn curl_gets_files_ranges_and_conditions_in_clear_and_under_tls() {
    let site = Site::start("", "");
    for url in [site.url(""), site.secure_url("")] {
        assert_eq!(
            curl(&[&format!("{url}/"), &format!("{url}/digits.txt")]),
            "<p>hello\n0123456789"
        );
        let head = curl(&["-I", &format!("{url}/digits.txt")]);
        assert_says(
            &head,
            &[
                "HTTP/1.1 200 OK",
                "Content-Length: 10",
                "Content-Type: text/plain",
                "ETag: \"",
            ],
        );
        assert_eq!(curl(&["-r", "2-4", &format!("{url}/digits.txt")]), "234");
        let parts = curl(&["-r", "0-1,8-9", &format!("{url}/digits.txt")]);
        assert_says(
            &parts,
            &["Content-Range: bytes 0-1/10", "Content-Range: bytes 8-9/10"],
        );
        let etag = head
            .lines()
            .find_map(|line| line.strip_prefix("ETag: "))
            .unwrap()
            .trim();
        let condition = format!("If-None-Match: {etag}");
        let status = ["-o", "/dev/null", "-w", "%{http_code} %{num_connects}\n"];
        let digits = format!("{url}/digits.txt");
        let again = curl(
            &[
                &status[..],
                &["-H", &condition, &digits, "-o", "/dev/null", &digits],
            ]
            .concat(),
        );
        assert_eq!(again, "304 1\n304 0\n");
        let large = site.www().join("../large");
        fs::write(&large, "x".repeat(200_000)).unwrap();
        let large = format!("@{}", large.display());
        let refused = curl(
            &[
                &status[..],
                &["-H", "Expect: 100-continue", "-d", &large, &digits],
            ]
            .concat(),
        );
        assert!(refused.starts_with("405 "), "{refused}");
        assert!(
            curl(
                &[
                    &status[..],
                    &["--path-as-is", &format!("{url}/../portreeve.ron")]
                ]
                .concat()
            )
            .starts_with("400 ")
        );
    }
}

#[test]
fn a_large_file_comes_whole_to_several_readers_at_once_and_a_slow_one_holds_no_worker() {
    let site = Site::start("", "");
    let block: Vec<u8> = (0..1_000_003_u32)
        .map(|number| u8::try_from(number % 251).unwrap())
        .collect();
    let mut file = fs::File::create(site.www().join("large")).unwrap();
    (0..40).for_each(|_| file.write_all(&block).unwrap());
    // Eight readers that do not read, twice as many as there are workers.
    let slow: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = connect_from("127.0.0.1", site.clear);
            stream
                .write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
                .unwrap();
            let mut begin = [0; 1000];
            stream.read_exact(&mut begin).unwrap();
            stream
        })
        .collect();
    for url in [site.url("/large"), site.secure_url("/large")] {
        let target = site.www().join("../got");
        curl(&["-o", target.to_str().unwrap(), &url]);
        let got = fs::read(&target).unwrap();
        assert_eq!(got.len(), 40 * block.len());
        assert!(got.chunks(block.len()).all(|piece| piece == block));
    }
    drop(slow);
    site.daemon.wait_for_active("http", 0);
}

#[test]
fn python_keeps_a_connection_alive_and_sends_chunks() {
    let site = Site::start("", "");
    let script = format!(
        "import http.client\n\
         connection = http.client.HTTPConnection('127.0.0.1', {})\n\
         sockets = set()\n\
         for turn in range(50):\n\
         \x20   connection.request('GET', '/digits.txt')\n\
         \x20   sockets.add(connection.sock.getsockname())\n\
         \x20   answer = connection.getresponse()\n\
         \x20   assert answer.status == 200 and answer.read() == b'0123456789', answer.status\n\
         connection.request('GET', '/', body=iter([b'a' * 10, b'b' * 10]), encode_chunked=True,\n\
         \x20                  headers={{'Transfer-Encoding': 'chunked'}})\n\
         answer = connection.getresponse()\n\
         assert answer.read() == b'<p>hello\\n', answer.status\n\
         connection.request('HEAD', '/nothing')\n\
         answer = connection.getresponse()\n\
         assert answer.status == 404 and answer.read() == b''\n\
         sockets.add(connection.sock.getsockname())\n\
         assert len(sockets) == 1, sockets\n\
         print('fine')\n",
        site.clear
    );
    let mut command = Command::new("python3");
    command.arg("-c").arg(script);
    assert_eq!(exits(&output_of(command, b""), 0), "fine\n");
}

#[test]
fn wrk_finds_no_error_with_a_hundred_connections() {
    let site = Site::start("", "");
    let mut command = Command::new("wrk");
    command.args(["-t1", "-c100", "-d2s", &site.url("/digits.txt")]);
    let said = exits(&output_within(command, b"", Duration::from_secs(30)), 0);
    assert_says(&said, &["Requests/sec"]);
    assert!(
        !said.contains("Socket errors") && !said.contains("Non-2xx"),
        "{said}"
    );
    site.daemon.wait_for_active("http", 0);
}

#[test]
fn a_framing_error_gets_one_answer_and_the_end_of_the_connection() {
    let site = Site::start("", "");
    let mut stream = connect_from("127.0.0.1", site.clear);
    let request = "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    stream
        .write_all(format!("{request}GET / HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes())
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
}

#[test]
fn heads_and_idle_connections_have_deadlines() {
    let site = Site::start("head_timeout: \"300ms\"", "idle_timeout: \"600ms\",");
    let mut slow = connect_from("127.0.0.1", site.clear);
    slow.write_all(b"GET / HT").unwrap();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    let mut idle = connect_from("127.0.0.1", site.clear);
    assert_eq!(ending_of(&mut idle), Ending::EndOfFile);
}

#[test]
fn strangers_get_a_page_that_says_so_where_only_clients_are_served() {
    let site = Site::start("clients_only: true", "");
    assert_eq!(curl(&[&site.url("/digits.txt")]), "0123456789");
    // The default Client list is 127.0.0.0/8 and ::1; a global address of this machine is none of them.
    let conf = "network: (clients: \"127.0.0.1\"), domains: [(name: \"localhost\", certificate: SelfSigned)], default_domain: \"localhost\",";
    let (clear, tls) = (free_port(), free_port());
    let text = format!(
        "Tcp(module: Http(root: \".\", clients_only: true), sockets: [(port: {clear}), (port: {tls}, tls: On)])"
    );
    let _daemon = Daemon::start(Conf::new(conf).listener("http", &text));
    for url in [
        format!("http://127.0.0.1:{clear}/"),
        format!("https://127.0.0.1:{tls}/"),
    ] {
        let said = curl(&["-i", "--interface", "127.0.71.9", &url]);
        assert_says(
            &said,
            &[
                "HTTP/1.1 403 Forbidden",
                "Connection: close",
                "its own users",
            ],
        );
    }
}

#[test]
fn clear_requests_are_redirected_to_the_secure_port() {
    let tls = free_port();
    let clear = free_port();
    let server =
        "domains: [(name: \"localhost\", certificate: SelfSigned)], default_domain: \"localhost\",";
    let text = format!(
        "Tcp(module: Http(root: \"..\", redirect_to_https: {tls}), sockets: [(port: {clear}), (port: {tls}, tls: On)])"
    );
    let conf = Conf::new(server)
        .listener("http", &text)
        .file("x.txt", "there");
    let _daemon = Daemon::start(conf);
    let said = curl(&["-L", &format!("http://127.0.0.1:{clear}/x.txt")]);
    assert_eq!(said, "there");
}

#[test]
fn the_access_log_is_combined_and_follows_a_rotation() {
    let site = Site::start("access_log: \"../../var/access.log\"", "");
    let log = site.daemon.conf().home().join("var/access.log");
    curl(&["-A", "a \"quoted\" agent", &site.url("/digits.txt?x=\"y")]);
    let line = fs::read_to_string(&log).unwrap();
    assert!(line.starts_with("127.0.0.1 - - ["), "{line}");
    assert_says(
        &line,
        &["\"GET /digits.txt?x=\\x22y HTTP/1.1\" 200 10 \"-\" \"a \\x22quoted\\x22 agent\"\n"],
    );
    fs::rename(&log, log.with_extension("1")).unwrap();
    wait_until("a new log", DEADLINE, || {
        curl(&[&site.url("/")]);
        log.exists()
    });
}

#[test]
fn a_root_that_is_not_there_is_an_error_with_its_place() {
    let text = "Tcp(module: Http(root: \"nowhere\"), sockets: [(port: 7000)])";
    let said = exits(
        &Conf::new("").listener("http", text).portreeve(&["check"]),
        2,
    );
    assert_says(&said, &["listeners/http.ron:1:24: ", "nowhere"]);
    assert!(!Path::new("nowhere").exists());
}

#[test]
fn a_slow_reader_that_goes_on_outlives_the_idle_timeout_and_one_that_stops_does_not() {
    let site = Site::start("", "idle_timeout: \"1s\",");
    fs::write(site.www().join("large"), vec![b'x'; 16 << 20]).unwrap();
    let request = b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    // 2.5 MiB a second: the whole takes six times the idle timeout, with no long pause in it.
    let mut slow = connect_from("127.0.0.1", site.clear);
    slow.write_all(request).unwrap();
    let mut piece = vec![0; 512 << 10];
    let mut got = 0;
    loop {
        let mut filled = 0;
        while filled < piece.len() {
            match slow.read(&mut piece[filled..]).unwrap() {
                0 => break,
                count => filled += count,
            }
        }
        got += filled;
        if filled < piece.len() {
            break;
        }
        pause(Duration::from_millis(200));
    }
    assert!(got > 16 << 20, "{got}");
    let mut stopped = connect_from("127.0.0.1", site.clear);
    stopped
        .write_all(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    wait_until("it is served", DEADLINE, || site.daemon.active("http") == 1);
    site.daemon.wait_for_active("http", 0);
}

/// The daemon's own memory in KiB, without the kernel's.
fn memory(daemon: &Daemon) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn idle_keep_alive_connections_hold_no_worker_and_less_than_two_kilobytes_each() {
    // Another test of this process holds ten thousand at the same time.
    let count = raise_descriptors()
        .saturating_sub(14_000)
        .clamp(1_000, 10_000);
    let site = Site::start("", "");
    let ask = |stream: &mut TcpStream| {
        stream
            .write_all(b"GET /digits.txt HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        let mut answer = [0; 1024];
        let mut length = 0;
        while !answer[..length].ends_with(b"0123456789") {
            let more = stream.read(&mut answer[length..]).unwrap();
            assert!(more > 0, "{}", answer[..length].escape_ascii());
            length += more;
        }
    };
    let connect = |number| {
        let mut stream = connect_from(&format!("127.0.23.{}", 1 + number % 20), site.clear);
        ask(&mut stream);
        stream
    };
    // Buffers of the workers and the like are made by the first.
    let mut held: Vec<TcpStream> = (0..100).map(connect).collect();
    let before = memory(&site.daemon);
    held.extend((100..count).map(connect));
    wait_until("idle ones hold no worker", DEADLINE, || {
        site.daemon.status()["workers"]["busy"] == 0
    });
    let each = (memory(&site.daemon) - before) * 1024 / held.len();
    println!("{each} bytes each");
    assert!(each < 2048, "{each} bytes each");
    held.iter_mut().step_by(100).for_each(ask);
}
