#![forbid(unsafe_code)]
//! `portreeve run`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use nix::unistd::Uid;

use super::{Common, DONE, fail};
use crate::control::{Commands, ControlSocket, Link};
use crate::privileges;
use crate::sandbox;
use crate::server::Server;
use crate::service;

#[derive(Args)]
pub(super) struct Options {
    /// Write the process's number there once it serves; the file goes when it ends
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(options: &Options) -> Result<ExitCode, ExitCode> {
    let common = &options.common;
    // Whoever started us may have left descriptors open; programs of ours are not to get them.
    close_fds::set_fds_cloexec(3, &[]);
    privileges::forbid_core_dumps().map_err(fail)?;
    common.give_root_up(true)?;
    let link = Link::default();
    let mut plan = common.load_for(&link)?;
    if let Some(file) = &options.pid_file {
        plan = plan.writing_beside(file);
    }
    start_log();
    service::find();
    for notice in &plan.notices {
        log::warn!("{notice}");
    }
    let control = ControlSocket::open(&plan.state_dir).map_err(fail)?;
    match &plan.run_as {
        Some(run_as) => log::info!("runs as {}, and may bind low ports", run_as.user),
        None if Uid::effective().is_root() => log::warn!("runs as root; see run_as"),
        None => {}
    }
    // Before threads are started, which it would not hold.
    sandbox::enter(&plan);
    let server = Server::bind(plan).map_err(fail)?;
    let mut server = server.with_signals().map_err(fail)?;
    if std::env::var_os("RUST_LOG").is_none() {
        server = server.with_log_levels();
    }
    for (listener, transport, address) in server.addresses() {
        log::info!(target: &listener, "listening on {transport} {address}");
    }
    let commands: Arc<dyn Commands> = Arc::new(server.handle());
    link.bind(Arc::downgrade(&commands));
    let control = control.serve(commands).map_err(fail)?;
    log::info!("portreeve {} is up", env!("CARGO_PKG_VERSION"));
    let pid_file = options.pid_file.as_deref().map(PidFile::write).transpose();
    let pid_file = pid_file.map_err(fail)?;
    service::ready();
    server.run().map_err(fail)?;
    drop(control);
    drop(pid_file);
    Ok(ExitCode::from(DONE))
}

/// A file that names this process.
struct PidFile(PathBuf);

impl PidFile {
    fn write(path: &Path) -> Result<Self, String> {
        let said = |error| format!("{}: {error}", path.display());
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, format!("{}\n", std::process::id())).map_err(said)?;
        std::fs::rename(&fresh, path).map_err(said)?;
        Ok(PidFile(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        // A successor may have written its own.
        let ours = format!("{}\n", std::process::id());
        if std::fs::read_to_string(&self.0).is_ok_and(|text| text == ours) {
            let _ = std::fs::remove_file(&self.0);
        }
    }
}

/// One line an event: time, level, listener, text. RUST_LOG overrides what the listeners' levels let
/// through.
fn start_log() {
    let mut builder = env_logger::Builder::new();
    // rustls speaks of each peer's mistakes; ours are told in our own words.
    builder
        // How much of it is said is decided before, see `Server::with_log_levels`.
        .filter_level(log::LevelFilter::Trace)
        .filter_module("rustls", log::LevelFilter::Error)
        .parse_default_env();
    builder.format(|out, record| {
        let time = humantime::format_rfc3339_millis(std::time::SystemTime::now());
        let target = record.target();
        let target = if target.starts_with("portreeve") {
            "portreeve"
        } else {
            target
        };
        writeln!(
            out,
            "{time} {:5} {target}: {}",
            record.level(),
            record.args()
        )
    });
    if builder.try_init().is_ok() && std::env::var_os("RUST_LOG").is_none() {
        log::set_max_level(log::LevelFilter::Info);
    }
}
