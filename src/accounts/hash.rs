#![forbid(unsafe_code)]
//! Password hashes: argon2id is what we make; bcrypt, sha-crypt and yescrypt are verified, too, so that hashes
//! of other systems can be taken over.

use std::sync::LazyLock;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};

/// The longest password that is looked at, in bytes: no line of a mail protocol is to carry more.
pub(crate) const LONGEST: usize = 1024;

/// Hashes a password with argon2id (RFC 9106) and a random salt: 19 MiB and 2 passes, about 20 ms.
///
/// # Errors
/// It is empty, longer than 1,024 bytes, or has a NUL, which SASL PLAIN cannot carry (RFC 4616, 2).
pub fn hash(password: &[u8]) -> Result<String, String> {
    match password.len() {
        0 => return Err("an empty password is refused".to_owned()),
        1..=LONGEST => {}
        _ => return Err(format!("a password has at most {LONGEST} bytes")),
    }
    if password.contains(&0) {
        return Err("a password cannot contain a NUL byte".to_owned());
    }
    let hash: PasswordHash = Argon2::default()
        .hash_password(password)
        .map_err(|error| format!("cannot hash the password: {error}"))?;
    Ok(hash.to_string())
}

/// True when the password has this hash. A damaged hash matches nothing.
pub(crate) fn verify(password: &[u8], hash: &str) -> bool {
    match kind(hash) {
        Ok(Kind::Argon2) => Argon2::default().verify_password(password, hash).is_ok(),
        Ok(Kind::Bcrypt) => bcrypt::verify(password, hash).unwrap_or(false),
        Ok(Kind::ShaCrypt) => sha_crypt::ShaCrypt::default()
            .verify_password(password, hash)
            .is_ok(),
        Ok(Kind::Yescrypt) => yescrypt::Yescrypt::default()
            .verify_password(password, hash)
            .is_ok(),
        Err(_) => false,
    }
}

/// Takes as long as the verification of a hash that we made, and is false.
pub(super) fn verify_nothing(password: &[u8]) -> bool {
    static DUMMY: LazyLock<String> = LazyLock::new(|| hash(b"nobody's").unwrap_or_default());
    let _ = verify(password, &DUMMY);
    false
}

/// Whose hash it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Argon2,
    Bcrypt,
    ShaCrypt,
    Yescrypt,
}

fn kind(hash: &str) -> Result<Kind, String> {
    let name = hash.strip_prefix('$').and_then(|rest| rest.split_once('$'));
    let kind = match name.map(|(name, _)| name) {
        Some("argon2id" | "argon2i" | "argon2d") => Kind::Argon2,
        Some("2a" | "2b" | "2x" | "2y") => Kind::Bcrypt,
        Some("5" | "6") => Kind::ShaCrypt,
        Some("y") => Kind::Yescrypt,
        // The text may be a password that somebody put here: it is not shown.
        _ => {
            return Err(
                "expected a password hash: $argon2id$.. (made by `portreeve account set`), $2b$.., \
                 $5$.., $6$.. or $y$.."
                    .to_owned(),
            );
        }
    };
    Ok(kind)
}

/// Tells what is wrong with a hash from a file, as far as it shows without a password.
pub(super) fn check(hash: &str) -> Result<(), String> {
    let damaged = |error: &dyn std::fmt::Display| format!("this password hash is damaged: {error}");
    match kind(hash)? {
        Kind::Argon2 => {
            let parsed = PasswordHash::new(hash).map_err(|error| damaged(&error))?;
            if parsed.salt.is_none() || parsed.hash.is_none() {
                return Err(damaged(&"it is cut short"));
            }
        }
        Kind::Bcrypt => {
            hash.parse::<bcrypt::HashParts>()
                .map_err(|error| damaged(&error))?;
        }
        Kind::ShaCrypt | Kind::Yescrypt => {
            if hash.split('$').count() < 4 || hash.ends_with('$') {
                return Err(damaged(&"it is cut short"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{check, hash, verify, verify_nothing};

    /// Made by openssl passwd, and by crypt(3) of libxcrypt; the first is a vector of crypt_blowfish.
    const FOREIGN: &[(&str, &str)] = &[
        (
            "U*U",
            "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
        ),
        (
            "Hello world!",
            "$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5",
        ),
        (
            "Hello world!",
            "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1",
        ),
        (
            "pleaseletmein",
            "$y$j75$5ZUnFKf6l7WTRXGs5PG8M.$z0i/vF9GsLIZ6UFdkhu/WNT5MNOlQAp09B05aau72YA",
        ),
    ];

    #[test]
    fn hashes_of_other_programs_are_verified() {
        for (password, hash) in FOREIGN {
            assert_eq!(check(hash), Ok(()), "{hash}");
            assert!(verify(password.as_bytes(), hash), "{hash}");
            assert!(!verify(b"another", hash), "{hash}");
        }
    }

    #[test]
    fn our_own_hashes_are_salted_and_verified() {
        let (one, two) = (hash(b"secret").unwrap(), hash(b"secret").unwrap());
        assert!(one.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{one}");
        assert_ne!(one, two);
        assert!(verify(b"secret", &one) && verify(b"secret", &two));
        assert!(!verify(b"secret ", &one) && !verify(b"", &one));
        assert!(!verify_nothing(b"nobody's"));
    }

    #[test]
    fn what_is_no_hash_is_told_without_showing_it() {
        for wrong in [
            "",
            "letmein",
            "$1$abc$def",
            "$argon2id$",
            "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ",
            "$2b$10$short",
            "$6$salt$",
            "$y$j9T",
        ] {
            let message = check(wrong).unwrap_err();
            assert!(wrong.is_empty() || !message.contains(wrong), "{message}");
            assert!(!verify(b"letmein", wrong));
        }
        for refused in [&b""[..], b"a\0b", &[b'a'; 1025]] {
            assert!(hash(refused).is_err());
        }
    }
}
