#![forbid(unsafe_code)]
//! stub
use std::net::SocketAddr;
pub(crate) const LONGEST: usize = 4112;
pub(crate) enum Parsed {
    NeedMore,
    Header {
        addresses: Option<(SocketAddr, SocketAddr)>,
        length: usize,
    },
    Bad(&'static str),
}
pub(crate) fn parse(_: &[u8]) -> Parsed {
    Parsed::Bad("stub")
}
