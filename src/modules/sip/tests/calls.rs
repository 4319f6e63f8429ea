#![forbid(unsafe_code)]
//! Calls through the proxy: requests to contacts, answers back, and what is refused.

use super::{World, all, field, first_line, over, request, text_of, udp};
use crate::modules::sip::flow::Transport;

const CALLER: &str = "192.0.2.1:5070";
const PHONE: &str = "192.0.2.77:5077";

fn world() -> World {
    let world = World::new("example.org");
    world.bind("user", "sip:user@192.0.2.77:5077", 1000, udp(PHONE));
    world
}

/// What a phone answers to a request that was passed to it.
fn response(passed: &str, status: &str, more: &str) -> String {
    let mut text = format!("SIP/2.0 {status}\n");
    for name in ["Via", "Record-Route", "From", "Call-ID", "CSeq"] {
        for value in all(passed, name) {
            text.push_str(&format!("{name}: {value}\n"));
        }
    }
    text.push_str(&format!("To: {};tag=p1\n{more}", field(passed, "To")));
    text
}

#[test]
fn a_call_goes_to_the_contact_and_its_answer_back() {
    let world = world();
    let invite = request(
        "INVITE",
        "sip:user@example.org",
        "Content-Length: 4\n\nbody",
    );
    let (to, passed) = world.passes(&invite, &udp(CALLER));
    assert_eq!(to.remote.to_string(), PHONE);
    assert_eq!(
        first_line(&passed),
        "INVITE sip:user@192.0.2.77:5077 SIP/2.0"
    );
    let vias = all(&passed, "Via");
    assert!(vias[0].starts_with("SIP/2.0/UDP 192.0.2.200:5060;branch=z9hG4bK-"));
    assert_eq!(vias[1], "SIP/2.0/UDP 192.0.2.1:5070;branch=z9hG4bKone");
    assert_eq!(field(&passed, "Max-Forwards"), "70");
    assert_eq!(all(&passed, "Record-Route").len(), 1);
    assert!(field(&passed, "Record-Route").ends_with("@192.0.2.200:5060;lr>"));
    assert!(passed.ends_with("\r\n\r\nbody"));
    // The same again is passed on the same.
    assert_eq!(world.passes(&invite, &udp(CALLER)).1, passed);

    let ringing = response(&passed, "180 Ringing", "");
    let (back, answer) = world.passes(&ringing, &udp(PHONE));
    assert_eq!(back.remote.to_string(), CALLER);
    assert_eq!(
        all(&answer, "Via"),
        ["SIP/2.0/UDP 192.0.2.1:5070;branch=z9hG4bKone"]
    );
    assert_eq!(all(&answer, "Record-Route"), all(&passed, "Record-Route"));
}

#[test]
fn cancel_and_the_ack_of_a_refusal_have_the_branch_of_their_invite() {
    let world = world();
    let passed = |method: &str, more: &str| {
        let text = request(method, "sip:user@example.org", more);
        world.passes(&text, &udp(CALLER))
    };
    let (to, invite) = passed("INVITE", "");
    for (method, more) in [
        ("CANCEL", ""),
        ("ACK", "To: <sip:user@example.org>;tag=p1\n"),
    ] {
        let (same, other) = passed(method, more);
        assert_eq!(same, to);
        assert_eq!(all(&other, "Via"), all(&invite, "Via"), "{method}");
        assert!(all(&other, "Record-Route").is_empty());
    }
    let other = request("INVITE", "sip:user@example.org", "").replace("z9hG4bKone", "z9hG4bKtwo");
    assert_ne!(
        field(&world.passes(&other, &udp(CALLER)).1, "Via"),
        field(&invite, "Via")
    );
}

