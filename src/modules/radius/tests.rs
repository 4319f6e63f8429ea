#![forbid(unsafe_code)]
//! A server without a socket: who is let in, what is dropped, and what is on disk before it is answered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use proptest::prelude::*;
use tempfile::TempDir;

use super::packet::{
    ACCESS_ACCEPT, ACCESS_REJECT, ACCESS_REQUEST, ACCOUNTING_REQUEST, ACCOUNTING_RESPONSE,
    CHAP_CHALLENGE, CHAP_PASSWORD, PROXY_STATE, Packet, STATUS_SERVER, USER_NAME, USER_PASSWORD,
    check, md5, request,
};
use super::{Client, Memory, Radius, Replies, Shared, loopback};
use crate::accounts::Accounts;
use crate::session::datagram_bench::Bench;

const SECRET: &[u8] = b"testing123";

struct Server {
    radius: Radius,
    bench: Bench,
    home: TempDir,
}

impl Server {
    fn new(requires_proof: bool) -> Self {
        let accounts = [
            ("nemo", "arctangent", Some("arctangent")),
            ("flopsy", "x", None),
        ];
        Server::with(requires_proof, Accounts::of(&accounts))
    }

    fn with(requires_proof: bool, accounts: Arc<Accounts>) -> Self {
        let home = tempfile::tempdir().expect("a directory");
        let client = Client {
            from: loopback(),
            secret: SECRET.to_vec(),
            requires_proof,
        };
        let replies: Replies = [
            ("nemo".to_owned(), vec![(27, vec![0, 0, 14, 16])]),
            ("*".to_owned(), vec![(18, b"welcome".to_vec())]),
        ]
        .into();
        let shared = Shared {
            accounts,
            replies,
            memory: ArcSwap::from_pointee(Memory::new(home.path())),
        };
        Server {
            radius: Radius {
                clients: vec![client],
                shared: Arc::new(shared),
            },
            bench: Bench::new(),
            home,
        }
    }

    fn says(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let from = SocketAddr::from(([127, 0, 0, 1], 40_000));
        let mut answers = self.bench.ask(&self.radius, from, bytes);
        assert!(answers.len() <= 1, "{answers:?}");
        answers.pop()
    }

    /// The code and the attributes of the answer.
    #[track_caller]
    fn answers(&mut self, bytes: &[u8]) -> (u8, Vec<(u8, Vec<u8>)>) {
        let answer = self.says(bytes).expect("an answer");
        check(&answer, bytes, SECRET)
    }

    fn ledger(&self) -> Vec<serde_json::Value> {
        let file = self.home.path().join("radius/accounting.jsonl");
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect()
    }
}

/// A User-Password of at most 16 bytes, hidden.
fn hidden(password: &[u8], identifier: u8) -> Vec<u8> {
    let mask = md5(&[SECRET, &[identifier; 16]]);
    let padded = password.iter().copied().chain(std::iter::repeat(0));
    padded.zip(mask).map(|(byte, mask)| byte ^ mask).collect()
}

fn pap(user: &[u8], password: &[u8], identifier: u8, prove: bool) -> Vec<u8> {
    let password = hidden(password, identifier);
    let attributes = [
        (USER_NAME, user),
        (USER_PASSWORD, &password),
        (PROXY_STATE, b"one"),
        (PROXY_STATE, b"two"),
    ];
    request(ACCESS_REQUEST, identifier, &attributes, prove, SECRET)
}

#[test]
fn the_right_password_lets_in_and_a_wrong_one_does_not() {
    let mut server = Server::new(true);
    let states = [
        (PROXY_STATE, b"one".to_vec()),
        (PROXY_STATE, b"two".to_vec()),
    ];
    let given =
        |attribute: (u8, &[u8])| [&[(attribute.0, attribute.1.to_vec())], &states[..]].concat();
    for (user, password, expected) in [
        (
            "nemo",
            "arctangent",
            (ACCESS_ACCEPT, given((27, &[0, 0, 14, 16]))),
        ),
        (
            "NEMO@example.org",
            "arctangent",
            (ACCESS_ACCEPT, given((27, &[0, 0, 14, 16]))),
        ),
        ("flopsy", "x", (ACCESS_ACCEPT, given((18, b"welcome")))),
        ("nemo", "arctangens", (ACCESS_REJECT, states.to_vec())),
        ("nobody", "arctangent", (ACCESS_REJECT, states.to_vec())),
        ("", "", (ACCESS_REJECT, states.to_vec())),
    ] {
        server.bench.pass(Duration::from_secs(60));
        let answer = server.answers(&pap(user.as_bytes(), password.as_bytes(), 7, true));
        assert_eq!(answer, expected, "{user} {password}");
    }
}

#[test]
fn chap_takes_the_challenge_from_either_place() {
    let mut server = Server::new(true);
    let digest =
        |secret: &[u8], challenge: &[u8]| [&[9][..], &md5(&[&[9], secret, challenge])].concat();
    let challenge = b"a challenge".as_slice();
    for (identifier, user, secret, own, expected) in [
        (1, "nemo", "arctangent", true, ACCESS_ACCEPT),
        (2, "nemo", "arctangent", false, ACCESS_ACCEPT),
        (3, "nemo", "wrong", true, ACCESS_REJECT),
        (4, "flopsy", "x", true, ACCESS_REJECT),
    ] {
        let authenticator = [identifier; 16];
        let value = digest(
            secret.as_bytes(),
            if own { challenge } else { &authenticator },
        );
        let mut attributes = vec![(USER_NAME, user.as_bytes()), (CHAP_PASSWORD, &value)];
        if own {
            attributes.push((CHAP_CHALLENGE, challenge));
        }
        let bytes = request(ACCESS_REQUEST, identifier, &attributes, true, SECRET);
        assert_eq!(server.answers(&bytes).0, expected, "{user} {secret}");
    }
}

