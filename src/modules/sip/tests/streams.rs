#![forbid(unsafe_code)]
//! Connections: framing, pings, and messages from one transport to the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{HERE, World, all, field, first_line, lines, over, request, text_of, udp};
use crate::dialogue::{answer, check_as, test_peer};
use crate::modules::sip::flow::Transport;
use crate::session::datagram_bench::Bench;
use crate::session::{Peer, Waker};

fn peer() -> Peer {
    Peer {
        local: HERE.parse().unwrap(),
        ..test_peer()
    }
}

#[test]
fn messages_and_pings_follow_each_other_on_a_connection() {
    let world = World::new("example.org");
    check_as(
        &world.sip,
        &peer(),
        "C:
         C:
         S:
         C:
         C: OPTIONS sip:example.org SIP/2.0
         C: Via: SIP/2.0/TCP 192.0.2.1:50000;branch=z9hG4bK1
         C: From: <sip:a@b>;tag=1
         C: To: <sip:example.org>;tag=2
         C: Call-ID: x
         C: CSeq: 1 OPTIONS
         C: Content-Length: 4
         C:
         C: bodyOPTIONS sip:nobody@example.org SIP/2.0
         C: Via: SIP/2.0/TCP 192.0.2.1:50000;branch=z9hG4bK2
         C: From: <sip:a@b>;tag=1
         C: To: <sip:example.org>;tag=2
         C: Call-ID: x
         C: CSeq: 2 OPTIONS
         C: Content-Length: 0
         C:
         S: SIP/2.0 200 OK
         S: Via: SIP/2.0/TCP 192.0.2.1:50000;branch=z9hG4bK1
         S: From: <sip:a@b>;tag=1
         S: To: <sip:example.org>;tag=2
         S: Call-ID: x
         S: CSeq: 1 OPTIONS
         S: Allow: OPTIONS, REGISTER
         S: Accept: */*
         S: Content-Length: 0
         S:
         S: SIP/2.0 404 Not Found
         S: Via: SIP/2.0/TCP 192.0.2.1:50000;branch=z9hG4bK2
         S: From: <sip:a@b>;tag=1
         S: To: <sip:example.org>;tag=2
         S: Call-ID: x
         S: CSeq: 2 OPTIONS
         S: Content-Length: 0
         S:
         C: <eof>
         S: <close>",
    );
}

#[test]
fn a_length_that_lies_ends_the_connection_with_a_word() {
    let world = World::new("example.org");
    for (length, status) in [
        ("-1", "400 a Content-Length that is none"),
        ("65536", "513 Message Too Large"),
        ("1\nContent-Length: 1", "400 several Content-Lengths"),
        ("99999999999999999999", "400 a Content-Length that is none"),
    ] {
        let text = lines(&request(
            "OPTIONS",
            "sip:example.org",
            &format!("Content-Length: {length}\n"),
        ));
        for chunk in [1, 7, usize::MAX] {
            let said = text_of(&answer(
                &world.sip,
                &peer(),
                &[text.as_bytes(), b"GET / HTTP"].concat(),
                chunk,
            ));
            assert_eq!(first_line(&said), format!("SIP/2.0 {status}"));
            assert_eq!(all(&said, "CSeq").len(), 1, "one answer");
        }
    }
    // A head without end.
    let endless = [
        b"OPTIONS sip:example.org SIP/2.0\r\nA: ".to_vec(),
        vec![b'a'; 70_000],
    ]
    .concat();
    assert!(answer(&world.sip, &peer(), &endless, 4096).is_empty());
}

#[test]
fn calls_go_from_datagrams_to_a_connection_and_back() {
    let world = World::new("example.org");
    let phone = over(Transport::Tcp, "192.0.2.77:40000");
    let woken = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&woken);
    let waker = Waker::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
    });
    world.bind(
        "user",
        "sip:user@192.0.2.77:40000;transport=tcp",
        1000,
        phone,
    );
    let mut bench = Bench::new();
    let invite = lines(&request("INVITE", "sip:user@example.org", ""));
    let said = bench.ask(&world.sip, ([192, 0, 2, 1], 5070).into(), invite.as_bytes());
    assert_eq!(
        first_line(&text_of(&said[0])),
        "SIP/2.0 480 Temporarily Unavailable"
    );
    let seat = world.agent.location.seat(&phone, waker);
    assert!(
        bench
            .ask(&world.sip, ([192, 0, 2, 1], 5070).into(), invite.as_bytes())
            .is_empty()
    );
    assert_eq!(woken.load(Ordering::Relaxed), 1);
    let passed = text_of(&seat.letters.take().unwrap());
    assert!(field(&passed, "Via").starts_with("SIP/2.0/TCP 192.0.2.200:5060;"));
    let routes = all(&passed, "Record-Route");
    assert!(
        routes[0].ends_with(";transport=tcp;lr>") && routes[1].ends_with("@192.0.2.200:5060;lr>"),
        "{routes:?}"
    );

    // Its answer goes out as a datagram.
    let (routes, vias) = (routes.join(", "), all(&passed, "Via").join(", "));
    let ok = lines(&format!(
        "SIP/2.0 200 OK\nVia: {vias}\nRecord-Route: {routes}\nFrom: <sip:caller@elsewhere.example>;tag=c1\n\
         To: <sip:user@example.org>;tag=p1\nCall-ID: call@192.0.2.1\nCSeq: 1 INVITE\nContent-Length: 0\n"
    ));
    let phone_peer = Peer {
        remote: "192.0.2.77:40001".parse().unwrap(),
        ..peer()
    };
    assert!(answer(&world.sip, &phone_peer, ok.as_bytes(), 10).is_empty());
    let sent = world.wire.0.lock().pop().unwrap();
    assert_eq!(
        (sent.0.to_string().as_str(), first_line(&sent.1).as_str()),
        ("192.0.2.1:5070", "SIP/2.0 200 OK")
    );

    // The phone hangs up over its connection, and the caller along the other route.
    let bye = |from: &str, to: &str, uri: &str| {
        format!(
            "BYE {uri} SIP/2.0\nVia: SIP/2.0/TCP x;branch=z9hG4bKb\nRoute: {routes}\nFrom: {from}\nTo: {to}\n\
             Call-ID: call@192.0.2.1\nCSeq: 2 BYE\nContent-Length: 0\n"
        )
    };
    let (caller, called) = (
        "<sip:caller@elsewhere.example>;tag=c1",
        "<sip:user@example.org>;tag=p1",
    );
    let (to, _) = world.passes(&bye(called, caller, "sip:caller@192.0.2.1:5070"), &phone);
    assert_eq!(to, udp("192.0.2.1:5070"));
    let (to, _) = world.passes(
        &bye(caller, called, "sip:user@192.0.2.77:40000;transport=tcp"),
        &udp("192.0.2.1:5070"),
    );
    assert_eq!(to, phone);
    drop(seat);
    let said = world.says(
        &bye(caller, called, "sip:user@192.0.2.77:40000;transport=tcp"),
        &udp("192.0.2.1:5070"),
    );
    assert_eq!(said, "SIP/2.0 480 Temporarily Unavailable");
}

#[test]
fn a_connection_that_does_not_take_its_messages_is_busy_and_not_endless() {
    let world = World::new("example.org");
    let phone = over(Transport::Tcp, "192.0.2.77:40000");
    let seat = world.agent.location.seat(&phone, Waker::new(|| {}));
    let taken = (0..1000).filter(|_| world.agent.location.send(&phone, b"message"));
    assert_eq!(taken.count(), 256);
    assert!(seat.letters.take().is_some() && world.agent.location.send(&phone, b"message"));
    while seat.letters.take().is_some() {}
    let large = vec![b'x'; 65_000];
    assert_eq!(
        (0..100)
            .filter(|_| world.agent.location.send(&phone, &large))
            .count(),
        16
    );
}

#[test]
fn whoever_registers_over_a_connection_is_called_along_it() {
    let world = World::new("example.org");
    let phone = over(Transport::Tcp, "192.0.2.1:50000");
    let _seat = world.agent.location.seat(&phone, Waker::new(|| {}));
    let register = |proof: &str| {
        format!(
            "REGISTER sip:example.org SIP/2.0\nVia: SIP/2.0/TCP 10.0.0.1;branch=z9hG4bKr\nFrom: <sip:user@example.org>;tag=1\n\
             To: <sip:user@example.org>\nCall-ID: r\nCSeq: 1 REGISTER\nContact: <sip:user@10.0.0.1;transport=tcp>\n{proof}Content-Length: 0\n"
        )
    };
    let said = super::replied(&world.take(&register(""), &phone));
    let proof = super::authorization(field(&said, "WWW-Authenticate"), "user", "secret", 1);
    let said = world.says(&register(&format!("Authorization: {proof}\n")), &phone);
    assert_eq!(said, "SIP/2.0 200 OK");
    let (to, passed) = world.passes(
        &request("MESSAGE", "sip:user@example.org", ""),
        &udp("192.0.2.9:5060"),
    );
    assert_eq!(
        (to, first_line(&passed).as_str()),
        (phone, "MESSAGE sip:user@10.0.0.1;transport=tcp SIP/2.0")
    );
}
