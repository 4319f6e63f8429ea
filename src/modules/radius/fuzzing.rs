#![forbid(unsafe_code)]
//! The way in for a fuzz target.

use std::time::SystemTime;

use super::accounting::line;
use super::packet::{ACCESS_ACCEPT, LONGEST, Packet, USER_NAME, answer};
use super::password::Proof;

/// A datagram: whatever it says, its proofs can be looked for, it can be written down, and an answer to it is a
/// packet that proves itself.
pub fn radius(bytes: &[u8]) {
    let Some(packet) = Packet::parse(bytes) else {
        return;
    };
    let _ = (packet.proves(b"secret"), packet.accounts(b"secret"));
    let user = packet.first(USER_NAME).unwrap_or_default();
    match Proof::of(&packet, user, b"secret") {
        Some(Proof::Pap(password)) => assert!(password.len() <= 128),
        Some(Proof::Chap(chap)) => assert!(!chap.fits("password")),
        Some(Proof::MsChap2(exchange)) => assert_eq!(exchange.fits("password"), None),
        None => {}
    }
    let client = ([127, 0, 0, 1], 1).into();
    let line = line(&packet, client, SystemTime::UNIX_EPOCH);
    assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
    let answer = answer(
        &packet,
        ACCESS_ACCEPT,
        &[(18, vec![b'x'; 253])],
        true,
        b"secret",
    );
    assert!(answer.len() <= LONGEST);
    let mut signed = answer;
    signed[4..20].copy_from_slice(packet.authenticator);
    let answer = Packet::parse(&signed).expect("our own answer");
    assert_eq!(answer.proves(b"secret"), Some(true));
}
