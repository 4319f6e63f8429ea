#![forbid(unsafe_code)]
//! The ways in which a request proves that its user knows the password: PAP and CHAP (RFC 2865, 5.2 and 5.3;
//! RFC 1994), MS-CHAPv2 (RFC 2548, RFC 2759) with the keys that come of it (RFC 3079). Pure.

use aws_lc_rs::digest;
use des::Des;
use des::cipher::{BlockCipherEncrypt, KeyInit};
use md4::{Digest, Md4};

use super::packet::{
    CHAP_CHALLENGE, CHAP_PASSWORD, Packet, USER_PASSWORD, VENDOR_SPECIFIC, md5, same,
};

/// Microsoft's number.
const MICROSOFT: u32 = 311;
const MS_CHAP_CHALLENGE: u8 = 11;
const MS_CHAP2_RESPONSE: u8 = 25;
const MS_CHAP2_SUCCESS: u8 = 26;
const MS_CHAP_ERROR: u8 = 2;
const MS_MPPE_ENCRYPTION_POLICY: u8 = 7;
const MS_MPPE_ENCRYPTION_TYPES: u8 = 8;
const MS_MPPE_SEND_KEY: u8 = 16;
const MS_MPPE_RECV_KEY: u8 = 17;
/// RFC 2548, 2.4.4: encryption is allowed, and not required.
const ALLOWED: u32 = 1;
/// RFC 2548, 2.4.5: keys of 40 and of 128 bits.
const ANY_LENGTH: u32 = 6;

/// How a request's user wants to be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Proof {
    /// The password itself.
    Pap(Vec<u8>),
    Chap(Chap),
    MsChap2(MsChap2),
}

/// A digest of identifier, secret and challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chap {
    identifier: u8,
    digest: [u8; 16],
    challenge: Vec<u8>,
}

/// RFC 2548, 2.3.2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MsChap2 {
    identifier: u8,
    challenge: [u8; 16],
    peer_challenge: [u8; 16],
    response: [u8; 24],
    /// Without a domain before it.
    user: Vec<u8>,
}

impl Proof {
    /// What a request offers; `None` for none, or one that is not well formed.
    pub(super) fn of(packet: &Packet<'_>, user: &[u8], secret: &[u8]) -> Option<Self> {
        if let Some(hidden) = packet.first(USER_PASSWORD) {
            return reveal(hidden, packet.authenticator, secret).map(Proof::Pap);
        }
        if let Some(value) = packet.first(CHAP_PASSWORD) {
            let (&identifier, digest) = value.split_first()?;
            let challenge = packet.first(CHAP_CHALLENGE);
            return Some(Proof::Chap(Chap {
                identifier,
                digest: digest.try_into().ok()?,
                challenge: challenge.unwrap_or(packet.authenticator).to_vec(),
            }));
        }
        let response = packet.first_of(MICROSOFT, MS_CHAP2_RESPONSE)?;
        let response: &[u8; 50] = response.try_into().ok()?;
        let challenge = packet.first_of(MICROSOFT, MS_CHAP_CHALLENGE)?;
        let user = user.rsplit(|byte| *byte == b'\\').next().unwrap_or(user);
        Some(Proof::MsChap2(MsChap2 {
            identifier: response[0],
            challenge: challenge.try_into().ok()?,
            peer_challenge: *response[2..].first_chunk()?,
            response: *response[26..].first_chunk()?,
            user: user.to_vec(),
        }))
    }
}

impl Chap {
    pub(super) fn fits(&self, secret: &str) -> bool {
        let expected = md5(&[&[self.identifier], secret.as_bytes(), &self.challenge]);
        same(&expected, &self.digest)
    }
}

impl MsChap2 {
    /// What proves that we know the secret, too; `None` when the user does not.
    pub(super) fn fits(&self, secret: &str) -> Option<Success> {
        let hash = nt_hash(secret);
        let challenge = self.challenge_hash();
        if !same(&challenge_response(challenge, hash), &self.response) {
            return None;
        }
        let hash_hash: [u8; 16] = Md4::digest(hash).into();
        let success = format!("S={}", hex(&self.authenticator(hash_hash, challenge)));
        let master = master_key(hash_hash, &self.response);
        Some(Success {
            attribute: self.attribute(MS_CHAP2_SUCCESS, success.as_bytes()),
            send: start_key(master, SERVER_SENDS),
            receive: start_key(master, SERVER_RECEIVES),
        })
    }

    /// What a wrong one is told: 691, and not to try with this challenge again (RFC 2759, 6).
    pub(super) fn error(&self) -> (u8, Vec<u8>) {
        self.attribute(MS_CHAP_ERROR, b"E=691 R=0 V=3")
    }

