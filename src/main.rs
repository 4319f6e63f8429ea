#![forbid(unsafe_code)]
//! The daemon's program: calls the library.

fn main() -> std::process::ExitCode {
    portreeve::cli::main()
}
