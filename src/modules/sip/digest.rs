#![forbid(unsafe_code)]
//! Digest authentication (RFC 7616, RFC 8760): challenges, and the proof that somebody knows a secret.
//!
//! A nonce tells when it was given and is signed together with the address it was given to, so none is kept
//! before it is used. What was used is kept, in a bounded table, so that no answer counts twice.

use std::net::IpAddr;

use aws_lc_rs::digest as sha;
use hashlink::LinkedHashMap;
use md5::Digest as _;
use subtle::ConstantTimeEq;

use super::flow::Signer;
use super::uri::{split, trim, unquote};

/// How long a nonce is good, in seconds.
pub(super) const NONCE_LIFE: u64 = 300;
/// Requests that come again within so many seconds are challenged alike.
const NONCE_STEP: u64 = 4;
/// Nonces in use that are remembered. When there are more, the oldest is forgotten, and with it all that were
/// given before it count as too old: their users are challenged anew.
const MOST_NONCES: usize = 65_536;
/// Hexadecimal digits of a nonce: time, salt, signature.
const NONCE: usize = 8 + 16 + 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Md5,
    Sha256,
}

impl Algorithm {
    pub(super) fn name(self) -> &'static str {
        match self {
            Algorithm::Md5 => "MD5",
            Algorithm::Sha256 => "SHA-256",
        }
    }

    pub(super) fn of(name: &str) -> Option<Self> {
        [Algorithm::Md5, Algorithm::Sha256]
            .into_iter()
            .find(|algorithm| algorithm.name().eq_ignore_ascii_case(name))
    }

    fn hash(self, texts: &[&str]) -> String {
        let text = texts.join(":");
        match self {
            Algorithm::Md5 => hex(&md5::Md5::digest(text.as_bytes())),
            Algorithm::Sha256 => hex(sha::digest(&sha::SHA256, text.as_bytes()).as_ref()),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What an Authorization field says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) username: String,
    realm: String,
    nonce: String,
    uri: String,
    response: String,
    algorithm: Algorithm,
    /// `cnonce` and `nc`; none in the manner of RFC 2069, which RFC 7616 lets servers still take.
    quality: Option<(String, String)>,
}

impl Credentials {
    /// `None` for another scheme, another realm, an algorithm that was not offered, or nonsense.
    pub(super) fn parse(value: &str, realm: &str) -> Option<Self> {
        let (scheme, rest) = value.split_once([' ', '\t'])?;
        if !scheme.eq_ignore_ascii_case("digest") {
            return None;
        }
        let mut params = Vec::new();
        for piece in split(rest, b',')? {
            let (name, value) = piece.split_once('=')?;
            params.push((trim(name), unquote(trim(value))));
        }
        let find = |wanted: &str| {
            let mut found = params
                .iter()
                .filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
            found
                .next()
                .map(|(_, value)| value.clone())
                .filter(|_| found.next().is_none())
        };
        let algorithm = match find("algorithm") {
            Some(name) => Algorithm::of(&name)?,
            None => Algorithm::Md5,
        };
        let quality = match find("qop") {
            Some(qop) if qop.eq_ignore_ascii_case("auth") => Some((find("cnonce")?, find("nc")?)),
            Some(_) => return None,
            None => None,
        };
        let credentials = Credentials {
            username: find("username")?,
            realm: find("realm")?,
            nonce: find("nonce")?,
            uri: find("uri")?,
            response: find("response")?,
            algorithm,
            quality,
        };
        (credentials.realm == realm).then_some(credentials)
    }

    /// Whether who made them knew the secret (RFC 7616, 3.4.1).
    pub(super) fn fits(&self, method: &str, secret: &str) -> bool {
        let right = self.response_for(method, secret);
        let said = self.response.to_ascii_lowercase();
        right.as_bytes().ct_eq(said.as_bytes()).into()
    }

    pub(super) fn response_for(&self, method: &str, secret: &str) -> String {
        let hash = |texts: &[&str]| self.algorithm.hash(texts);
        let (user, action) = (
            hash(&[&self.username, &self.realm, secret]),
            hash(&[method, &self.uri]),
        );
        match &self.quality {
            Some((cnonce, nc)) => hash(&[&user, &self.nonce, nc, cnonce, "auth", &action]),
            None => hash(&[&user, &self.nonce, &action]),
        }
    }

    /// How often the nonce was used, this time included.
    fn count(&self) -> Option<u32> {
        match &self.quality {
            Some((_, nc)) if nc.len() == 8 => u32::from_str_radix(nc, 16).ok(),
            Some(_) => None,
            None => Some(1),
        }
    }
}

