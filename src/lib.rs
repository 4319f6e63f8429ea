//! A listener daemon as a library.

pub mod admission;
pub mod config;
mod connection;
pub mod server;
pub mod session;
