//! The module without sockets: the dialogues of `tests/dialogues/http`, and tables of requests that must be
//! refused.

use super::{Limits, Server, Site};
use crate::dialogue::{check, check_as, test_peer};
use crate::http::files::Files;
use crate::session::{Class, Security};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, SystemTime};

type Http = Server<Site>;

/// A root with known files, all of Mon, 23 Nov 2026 10:00:00 GMT.
struct Root {
    home: tempfile::TempDir,
}

impl Root {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("root");
        for directory in ["docs", "empty", ".well-known", "a b"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        let large = "0123456789".repeat(5_000);
        for (name, text) in [
            ("index.html", "<p>hello\r\n"),
            ("digits.txt", "0123456789"),
            ("large.bin", &large),
            ("docs/index.html", "<p>docs\r\n"),
            ("app.js", "plain()\r\n"),
            ("app.js.gz", "gzipped\r\n"),
            ("app.js.br", "brotli\r\n"),
            ("none", ""),
            (".hidden", "hidden\r\n"),
            (".well-known/x.txt", "known\r\n"),
            ("a b/c&d.txt", "odd\r\n"),
            ("../secret", "secret\r\n"),
        ] {
            fs::write(root.join(name), text).unwrap();
            rest(&root.join(name));
        }
        symlink("digits.txt", root.join("inside")).unwrap();
        symlink("../secret", root.join("outside")).unwrap();
        symlink("..", root.join("up")).unwrap();
        symlink("/etc", root.join("etc")).unwrap();
        symlink("/proc/self/cwd", root.join("magic")).unwrap();
        nix::unistd::mkfifo(&root.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        Root { home }
    }

    fn http(&self) -> Http {
        self.http_with(|_| {})
    }

    fn http_with(&self, change: impl FnOnce(&mut Site)) -> Http {
        let mut site = Site {
            files: Some(Files::new(self.home.path().join("root"))),
            forward: None,
            limits: Limits::default(),
            clients_only: false,
            https: None,
            log: None,
        };
        change(&mut site);
        Server::new(site)
    }
}

/// Gives a file its time.
fn rest(path: &Path) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_428_000);
    File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_modified(time)
        .unwrap();
}

fn dialogue(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/dialogues/http")
        .join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn dialogues_go_as_written_however_they_are_cut() {
    let root = Root::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dialogues/http");
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.contains('@') {
            eprintln!("{name}");
            check(&root.http(), &dialogue(&name));
            count += 1;
        }
    }
    assert!(count >= 10, "{count} dialogues");
}

#[test]
fn clear_requests_are_sent_to_https_and_secure_ones_served() {
    let root = Root::new();
    let http = root.http_with(|site| site.https = Some(8443));
    check(&http, &dialogue("redirect@https.txt"));
    let mut peer = test_peer();
    peer.security = Security::External;
    let said = crate::dialogue::answer(
        &http,
        &peer,
        b"GET /digits.txt HTTP/1.0\r\n\r\n",
        usize::MAX,
    );
    assert!(
        said.starts_with(b"HTTP/1.1 200 "),
        "{}",
        said.escape_ascii()
    );
}

#[test]
fn strangers_get_a_403_where_only_clients_are_served() {
    let root = Root::new();
    let http = root.http_with(|site| site.clients_only = true);
    let mut peer = test_peer();
    peer.class = Class::Other;
    check_as(&http, &peer, &dialogue("stranger@clients_only.txt"));
}

#[test]
fn directories_are_listed_where_asked_for() {
    let root = Root::new();
    let http = root.http_with(|site| site.files.as_mut().unwrap().listing = true);
    let answer = answer(&http, b"GET /a%20b/ HTTP/1.0\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(
        answer.contains("<a href=\"./c%26d.txt\">c&amp;d.txt</a>"),
        "{answer}"
    );
    let answer = self::answer(&http, b"GET /docs/ HTTP/1.0\r\n\r\n");
    assert!(answer.ends_with("<p>docs\r\n"), "{answer}");
}

#[test]
fn several_ranges_are_parts_with_a_boundary_that_is_not_in_them() {
    let root = Root::new();
    for name in ["digits.txt", "large.bin"] {
        let request = format!("GET /{name} HTTP/1.0\r\nRange: bytes=0-1, -1\r\n\r\n");
        let answer = answer(&root.http(), request.as_bytes());
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let boundary = head
            .split_once("multipart/byteranges; boundary=")
            .unwrap()
            .1
            .split_once("\r\n")
            .unwrap()
            .0;
        assert!(head.starts_with("HTTP/1.1 206 "), "{head}");
        assert!(
            head.contains(&format!("Content-Length: {}", body.len())),
            "{head}: {}",
            body.len()
        );
        let parts: Vec<_> = body.split(&format!("\r\n--{boundary}")).collect();
        assert!(
            parts[1].contains("Content-Range: bytes 0-1/") && parts[1].ends_with("\r\n\r\n01"),
            "{parts:?}"
        );
        assert!(parts[2].ends_with("\r\n\r\n9"), "{parts:?}");
        assert_eq!(parts[3], "--\r\n");
    }
}

