#![forbid(unsafe_code)]
//! Domains and their certificates: which certificate a connection is shown. No socket.
//!
//! One order, everywhere: the server name (exact, then a one-label wildcard), the domain that holds the
//! connection's local address, the default domain. Another domain's certificate is never used.

mod acceptors;
mod certificate;
mod domains;
mod self_signed;

pub use acceptors::{Acceptors, ClientAuthority, NoCertificate, ticketer};
pub use certificate::{BadCertificate, Certificate, Part};
pub use domains::{By, Domain, Domains, Source};