/// What is known of a nonce that came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    /// Ours, and in its time.
    Fresh,
    /// Ours but too old, or not ours at all.
    Stale,
}

/// What an answer that is right counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    First,
    /// The same request once more: its answer was lost.
    Again,
    /// Somebody uses what was used before.
    Replay,
}

/// Makes a nonce for a request, by its `seed`, from `address`.
pub(super) fn nonce(signer: &Signer, seed: &[&[u8]], address: IpAddr, now: u64) -> String {
    let time = now / NONCE_STEP * NONCE_STEP;
    let head = format!("{time:08x}{}", hex(&signer.sign("salt", seed)[..8]));
    let signature = signature(signer, &head, address);
    head + &signature
}

fn signature(signer: &Signer, head: &str, address: IpAddr) -> String {
    let address = address.to_string();
    hex(&signer.sign("nonce", &[head.as_bytes(), address.as_bytes()])[..16])
}

impl Credentials {
    /// Whether their nonce is one of ours, for that address, and in its time.
    pub(super) fn freshness(&self, signer: &Signer, address: IpAddr, now: u64) -> Freshness {
        let nonce = &*self.nonce;
        if nonce.len() != NONCE || !nonce.is_ascii() {
            return Freshness::Stale;
        }
        let (head, signed) = nonce.split_at(24);
        let ours: bool = signature(signer, head, address)
            .as_bytes()
            .ct_eq(signed.as_bytes())
            .into();
        match given(head) {
            Some(given) if ours && given <= now && now - given <= NONCE_LIFE => Freshness::Fresh,
            _ => Freshness::Stale,
        }
    }
}

/// When a nonce was given, in seconds of the epoch.
fn given(nonce: &str) -> Option<u64> {
    u64::from_str_radix(nonce.get(..8)?, 16).ok()
}

/// Nonces that were used.
#[derive(Default)]
pub(super) struct Used {
    /// The highest count of each, and what it was used for, in the order of their first use.
    table: LinkedHashMap<String, (u32, [u8; 32])>,
    /// Of nonces given up to here, all that are in use are in the table.
    forgotten: u64,
}

impl Used {
    /// Notes the use of a nonce that is fresh; `request` is what makes a request the same.
    pub(super) fn note(&mut self, credentials: &Credentials, request: [u8; 32], now: u64) -> Use {
        let (Some(count), Some(given)) = (credentials.count(), given(&credentials.nonce)) else {
            return Use::Replay;
        };
        if let Some((highest, latest)) = self.table.get_mut(&credentials.nonce) {
            // A phone that hears a challenge twice answers twice, counting on, and repeats the first answer.
            if count <= *highest {
                return if *latest == request {
                    Use::Again
                } else {
                    Use::Replay
                };
            }
            (*highest, *latest) = (count, request);
            return Use::First;
        }
        if given <= self.forgotten {
            return Use::Replay;
        }
        while let Some((oldest, _)) = self.table.front() {
            let oldest = self::given(oldest).unwrap_or_default();
            let expired = oldest + NONCE_LIFE < now;
            if !expired && self.table.len() < MOST_NONCES {
                break;
            }
            if !expired {
                self.forgotten = self.forgotten.max(oldest);
            }
            self.table.pop_front();
        }
        self.table
            .insert(credentials.nonce.clone(), (count, request));
        Use::First
    }
}

#[cfg(test)]
mod tests {
    use super::{Algorithm, Credentials, Freshness, MOST_NONCES, NONCE_LIFE, Use, Used, nonce};
    use crate::modules::sip::flow::Signer;

    #[test]
    fn the_examples_of_rfc_7616_fit() {
        let say = |algorithm: &str, response: &str| {
            let value = format!(
                "Digest username=\"Mufasa\", realm=\"http-auth@example.org\", uri=\"/dir/index.html\", \
                 algorithm={algorithm}, nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", nc=00000001, \
                 cnonce=\"f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ\", qop=auth, response=\"{response}\", \
                 opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\""
            );
            Credentials::parse(&value, "http-auth@example.org").unwrap()
        };
        assert!(say("MD5", "8ca523f5e9506fed4657c9700eebdbec").fits("GET", "Circle of Life"));
        let sha = "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1";
        assert!(say("SHA-256", sha).fits("GET", "Circle of Life"));
        assert!(!say("SHA-256", sha).fits("GET", "circle of life"));
        assert!(!say("SHA-256", sha).fits("POST", "Circle of Life"));
        assert!(!say("SHA-256", "").fits("GET", "Circle of Life"));
    }

