#![forbid(unsafe_code)]
//! SASL (RFC 4422): PLAIN (RFC 4616) and LOGIN, which is no standard but what old clients speak.
//!
//! Sans-IO: lines of base64 in, challenges in base64 or credentials out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::line::split_command;

/// The longest line of an exchange with its CRLF (RFC 4954, 4: 12,288 octets of base64).
pub const LONGEST_LINE: usize = 12_288 + 2;

/// A name and a password as a client gave them.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Whose password it is (authcid).
    pub name: String,
    /// The password's bytes.
    pub password: Vec<u8>,
}

/// Without the password, which belongs in no log.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What the server does next.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Sends this text as a challenge: base64, maybe empty.
    Challenge(&'static str),
    /// Verifies a password.
    Verify(Credentials),
}

/// Why an exchange ends without credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaslError {
    /// The client cancelled it with `*`.
    Cancelled,
    /// No base64.
    NotBase64,
    /// Not what the mechanism asks for.
    Malformed,
}

/// An exchange under way.
#[derive(Debug)]
pub enum Exchange {
    /// PLAIN waits for its only message.
    Plain,
    /// LOGIN waits for the name.
    LoginName,
    /// LOGIN waits for the password.
    LoginPassword(String),
}

/// The mechanisms, as EHLO and CAPA list them.
pub const MECHANISMS: &str = "PLAIN LOGIN";

impl Exchange {
    /// The exchange of a mechanism; `None` for one that is not offered.
    #[must_use]
    pub fn of(mechanism: &str) -> Option<Self> {
        match mechanism.to_ascii_uppercase().as_str() {
            "PLAIN" => Some(Exchange::Plain),
            "LOGIN" => Some(Exchange::LoginName),
            _ => None,
        }
    }

    /// Begins the exchange that a command asks for: what follows its verb is a mechanism, and maybe an initial
    /// response (RFC 4954, 4; RFC 5034, 4; RFC 4959, 3). `None` for a mechanism that is not offered.
    #[must_use]
    pub fn open(argument: &[u8]) -> Option<(Self, Result<Step, SaslError>)> {
        let (mechanism, initial) = split_command(argument);
        let mut exchange = Exchange::of(&mechanism)?;
        let step = exchange.begin((!initial.is_empty()).then_some(initial));
        Some((exchange, step))
    }

    /// Begins, with the initial response if the client gave one (RFC 4954, 4: `=` stands for an empty one).
    ///
    /// # Errors
    /// See [`SaslError`].
    pub fn begin(&mut self, initial: Option<&[u8]>) -> Result<Step, SaslError> {
        match (initial, &self) {
            (Some(b"="), _) => self.take(Vec::new()),
            (Some(initial), _) => self.respond(initial),
            (None, Exchange::Plain) => Ok(Step::Challenge("")),
            // "Username:"
            (None, _) => Ok(Step::Challenge("VXNlcm5hbWU6")),
        }
    }

    /// Goes on with the client's line.
    ///
    /// # Errors
    /// See [`SaslError`].
    pub fn respond(&mut self, line: &[u8]) -> Result<Step, SaslError> {
        if line == b"*" {
            return Err(SaslError::Cancelled);
        }
        let message = STANDARD.decode(line).map_err(|_| SaslError::NotBase64)?;
        self.take(message)
    }

    fn take(&mut self, message: Vec<u8>) -> Result<Step, SaslError> {
        match self {
            Exchange::Plain => plain(&message).map(Step::Verify),
            Exchange::LoginName => {
                *self = Exchange::LoginPassword(name(&message)?);
                // "Password:"
                Ok(Step::Challenge("UGFzc3dvcmQ6"))
            }
            Exchange::LoginPassword(name) => {
                let name = std::mem::take(name);
                credentials(name, &message).map(Step::Verify)
            }
        }
    }
}

/// `[authzid] NUL authcid NUL password` (RFC 4616, 2). To act for somebody else is not offered.
fn plain(message: &[u8]) -> Result<Credentials, SaslError> {
    let mut parts = message.split(|byte| *byte == 0);
    let (Some(acts_for), Some(who), Some(password), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(SaslError::Malformed);
    };
    if !acts_for.is_empty() && !acts_for.eq_ignore_ascii_case(who) {
        return Err(SaslError::Malformed);
    }
    credentials(name(who)?, password)
}

