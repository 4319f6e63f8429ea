#![forbid(unsafe_code)]
//! A chain and its key, read and found to belong together.

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::verify_server_name;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use x509_parser::parse_x509_certificate;
use zeroize::Zeroizing;

/// A certificate chain with its private key.
#[derive(Debug)]
pub struct Certificate {
    key: Arc<CertifiedKey>,
    expires: SystemTime,
}

/// Which of the two files is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The chain.
    Chain,
    /// The key.
    Key,
}

/// A certificate that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadCertificate {
    /// The file at fault.
    pub part: Part,
    /// What is wrong with it.
    pub why: String,
}

impl fmt::Display for BadCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for BadCertificate {}

impl Certificate {
    /// Reads a PEM chain, the server's certificate first, and its PEM key (PKCS #8, PKCS #1 or SEC 1).
    ///
    /// # Errors
    /// A file that cannot be read or holds nothing of its kind, or two that do not belong together.
    pub fn read(chain: &Path, key: &Path) -> Result<Self, BadCertificate> {
        let bad_chain = |why: String| BadCertificate {
            part: Part::Chain,
            why,
        };
        let bad_key = |why: String| BadCertificate {
            part: Part::Key,
            why,
        };
        let certificates = authorities(chain).map_err(bad_chain)?;
        // The text is wiped when it was read; where the key goes from there is rustls' care.
        let text = fs::read(key).map(Zeroizing::new).map_err(pem::Error::Io);
        let der = text.and_then(|text| PrivateKeyDer::from_pem_slice(&text));
        let der = der.map_err(|error| {
            bad_key(match &error {
                pem::Error::NoItemsFound => {
                    "no PEM private key in this file (one behind a pass phrase cannot be used)"
                        .to_owned()
                }
                error => pem_words(error),
            })
        })?;
        Self::from_der(certificates, der)
    }

    /// Makes one of a DER chain and key.
    ///
    /// # Errors
    /// They cannot be read or do not belong together.
    pub fn from_der(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, BadCertificate> {
        let bad_chain = |why: &str| BadCertificate {
            part: Part::Chain,
            why: why.to_owned(),
        };
        let Some(leaf) = chain.first() else {
            return Err(bad_chain("no certificate"));
        };
        let expires =
            expiry(leaf).ok_or_else(|| bad_chain("the first certificate is not X.509"))?;
        let provider = aws_lc_rs::default_provider();
        let key = CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => BadCertificate {
                part: Part::Key,
                why: "this key does not belong to the certificate".to_owned(),
            },
            rustls::Error::InvalidCertificate(_) => bad_chain(&error.to_string()),
            error => BadCertificate {
                part: Part::Key,
                why: error.to_string(),
            },
        })?;
        Ok(Certificate {
            key: Arc::new(key),
            expires,
        })
    }

    /// The chain and the key, as rustls takes them.
    #[must_use]
    pub fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    /// After this it is refused by clients.
    #[must_use]
    pub fn expires(&self) -> SystemTime {
        self.expires
    }

    /// True when clients that ask for `name` take it (RFC 6125); for a wildcard, one of its names.
    #[must_use]
    pub fn serves(&self, name: &str) -> bool {
        let name = match name.strip_prefix("*.") {
            Some(suffix) => format!("any.{suffix}"),
            None => name.to_owned(),
        };
        let leaf = self.key.cert.first();
        leaf.and_then(|leaf| {
            let parsed = ParsedCertificate::try_from(leaf).ok()?;
            verify_server_name(&parsed, &ServerName::try_from(name).ok()?).ok()
        })
        .is_some()
    }
}

/// The certificates of a PEM file, at least one.
///
/// # Errors
/// It cannot be read, or holds none, in words.
pub(super) fn authorities(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| pem_words(&error))?;
    if certificates.is_empty() {
        return Err("no PEM certificate in this file".to_owned());
    }
    Ok(certificates)
}

fn pem_words(error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) if error.kind() == io::ErrorKind::NotFound => {
            "no such file".to_owned()
        }
        pem::Error::Io(error) => format!("cannot read it: {error}"),
        pem::Error::MissingSectionEnd { .. } => "not PEM: cut short".to_owned(),
        error => format!("not PEM: {error}"),
    }
}

fn expiry(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, parsed) = parse_x509_certificate(certificate).ok()?;
    let seconds = parsed.validity().not_after.timestamp();
    Some(match u64::try_from(seconds) {
        Ok(after) => SystemTime::UNIX_EPOCH + Duration::from_secs(after),
        Err(_) => SystemTime::UNIX_EPOCH,
    })
}
