#![forbid(unsafe_code)]
//! Portreeve: a listener daemon and library.

pub mod admission;
pub mod config;
pub mod session;
