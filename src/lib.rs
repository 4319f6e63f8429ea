//! Portreeve: admission by address, TLS and protocol modules on one poll loop.

pub mod admission;
