#![forbid(unsafe_code)]
//! `portreeve run`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use nix::unistd::Uid;

use super::successor::{self, Start};
use super::{Common, DONE, fail};
use crate::config::plan::Plan;
use crate::control::{Commands, Link};
use crate::privileges;
use crate::sandbox;
use crate::server::Server;
use crate::service;

#[derive(Args)]
pub(super) struct Options {
    /// Write the process id to this file once it serves; after an upgrade it has the new one's
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(options: &Options) -> Result<ExitCode, ExitCode> {
    // Whoever started us may have left descriptors open; programs of ours are not to get them.
    close_fds::set_fds_cloexec(3, &[]);
    start_log();
    service::find();
    let mut start = Start::new();
    privileges::forbid_core_dumps().map_err(|error| start.fail(error))?;
    start.give_root_up(&options.common)?;
    let link = Link::default();
    let mut plan = start.load(&options.common, &link)?;
    if let Some(file) = &options.pid_file {
        plan = plan.writing_beside(file);
    }
    remark(&plan);
    let control = start.control(&plan.state_dir);
    let control = control.map_err(|error| start.fail(error))?;
    // Before threads are started, which it would not hold.
    sandbox::enter(&plan);
    let heritage = std::mem::take(&mut start.heritage);
    let server = Server::bind_with(plan, heritage).map_err(|error| start.fail(error))?;
    let server = server.with_signals().map_err(|error| start.fail(error))?;
    let mut server = server.with_succession(successor::succession(&control));
    if std::env::var_os("RUST_LOG").is_none() {
        server = server.with_log_levels();
    }
    for (listener, transport, address) in server.addresses() {
        log::info!(target: &listener, "listening on {transport} {address}");
    }
    start.take_over(&server, &control);
    let pid_file = start.pid_file(options.pid_file.as_deref())?;
    let commands: Arc<dyn Commands> = Arc::new(server.handle());
    link.bind(Arc::downgrade(&commands));
    let control = control.serve(commands).map_err(fail)?;
    start.serves();
    log::info!("portreeve {} is up", env!("CARGO_PKG_VERSION"));
    service::ready();
    server.run().map_err(fail)?;
    drop(control);
    drop(pid_file);
    Ok(ExitCode::from(DONE))
}

/// What is to be known about a plan, and as whom it is run.
fn remark(plan: &Plan) {
    for notice in &plan.notices {
        log::warn!("{notice}");
    }
    match &plan.run_as {
        Some(run_as) => log::info!("runs as {}, and may bind low ports", run_as.user),
        None if Uid::effective().is_root() => log::warn!("runs as root; see run_as"),
        None => {}
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
