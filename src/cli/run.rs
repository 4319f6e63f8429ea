#![forbid(unsafe_code)]
//! `portreeve run`.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use nix::unistd::Uid;

use super::{Common, DONE, fail};
use crate::control::{Commands, ControlSocket, Link};
use crate::privileges;
use crate::sandbox;
use crate::server::Server;
use crate::service;

pub(super) fn run(common: &Common) -> Result<ExitCode, ExitCode> {
    // Whoever started us may have left descriptors open; programs of ours are not to get them.
    close_fds::set_fds_cloexec(3, &[]);
    privileges::forbid_core_dumps().map_err(fail)?;
    common.give_root_up(true)?;
    let link = Link::default();
    let plan = common.load_for(&link)?;
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
    service::ready();
    server.run().map_err(fail)?;
    drop(control);
    Ok(ExitCode::from(DONE))
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
