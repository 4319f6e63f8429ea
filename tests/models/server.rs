//! The daemon's own files, where they look for each other.

pub(crate) use crate::poll::{poll_loop, udp_io};
pub(crate) use crate::stubs::census;

pub(crate) const SIGNAL: crate::sync::Token = crate::sync::Token(1);

#[path = "../../src/server/baton.rs"]
pub(crate) mod baton;
#[path = "../../src/server/parked.rs"]
pub(crate) mod parked;
#[path = "../../src/server/queue.rs"]
pub(crate) mod queue;
