//! One connection from admission to close.

pub(crate) mod driver;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod lingering;
mod program;
pub(crate) mod proxy_header;
pub(crate) mod relay;
pub(crate) mod secure;
pub(crate) mod transport;

#[allow(
    clippy::module_inception,
    reason = "the room and its main piece share the design's word"
)]
pub(crate) mod connection;

pub(crate) use connection::{Connection, Fate};
pub(crate) use lingering::Lingering;
pub(crate) use relay::RelayScratch;
