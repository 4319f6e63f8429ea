#![forbid(unsafe_code)]
//! Configuration: what files say (`raw`), and what it means ([`plan`]). Nothing else of the program reads
//! configuration files.

mod check;
pub(crate) mod domains;
pub(crate) mod edit;
pub mod field;
mod literal;
pub mod plan;
mod raw;
mod scan;
mod sockets;
mod splice;
pub(crate) mod store;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};

pub(crate) use check::duration;
use field::Text;
use plan::Plan;
pub(crate) use sockets::address;

use crate::control::Link;
use crate::privileges::RunAs;
use crate::sandbox::{self, Needs};

/// How EACCES reads at the end of a message.
const FORBIDDEN: &str = "Permission denied (os error 13)";

/// Something wrong in a configuration. Displays as `FILE:LINE:COLUMN: message`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: u32,
    /// The column, from 1.
    pub column: u32,
    /// What is wrong and what was expected.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}:{}: {}",
            self.file.display(),
            self.line,
            self.column,
            self.message
        )
    }
}

impl std::error::Error for ConfigError {}

/// The file that is read when none is named: `conf/portreeve.ron` below the working directory if it is
/// there, else `/etc/portreeve/portreeve.ron`.
#[must_use]
pub fn default_file() -> PathBuf {
    let near = PathBuf::from("conf/portreeve.ron");
    if near.exists() {
        near
    } else {
        PathBuf::from("/etc/portreeve/portreeve.ron")
    }
}

/// Reads and checks a configuration: the file and `listeners/*.ron` beside it.
///
/// # Errors
/// Everything that is wrong in any of the files.
pub fn load(file: &Path) -> Result<Plan, Vec<ConfigError>> {
    load_for(file, &Link::default())
}

/// The same for a server that is there already: its modules get a link to it.
pub(crate) fn load_for(file: &Path, link: &Link) -> Result<Plan, Vec<ConfigError>> {
    load_edited(file, link, None)
}

/// The same with another text in the place of one file's, which is not written yet.
pub(crate) fn load_edited(
    file: &Path,
    link: &Link,
    edited: Option<(&Path, &str)>,
) -> Result<Plan, Vec<ConfigError>> {
    let read = |path: &Path| match edited {
        Some((other, text)) if other == path => Ok(text.to_owned()),
        _ => std::fs::read_to_string(path),
    };
    let mut errors = Vec::new();
    let mut texts = Vec::new();
    match listener_files(file) {
        Ok(files) => {
            for path in files {
                match read(&path) {
                    Ok(text) => texts.push((path, text)),
                    Err(error) => errors.push(unreadable(&path, &error)),
                }
            }
        }
        Err(error) => errors.push(error),
    }
    let needs = Needs::default();
    let mut plan = match read(file) {
        Ok(text) => {
            let listeners = texts
                .iter()
                .map(|(path, text)| Text::new(path, text).noting(&needs))
                .collect();
            let edited = edited.map(|(path, _)| path);
            let text = Text::new(file, &text).noting(&needs);
            check::plan(text, listeners, link, edited, &mut errors)
        }
        Err(error) => {
            errors.push(unreadable(file, &error));
            None
        }
    };
    hint(&mut errors);
    let needs = needs.into_inner();
    errors.extend(sandbox::complaints(&needs));
    if let Some(plan) = &mut plan {
        check::connections(plan.sandbox, &needs, &mut errors);
        plan.needs = needs;
    }
    match plan {
        Some(plan) if errors.is_empty() => Ok(plan),
        _ => Err(errors),
    }
}

/// Says what the sandbox may have to do with it.
fn hint(errors: &mut [ConfigError]) {
    for error in errors {
        if error.message.ends_with(FORBIDDEN) {
            error.message += sandbox::hint();
        }
    }
}

/// Whom the daemon of this configuration runs as, whatever else is wrong in it.
///
/// # Errors
/// The file cannot be read so far, or there is no such user.
pub(crate) fn run_as(file: &Path) -> Result<Option<RunAs>, Vec<ConfigError>> {
    let text = std::fs::read_to_string(file).map_err(|error| vec![unreadable(file, &error)])?;
    let text = Text::new(file, &text);
    let mut errors = Vec::new();
    let server: Option<raw::Server<'_>> = text.read(text.text, &mut errors);
    let run_as = server.and_then(|server| check::run_as(text, server.run_as, &mut errors));
    if errors.is_empty() {
        Ok(run_as)
    } else {
        hint(&mut errors);
        Err(errors)
    }
}

/// Where the daemon of this configuration keeps its state, whatever else is wrong in it.
///
/// # Errors
/// The file cannot be read so far.
pub(crate) fn state_dir(file: &Path) -> Result<PathBuf, Vec<ConfigError>> {
    let text = std::fs::read_to_string(file).map_err(|error| vec![unreadable(file, &error)])?;
    let mut errors = Vec::new();
    check::state_dir(Text::new(file, &text), &mut errors).ok_or(errors)
}

/// The offset of a place in a text, for what a [`ConfigError`] says.
pub(crate) fn offset_of(text: &str, line: u32, column: u32) -> usize {
    field::position_to_offset(text, line as usize, column as usize)
}

/// Names a file's text: FNV-1a (RFC 9923), to tell whether it has changed, not to guard it.
pub(crate) fn version(text: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

/// The file of the accounts that a server's file names.
///
/// # Errors
/// The server's file cannot be read, or is wrong.
pub fn accounts_file(file: &Path) -> Result<PathBuf, Vec<ConfigError>> {
    let text = std::fs::read_to_string(file).map_err(|error| vec![unreadable(file, &error)])?;
    let text = Text::new(file, &text);
    let mut errors = Vec::new();
    let server: Option<raw::Server<'_>> = text.read(text.text, &mut errors);
    let path = server.and_then(|server| check::accounts_file(text, server.accounts, &mut errors));
    path.filter(|_| errors.is_empty()).ok_or(errors)
}

/// Checks texts that are in no file.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn load_texts(server: &str, listener: &str) -> Result<Plan, Vec<ConfigError>> {
    let mut errors = Vec::new();
    let server = Text::new(Path::new("nowhere/portreeve.ron"), server);
    let listener = Text::new(Path::new("nowhere/listeners/fuzz.ron"), listener);
    match check::plan(server, vec![listener], &Link::default(), None, &mut errors) {
        Some(plan) if errors.is_empty() => Ok(plan),
        _ => Err(errors),
    }
}

fn listener_files(file: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let folder = file.parent().unwrap_or(Path::new("")).join("listeners");
    let entries = std::fs::read_dir(&folder).map_err(|error| unreadable(&folder, &error))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "ron"))
        .collect();
    files.sort();
    if files.is_empty() {
        let message = "expected at least one listener, found no *.ron here".to_owned();
        return Err(ConfigError {
            file: folder,
            line: 1,
            column: 1,
            message,
        });
    }
    Ok(files)
}

fn unreadable(file: &Path, error: &std::io::Error) -> ConfigError {
    let message = format!("cannot read it: {error}");
    ConfigError {
        file: file.to_path_buf(),
        line: 1,
        column: 1,
        message,
    }
}
