#![no_main]
//! PROXY headers, against the ppp crate. It takes more than we do, but what we take it takes alike.

use std::net::{IpAddr, SocketAddr};

use ppp::{HeaderResult, v1, v2};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Some((Some((source, destination)), length)) = portreeve::fuzzing::proxy_header(bytes) {
        let theirs = theirs(&bytes[..length]).map(|addresses| addresses.map(canonical));
        assert_eq!(theirs, Some([source, destination]));
    }
});

fn canonical((ip, port): (IpAddr, u16)) -> SocketAddr {
    SocketAddr::new(ip.to_canonical(), port)
}

fn theirs(header: &[u8]) -> Option<[(IpAddr, u16); 2]> {
    match HeaderResult::parse(header) {
        HeaderResult::V1(Ok(header)) => match header.addresses {
            v1::Addresses::Tcp4(it) => Some([
                (it.source_address.into(), it.source_port),
                (it.destination_address.into(), it.destination_port),
            ]),
            v1::Addresses::Tcp6(it) => Some([
                (it.source_address.into(), it.source_port),
                (it.destination_address.into(), it.destination_port),
            ]),
            v1::Addresses::Unknown => None,
        },
        HeaderResult::V2(Ok(header)) => match header.addresses {
            v2::Addresses::IPv4(it) => Some([
                (it.source_address.into(), it.source_port),
                (it.destination_address.into(), it.destination_port),
            ]),
            v2::Addresses::IPv6(it) => Some([
                (it.source_address.into(), it.source_port),
                (it.destination_address.into(), it.destination_port),
            ]),
            _ => None,
        },
        _ => None,
    }
}
