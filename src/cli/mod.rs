#![forbid(unsafe_code)]
//! The command line. Exit codes: 0 yes or done, 1 no or failed, 2 usage or configuration error.

/// Prints a line. A reader that has gone away, such as `head`, has seen enough: that is no error.
macro_rules! say {
    ($($words:tt)*) => {
        super::say(format_args!($($words)*))
    };
}

mod account;
mod ask;
mod check;
mod explain;
mod live;
mod run;
mod status;
mod successor;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, plan::Plan};

/// Yes, or done.
pub const DONE: u8 = 0;
/// No, or failed: refused by `explain`, the daemon is not running.
pub const FAILED: u8 = 1;
/// The command line or the configuration is wrong.
pub const USAGE: u8 = 2;

/// A listener daemon: decides by address who may talk and how many at once, and runs protocol modules.
#[derive(Parser)]
#[command(name = "portreeve", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run in the foreground; SIGHUP reloads, SIGUSR2 upgrades, SIGTERM drains and ends, twice stops at once
    Run(run::Options),
    /// Check the configuration and print the table of sockets
    Check(Common),
    /// Tell why an address is admitted or refused: each rung and the list line that decides
    Explain(explain::Options),
    /// Set accounts: passwords, secrets, the right to administer
    Account(account::Options),
    /// Tell what the running daemon is doing
    Status(status::Options),
    /// List the open connections
    Connections(live::ListOptions),
    /// Close a connection, or all of an address
    Disconnect(live::DisconnectOptions),
    /// Read the configuration again and put it in force, all or nothing
    Reload(live::ReloadOptions),
    /// Start the program as it is on disk now in the daemon's place; no connection is refused or cut for it
    Upgrade(live::UpgradeOptions),
    /// Keep an address or a network out for a time, and close its connections
    Ban(live::BanOptions),
    /// Take a ban back
    Unban(live::UnbanOptions),
    /// List the bans
    Bans(live::ListOptions),
    /// Open or close a socket of a listener
    Socket(live::SocketOptions),
}

/// What every command takes.
#[derive(Args)]
struct Common {
    /// The configuration [default: conf/portreeve.ron if it is there, else /etc/portreeve/portreeve.ron]
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

impl Common {
    fn file(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(config::default_file)
    }

    /// Becomes whom the configuration wants, where this is root: what this user cannot read is found out at
    /// once, and as little as possible runs as root.
    fn give_root_up(&self) -> Result<(), ExitCode> {
        if !nix::unistd::Uid::effective().is_root() {
            return Ok(());
        }
        self.become_other(false).map_err(Failure::tell)
    }

    /// The same for the daemon, whoever this is.
    fn become_other(&self, to_run: bool) -> Result<(), Failure> {
        let file = self.file();
        let run_as = match config::run_as(&file) {
            Ok(Some(run_as)) => run_as,
            Ok(None) => return Ok(()),
            // All that is wrong is told at once.
            Err(errors) => return Err(config::load(&file).err().unwrap_or(errors).into()),
        };
        if to_run {
            let state_dir = config::state_dir(&file)?;
            run_as
                .make_state_dir(&state_dir)
                .map_err(|error| format!("{}: {error}", state_dir.display()))?;
        }
        Ok(run_as
            .assume()
            .map_err(|error| format!("run_as: {error}"))?)
    }

    /// The configuration; what is wrong with it goes to standard error.
    fn load(&self) -> Result<Plan, ExitCode> {
        config::load(&self.file()).map_err(complain)
    }
}

/// Why a command cannot begin.
enum Failure {
    /// What is wrong with the configuration.
    Config(Vec<config::ConfigError>),
    /// What went wrong otherwise.
    Other(String),
}

impl Failure {
    /// Says it.
    fn tell(self) -> ExitCode {
        match self {
            Failure::Config(errors) => complain(errors),
            Failure::Other(why) => fail(why),
        }
    }
}

impl From<Vec<config::ConfigError>> for Failure {
    fn from(errors: Vec<config::ConfigError>) -> Self {
        Failure::Config(errors)
    }
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Failure::Other(why)
    }
}

/// The command line as clap knows it.
#[cfg(feature = "manual")]
pub(crate) fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers, everything else is a usage error.
            let code = if error.use_stderr() { USAGE } else { DONE };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let result = match cli.command {
        Command::Run(options) => run::run(&options),
        Command::Check(common) => check::check(&common),
        Command::Explain(options) => explain::explain(&options),
        Command::Account(options) => account::account(&options),
        Command::Status(options) => status::status(&options),
        Command::Connections(options) => live::connections(&options),
        Command::Disconnect(options) => live::disconnect(&options),
        Command::Reload(options) => live::reload(&options),
        Command::Upgrade(options) => live::upgrade(&options),
        Command::Ban(options) => live::ban(&options),
        Command::Unban(options) => live::unban(&options),
        Command::Bans(options) => live::bans(&options),
        Command::Socket(options) => live::socket(&options),
    };
    result.unwrap_or_else(|code| code)
}

/// Says what is wrong with the configuration.
fn complain(errors: Vec<config::ConfigError>) -> ExitCode {
    errors.iter().for_each(|error| eprintln!("{error}"));
    ExitCode::from(USAGE)
}

/// Says what went wrong.
fn fail(message: impl std::fmt::Display) -> ExitCode {
    eprintln!("portreeve: {message}");
    ExitCode::from(FAILED)
}

fn say(line: std::fmt::Arguments<'_>) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{line}");
}