#[test]
fn later_requests_of_a_call_find_both_its_ends() {
    let world = world();
    let invite = request("INVITE", "sip:user@example.org", "");
    let (_, passed) = world.passes(&invite, &udp(CALLER));
    let route = field(&passed, "Record-Route").to_owned();
    // The caller's, to the address that the phone told.
    let bye = |from: &str, to: &str, uri: &str, via: &str, route: &str| {
        format!(
            "BYE {uri} SIP/2.0\nVia: SIP/2.0/UDP {via};branch=z9hG4bKbye\nRoute: {route}\nMax-Forwards: 70\n\
             From: {from}\nTo: {to}\nCall-ID: call@192.0.2.1\nCSeq: 2 BYE\n"
        )
    };
    let (caller, phone) = (
        "<sip:caller@elsewhere.example>;tag=c1",
        "<sip:user@example.org>;tag=p1",
    );
    let text = bye(caller, phone, "sip:user@192.0.2.77:5099", CALLER, &route);
    let (to, passed) = world.passes(&text, &udp(CALLER));
    assert_eq!(to.remote.to_string(), "192.0.2.77:5099");
    assert_eq!(first_line(&passed), "BYE sip:user@192.0.2.77:5099 SIP/2.0");
    assert!(all(&passed, "Route").is_empty());
    // Its address is another's, so the flow of the call is meant.
    let text = bye(caller, phone, "sip:user@10.0.0.9", CALLER, &route);
    assert_eq!(
        world.passes(&text, &udp(CALLER)).0.remote.to_string(),
        PHONE
    );
    // The phone's, to a caller that is registered nowhere.
    let text = bye(phone, caller, "sip:caller@192.0.2.1:5070", PHONE, &route);
    assert_eq!(
        world.passes(&text, &udp(PHONE)).0.remote.to_string(),
        CALLER
    );
    // A strict router has put us into the Request-URI.
    let strict = route.trim_matches(['<', '>']).to_owned();
    let text = bye(caller, phone, &strict, CALLER, "<sip:user@192.0.2.77:5077>");
    let (to, passed) = world.passes(&text, &udp(CALLER));
    assert_eq!(
        (to.remote.to_string().as_str(), first_line(&passed).as_str()),
        (PHONE, "BYE sip:user@192.0.2.77:5077 SIP/2.0")
    );

    // Another call's, a forged one, or none: no relay.
    let forged = route.replace(&route[8..12], "AAAA");
    let other = text.replace("call@192.0.2.1", "other@192.0.2.1");
    for (text, code) in [
        (other, 403),
        (
            bye(caller, phone, "sip:x@198.51.100.1", CALLER, &forged),
            403,
        ),
        (
            bye(
                "<sip:c@d>;tag=c2",
                phone,
                "sip:x@198.51.100.1",
                CALLER,
                &route,
            ),
            403,
        ),
        (
            bye(
                caller,
                phone,
                "sip:x@198.51.100.1",
                CALLER,
                "<sip:192.0.2.200;lr>",
            ),
            403,
        ),
        (
            bye(
                caller,
                phone,
                "sip:user@example.org",
                CALLER,
                "<sip:198.51.100.1;lr>",
            ),
            403,
        ),
    ] {
        let said = world.says(&text, &udp(CALLER));
        assert!(
            said.starts_with(&format!("SIP/2.0 {code} ")),
            "{said}: {text}"
        );
    }
    // The call outlives the daemon.
    let world = world.restart();
    let text = bye(phone, caller, "sip:caller@192.0.2.1:5070", PHONE, &route);
    assert_eq!(
        world.passes(&text, &udp(PHONE)).0.remote.to_string(),
        CALLER
    );
}

#[test]
fn an_answer_without_our_own_via_goes_nowhere() {
    let world = world();
    let invite = request("INVITE", "sip:user@example.org", "");
    let (_, passed) = world.passes(&invite, &udp(CALLER));
    let good = response(&passed, "200 OK", "");
    let ours = field(&passed, "Via").to_owned();
    for wrong in [
        good.replacen(&format!("Via: {ours}\n"), "", 1),
        good.replace("flow=", "flow=A"),
        good.replace(";branch=z9hG4bK-", ";branch=z9hG4bK-0"),
        good.replacen(";flow=", ";fl=", 1),
        good.replace("Via: SIP/2.0/UDP 192.0.2.1:5070;branch=z9hG4bKone\n", ""),
        good.replace("200 OK", "99 OK"),
        good.replace("200 OK", "200"),
    ] {
        let taken = world.take(&wrong, &udp(PHONE));
        assert!(taken.forward.is_none() && taken.reply.is_none(), "{wrong}");
    }
}

