#![forbid(unsafe_code)]
//! Writes the manual pages and shell completions: `portreeve-manual DIRECTORY`.

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(directory), None) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: portreeve-manual DIRECTORY");
        return ExitCode::from(2);
    };
    match portreeve::manual::write(&PathBuf::from(directory)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("portreeve-manual: {error}");
            ExitCode::FAILURE
        }
    }
}
