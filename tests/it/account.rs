//! `portreeve account set`: what it writes, what it refuses, and that a typed password is not shown.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use crate::harness::{Conf, assert_says, binary, exits, output_of};

fn set(conf: &Conf, args: &[&str], input: &[u8]) -> Output {
    let mut command = Command::new(binary());
    command.args(["account", "set"]).args(args);
    command.arg("--config").arg(conf.path());
    output_of(command, input)
}

fn conf() -> Conf {
    Conf::new(r#"accounts: "people.ron""#)
        .listener("echo", "Tcp(module: Echo, sockets: [(port: 7007)])")
}

fn people(conf: &Conf) -> String {
    fs::read_to_string(conf.home().join("conf/people.ron")).unwrap()
}

#[test]
fn account_set_writes_a_private_file_that_check_accepts() {
    let conf = conf();
    exits(&set(&conf, &["Ann", "--password-stdin"], b"secret\n"), 0);
    exits(
        &set(&conf, &["bob", "--password-stdin", "--admin"], b"other"),
        0,
    );
    exits(&set(&conf, &["ann", "--secret-stdin"], b"clear\n"), 0);
    let file = conf.home().join("conf/people.ron");
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let text = people(&conf);
    assert_says(
        &text,
        &["\"ann\"", "$argon2id$", "\"clear\"", "admin: true"],
    );
    assert!(!text.contains("secret\""), "a password in clear:\n{text}");
    let said = exits(&conf.portreeve(&["check"]), 0);
    assert!(!said.contains("notice"), "{said}");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let said = exits(&conf.portreeve(&["check"]), 0);
    assert_says(
        &said,
        &["notice:", "portreeve.ron:2:11:", "others can read it"],
    );
    exits(
        &set(&conf, &["bob", "--password-stdin", "--admin=false"], b"x"),
        0,
    );
    let mode = fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(!people(&conf).contains("admin: true"));
}

#[test]
fn account_set_refuses_what_is_unfit_and_changes_nothing() {
    let conf = conf();
    exits(&set(&conf, &["ann", "--password-stdin"], b"secret\n"), 0);
    let before = people(&conf);
    for (args, input) in [
        (&["ann", "--password-stdin"][..], &b""[..]),
        (&["ann", "--password-stdin"], b"\n"),
        (&["ann", "--password-stdin"], b"a\0b"),
        (&["ann", "--secret-stdin"], b""),
        (&["../ann", "--password-stdin"], b"x"),
        (&["", "--password-stdin"], b"x"),
        (&["ann", "--password-stdin", "--secret-stdin"], b"x"),
    ] {
        let said = exits(&set(&conf, args, input), 2);
        assert!(!said.is_empty());
    }
    assert_eq!(people(&conf), before);
    let conf = conf.file("people.ron", "{ \"ann\": (password: \"secret\") }");
    let said = exits(&set(&conf, &["bob", "--password-stdin"], b"x"), 2);
    assert_says(&said, &["people.ron:1:21:"]);
    assert!(!people(&conf).contains("bob"));
}

/// Types two lines on a terminal, each once the terminal shows no more what is typed; prints what it showed.
const TYPIST: &str = r"
import os, pty, sys, termios, time
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:-2])
shown = b''
end = time.monotonic() + 10
for prompt, line in zip([b'Password for ann: ', b'Again: '], sys.argv[-2:]):
    while not shown.endswith(prompt):
        shown += os.read(terminal, 4096)
    while termios.tcgetattr(terminal)[3] & termios.ECHO:
        assert time.monotonic() < end, 'what is typed would be shown'
    os.write(terminal, line.encode() + b'\n')
try:
    while True:
        shown += os.read(terminal, 4096)
except OSError:
    pass
sys.stdout.buffer.write(shown)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
";

#[test]
fn a_typed_password_is_asked_for_twice_and_not_shown() {
    let conf = conf();
    let typed = |one: &str, two: &str| {
        let mut python = Command::new("python3");
        python.args(["-c", TYPIST]).arg(binary());
        python.args(["account", "set", "ann", "--config"]);
        python.arg(conf.path()).args([one, two]);
        output_of(python, b"")
    };
    let said = exits(&typed("tell-nobody", "tell-nobody"), 0);
    assert_says(&said, &["Again: ", "account ann is set"]);
    assert!(!said.contains("tell-nobody"), "{said}");
    assert_says(&people(&conf), &["\"ann\"", "$argon2id$"]);
    let before = people(&conf);
    let said = exits(&typed("one", "two"), 2);
    assert_says(&said, &["not the same"]);
    assert_eq!(people(&conf), before);
}