    fn attribute(&self, kind: u8, text: &[u8]) -> (u8, Vec<u8>) {
        microsofts(kind, &[&[self.identifier], text].concat())
    }

    /// RFC 2759, 8.2.
    fn challenge_hash(&self) -> [u8; 8] {
        let hash = sha1(&[&self.peer_challenge, &self.challenge, &self.user]);
        let mut challenge = [0; 8];
        challenge.copy_from_slice(&hash[..8]);
        challenge
    }

    /// RFC 2759, 8.7.
    fn authenticator(&self, hash_hash: [u8; 16], challenge: [u8; 8]) -> [u8; 20] {
        let first = sha1(&[
            &hash_hash,
            &self.response,
            b"Magic server to client signing constant",
        ]);
        sha1(&[
            &first,
            &challenge,
            b"Pad to make it do more than one iteration",
        ])
    }
}

/// What a user is told who knows the secret, and the keys for what is then said in private (MPPE).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Success {
    attribute: (u8, Vec<u8>),
    send: [u8; 16],
    receive: [u8; 16],
}

impl Success {
    /// The attributes of the answer. The keys are hidden with the secret shared with the client, the request's
    /// authenticator and a salt, which is random.
    pub(super) fn attributes(
        self,
        secret: &[u8],
        authenticator: &[u8; 16],
        salt: [u8; 2],
    ) -> Vec<(u8, Vec<u8>)> {
        // RFC 2548, 2.4.2: the highest bit is set, and no two salts of a packet are the same.
        let salts = [
            [salt[0] | 0x80, salt[1]],
            [salt[0] | 0x80, salt[1].wrapping_add(1)],
        ];
        let hidden = |key, salt| hide(key, secret, authenticator, salt);
        vec![
            self.attribute,
            microsofts(MS_MPPE_ENCRYPTION_POLICY, &ALLOWED.to_be_bytes()),
            microsofts(MS_MPPE_ENCRYPTION_TYPES, &ANY_LENGTH.to_be_bytes()),
            microsofts(MS_MPPE_SEND_KEY, &hidden(self.send, salts[0])),
            microsofts(MS_MPPE_RECV_KEY, &hidden(self.receive, salts[1])),
        ]
    }
}

fn microsofts(kind: u8, text: &[u8]) -> (u8, Vec<u8>) {
    let length = u8::try_from(text.len() + 2).unwrap_or(u8::MAX);
    let mut value = MICROSOFT.to_be_bytes().to_vec();
    value.extend_from_slice(&[kind, length]);
    value.extend_from_slice(text);
    (VENDOR_SPECIFIC, value)
}

/// A key as MS-MPPE-Send-Key and MS-MPPE-Recv-Key carry it (RFC 2548, 2.4.2): the salt, then its length and itself,
/// padded, masked block by block.
fn hide(key: [u8; 16], secret: &[u8], authenticator: &[u8; 16], salt: [u8; 2]) -> Vec<u8> {
    let mut clear = vec![16];
    clear.extend_from_slice(&key);
    clear.resize(32, 0);
    let mut hidden = salt.to_vec();
    let mut mask = md5(&[secret, authenticator, &salt]);
    for block in clear.chunks_exact(16) {
        let at = hidden.len();
        hidden.extend(block.iter().zip(mask).map(|(byte, mask)| byte ^ mask));
        mask = md5(&[secret, &hidden[at..]]);
    }
    hidden
}

/// RFC 3079, 3.4: which of the two directions a key is for.
const SERVER_SENDS: &[u8] =
    b"On the client side, this is the receive key; on the server side, it is the send key.";
const SERVER_RECEIVES: &[u8] =
    b"On the client side, this is the send key; on the server side, it is the receive key.";

/// RFC 3079, 3.4.
fn master_key(hash_hash: [u8; 16], response: &[u8; 24]) -> [u8; 16] {
    first_16(sha1(&[
        &hash_hash,
        response,
        b"This is the MPPE Master Key",
    ]))
}

/// RFC 3079, 3.4, for keys of 128 bits.
fn start_key(master: [u8; 16], direction: &[u8]) -> [u8; 16] {
    first_16(sha1(&[&master, &[0; 40], direction, &[0xf2; 40]]))
}

fn first_16(hash: [u8; 20]) -> [u8; 16] {
    let mut first = [0; 16];
    first.copy_from_slice(&hash[..16]);
    first
}

/// A User-Password in clear (RFC 2865, 5.2).
fn reveal(hidden: &[u8], authenticator: &[u8; 16], secret: &[u8]) -> Option<Vec<u8>> {
    if !(16..=128).contains(&hidden.len()) || !hidden.len().is_multiple_of(16) {
        return None;
    }
    let mut before: &[u8] = authenticator;
    let mut password = Vec::with_capacity(hidden.len());
    for block in hidden.chunks_exact(16) {
        let mask = md5(&[secret, before]);
        password.extend(block.iter().zip(mask).map(|(byte, mask)| byte ^ mask));
        before = block;
    }
    let end = password.iter().rposition(|byte| *byte != 0);
    password.truncate(end.map_or(0, |end| end + 1));
    Some(password)
}

