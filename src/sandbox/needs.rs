#![forbid(unsafe_code)]
//! What a configuration asks of the system beside sockets, each with the place where it says so.

use std::cell::RefCell;
use std::path::PathBuf;

use crate::config::ConfigError;

/// Notes of all that is needed, made while files are read.
pub(crate) type Needs = RefCell<Vec<Need>>;

/// One thing that is needed.
#[derive(Debug, Clone)]
pub(crate) struct Need {
    pub(crate) what: What,
    /// Where it is asked for; the message is empty.
    pub(crate) place: ConfigError,
}

/// What is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum What {
    /// A file is read, also one that takes its place: its directory is.
    File(PathBuf),
    /// A directory and what is below it is read.
    Directory(PathBuf),
    /// A directory and what is below it is changed.
    Writable(PathBuf),
    /// Another server is connected to; by name, which takes a resolver.
    Connect { by_name: bool },
    /// Programs are run. They inherit the sandbox.
    Programs,
}
