#![forbid(unsafe_code)]
//! Certificates that we sign ourselves, for the demo and for tests; kept, so that whoever has come to trust
//! one is not asked again at each start.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair, SanType};
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

use super::certificate::Certificate;
use super::domains::Domain;
use crate::files::replace_private;

/// How long one lives. Clients take 825 days at most, of which one lies in the past.
const LIFE: Duration = Duration::from_secs(824 * 86_400);
/// One that ends within this time is made anew.
const RENEW: Duration = Duration::from_secs(30 * 86_400);

/// The domain's certificate: the one made before where it still fits, else a new one.
pub(super) fn certificate(
    domain: &Domain,
    state_dir: &Path,
    now: SystemTime,
) -> io::Result<Certificate> {
    let folder = state_dir.join("tls");
    let file = folder.join(format!("{}.pem", domain.name.replace('*', "_")));
    let at_file =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", file.display()));
    if let Ok(kept) = Certificate::read(&file, &file)
        && kept.expires() > now + RENEW
        && names_of(&kept) == wanted(domain)
    {
        // Whoever loosened it did not mean to.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).map_err(at_file)?;
        return Ok(kept);
    }
    let pem = make(domain, now).map_err(io::Error::other)?;
    fs::create_dir_all(&folder).map_err(at_file)?;
    replace_private(&file, pem.as_bytes()).map_err(at_file)?;
    Certificate::read(&file, &file).map_err(|bad| at_file(io::Error::other(bad)))
}

/// Key and certificate in one PEM text, so that they cannot come from two makings.
fn make(domain: &Domain, now: SystemTime) -> Result<String, rcgen::Error> {
    let names: Vec<String> = std::iter::once(&domain.name)
        .chain(&domain.aliases)
        .cloned()
        .collect();
    let mut params = CertificateParams::new(names)?;
    let addresses = domain.addresses.iter().copied();
    params
        .subject_alt_names
        .extend(addresses.map(SanType::IpAddress));
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, domain.name.as_str());
    // Clocks differ; a day is what clients forgive.
    params.not_before = (now - Duration::from_secs(86_400)).into();
    params.not_after = (now + LIFE).into();
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok(key.serialize_pem() + &certificate.pem())
}

fn wanted(domain: &Domain) -> BTreeSet<String> {
    let names = std::iter::once(&domain.name).chain(&domain.aliases);
    let addresses = domain.addresses.iter().map(IpAddr::to_string);
    names.cloned().chain(addresses).collect()
}

/// The names and addresses that a certificate is for.
fn names_of(certificate: &Certificate) -> BTreeSet<String> {
    let leaf = certificate.key().cert.first();
    let parsed = leaf.and_then(|leaf| Some(parse_x509_certificate(leaf).ok()?.1));
    let Some(Ok(Some(names))) = parsed
        .as_ref()
        .map(|parsed| parsed.subject_alternative_name())
    else {
        return BTreeSet::new();
    };
    let names = names.value.general_names.iter();
    names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
            _ => None,
        })
        .collect()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(four));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::{Duration, SystemTime};

    use super::{LIFE, certificate};
    use crate::tls::{Domain, Source};

    #[test]
    fn one_is_made_once_kept_to_its_owner_and_made_anew_when_it_no_longer_fits() {
        let home = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let mut domain = Domain {
            name: "example.test".to_owned(),
            aliases: vec!["*.example.test".to_owned()],
            addresses: vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()],
            certificate: Source::SelfSigned,
        };
        let first = certificate(&domain, home.path(), now).unwrap();
        assert!(first.serves("example.test") && first.serves("*.example.test"));
        assert!(first.serves("127.0.0.1") && !first.serves("other.test"));
        let file = home.path().join("tls/example.test.pem");
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = certificate(&domain, home.path(), now).unwrap();
        assert_eq!(first.key().cert, again.key().cert, "kept");
        domain.aliases.push("further.test".to_owned());
        let wider = certificate(&domain, home.path(), now).unwrap();
        assert!(wider.serves("further.test"));
        let later = now + LIFE - Duration::from_secs(86_400);
        let renewed = certificate(&domain, home.path(), later).unwrap();
        assert!(renewed.expires() > wider.expires());
        std::fs::write(&file, "nonsense").unwrap();
        assert!(certificate(&domain, home.path(), now).is_ok());
    }
}
