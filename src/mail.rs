#![forbid(unsafe_code)]
//! What the mail modules share: mailboxes on disk, SASL, lines of commands. No socket.

pub mod delivery;
#[cfg(test)]
pub(crate) mod dialogues;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
pub mod line;
pub mod lock;
pub mod login;
pub mod maildir;
pub mod reply;
pub mod sasl;
pub mod watch;