fn credentials(name: String, password: &[u8]) -> Result<Credentials, SaslError> {
    // What an upstream is told stands in a line, too.
    if password.is_empty() || password.iter().any(|byte| b"\0\r\n".contains(byte)) {
        return Err(SaslError::Malformed);
    }
    Ok(Credentials {
        name,
        password: password.to_vec(),
    })
}

fn name(bytes: &[u8]) -> Result<String, SaslError> {
    let name = std::str::from_utf8(bytes).map_err(|_| SaslError::Malformed)?;
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err(SaslError::Malformed);
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Credentials, Exchange, SaslError, Step};

    fn verify(name: &str, password: &str) -> Result<Step, SaslError> {
        Ok(Step::Verify(Credentials {
            name: name.to_owned(),
            password: password.as_bytes().to_vec(),
        }))
    }

    #[test]
    fn plain_takes_one_message() {
        let mut plain = Exchange::of("plain").unwrap();
        // RFC 4954, 4.1 and RFC 5034, 6: "\0test\0test", "test\0test\0test".
        assert_eq!(
            plain.begin(Some(b"AHRlc3QAdGVzdA==")),
            verify("test", "test")
        );
        assert_eq!(
            plain.begin(Some(b"dGVzdAB0ZXN0AHRlc3Q=")),
            verify("test", "test")
        );
        assert_eq!(plain.begin(None), Ok(Step::Challenge("")));
        assert_eq!(plain.respond(b"AHRlc3QAdGVzdA=="), verify("test", "test"));
    }

    #[test]
    fn login_asks_for_a_name_and_a_password() {
        let mut login = Exchange::of("LOGIN").unwrap();
        assert_eq!(login.begin(None), Ok(Step::Challenge("VXNlcm5hbWU6")));
        assert_eq!(login.respond(b"YW5u"), Ok(Step::Challenge("UGFzc3dvcmQ6")));
        assert_eq!(login.respond(b"c2VjcmV0"), verify("ann", "secret"));
        let mut login = Exchange::of("LOGIN").unwrap();
        assert_eq!(
            login.begin(Some(b"YW5u")),
            Ok(Step::Challenge("UGFzc3dvcmQ6"))
        );
    }

    #[test]
    fn a_command_names_the_mechanism_and_may_bring_the_first_response() {
        let open = |argument: &str| Exchange::open(argument.as_bytes()).map(|(_, step)| step);
        assert_eq!(open("plain"), Some(Ok(Step::Challenge(""))));
        assert_eq!(open("PLAIN AHRlc3QAdGVzdA=="), Some(verify("test", "test")));
        assert_eq!(
            open("LOGIN  YW5u"),
            Some(Ok(Step::Challenge("UGFzc3dvcmQ6")))
        );
        assert_eq!(open("PLAIN ="), Some(Err(SaslError::Malformed)));
        assert_eq!(open("PLAIN *"), Some(Err(SaslError::Cancelled)));
        assert_eq!(open("CRAM-MD5"), None);
        assert_eq!(open(""), None);
    }

    #[test]
    fn what_is_no_credentials_is_refused() {
        assert!(Exchange::of("CRAM-MD5").is_none());
        for (line, error) in [
            (&b"*"[..], SaslError::Cancelled),
            (b"AHRlc3QAdGVzdA", SaslError::NotBase64),
            (b"AHRlc3QAdGVzdA==\t", SaslError::NotBase64),
            (b"", SaslError::Malformed),
            (b"dGVzdA==", SaslError::Malformed),
            // "bob\0ann\0x": acts for somebody else; "\0ann\0": no password; "\0ann\0a\0b".
            (b"Ym9iAGFubgB4", SaslError::Malformed),
            (b"AGFubgA=", SaslError::Malformed),
            (b"AGFubgBhAGI=", SaslError::Malformed),
            // "\0ann\0a\r\nDELE 1"
            (b"AGFubgBhDQpERUxFIDE=", SaslError::Malformed),
        ] {
            assert_eq!(Exchange::Plain.respond(line), Err(error), "{line:?}");
        }
        assert_eq!(Exchange::Plain.begin(Some(b"=")), Err(SaslError::Malformed));
    }
}
