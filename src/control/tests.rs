#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;

use super::*;

/// Knows one command, and answers it at a length that no socket buffer holds.
struct Fake {
    padding: usize,
}

impl Commands for Fake {
    fn execute(&self, request: &Request) -> Response {
        match request {
            Request::Status => Response::Ok(format!("fine{}", "e".repeat(self.padding)).into()),
            Request::Lists => panic!("asked to"),
            _ => Response::of(&""),
        }
    }
}

const PATIENCE: Duration = Duration::from_secs(10);

fn served(padding: usize, deadline: Duration) -> (tempfile::TempDir, PathBuf, Control) {
    let home = tempfile::tempdir().expect("a directory");
    let state_dir = home.path().join("var");
    let socket = ControlSocket::open(&state_dir).expect("a socket");
    let control = socket
        .serve_within(Arc::new(Fake { padding }), deadline)
        .expect("a thread");
    (home, state_dir, control)
}

#[track_caller]
fn call(state_dir: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket_path(state_dir)).expect("somebody listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a time");
    stream.set_write_timeout(Some(PATIENCE)).expect("a time");
    stream
}

#[track_caller]
fn ask(state_dir: &Path, request: &[u8]) -> String {
    let mut stream = call(state_dir);
    stream.write_all(request).expect("written");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .expect("an answer, then the end");
    answer
}

#[test]
fn a_request_line_gets_an_answer_line() {
    let (_home, state_dir, _control) = served(0, PATIENCE);
    assert_eq!(
        ask(&state_dir, b"{\"command\":\"status\"}\n"),
        "{\"ok\":\"fine\"}\n"
    );
}

#[test]
fn a_request_in_single_bytes_is_the_same_request() {
    let (_home, state_dir, _control) = served(0, PATIENCE);
    let mut stream = call(&state_dir);
    for byte in b"{\"command\":\"status\"}\n" {
        stream.write_all(&[*byte]).expect("written");
    }
    let mut answer = String::new();
    BufReader::new(stream)
        .read_line(&mut answer)
        .expect("an answer");
    assert_eq!(answer, "{\"ok\":\"fine\"}\n");
}

#[test]
fn an_answer_longer_than_the_sockets_buffer_arrives_whole() {
    let (_home, state_dir, _control) = served(3 << 20, PATIENCE);
    assert_eq!(
        ask(&state_dir, b"{\"command\":\"status\"}\n").len(),
        (3 << 20) + "{\"ok\":\"fine\"}\n".len()
    );
}

#[test]
fn an_unknown_command_is_answered_with_an_error_that_names_it() {
    let (_home, state_dir, _control) = served(0, PATIENCE);
    let answer = ask(&state_dir, b"{\"command\":\"fly\"}\n");
    assert!(
        answer.starts_with("{\"error\":\"not a request: ") && answer.contains("fly"),
        "{answer}"
    );
    let answer = ask(&state_dir, b"hello\n");
    assert!(answer.starts_with("{\"error\":"), "{answer}");
}

#[test]
fn a_request_without_an_end_is_refused_at_its_limit() {
    let (_home, state_dir, _control) = served(0, PATIENCE);
    let mut stream = call(&state_dir);
    stream.write_all(&vec![b'x'; MAX_REQUEST]).expect("written");
    let mut answer = String::new();
    BufReader::new(stream)
        .read_line(&mut answer)
        .expect("an answer before more is sent");
    assert!(
        answer.contains(&format!("at most {MAX_REQUEST} bytes")),
        "{answer}"
    );
}

#[test]
fn a_silent_caller_is_sent_away_and_others_are_served_meanwhile() {
    let (_home, state_dir, _control) = served(0, Duration::from_millis(100));
    let silent = call(&state_dir);
    assert_eq!(
        ask(&state_dir, b"{\"command\":\"status\"}\n"),
        "{\"ok\":\"fine\"}\n"
    );
    let mut answer = String::new();
    BufReader::new(silent)
        .read_line(&mut answer)
        .expect("an answer");
    assert_eq!(answer, "{\"error\":\"no request within 100ms\"}\n");
}

