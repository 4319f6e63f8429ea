#![forbid(unsafe_code)]
//! Names of sockets in `LISTEN_FDNAMES`, which is divided by colons and has no control characters
//! (sd_listen_fds(3)). They are for people; a socket is known by what it is bound to.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// What a name must not have in it.
const SPECIAL: &AsciiSet = &CONTROLS.add(b':').add(b'%').add(b' ');

/// The control socket's name starts so; its path follows.
const CONTROL: &str = "control=";

/// `LISTENER/TRANSPORT/ADDRESS:PORT`, where `*` is all addresses, encoded.
pub(super) fn socket(
    listener: &str,
    transport: &str,
    port: u16,
    address: Option<IpAddr>,
) -> String {
    let place = match address {
        Some(address) => SocketAddr::new(address, port).to_string(),
        None => format!("*:{port}"),
    };
    utf8_percent_encode(&format!("{listener}/{transport}/{place}"), SPECIAL).to_string()
}

/// The name of the control socket at this path.
pub(super) fn control(path: &Path) -> String {
    let path = path.to_string_lossy();
    format!("{CONTROL}{}", utf8_percent_encode(&path, SPECIAL))
}

/// Whether this is the name of the control socket at this path.
pub(super) fn is_control(name: &str, path: &Path) -> bool {
    name == control(path)
}

/// The names in `LISTEN_FDNAMES`, readable again.
pub(super) fn split(names: &str) -> Vec<String> {
    names.split(':').map(str::to_owned).collect()
}

/// A name as people read it.
pub(super) fn shown(name: &str) -> String {
    percent_decode_str(name).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_survives_the_way_whatever_is_in_it() {
        let odd = ["smtp", "a:b", "50%", "with space", "ünïcode", "%3A"];
        let names: Vec<String> = odd
            .iter()
            .map(|name| socket(name, "tcp", 25, "2001:db8::7".parse().ok()))
            .collect();
        let there = split(&names.join(":"));
        assert_eq!(there, names);
        for (name, listener) in there.iter().zip(odd) {
            assert!(name.is_ascii() && !name.chars().any(|c| c.is_control() || c == ' '));
            assert_eq!(shown(name), format!("{listener}/tcp/[2001:db8::7]:25"));
        }
        assert_eq!(shown(&socket("dns", "udp", 53, None)), "dns/udp/*:53");
    }

    #[test]
    fn the_control_socket_is_known_by_its_path() {
        let path = Path::new("/run/a b:c/control.sock");
        assert!(is_control(&control(path), path));
        assert!(!is_control(&control(path), Path::new("/run/control.sock")));
        assert!(!is_control("smtp/tcp/*%3A25", path));
    }
}
