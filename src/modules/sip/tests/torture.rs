#![forbid(unsafe_code)]
//! The messages of RFC 4475, whole and cut at every byte.

use super::{NOW, World, first_line, text_of, udp};
use crate::dialogue::{answer, test_peer};
use crate::session::datagram_bench::Bench;

const TABLE: &str = include_str!("../../../../tests/data/sip/torture.txt");

struct Case {
    name: &'static str,
    domain: &'static str,
    what: &'static str,
    bytes: Vec<u8>,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for piece in TABLE.split("\n== ").skip(1) {
        let (head, message) = piece.split_once('\n').unwrap();
        let (names, what) = head.split_once(" => ").unwrap();
        let (name, domain) = names.split_once(' ').unwrap();
        let mut bytes: Vec<u8> = message
            .lines()
            .flat_map(|line| [&unescape(line)[..], b"\r\n"].concat())
            .collect();
        if !message.contains("\n\n") {
            bytes.extend(b"\r\n");
        }
        cases.push(Case {
            name,
            domain,
            what,
            bytes,
        });
    }
    cases
}

/// `\xNN` is a byte, `{TEXT*N}` is a text N times.
fn unescape(line: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), line);
    while let Some(letter) = rest.chars().next() {
        if let Some(byte) = rest
            .strip_prefix("\\x")
            .and_then(|hex| u8::from_str_radix(hex.get(..2)?, 16).ok())
        {
            bytes.push(byte);
            rest = &rest[4..];
        } else if let Some((repeat, after)) =
            rest.strip_prefix('{').and_then(|rest| rest.split_once('}'))
            && let Some((text, count)) = repeat.split_once('*')
            && let Ok(count) = count.parse()
        {
            bytes.extend(text.repeat(count).bytes());
            rest = after;
        } else {
            bytes.extend(letter.to_string().bytes());
            rest = &rest[letter.len_utf8()..];
        }
    }
    bytes
}

fn world(case: &Case) -> World {
    let world = World::new(case.domain);
    for account in ["user", "vivekg"] {
        world.bind(
            account,
            &format!("sip:{account}@192.0.2.77:5077"),
            1000,
            udp("192.0.2.77:5077"),
        );
    }
    world
}

#[test]
fn the_torture_messages_of_rfc_4475_get_what_it_says() {
    let cases = cases();
    assert!(cases.len() > 45, "{}", cases.len());
    for case in cases {
        let world = world(&case);
        let mut bytes = case.bytes.clone();
        if case.what == "back" {
            // Our Via, as the request had it that this would answer.
            let invite = super::request("OPTIONS", "sip:user@example.com", "");
            let (_, passed) = world.passes(&invite, &udp("192.0.2.1:5070"));
            let via = format!("\r\nVia: {}", super::field(&passed, "Via"));
            let end = bytes.iter().position(|byte| *byte == b'\r').unwrap();
            bytes.splice(end..end, via.bytes());
        }
        let taken = world.take_bytes(&bytes, &udp("192.0.2.1:5070"), NOW);
        let said = taken
            .reply
            .as_ref()
            .map(|(_, bytes)| first_line(&text_of(bytes)));
        let to = taken
            .forward
            .as_ref()
            .map(|(flow, _)| flow.remote.to_string());
        let expected = match case.what {
            "pass" => (None, Some("192.0.2.77:5077".to_owned())),
            "back" => (None, Some("192.0.2.1:5070".to_owned())),
            "drop" => (None, None),
            code => (Some(code.to_owned()), None),
        };
        let code = said.as_ref().map(|line| line[8..11].to_owned());
        assert_eq!((code, to), expected, "{}: {said:?}", case.name);
    }
}

#[test]
fn a_tortuous_invite_is_passed_on_without_its_torture() {
    let case = cases().remove(0);
    let world = world(&case);
    let text = String::from_utf8(case.bytes).unwrap();
    let ours = text.replace("services.example.com", "chair-dnrc.example.com");
    let taken = world.take_bytes(ours.as_bytes(), &udp("192.0.2.2:5060"), NOW);
    let (_, bytes) = taken.forward.unwrap();
    let passed = text_of(&bytes);
    assert_eq!(
        first_line(&passed),
        "INVITE sip:vivekg@192.0.2.77:5077 SIP/2.0"
    );
    assert_eq!(super::field(&passed, "Max-Forwards"), "67");
    assert_eq!(
        super::field(&passed, "NewFangledHeader"),
        "newfangled value  continued newfangled value"
    );
    assert_eq!(
        super::all(&passed, "Via")[1],
        "SIP/2.0/UDP 192.0.2.2;branch=390skdjuw"
    );
    assert!(passed.ends_with("a=rtpmap:31 LPC\r\n"));
    assert!(!passed.contains("Route: <sip:chair"));
}

#[test]
fn every_message_can_be_cut_at_every_byte() {
    for case in cases() {
        let world = world(&case);
        let mut bench = Bench::new();
        for end in 0..case.bytes.len() {
            let sent = bench.ask(
                &world.sip,
                ([192, 0, 2, 1], 5070).into(),
                &case.bytes[..end],
            );
            assert!(
                sent.iter().all(|answer| answer.len() <= 3 * end),
                "{} at {end}",
                case.name
            );
        }
    }
}

#[test]
fn every_message_gets_the_same_over_a_connection_in_any_pieces() {
    for case in cases() {
        let world = world(&case);
        let whole = answer(&world.sip, &test_peer(), &case.bytes, usize::MAX);
        for chunk in [1, 2, 3, 7, 100] {
            let pieces = answer(&world.sip, &test_peer(), &case.bytes, chunk);
            assert_eq!(
                text_of(&pieces),
                text_of(&whole),
                "{} by {chunk}",
                case.name
            );
        }
    }
}