#[test]
fn more_callers_than_places_are_served_in_turn() {
    let (_home, state_dir, _control) = served(0, Duration::from_millis(100));
    let _silent: Vec<UnixStream> = (0..40).map(|_| call(&state_dir)).collect();
    assert_eq!(
        ask(&state_dir, b"{\"command\":\"status\"}\n"),
        "{\"ok\":\"fine\"}\n"
    );
}

#[test]
fn only_the_owner_may_connect_and_the_directory_is_private() {
    let (_home, state_dir, _control) = served(0, PATIENCE);
    let mode = |path: &Path| {
        fs::metadata(path)
            .expect("it is there")
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode(&socket_path(&state_dir)), 0o600);
    assert_eq!(mode(&state_dir), 0o700);
    assert!(!state_dir.join(".c").exists());
}

#[test]
fn a_second_daemon_is_refused_and_the_first_goes_on() {
    let (_home, state_dir, _control) = served(0, PATIENCE);
    let error = ControlSocket::open(&state_dir).expect_err("taken");
    assert!(matches!(error, ControlError::Running(_)), "{error}");
    fs::remove_file(state_dir.join("control.lock")).expect("it is there");
    let error = ControlSocket::open(&state_dir).expect_err("it still answers");
    assert!(
        error
            .to_string()
            .ends_with("another portreeve runs with this state_dir"),
        "{error}"
    );
    assert_eq!(
        ask(&state_dir, b"{\"command\":\"status\"}\n"),
        "{\"ok\":\"fine\"}\n"
    );
}

#[test]
fn a_stale_socket_is_replaced() {
    let home = tempfile::tempdir().expect("a directory");
    drop(std::os::unix::net::UnixListener::bind(socket_path(home.path())).expect("bound"));
    assert!(
        socket_path(home.path()).exists(),
        "left behind, as after a crash"
    );
    let _socket = ControlSocket::open(home.path()).expect("nobody answers on it");
}

#[test]
fn dropping_joins_the_thread_and_removes_the_file() {
    let (_home, state_dir, control) = served(0, PATIENCE);
    let _waiting = call(&state_dir);
    drop(control);
    assert!(!socket_path(&state_dir).exists());
    ControlSocket::open(&state_dir).expect("free again");
}

/// Remembers that it was asked.
struct Once;

impl Commands for Once {
    fn execute(&self, _request: &Request) -> Response {
        Response::of(&"here")
    }
}

#[test]
fn a_command_that_panics_ends_no_other() {
    let (_home, state_dir, _control) = served(0, PATIENCE);
    let answer = ask(&state_dir, b"{\"command\":\"lists\"}\n");
    assert!(answer.contains("panicked"), "{answer}");
    let answer = ask(&state_dir, b"{\"command\":\"status\"}\n");
    assert!(answer.contains("fine"), "{answer}");
}

#[test]
fn a_link_leads_somewhere_from_its_binding_until_the_end_of_the_server() {
    let (link, server) = (Link::default(), Arc::new(Once));
    let early = link.clone();
    assert!(matches!(early.execute(&Request::Bans), Response::Error(_)));
    let commands: Arc<dyn Commands> = server;
    link.bind(Arc::downgrade(&commands));
    assert_eq!(early.execute(&Request::Bans), Response::of(&"here"));
    drop(commands);
    assert!(matches!(early.execute(&Request::Bans), Response::Error(_)));
}

#[test]
fn rows_take_numbers_and_nothing_in_the_place_of_texts_and_refuse_unknown_keys() {
    let text =
        r#"{"command":"socket_add","listener":"x","row":{"port":25,"address":null,"tls":"On"}}"#;
    let request: Request = serde_json::from_str(text).expect("a request");
    let Request::SocketAdd { row, .. } = request else {
        panic!("{request:?}")
    };
    assert_eq!((row.port.as_str(), row.address.as_str()), ("25", ""));
    for bad in [
        r#"{"command":"socket_add","listener":"x","row":{"port":25,"adress":""}}"#,
        r#"{"command":"reload","dryrun":true}"#,
        r#"{"command":"ban","address":"192.0.2.1","fur":"10m"}"#,
    ] {
        assert!(serde_json::from_str::<Request>(bad).is_err(), "{bad}");
    }
}
