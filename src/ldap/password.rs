#![forbid(unsafe_code)]
//! Values of `userPassword` (RFC 3112's forerunner: `{SCHEME}` and what follows), and whether a password is theirs.

use aws_lc_rs::digest::{self, Algorithm};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest as _, Md5};
use subtle::ConstantTimeEq;

/// True when the password is the one that the value keeps. May take as long as a hash that is made to take long.
pub(crate) fn verify(value: &[u8], password: &[u8]) -> bool {
    let (scheme, kept) = match value
        .strip_prefix(b"{")
        .and_then(|rest| memchr::memchr(b'}', rest).map(|end| (rest, end)))
    {
        Some((rest, end)) => (rest[..end].to_ascii_uppercase(), &rest[end + 1..]),
        // In clear, as RFC 4519, 2.41 has it.
        None => return bool::from(value.ct_eq(password)),
    };
    let sha1 = &digest::SHA1_FOR_LEGACY_USE_ONLY;
    match &scheme[..] {
        b"CLEAR" | b"CLEARTEXT" => bool::from(kept.ct_eq(password)),
        b"SHA" | b"SSHA" => digested(sha1, kept, password),
        b"SHA256" | b"SSHA256" => digested(&digest::SHA256, kept, password),
        b"SHA384" | b"SSHA384" => digested(&digest::SHA384, kept, password),
        b"SHA512" | b"SSHA512" => digested(&digest::SHA512, kept, password),
        b"MD5" | b"SMD5" => with_salt(kept, 16, |salt| {
            let digest = Md5::new().chain_update(password).chain_update(salt);
            digest.finalize().to_vec()
        }),
        b"CRYPT" | b"ARGON2" => {
            std::str::from_utf8(kept).is_ok_and(|hash| crate::accounts::verify_hash(password, hash))
        }
        _ => false,
    }
}

/// True where [`verify`] takes milliseconds.
pub(crate) fn is_slow(value: &[u8]) -> bool {
    let scheme = value.get(..8).unwrap_or(value).to_ascii_uppercase();
    scheme.starts_with(b"{CRYPT}") || scheme.starts_with(b"{ARGON2}")
}

fn digested(algorithm: &'static Algorithm, kept: &[u8], password: &[u8]) -> bool {
    with_salt(kept, algorithm.output_len(), |salt| {
        digest::digest(algorithm, &[password, salt].concat())
            .as_ref()
            .to_vec()
    })
}

/// In base64: the digest, then the salt, which is empty for the schemes without one.
fn with_salt(kept: &[u8], length: usize, digest: impl FnOnce(&[u8]) -> Vec<u8>) -> bool {
    let Ok(kept) = STANDARD.decode(kept) else {
        return false;
    };
    let Some((kept, salt)) = kept.split_at_checked(length) else {
        return false;
    };
    bool::from(digest(salt).ct_eq(kept))
}

#[cfg(test)]
mod tests {
    use super::{is_slow, verify};

    /// Made by slappasswd, openssl and crypt(3).
    const VALUES: &[(&str, &str)] = &[
        ("secret", "secret"),
        ("secret", "{CLEARTEXT}secret"),
        ("secret", "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ="),
        (
            "secret",
            "{sha256}K7gNU3sdo+OL0wNhqoVWhr3g6s1xYv72ol/pe/Unols=",
        ),
        ("secret", "{MD5}Xr4ilOzQ4PCOq3aQ0qbuaQ=="),
        (
            "Hello world!",
            "{CRYPT}$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5",
        ),
    ];

    #[test]
    fn a_password_is_known_by_its_value_in_every_scheme() {
        for (password, value) in VALUES {
            assert!(verify(value.as_bytes(), password.as_bytes()), "{value}");
            for wrong in ["Secret", "", "secret ", value] {
                assert!(
                    *wrong == **password || !verify(value.as_bytes(), wrong.as_bytes()),
                    "{value} {wrong}"
                );
            }
        }
        assert!(is_slow(b"{crypt}$6$x") && !is_slow(b"{SSHA}x") && !is_slow(b""));
    }

    #[test]
    fn a_damaged_value_is_nobodys() {
        for value in [
            "{SSHA}",
            "{SSHA}*",
            "{SHA}AAAA",
            "{NONE}x",
            "{",
            "{}",
            "{CRYPT}",
            "{CRYPT}x",
            "{MD5}",
        ] {
            assert!(!verify(value.as_bytes(), b"secret"), "{value}");
            assert!(!verify(value.as_bytes(), b""), "{value}");
        }
    }
}
