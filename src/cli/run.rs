#![forbid(unsafe_code)]
//! `portreeve run`.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use super::{Common, DONE, fail};
use crate::control::ControlSocket;
use crate::server::Server;

pub(super) fn run(common: &Common) -> Result<ExitCode, ExitCode> {
    // Whoever started us may have left descriptors open; programs of ours are not to get them.
    close_fds::set_fds_cloexec(3, &[]);
    let plan = common.load()?;
    start_log(&plan);
    for notice in &plan.notices {
        log::warn!("{notice}");
    }
    let control = ControlSocket::open(&plan.state_dir).map_err(fail)?;
    let server = Server::bind(plan).map_err(fail)?;
    let server = server.with_signals().map_err(fail)?;
    for (listener, transport, address) in server.addresses() {
        log::info!(target: &listener, "listening on {transport} {address}");
    }
    let control = control.serve(Arc::new(server.handle())).map_err(fail)?;
    log::info!("portreeve {} is up", env!("CARGO_PKG_VERSION"));
    server.run().map_err(fail)?;
    drop(control);
    Ok(ExitCode::from(DONE))
}

/// One line an event: time, level, listener, text. RUST_LOG overrides what the listeners' levels let
/// through.
fn start_log(plan: &crate::config::plan::Plan) {
    let most = plan
        .listeners
        .iter()
        .map(|listener| listener.log_level)
        .max();
    let level = most
        .unwrap_or(log::LevelFilter::Info)
        .max(log::LevelFilter::Info);
    let mut builder = env_logger::Builder::new();
    // rustls speaks of each peer's mistakes; ours are told in our own words.
    builder
        .filter_level(level)
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
    let _ = builder.try_init();
}
