#![forbid(unsafe_code)]
//! Descriptors: as many as the system gives, and whether they are enough.

use crate::config::plan::{Plan, Protocol};

/// Raises the limit of open descriptors as far as the system lets us; what it is then.
pub(super) fn raise() -> u64 {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return u64::MAX;
    };
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        hard
    } else {
        soft
    }
}

/// Says at start when channels cannot all be served.
pub(super) fn warn(plan: &Plan, descriptors: u64) {
    let mut need = 64;
    for listener in &plan.listeners {
        need += listener.sockets.len() as u64;
        if let Protocol::Tcp(tcp) = &listener.protocol {
            need += u64::from(tcp.limits.channels);
        }
    }
    if need > descriptors {
        log::warn!(
            "the channels of all listeners need {need} descriptors, the system gives {descriptors}: \
             newcomers will wait when they run out (raise the hard limit, see ulimit -Hn)"
        );
    }
}
