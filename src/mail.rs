#![forbid(unsafe_code)]
//! What the mail modules share: mailboxes on disk, SASL, lines of commands. No socket.

pub(crate) mod access;
pub mod delivery;
#[cfg(test)]
pub(crate) mod dialogues;
pub mod flags;
pub mod folder;
pub mod folders;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
pub(crate) mod gate;
pub mod header;
pub mod line;
pub mod lock;
pub mod login;
pub mod maildir;
pub mod mime;
pub mod reply;
pub mod sasl;
pub(crate) mod uids;
pub mod utf7;
pub mod watch;
pub mod wire;