#[test]
fn a_changed_file_is_served_anew_at_once() {
    let root = Root::new();
    let http = root.http();
    let path = root.home.path().join("root/digits.txt");
    for round in 0..200 {
        let text = format!("{round:010}");
        fs::write(&path, &text).unwrap();
        for _ in 0..2 {
            let answer = answer(&http, b"GET /digits.txt HTTP/1.0\r\n\r\n");
            assert!(answer.ends_with(&text), "round {round}: {answer}");
        }
    }
}

#[test]
fn requests_that_two_readers_could_understand_differently_are_refused_and_the_connection_closed() {
    let root = Root::new();
    let http = root.http();
    let mut count = 0;
    for (number, line) in table("smuggling.txt") {
        let (status, text) = line.split_once(' ').unwrap();
        let request = unescape(text);
        let answer = answer(&http, &request);
        let statuses = answer.matches("HTTP/1.1 ").count();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "line {number}: {answer}"
        );
        assert_eq!(statuses, 1, "line {number}: {answer}");
        assert!(
            answer.contains("\r\nConnection: close\r\n"),
            "line {number}: {answer}"
        );
        count += 1;
    }
    assert!(count >= 40, "{count} requests");
}

#[test]
fn no_path_leads_out_of_the_root() {
    let root = Root::new();
    let http = root.http();
    for (number, line) in table("traversal.txt") {
        let (status, path) = line.split_once(' ').unwrap();
        let request = format!("GET {path} HTTP/1.0\r\n\r\n");
        let answer = answer(&http, request.as_bytes());
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "line {number}: {answer}"
        );
        assert!(
            !answer.contains("secret") && !answer.contains("root:"),
            "line {number}: {answer}"
        );
    }
}

/// The lines of a table, numbered.
fn table(name: &str) -> Vec<(usize, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/http")
        .join(name);
    let text = fs::read_to_string(path).unwrap();
    let lines = (1..).zip(text.lines().map(str::to_owned));
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with(';'))
        .collect()
}

/// `\r`, `\n`, `\t`, `\\` and `\xHH`.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match (char, if char == '\\' { chars.next() } else { None }) {
            ('\\', Some('r')) => bytes.push(b'\r'),
            ('\\', Some('n')) => bytes.push(b'\n'),
            ('\\', Some('t')) => bytes.push(b'\t'),
            ('\\', Some('x')) => {
                let digits: String = chars.by_ref().take(2).collect();
                bytes.push(u8::from_str_radix(&digits, 16).unwrap());
            }
            ('\\', other) => bytes.extend(other.map(|char| char as u8)),
            (char, _) => bytes.extend(char.to_string().as_bytes()),
        }
    }
    bytes
}

/// All that is answered to these bytes, whole and then byte by byte.
fn answer(http: &Http, request: &[u8]) -> String {
    let whole = crate::dialogue::answer(http, &test_peer(), request, usize::MAX);
    let bytewise = crate::dialogue::answer(http, &test_peer(), request, 1);
    // Boundaries are random.
    if !whole.windows(9).any(|window| window == b"multipart") {
        assert_eq!(
            String::from_utf8_lossy(&whole),
            String::from_utf8_lossy(&bytewise)
        );
    }
    String::from_utf8(whole).unwrap()
}

/// Pieces that requests are made of, so that random rows of them often are requests, and often nearly.
const PIECES: [&[u8]; 24] = [
    b"GET / HTTP/1.1\r\n",
    b"GET /large.bin HTTP/1.1\r\n",
    b"POST / HTTP/1.1\r\n",
    b"HEAD /docs HTTP/1.0\r\n",
    b"Host: a\r\n",
    b"Content-Length: 3\r\n",
    b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Range: bytes=0-1\r\n",
    b"Expect: 100-continue\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"\r\n",
    b"abc",
    b"3\r\nabc\r\n",
    b"0\r\n\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\0",
    b"\xff",
    b": ",
    b"OPTIONS * HTTP/1.1\r\n",
    b"Accept-Encoding: gzip, br\r\n",
];

proptest::proptest! {
    #[test]
    fn whatever_arrives_gets_the_same_answers_however_it_is_cut(
        picks in proptest::collection::vec(0..PIECES.len(), 0..24),
        chunk in 1_usize..40,
    ) {
        static ROOT: std::sync::LazyLock<Root> = std::sync::LazyLock::new(Root::new);
        let bytes: Vec<u8> = picks.iter().flat_map(|pick| PIECES[*pick]).copied().collect();
        let http = ROOT.http();
        let whole = crate::dialogue::answer(&http, &test_peer(), &bytes, usize::MAX);
        let cut = crate::dialogue::answer(&http, &test_peer(), &bytes, chunk);
        proptest::prop_assert_eq!(String::from_utf8_lossy(&whole), String::from_utf8_lossy(&cut));
    }
}
