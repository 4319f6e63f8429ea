#![forbid(unsafe_code)]
//! `portreeve account set`.

use std::io::{self, Read};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use zeroize::Zeroizing;

use super::{Common, DONE, FAILED, USAGE, complain};
use crate::accounts::{self, Change, EditError};
use crate::config;

/// More than any password or secret has.
const MOST_INPUT: u64 = 64 * 1024;

#[derive(Args)]
pub(super) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make an account, or change one; asks for the password unless it is on standard input
    Set(Set),
}

#[derive(Args)]
struct Set {
    /// The account's name: the local part of its mail addresses
    name: String,
    /// Take the password from standard input; one newline at its end is not part of it
    #[arg(long)]
    password_stdin: bool,
    /// Set the clear secret for CHAP and Digest, from standard input, and leave the password as it is
    #[arg(long, conflicts_with = "password_stdin")]
    secret_stdin: bool,
    /// Let it administer the daemon; `--admin=false` takes that back
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    admin: Option<bool>,
    #[command(flatten)]
    common: Common,
}

pub(super) fn account(options: &Options) -> Result<ExitCode, ExitCode> {
    let Command::Set(set) = &options.command;
    let file = config::accounts_file(&set.common.file()).map_err(complain)?;
    accounts::local_part(&set.name).map_err(unfit)?;
    let (mut password, mut secret) = (None, None);
    if set.secret_stdin {
        let bytes = standard_input().map_err(unfit)?;
        let text = str::from_utf8(&bytes).map_err(|_| unfit("a secret is UTF-8 text"))?;
        secret = Some(Zeroizing::new(text.to_owned()));
    } else if set.password_stdin {
        password = Some(standard_input().map_err(unfit)?);
    } else {
        password = Some(ask(&set.name).map_err(unfit)?);
    }
    let change = Change {
        password: password.as_ref().map(|bytes| bytes.as_slice()),
        secret: secret.as_ref().map(|text| text.as_str()),
        admin: set.admin,
    };
    match accounts::set(&file, &set.name, &change) {
        Ok(()) => {
            say!("account {} is set in {}", set.name, file.display());
            Ok(ExitCode::from(DONE))
        }
        Err(EditError::Unfit(message)) => Err(unfit(message)),
        Err(EditError::Config(errors)) => Err(complain(errors)),
        Err(EditError::System(error)) => {
            eprintln!("portreeve: {}: {error}", file.display());
            Err(ExitCode::from(FAILED))
        }
    }
}

fn unfit(message: impl std::fmt::Display) -> ExitCode {
    eprintln!("portreeve: {message}");
    ExitCode::from(USAGE)
}

fn standard_input() -> Result<Zeroizing<Vec<u8>>, String> {
    let mut bytes = Zeroizing::new(Vec::new());
    let read = io::stdin().lock().take(MOST_INPUT).read_to_end(&mut bytes);
    read.map_err(|error| format!("cannot read standard input: {error}"))?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    Ok(bytes)
}

/// Asks twice on the terminal, without showing what is typed.
fn ask(name: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    let prompt = |words: String| {
        rpassword::prompt_password(words)
            .map_err(|error| format!("no terminal to ask on ({error}); use --password-stdin"))
    };
    let password = Zeroizing::new(prompt(format!("Password for {name}: "))?);
    if password.is_empty() {
        return Err("an empty password is refused".to_owned());
    }
    if *Zeroizing::new(prompt("Again: ".to_owned())?) != *password {
        return Err("the two are not the same; nothing was changed".to_owned());
    }
    Ok(Zeroizing::new(password.as_bytes().to_vec()))
}
