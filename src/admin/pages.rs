#![forbid(unsafe_code)]
//! The pages.

mod addresses;
mod listener;
mod overview;
mod traffic;

pub(super) use addresses::TypedList;
pub(super) use listener::Typed;
