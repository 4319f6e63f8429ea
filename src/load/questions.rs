#![forbid(unsafe_code)]
//! What datagrams ask, and which answers are right. No socket.

use std::borrow::Cow;

use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};

use super::options::Speaks;

/// GET of sysUpTime.0, version 2c, community public (RFC 3416, 3).
const SNMP: &[u8] = b"\x30\x26\x02\x01\x01\x04\x06public\xa0\x19\x02\x01\x01\x02\x01\x00\x02\x01\x00\x30\x0e\x30\x0c\
    \x06\x08\x2b\x06\x01\x02\x01\x01\x03\x00\x05\x00";
/// GetResponse-PDU (RFC 3416, 3), behind the community.
const RESPONSE: (usize, u8) = (13, 0xa2);
/// Access-Accept (RFC 2865, 4.2).
const ACCEPT: u8 = 2;
const SECRET: &[u8] = b"testing123";
const USER: &[u8] = b"nemo";
const PASSWORD: &[u8] = b"arctangent";

/// Makes questions, one after the other.
pub(super) struct Questions {
    speaks: Speaks,
    filler: Vec<u8>,
    made: u64,
}

impl Questions {
    /// `size` is that of an echo; the others have their own.
    pub(super) fn of(speaks: Speaks, size: usize) -> Self {
        Questions {
            speaks,
            filler: vec![b'u'; size],
            made: 0,
        }
    }

    /// The next one. Requests of RADIUS have identifiers in turn, and authenticators that do not come again: a
    /// repetition would be answered from memory.
    pub(super) fn next(&mut self) -> Cow<'static, [u8]> {
        self.made += 1;
        match self.speaks {
            Speaks::Echo => Cow::Owned(self.filler.clone()),
            Speaks::Snmp => Cow::Borrowed(SNMP),
            Speaks::RadiusPap | Speaks::RadiusChap => Cow::Owned(self.access_request()),
        }
    }

    /// Whether an answer says what a question of ours is to be answered.
    pub(super) fn is_right(&self, answer: &[u8]) -> bool {
        match self.speaks {
            Speaks::Echo => true,
            Speaks::Snmp => answer.get(RESPONSE.0) == Some(&RESPONSE.1),
            Speaks::RadiusPap | Speaks::RadiusChap => answer.first() == Some(&ACCEPT),
        }
    }

    fn access_request(&self) -> Vec<u8> {
        let authenticator = md5(&[&std::process::id().to_be_bytes(), &self.made.to_be_bytes()]);
        let [.., identifier] = self.made.to_be_bytes();
        let mut packet = vec![1, identifier, 0, 0];
        packet.extend_from_slice(&authenticator);
        packet.extend_from_slice(&[80, 18]);
        packet.extend_from_slice(&[0; 16]);
        packet.extend_from_slice(&[1, 6]);
        packet.extend_from_slice(USER);
        if self.speaks == Speaks::RadiusPap {
            let mask = md5(&[SECRET, &authenticator]);
            let padded = PASSWORD.iter().copied().chain(std::iter::repeat(0));
            packet.extend_from_slice(&[2, 18]);
            packet.extend(padded.zip(mask).map(|(byte, mask)| byte ^ mask));
        } else {
            packet.extend_from_slice(&[3, 19, identifier]);
            packet.extend_from_slice(&md5(&[&[identifier], PASSWORD, &authenticator]));
        }
        let length = u16::try_from(packet.len()).unwrap_or(0);
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        if let Ok(mut proof) = <Hmac<Md5> as KeyInit>::new_from_slice(SECRET) {
            proof.update(&packet);
            packet[22..38].copy_from_slice(&proof.finalize().into_bytes());
        }
        packet
    }
}

fn md5(pieces: &[&[u8]]) -> [u8; 16] {
    let mut digest = Md5::new();
    for piece in pieces {
        digest.update(piece);
    }
    digest.finalize().into()
}
