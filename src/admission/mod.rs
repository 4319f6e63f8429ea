//! Who may talk, and how many at once. Pure: no socket, clock or thread in here.

pub mod address_list;
pub mod bans;
pub mod ladder;
pub mod limits;
#[cfg(test)]
mod simulation;
