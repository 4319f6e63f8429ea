#![forbid(unsafe_code)]
//! How POP3 is logged in with at another server.

use crate::mail::gate::{Dialect, Step};
use crate::mail::sasl::Credentials;

/// What is waited for.
#[derive(Debug, Clone, Copy, Default)]
pub(super) enum Pop3 {
    #[default]
    Greeting,
    User,
    Pass,
}

impl Dialect for Pop3 {
    const NAME: &'static str = "POP3";

    fn heard(&mut self, line: &[u8], credentials: &Credentials) -> Step {
        let is_positive = line.starts_with(b"+OK");
        if !is_positive && !line.starts_with(b"-ERR") {
            return Step::Lost("it does not speak POP3".to_owned());
        }
        match self {
            Pop3::Greeting if !is_positive => {
                let said = String::from_utf8_lossy(line).trim_end().to_owned();
                Step::Lost(format!("it said {said}"))
            }
            Pop3::Greeting => {
                *self = Pop3::User;
                Step::Say(format!("USER {}\r\n", credentials.name).into_bytes())
            }
            _ if !is_positive => Step::Refused(line.to_vec()),
            Pop3::User => {
                *self = Pop3::Pass;
                Step::Say([b"PASS ", &credentials.password[..], b"\r\n"].concat())
            }
            Pop3::Pass => Step::In(line.to_vec()),
        }
    }
}
