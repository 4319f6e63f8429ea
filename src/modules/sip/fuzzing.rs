#![forbid(unsafe_code)]
//! The way in for a fuzz target.

use std::sync::{Arc, LazyLock};

use super::agent::{Agent, Incoming, Taken};
use super::bindings::{Binding, Change};
use super::digest::Algorithm;
use super::flow::{Flow, Transport};
use super::location::{Location, Seat};
use super::message::{Message, Request};
use crate::accounts::Accounts;
use crate::connection::fuzzing::pieces;
use crate::session::{Module, Waker};

/// An agent that knows ann, whose contact is a connection.
struct World {
    agent: Arc<Agent>,
    phone: Flow,
    caller: Flow,
    _seat: Seat,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let flow = |remote: [u8; 4], port| Flow {
        transport: Transport::Tcp,
        remote: (remote, port).into(),
        local: ([192, 0, 2, 9], 5060).into(),
    };
    let (phone, caller) = (flow([192, 0, 2, 1], 4000), flow([192, 0, 2, 2], 5060));
    let home = std::env::temp_dir().join(format!("portreeve-fuzz-sip-{}", std::process::id()));
    let location = Location::of(&home, "example.org");
    let seat = location.seat(&phone, Waker::new(|| {}));
    let _ = location.signer();
    let _ = std::fs::remove_dir_all(home);
    let binding = Binding {
        contact: "sip:ann@192.0.2.1:4000;transport=tcp".to_owned(),
        key: "sip:ann@192.0.2.1:4000;transport=tcp".to_owned(),
        q: 1000,
        expires: u64::MAX,
        call_id: "x".to_owned(),
        cseq: 1,
        flow: phone,
    };
    let change = Change {
        binding,
        stays: true,
    };
    let put = location.bindings.lock().change("ann", vec![change], 1, 0);
    put.expect("room for one");
    let agent = Agent {
        domain: "example.org".to_owned(),
        algorithms: vec![Algorithm::Md5, Algorithm::Sha256],
        min_expires: 60,
        max_expires: 3600,
        most_contacts: 10,
        accounts: Accounts::of(&[("ann", "pw", Some("clear"))]),
        location,
    };
    World {
        agent: Arc::new(agent),
        phone,
        caller,
        _seat: seat,
    }
});

/// A message: nobody but a registered contact is sent a request, an answer goes to whoever asked, both can be read,
/// and neither is much longer. Then the same bytes over a connection, in pieces.
pub fn sip(bytes: &[u8]) {
    let world = &*WORLD;
    let incoming = Incoming {
        bytes,
        flow: &world.caller,
        now: 1_795_514_400,
    };
    let taken = world.agent.take(&incoming);
    check(world, bytes, &taken);
    // A forwarded request's answer finds its way back to the caller.
    if let Some((_, forwarded)) = &taken.forward {
        let head = forwarded
            .iter()
            .position(|byte| *byte == b'\n')
            .unwrap_or(0);
        let answer = [&b"SIP/2.0 200 OK\r"[..], &forwarded[head..]].concat();
        let back = world.agent.take(&Incoming {
            bytes: &answer,
            flow: &world.phone,
            now: 1_795_514_400,
        });
        let (flow, _) = back.forward.expect("an answer that is passed back");
        assert_eq!(flow, world.caller);
    }
    let module = super::Sip {
        agent: Arc::clone(&world.agent),
        outlet: std::sync::OnceLock::new(),
    };
    pieces(&(Arc::new(module) as Arc<dyn Module>), bytes);
}

fn check(world: &World, bytes: &[u8], taken: &Taken) {
    assert!(!taken.changed && !taken.proven, "nobody knows the secret");
    if let Some((flow, answer)) = &taken.reply {
        assert_eq!(*flow, world.caller);
        let message = Message::parse(answer).expect("an answer");
        assert!(message.is_response() && answer.len() <= 3 * bytes.len() + 1000);
    }
    if let Some((flow, request)) = &taken.forward {
        assert_eq!(*flow, world.phone);
        let message = Message::parse(request).expect("a request");
        let request = Request::of(&message).expect("a request in order");
        assert_eq!(request.top.host, "192.0.2.9");
    }
}