#[test]
fn without_proof_a_request_is_dropped_unless_told_otherwise() {
    let mut server = Server::new(true);
    assert_eq!(server.says(&pap(b"nemo", b"arctangent", 1, false)), None);
    let mut forged = pap(b"nemo", b"arctangent", 2, true);
    forged[25] ^= 1;
    assert_eq!(server.says(&forged), None);
    let mut server = Server::new(false);
    assert_eq!(
        server.says(&forged),
        None,
        "a wrong proof is worse than none"
    );
    assert_eq!(
        server.answers(&pap(b"nemo", b"arctangent", 1, false)).0,
        ACCESS_ACCEPT
    );
    let status = |prove| request(STATUS_SERVER, 3, &[], prove, SECRET);
    assert_eq!(server.says(&status(false)), None);
    assert_eq!(server.answers(&status(true)).0, ACCESS_ACCEPT);
    // Unknown codes, other secrets, other addresses.
    assert_eq!(server.says(&request(11, 4, &[], true, SECRET)), None);
    assert_eq!(
        server.says(&request(ACCESS_REQUEST, 4, &[], true, b"another")),
        None
    );
    let stranger = SocketAddr::from(([192, 0, 2, 1], 40_000));
    assert!(
        server
            .bench
            .ask(&server.radius, stranger, &status(true))
            .is_empty()
    );
}

#[test]
fn a_repeated_request_gets_the_identical_answer() {
    let mut server = Server::new(true);
    let bytes = pap(b"nemo", b"arctangent", 1, true);
    let first = server.says(&bytes);
    assert!(first.is_some());
    assert_eq!(server.says(&bytes), first);
    let record = request(ACCOUNTING_REQUEST, 1, &[(40, &[0, 0, 0, 1])], false, SECRET);
    let first = server.says(&record);
    assert!(first.is_some());
    assert_eq!(server.says(&record), first);
    assert_eq!(server.ledger().len(), 1, "recorded once");
}

#[test]
fn accounting_is_on_disk_before_it_is_answered() {
    let mut server = Server::new(true);
    let attributes = [
        (40, &[0, 0, 0, 2][..]),
        (44, b"a \"session\"\n"),
        (8, &[10, 0, 0, 1]),
        (25, &[1]),
        (25, &[2]),
        (33, b"state"),
    ];
    let bytes = request(ACCOUNTING_REQUEST, 5, &attributes, true, SECRET);
    let answer = server.answers(&bytes);
    assert_eq!(answer, (ACCOUNTING_RESPONSE, vec![(33, b"state".to_vec())]));
    let expected = serde_json::json!([{
        "time": "2026-11-24T10:00:00.000Z",
        "client": "127.0.0.1",
        "event": "Stop",
        "attributes": {
            "Acct-Status-Type": 2,
            "Acct-Session-Id": "a \"session\"\n",
            "Framed-IP-Address": "10.0.0.1",
            "Class": ["01", "02"],
            "Attr-33": "7374617465",
        },
    }]);
    assert_eq!(serde_json::Value::from(server.ledger()), expected);
    let mut forged = bytes.clone();
    forged[4] ^= 1;
    assert_eq!(server.says(&forged), None);
    assert_eq!(server.ledger().len(), 1);
}

#[test]
fn what_cannot_be_written_is_not_answered_until_it_can() {
    let mut server = Server::new(true);
    std::fs::write(server.home.path().join("radius"), "in the way").expect("a file");
    let bytes = request(ACCOUNTING_REQUEST, 5, &[(40, &[0, 0, 0, 1])], false, SECRET);
    assert_eq!(server.says(&bytes), None);
    std::fs::remove_file(server.home.path().join("radius")).expect("is there");
    assert_eq!(server.answers(&bytes).0, ACCOUNTING_RESPONSE);
    assert_eq!(server.ledger().len(), 1);
}

#[test]
fn requests_cut_anywhere_are_dropped() {
    let mut server = Server::new(false);
    for whole in [
        pap(b"nemo", b"arctangent", 1, true),
        request(ACCOUNTING_REQUEST, 5, &[(40, &[0, 0, 0, 1])], false, SECRET),
        request(STATUS_SERVER, 3, &[], true, SECRET),
    ] {
        for end in 0..whole.len() {
            assert_eq!(server.says(&whole[..end]), None, "cut at {end}");
        }
    }
}

proptest! {
    // A password takes long to verify, the accounts' own to make.
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn no_datagram_breaks_the_server(noise in proptest::collection::vec(any::<u8>(), 0..100), places in proptest::collection::vec((0..200_usize, any::<u8>()), 0..4), attributes in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..60)), 0..8)) {
        let mut server = Server::with(false, Accounts::of(&[]));
        server.says(&noise);
        let attributes: Vec<_> = attributes.iter().map(|(kind, value)| (*kind, value.as_slice())).collect();
        for code in [ACCESS_REQUEST, ACCOUNTING_REQUEST, STATUS_SERVER] {
            let mut bytes = request(code, 1, &attributes, false, SECRET);
            server.says(&bytes);
            for (place, byte) in &places {
                let place = place % bytes.len();
                bytes[place] = *byte;
            }
            if let Some(packet) = Packet::parse(&bytes) {
                let _ = packet.first_of(311, 11);
            }
            server.says(&bytes);
        }
    }
}
