#![forbid(unsafe_code)]
//! How commands reach the running daemon.

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use serde::de::DeserializeOwned;

use super::{Common, FAILED, USAGE, fail};
use crate::config;
use crate::control::{Request, Response, socket_path};

/// A change reads lists and certificates, and binds sockets: longer than this it should not take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Why there is no answer.
pub(super) enum NoAnswer {
    /// Nobody listens.
    NotRunning(String),
    /// What was said instead, and the exit code.
    Refused(String, u8),
}

impl NoAnswer {
    /// Says it.
    pub(super) fn exit(self) -> ExitCode {
        match self {
            NoAnswer::NotRunning(why) => fail(why),
            NoAnswer::Refused(lines, code) => {
                for line in lines.lines() {
                    eprintln!("portreeve: {line}");
                }
                ExitCode::from(code)
            }
        }
    }
}

impl Common {
    /// Asks the daemon of this configuration; what else is wrong with that does not matter.
    pub(super) fn ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T, ExitCode> {
        self.try_to_ask(request).map_err(NoAnswer::exit)
    }

    pub(super) fn try_to_ask<T: DeserializeOwned>(&self, request: &Request) -> Result<T, NoAnswer> {
        let refused = |line: String, code| NoAnswer::Refused(line, code);
        let state_dir = config::state_dir(&self.file()).map_err(|errors| {
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            refused(lines.join("\n"), USAGE)
        })?;
        let path = socket_path(&state_dir);
        let path_name = path.display();
        let stream = UnixStream::connect(&path).map_err(|error| {
            NoAnswer::NotRunning(format!("the daemon does not run: {path_name}: {error}"))
        })?;
        let broken =
            |error: &dyn std::fmt::Display| refused(format!("{path_name}: {error}"), FAILED);
        let line = talk(stream, request).map_err(|error| broken(&error))?;
        match serde_json::from_str(&line) {
            Ok(Response::Ok(value)) => {
                serde_json::from_value(value).map_err(|error| broken(&error))
            }
            Ok(Response::Error(message)) => Err(refused(message, FAILED)),
            Ok(Response::Invalid(faults)) => {
                let lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
                Err(refused(lines.join("\n"), USAGE))
            }
            Err(error) => Err(broken(&error)),
        }
    }
}

fn talk(mut stream: UnixStream, request: &Request) -> std::io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all((serde_json::to_string(request)? + "\n").as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line)
}