/// RFC 2759, 8.3: of the password in UTF-16.
fn nt_hash(secret: &str) -> [u8; 16] {
    let units: Vec<u8> = secret.encode_utf16().flat_map(u16::to_le_bytes).collect();
    Md4::digest(units).into()
}

/// RFC 2759, 8.5: the challenge, encrypted with three thirds of the hash.
fn challenge_response(challenge: [u8; 8], hash: [u8; 16]) -> [u8; 24] {
    let mut padded = [0; 21];
    padded[..16].copy_from_slice(&hash);
    let mut response = [0; 24];
    for (key, piece) in padded.chunks_exact(7).zip(response.chunks_exact_mut(8)) {
        let mut block = challenge.into();
        Des::new(&spread(key).into()).encrypt_block(&mut block);
        piece.copy_from_slice(&block);
    }
    response
}

/// Fifty-six bits of a key, seven to a byte, above DES' parity bits.
fn spread(key: &[u8]) -> [u8; 8] {
    let bits = key
        .iter()
        .fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
    let mut spread = [0; 8];
    for (place, byte) in spread.iter_mut().enumerate() {
        let septet = bits >> (49 - 7 * place) & 0x7f;
        *byte = u8::try_from(septet << 1).unwrap_or(0);
    }
    spread
}

fn sha1(pieces: &[&[u8]]) -> [u8; 20] {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    for piece in pieces {
        context.update(piece);
    }
    let mut hash = [0; 20];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::packet::md5;
    use super::{MsChap2, challenge_response, hex, nt_hash, reveal};

    /// RFC 2759, 9.2.
    #[test]
    fn ms_chap_2_is_that_of_the_rfc() {
        let mut exchange = MsChap2 {
            identifier: 7,
            challenge: *b"\x5B\x5D\x7C\x7D\x7B\x3F\x2F\x3E\x3C\x2C\x60\x21\x32\x26\x26\x28",
            peer_challenge: *b"\x21\x40\x23\x24\x25\x5E\x26\x2A\x28\x29\x5F\x2B\x3A\x33\x7C\x7E",
            response: [0; 24],
            user: b"User".to_vec(),
        };
        assert_eq!(hex(&exchange.challenge_hash()), "D02E4386BCE91226");
        assert_eq!(
            hex(&nt_hash("clientPass")),
            "44EBBA8D5312B8D611474411F56989AE"
        );
        exchange.response = challenge_response(exchange.challenge_hash(), nt_hash("clientPass"));
        assert_eq!(
            hex(&exchange.response),
            "82309ECD8D708B5EA08FAA3981CD83544233114A3D85D6DF"
        );
        let success = exchange.fits("clientPass").expect("the right one");
        // RFC 3079, 3.5.3.
        assert_eq!(hex(&success.send), "8B7CDC149B993A1BA118CB153F56DCCB");
        let attributes = success.attributes(b"secret", &[3; 16], [0x7f, 0xff]);
        let (_, answer) = &attributes[0];
        assert_eq!(&answer[7..], b"S=407A5589115FD0D6209F510FE9C04566932CDA56");
        assert_eq!(answer[4..7], [26, 45, 7]);
        let salts = [&attributes[3].1[6..8], &attributes[4].1[6..8]];
        assert_eq!(salts, [&[0xff, 0xff], &[0xff, 0x00]]);
        assert_eq!(exchange.fits("clientpass"), None);
    }

    #[test]
    fn hidden_passwords_are_revealed_or_refused() {
        let hide = |password: &[u8]| {
            let mut padded = password.to_vec();
            padded.resize(password.len().next_multiple_of(16).max(16), 0);
            let mut before = vec![9; 16];
            let mut hidden = Vec::new();
            for block in padded.chunks_exact(16) {
                let mask = md5(&[b"secret", &before]);
                before = block
                    .iter()
                    .zip(mask)
                    .map(|(byte, mask)| byte ^ mask)
                    .collect();
                hidden.extend_from_slice(&before);
            }
            hidden
        };
        for password in [&b""[..], b"a", b"sixteen bytes ok", &[b'x'; 128]] {
            let revealed = reveal(&hide(password), &[9; 16], b"secret");
            assert_eq!(revealed.as_deref(), Some(password));
        }
        for length in [0, 1, 15, 17, 144] {
            assert_eq!(reveal(&vec![0; length], &[9; 16], b"secret"), None);
        }
    }
}
