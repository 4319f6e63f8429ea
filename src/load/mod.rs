#![forbid(unsafe_code)]
//! A load generator for listeners on loopback, bounded in time and count. One thread, one poll loop.
//!
//! | room | what it does |
//! |---|---|
//! | `options` | the command line |
//! | `engine` | slots, pace, time and what is counted; knows no protocol |
//! | `connect` `pingpong` `tls` | work for the engine: one operation in one slot |
//! | `hold` `bulk` `udp` | work with a loop of its own |
//! | `questions` | what datagrams say, and which answers to it are right |
//! | `sources` | connections from many addresses of 127.0.0.0/8 |
//! | `watch` | CPU and memory of the servers, from /proc |
//! | `report` `progress` | what is printed |

mod bulk;
mod connect;
mod engine;
mod hold;
mod netns;
mod options;
mod pace;
mod pingpong;
mod progress;
mod questions;
mod report;
mod sources;
mod tls;
mod udp;
mod watch;

use std::io;
use std::process::ExitCode;

use clap::Parser as _;

use engine::{Engine, Lane};
use options::{Cli, Load, Mode};
use pace::Pace;
use report::Report;
use sources::Sources;

/// Runs the command line of this process. Exit codes: 0 done, 1 failed, 2 usage.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Mode::Netns { command } = &cli.mode {
        return fail(&netns::run(command));
    }
    let (name, load) = cli.mode.load().expect("all other modes are loads");
    match run(&cli.mode, load) {
        Ok(report) => {
            report.print(name, load);
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error),
    }
}

fn fail(error: &io::Error) -> ExitCode {
    eprintln!("portreeve-load: {error}");
    ExitCode::FAILURE
}

fn run(mode: &Mode, load: &Load) -> io::Result<Report> {
    options::raise_descriptors();
    match mode {
        Mode::Netns { .. } => unreachable!("not a load"),
        Mode::Hold { tls, idle, .. } => hold::run(load, *tls, *idle),
        Mode::Bulk {
            bytes, upstream, ..
        } => bulk::run(load, bytes.as_u64(), *upstream),
        Mode::Udp { window, speaks, .. } => udp::run(load, *window, *speaks),
        Mode::Echo { parked, .. } => {
            let _parked = hold::open(load, *parked)?;
            let mut work = connect::Connects::echo(load);
            Engine::new(load)?.run(vec![Lane::new(&mut work, Pace::of(load))])
        }
        Mode::Refused { .. } => {
            let mut work = connect::Connects::refused(Sources::of(load), load.connections);
            Engine::new(load)?.run(vec![Lane::new(&mut work, Pace::of(load))])
        }
        Mode::Pingpong { refused_rate, .. } => {
            let mut work = pingpong::PingPong::open(load)?;
            let mut refused = connect::Connects::refused(options::refused_sources(mode), 256);
            let mut lanes = vec![Lane::new(&mut work, Pace::of(load))];
            if let Some(rate) = refused_rate {
                lanes.push(Lane::new(&mut refused, Pace::Rate(*rate)));
            }
            Engine::new(load)?.run(lanes)
        }
        Mode::Tls { resume, .. } => {
            let mut work = tls::Handshakes::new(load, *resume)?;
            let mut report = Engine::new(load)?.run(vec![Lane::new(&mut work, Pace::of(load))])?;
            report.handshakes = Some(work.kinds());
            Ok(report)
        }
    }
}
