#![forbid(unsafe_code)]
//! The user-based security model: keys, digests and encryption (RFC 3414; RFC 7860 for SHA-2, RFC 3826 for
//! AES). Pure but for random bytes.

use std::sync::OnceLock;

use aws_lc_rs::cipher::{
    AES_128, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::{digest, hmac};
use serde::Deserialize;

/// Bytes that a password is stretched to before it is hashed (RFC 3414, A.2).
const STRETCHED: usize = 1 << 20;
/// The shortest password (RFC 3414, 11.2).
pub(super) const SHORTEST_PASSWORD: usize = 8;

/// How a user's messages are authenticated, as written in a configuration (RFC 7860).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) enum Authentication {
    /// usmHMAC128SHA224AuthProtocol.
    Sha224(String),
    /// usmHMAC192SHA256AuthProtocol.
    Sha256(String),
    /// usmHMAC256SHA384AuthProtocol.
    Sha384(String),
    /// usmHMAC384SHA512AuthProtocol.
    Sha512(String),
}

/// How they are encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) enum Privacy {
    /// usmAesCfb128Protocol (RFC 3826).
    Aes128(String),
}

impl Authentication {
    pub(super) fn password(&self) -> &str {
        match self {
            Authentication::Sha224(password)
            | Authentication::Sha256(password)
            | Authentication::Sha384(password)
            | Authentication::Sha512(password) => password,
        }
    }

    fn digest(&self) -> &'static digest::Algorithm {
        match self {
            Authentication::Sha224(_) => &digest::SHA224,
            Authentication::Sha256(_) => &digest::SHA256,
            Authentication::Sha384(_) => &digest::SHA384,
            Authentication::Sha512(_) => &digest::SHA512,
        }
    }

    fn hmac(&self) -> hmac::Algorithm {
        match self {
            Authentication::Sha224(_) => hmac::HMAC_SHA224,
            Authentication::Sha256(_) => hmac::HMAC_SHA256,
            Authentication::Sha384(_) => hmac::HMAC_SHA384,
            Authentication::Sha512(_) => hmac::HMAC_SHA512,
        }
    }

    /// Bytes of a message's digest (RFC 7860, 4.2.1).
    pub(super) fn length(&self) -> usize {
        match self {
            Authentication::Sha224(_) => 16,
            Authentication::Sha256(_) => 24,
            Authentication::Sha384(_) => 32,
            Authentication::Sha512(_) => 48,
        }
    }
}

impl Privacy {
    pub(super) fn password(&self) -> &str {
        let Privacy::Aes128(password) = self;
        password
    }
}

/// A user of v3.
#[derive(Debug)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) authentication: Authentication,
    pub(super) privacy: Option<Privacy>,
    /// Made at the first message: a megabyte is hashed for each.
    keys: OnceLock<Keys>,
}

/// A user's keys at one engine.
#[derive(Debug)]
struct Keys {
    authentication: hmac::Key,
    privacy: Option<[u8; 16]>,
}

impl User {
    pub(super) fn new(
        name: String,
        authentication: Authentication,
        privacy: Option<Privacy>,
    ) -> Self {
        User {
            name,
            authentication,
            privacy,
            keys: OnceLock::new(),
        }
    }

    fn keys(&self, engine: &[u8]) -> &Keys {
        self.keys.get_or_init(|| {
            let algorithm = self.authentication.digest();
            let key = localized(algorithm, self.authentication.password(), engine);
            Keys {
                authentication: hmac::Key::new(self.authentication.hmac(), &key),
                privacy: self.privacy.as_ref().and_then(|privacy| {
                    let key = localized(algorithm, privacy.password(), engine);
                    key.first_chunk().copied()
                }),
            }
        })
    }

    /// A message's digest; its own place in the message holds zeros meanwhile.
    pub(super) fn digest(&self, engine: &[u8], message: &[u8]) -> Vec<u8> {
        let tag = hmac::sign(&self.keys(engine).authentication, message);
        tag.as_ref()[..self.authentication.length()].to_vec()
    }

    /// Encrypts in place (RFC 3826, 3.1.3); `None` for a user without a key.
    pub(super) fn encrypt(&self, engine: &[u8], iv: [u8; 16], bytes: &mut [u8]) -> Option<()> {
        let key = UnboundCipherKey::new(&AES_128, &self.keys(engine).privacy?).ok()?;
        let key = EncryptingKey::cfb128(key).ok()?;
        let context = EncryptionContext::Iv128(FixedLength::from(iv));
        key.less_safe_encrypt(bytes, context).ok().map(drop)
    }

    /// Decrypts in place (RFC 3826, 3.1.4).
    pub(super) fn decrypt(&self, engine: &[u8], iv: [u8; 16], bytes: &mut [u8]) -> Option<()> {
        let key = UnboundCipherKey::new(&AES_128, &self.keys(engine).privacy?).ok()?;
        let key = DecryptingKey::cfb128(key).ok()?;
        let context = DecryptionContext::Iv128(FixedLength::from(iv));
        key.decrypt(bytes, context).ok().map(drop)
    }
}

/// The initialization vector (RFC 3826, 3.1.2.1).
pub(super) fn iv(boots: u32, time: u32, salt: [u8; 8]) -> [u8; 16] {
    let mut iv = [0; 16];
    iv[..4].copy_from_slice(&boots.to_be_bytes());
    iv[4..8].copy_from_slice(&time.to_be_bytes());
    iv[8..].copy_from_slice(&salt);
    iv
}

/// A password's key at one engine (RFC 3414, 2.6 and A.2).
fn localized(algorithm: &'static digest::Algorithm, password: &str, engine: &[u8]) -> Vec<u8> {
    let password = password.as_bytes();
    let mut context = digest::Context::new(algorithm);
    let mut left = if password.is_empty() { 0 } else { STRETCHED };
    // Many repetitions at once: hashing byte by byte would take ten times as long.
    let block: Vec<u8> = password
        .iter()
        .copied()
        .cycle()
        .take(password.len() * 64)
        .collect();
    while left > 0 {
        let piece = left.min(block.len());
        context.update(&block[..piece]);
        left -= piece;
    }
    let key = context.finish();
    let mut context = digest::Context::new(algorithm);
    context.update(key.as_ref());
    context.update(engine);
    context.update(key.as_ref());
    context.finish().as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::digest;

    use super::{Authentication, Privacy, User, iv, localized};

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// RFC 3414, A.3.2 has the keys of "maplesyrup" for SHA-1; the algorithm is the same for any hash.
    #[test]
    fn keys_are_those_of_the_rfc() {
        let engine = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
        let key = localized(&digest::SHA1_FOR_LEGACY_USE_ONLY, "maplesyrup", &engine);
        assert_eq!(hex(&key), "6695febc9288e36282235fc7151f128497b38f3f");
    }

    #[test]
    fn what_is_encrypted_comes_back() {
        let (authentication, privacy) = (
            Authentication::Sha512("password1".to_owned()),
            Privacy::Aes128("password2".to_owned()),
        );
        let user = User::new("u".to_owned(), authentication, Some(privacy));
        let iv = iv(1, 2, [3; 8]);
        assert_eq!(hex(&iv), "00000001000000020303030303030303");
        let mut bytes = b"a message of some length".to_vec();
        user.encrypt(b"engine", iv, &mut bytes).expect("a key");
        assert_ne!(bytes, b"a message of some length");
        user.decrypt(b"engine", iv, &mut bytes).expect("a key");
        assert_eq!(bytes, b"a message of some length");
        assert_eq!(user.digest(b"engine", b"x").len(), 48);
    }
}
