#![forbid(unsafe_code)]
//! A program that takes a connection over, as a session asks for it.

use std::ffi::OsString;
use std::path::PathBuf;

/// Runs a program with the connection as its standard input, output and error.
#[derive(Debug, Clone)]
pub struct Program {
    /// The program's file, then its arguments.
    pub command: Vec<OsString>,
    /// The whole of its environment.
    pub env: Vec<(OsString, OsString)>,
    /// Whom it runs as; `None` is whoever runs us.
    pub user: Option<User>,
}

/// A user of the system. A program that runs as one has that user's group, and no further ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The name in the system's database.
    pub name: String,
    /// The number.
    pub uid: u32,
    /// The number of the user's own group.
    pub gid: u32,
    /// The home directory.
    pub home: PathBuf,
    /// The login shell.
    pub shell: PathBuf,
}