    #[test]
    fn what_is_no_digest_of_ours_is_none() {
        let good = "Digest username=\"a\", realm=\"r\", nonce=\"n\", uri=\"u\", response=\"x\"";
        assert!(Credentials::parse(good, "r").is_some());
        for bad in [
            "",
            "Basic YTpi",
            "NoOneKnowsThisScheme opaque-data=here",
            &good.replace("realm=\"r\"", "realm=\"s\""),
            &good.replace("nonce=\"n\", ", ""),
            &format!("{good}, username=\"b\""),
            &format!("{good}, algorithm=SHA-512-256"),
            &format!("{good}, qop=auth-int, nc=00000001, cnonce=\"c\""),
            &format!("{good}, qop=auth, nc=00000001"),
            &format!("{good}, x"),
            &format!("{good}, x=\"y"),
        ] {
            assert_eq!(Credentials::parse(bad, "r"), None, "{bad}");
        }
    }

    fn with(nonce: &str, count: u32) -> Credentials {
        Credentials {
            username: "a".into(),
            realm: "r".into(),
            nonce: nonce.into(),
            uri: "u".into(),
            response: String::new(),
            algorithm: Algorithm::Md5,
            quality: Some(("c".into(), format!("{count:08x}"))),
        }
    }

    #[test]
    fn a_nonce_is_good_for_its_address_and_its_time() {
        let (signer, here, there) = (
            Signer::new(b"k"),
            [192, 0, 2, 1].into(),
            [192, 0, 2, 2].into(),
        );
        let made = nonce(&signer, &[b"seed"], here, 1000);
        assert_eq!(
            made,
            nonce(&signer, &[b"seed"], here, 1003),
            "a repeated request's"
        );
        let fresh = |nonce: &str, address, now| with(nonce, 1).freshness(&signer, address, now);
        assert_eq!(fresh(&made, here, 1000), Freshness::Fresh);
        assert_eq!(fresh(&made, here, 1000 + NONCE_LIFE), Freshness::Fresh);
        assert_eq!(fresh(&made, here, 1001 + NONCE_LIFE), Freshness::Stale);
        assert_eq!(fresh(&made, here, 900), Freshness::Stale);
        assert_eq!(fresh(&made, there, 1000), Freshness::Stale);
        assert_eq!(
            fresh(&made.replacen('0', "1", 1), here, 1000),
            Freshness::Stale
        );
        assert_eq!(fresh("", here, 1000), Freshness::Stale);
        assert_eq!(fresh(&"\u{e4}".repeat(28), here, 1000), Freshness::Stale);
    }

    #[test]
    fn an_answer_counts_once_and_its_repetition_is_known() {
        let mut used = Used::default();
        let signer = Signer::new(b"k");
        let made = nonce(&signer, &[b"seed"], [192, 0, 2, 1].into(), 1000);
        let mut note = |count, request| used.note(&with(&made, count), [request; 32], 1000);
        assert_eq!(note(1, 1), Use::First);
        assert_eq!(note(1, 1), Use::Again);
        assert_eq!(note(1, 2), Use::Replay);
        assert_eq!(note(3, 3), Use::First);
        assert_eq!(note(2, 2), Use::Replay);
        assert_eq!(note(3, 3), Use::Again);
        assert_eq!(note(4, 3), Use::First);
        assert_eq!(note(3, 3), Use::Again);
    }

    #[test]
    fn what_is_forgotten_is_too_old() {
        let mut used = Used::default();
        let signer = Signer::new(b"k");
        let made = |seed: usize, time| {
            let seed = seed.to_be_bytes();
            nonce(&signer, &[&seed], [192, 0, 2, 1].into(), time)
        };
        for seed in 0..=MOST_NONCES {
            let time = 1000 + (seed as u64) / 1000;
            assert_eq!(
                used.note(&with(&made(seed, time), 1), [1; 32], 1100),
                Use::First
            );
        }
        assert_eq!(used.table.len(), MOST_NONCES);
        assert_eq!(
            used.note(&with(&made(0, 1000), 1), [1; 32], 1100),
            Use::Replay
        );
        assert_eq!(
            used.note(&with(&made(0, 1100), 1), [1; 32], 1100),
            Use::First
        );
        // Later all are out of their time, and there is room again.
        assert_eq!(
            used.note(&with(&made(0, 2000), 1), [1; 32], 2000),
            Use::First
        );
        assert_eq!(used.table.len(), 1);
    }
}