#[test]
fn what_cannot_be_passed_on_is_refused_by_its_reason() {
    let world = world();
    for (method, uri, more, status) in [
        ("INVITE", "sip:nobody@example.org", "", "404 Not Found"),
        ("INVITE", "sip:user%40evil@example.org", "", "404 Not Found"),
        (
            "INVITE",
            "sip:ann@example.org",
            "",
            "480 Temporarily Unavailable",
        ),
        (
            "INVITE",
            "sips:user@example.org",
            "",
            "480 Temporarily Unavailable",
        ),
        ("INVITE", "sip:user@elsewhere.example", "", "403 Forbidden"),
        ("MESSAGE", "sip:user@198.51.100.1", "", "403 Forbidden"),
        ("INVITE", "tel:+358501234", "", "416 Unsupported URI Scheme"),
        (
            "INVITE",
            "sip:user@example.org",
            "Max-Forwards: 0\n",
            "483 Too Many Hops",
        ),
        (
            "INVITE",
            "sip:user@example.org",
            "Proxy-Require: x\n",
            "420 Bad Extension",
        ),
        (
            "INVITE",
            "sip:user@example.org",
            "Max-Forwards: 256\n",
            "400 Max-Forwards is not in order",
        ),
        ("INVITE", "sip:example.org", "", "405 Method Not Allowed"),
        (
            "CANCEL",
            "sip:192.0.2.200",
            "",
            "481 Call/Transaction Does Not Exist",
        ),
        ("OPTIONS", "sip:192.0.2.200:5060", "", "200 OK"),
        (
            "OPTIONS",
            "sip:EXAMPLE.org.:9",
            "Max-Forwards: 0\n",
            "200 OK",
        ),
        (
            "OPTIONS",
            "sip:example.org",
            "Require: x\n",
            "420 Bad Extension",
        ),
        ("REGISTER", "sip:elsewhere.example", "", "403 Forbidden"),
    ] {
        let said = world.says(&request(method, uri, more), &udp(CALLER));
        assert_eq!(said, format!("SIP/2.0 {status}"), "{method} {uri} {more}");
    }
    let ack = request("ACK", "sip:nobody@example.org", "");
    assert!(world.take(&ack, &udp(CALLER)).reply.is_none());
    let named = request("MESSAGE", "sip:user@192.0.2.77:5077", "");
    assert_eq!(
        world.passes(&named, &udp(CALLER)).0.remote.to_string(),
        PHONE,
        "a registered contact"
    );
}

#[test]
fn a_request_that_comes_around_once_more_is_a_loop() {
    let world = world();
    let (_, passed) = world.passes(&request("INVITE", "sip:user@example.org", ""), &udp(CALLER));
    let around = passed.replace("sip:user@192.0.2.77:5077 SIP", "sip:user@example.org SIP");
    let said = text_of(
        &world
            .take_bytes(around.as_bytes(), &udp(PHONE), super::NOW)
            .reply
            .unwrap()
            .1,
    );
    assert_eq!(first_line(&said), "SIP/2.0 482 Loop Detected");
    // To somebody else it is a spiral, which is allowed (RFC 3261, 16.3).
    world.bind("ann", "sip:ann@192.0.2.78", 1000, udp("192.0.2.78:5060"));
    let spiral = around.replace("sip:user@example.org SIP", "sip:ann@example.org SIP");
    assert!(
        world
            .take_bytes(spiral.as_bytes(), &udp(PHONE), super::NOW)
            .forward
            .is_some()
    );
}

#[test]
fn the_preferred_contact_that_is_reachable_is_called_and_no_other() {
    let world = World::new("example.org");
    world.bind("user", "sip:user@192.0.2.77", 300, udp("192.0.2.77:5060"));
    world.bind("user", "sip:user@192.0.2.78", 700, udp("192.0.2.78:5060"));
    // Its connection is gone.
    world.bind(
        "user",
        "sip:user@192.0.2.79",
        900,
        over(Transport::Tcp, "192.0.2.79:40000"),
    );
    let (to, _) = world.passes(&request("INVITE", "sip:user@example.org", ""), &udp(CALLER));
    assert_eq!(to.remote.to_string(), "192.0.2.78:5060");
}

#[test]
fn answers_go_to_where_a_request_came_from_at_the_port_its_via_tells() {
    let world = world();
    let ask = |via: &str| {
        let text = request("OPTIONS", "sip:example.org", "").replace("192.0.2.1:5070", via);
        let (flow, bytes) = world.take(&text, &udp("192.0.2.9:4000")).reply.unwrap();
        (
            flow.remote.to_string(),
            field(&text_of(&bytes), "Via").to_owned(),
        )
    };
    let branch = ";branch=z9hG4bKone";
    assert_eq!(
        ask("192.0.2.9:5070"),
        (
            "192.0.2.9:5070".into(),
            format!("SIP/2.0/UDP 192.0.2.9:5070{branch}")
        )
    );
    assert_eq!(
        ask("phone.example;rport"),
        (
            "192.0.2.9:4000".into(),
            format!("SIP/2.0/UDP phone.example{branch};received=192.0.2.9;rport=4000")
        )
    );
    // What it claims of itself counts for nothing.
    assert_eq!(
        ask("10.0.0.1:5070;received=198.51.100.1;maddr=198.51.100.1"),
        (
            "192.0.2.9:5070".into(),
            format!("SIP/2.0/UDP 10.0.0.1:5070;maddr=198.51.100.1{branch};received=192.0.2.9")
        )
    );
}
