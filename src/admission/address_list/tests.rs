#![forbid(unsafe_code)]

mod files;
mod lines;
mod model;

use std::net::IpAddr;
use std::path::Path;

use super::{AddressList, ListError, Source};

#[track_caller]
fn list(text: &str) -> AddressList {
    AddressList::parse(&Source::file(Path::new("test.list"), text)).unwrap()
}

#[track_caller]
fn errors(text: &str) -> Vec<ListError> {
    AddressList::parse(&Source::file(Path::new("test.list"), text)).unwrap_err()
}

#[track_caller]
fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The line that decides, with the sign of the decision.
fn decided(list: &AddressList, address: &str) -> Option<(bool, u32)> {
    let decision = list.decide(address.parse().unwrap())?;
    Some((decision.listed, decision.line))
}
