#![forbid(unsafe_code)]
//! Who gets in: lists, bans, limits, and the ladder that asks them in order. Pure: no socket, clock or thread.
//!
//! [`ladder::clear`] climbs the rungs that look at the address alone; [`limits::Limits::admit`] climbs
//! those that count. What they answer are proofs: [`ladder::Cleared`], then [`ladder::Admitted`].

pub mod address_list;
pub mod bans;
mod explain;
pub mod failures;
pub mod ladder;
pub mod limits;
pub mod overload;
pub mod rates;
pub(crate) mod socket_filter;

#[cfg(test)]
mod rules;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod testing;
