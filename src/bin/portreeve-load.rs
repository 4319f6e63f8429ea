#![forbid(unsafe_code)]
//! The load generator's program: calls its rooms in `src/load/`.

#[path = "../load/mod.rs"]
mod load;

fn main() -> std::process::ExitCode {
    load::main()
}
