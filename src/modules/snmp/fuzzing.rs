#![forbid(unsafe_code)]
//! The way in for a fuzz target.

use parking_lot::Mutex;

use super::objects::System;
use super::usm::{Authentication, User};
use super::{Counters, MOST, Snmp, message};
use crate::control::Link;
use crate::session::datagram_bench::Bench;

/// A datagram to an agent that has no engine: an answer is a message, and bounded.
pub fn snmp(bytes: &[u8]) {
    let authentication = Authentication::Sha256("a password".to_owned());
    let agent = Snmp {
        communities: vec!["public".to_owned()],
        users: vec![User::new("user".to_owned(), authentication, None)],
        system: System::default(),
        link: Link::default(),
        state_dir: "/nonexistent".into(),
        counters: Counters::default(),
        latest: Mutex::default(),
    };
    for answer in Bench::new().ask(&agent, ([192, 0, 2, 1], 1024).into(), bytes) {
        assert!(answer.len() <= MOST);
        assert_eq!(message::version(&answer), message::version(bytes));
        rasn::ber::decode::<message::Community>(&answer).expect("our own answer");
    }
    let _ = rasn::ber::decode::<message::Secured>(bytes);
    let _ = rasn::ber::decode::<message::UsmParameters>(bytes);
}
