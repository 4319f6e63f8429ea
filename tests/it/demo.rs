//! The configuration in `conf/` is right, and binds nothing that others can reach.

use std::path::Path;
use std::process::Command;

use crate::harness::{assert_says, binary, exits, output_of};

fn portreeve(args: &[&str]) -> std::process::Output {
    let mut command = Command::new(binary());
    command
        .args(args)
        .arg("--config")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/portreeve.ron"));
    output_of(command, b"")
}

#[test]
fn the_demo_passes_check() {
    let said = exits(&portreeve(&["check"]), 0);
    assert_says(&said, &["echo", "discard", "daytime"]);
}

#[test]
fn the_demo_refuses_127_0_0_66_and_says_which_line_does() {
    let said = exits(&portreeve(&["explain", "echo", "127.0.0.66"]), 1);
    assert_says(&said, &["denied", ":"]);
    exits(&portreeve(&["explain", "echo", "127.0.0.1"]), 0);
}
