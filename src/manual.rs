#![forbid(unsafe_code)]
//! Manual pages: one of the program and one of each command from the command line itself, and portreeve.ron(5)
//! from docs/configuration.md. Shell completions beside them.

mod page;

use std::fs;
use std::io;
use std::path::Path;

use clap_complete::Shell;
use clap_mangen::Man;

use crate::cli;

/// The keys of the configuration, as people read them on the web.
const CONFIGURATION: &str = include_str!("../docs/configuration.md");

/// Writes `man/*.8`, `man/portreeve.ron.5` and `completions/` below a directory.
///
/// # Errors
/// What the system says of the files.
pub fn write(directory: &Path) -> io::Result<()> {
    let man = directory.join("man");
    fs::create_dir_all(&man)?;
    let mut command = cli::command();
    command.build();
    pages(&man, command, "portreeve")?;
    fs::write(man.join("portreeve.ron.5"), page::render(CONFIGURATION))?;
    let completions = directory.join("completions");
    fs::create_dir_all(&completions)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        clap_complete::generate_to(shell, &mut cli::command(), "portreeve", &completions)?;
    }
    Ok(())
}

/// The page of a command and those of its own commands, `portreeve-socket-add` by name.
fn pages(man: &Path, command: clap::Command, name: &str) -> io::Result<()> {
    for sub in command.get_subcommands() {
        pages(man, sub.clone(), &format!("{name}-{}", sub.get_name()))?;
    }
    let page = Man::new(command.display_name(name))
        .title(name)
        .section("8")
        .manual("System Administration");
    let mut text = Vec::new();
    page.render(&mut text)?;
    text.extend_from_slice(b".SH \"SEE ALSO\"\n.BR portreeve (8),\n.BR portreeve.ron (5)\n");
    fs::write(man.join(format!("{name}.8")), text)
}
