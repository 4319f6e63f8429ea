#![forbid(unsafe_code)]
//! Configuration: what files say, and what it means.

pub mod plan;
