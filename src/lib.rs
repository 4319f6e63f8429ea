#![forbid(unsafe_code)]
//! Portreeve: a listener daemon and library.
//!
//! ```text
//!           poll thread                            |        worker threads (fixed number)
//!     socket -accept-> admission -Admitted-> Connection -queue-> turn: flush, read, TLS, session, write
//!        ^                | no                                         |
//!        |                +-> closed, counted                          |  more to do -> back of the queue
//!        +-- readiness or deadline --- Parked <---- silent ------------+  done -> slot freed, closed
//!     UDP: socket -recv batch-> admission -> queue -> module.answer -> send batch
//! ```
//!
//! A program that brings its own protocol implements [`session::Module`], puts it into a
//! [`config::plan::Plan`] and runs a [`server::Server`].

pub mod accounts;
mod admin;
pub mod admission;
pub mod cli;
pub mod config;
mod connection;
pub mod control;
pub mod dialogue;
mod files;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod http;
mod ldap;
pub mod mail;
#[cfg(feature = "manual")]
pub mod manual;
pub mod modules;
mod moment;
mod patience;
pub mod privileges;
pub mod sandbox;
pub mod server;
mod service;
pub mod session;
mod shared;
mod sync;
pub mod tls;
mod upgrade;
pub mod upstream;

/// The page on modules, compiled and run with the tests.
#[cfg(doctest)]
#[doc = include_str!("../docs/modules.md")]
pub struct ModulesPage;
