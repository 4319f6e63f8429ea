#![forbid(unsafe_code)]
//! One process in the place of another: listening sockets by the `LISTEN_FDS` convention of sd_listen_fds(3), so that
//! a service manager hands them over by the same way, and a conversation about who serves.
//!
//! The old process starts the new one as it was started itself. The new one has its half of a socket pair as its
//! standard input, builds everything that can fail, and says `ready`; the old one lets go of the sockets and says
//! `yours`; the new one takes the control socket's lock and says `serving`. Between `ready` and `yours`, some
//! milliseconds, nobody accepts, and newcomers wait in the kernel's queues. Until `ready` nothing has changed: a new
//! process that says `failed`, ends, or takes too long is ended, and the old one serves on.

mod heir;
mod heritage;
mod names;

pub(crate) use heir::{Gift, Heir, PATIENCE, Succession};
pub(crate) use heritage::{Given, Heritage, Predecessor};

/// Set for a process that takes another's place, to that one's id. Whoever has it from somewhere else is no child of
/// that process.
const MARK: &str = "PORTREEVE_UPGRADE";

/// What the two processes say, a line each.
mod word {
    /// The new one: everything is built.
    pub(super) const READY: &str = "ready";
    /// The old one: the sockets are yours alone.
    pub(super) const YOURS: &str = "yours";
    /// The new one: callers are answered by me.
    pub(super) const SERVING: &str = "serving";
    /// The new one: why it cannot start. The reason follows, `\n` written as `\t`.
    pub(super) const FAILED: &str = "failed ";
}
