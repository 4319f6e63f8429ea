#![forbid(unsafe_code)]
#![allow(
    dead_code,
    reason = "the files of the daemon bring more than their models use"
)]
//! Tries how the threads of the daemon may meet: the table of the parked, the queue and the baton, compiled from
//! the daemon's own files over locks, atomics and threads of `shuttle`, which chooses at each of them who goes on.
//! Half of the time it chooses at random, half with few changes at chosen depths (PCT). A thread that waits for
//! ever is found as a deadlock. Memory is sequentially consistent here: what fences do is not modelled.
//!
//! `portreeve-models [SECONDS [SEED]]`: so long for all models together. What fails is printed with a schedule.

#[path = "../../src/moment.rs"]
mod moment;
mod sync;

mod baton_models;
mod parked_models;
mod poll;
mod queue_models;
mod server;
mod stubs;

use std::time::{Duration, Instant};

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};

/// Each by a sentence that would be false of a failure.
const MODELS: &[(&str, fn())] = &[
    (
        "an event between a look and the parking is not lost",
        parked_models::no_event_is_lost,
    ),
    (
        "a resident comes back once, whoever calls it",
        parked_models::back_once,
    ),
    (
        "a late signal does not reach who has the slot now",
        parked_models::late_signals,
    ),
    (
        "every turn is taken though all workers lie down",
        queue_models::every_turn_is_taken,
    ),
    (
        "every worker hears of the end",
        queue_models::everybody_is_called_at_the_end,
    ),
    (
        "what the poll hears and what is handed in is run, whoever polls",
        baton_models::everything_is_run,
    ),
    (
        "a signal reaches the poll thread, whoever polls",
        baton_models::a_signal_is_heeded,
    ),
];

/// Schedules tried before the clock is looked at again.
const AT_ONCE: usize = 50;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default| {
        arguments
            .next()
            .map_or(default, |text| text.parse().unwrap())
    };
    let (seconds, mut seed) = (number(10), number(2026));
    let share = Duration::from_millis(seconds * 1000) / u32::try_from(MODELS.len()).unwrap();
    for (name, model) in MODELS {
        let (start, mut tried) = (Instant::now(), 0);
        while tried == 0 || start.elapsed() < share {
            seed += 1;
            let mut config = Config::new();
            config.silence_warnings = true;
            tried += if seed % 2 == 0 {
                Runner::new(RandomScheduler::new_from_seed(seed, AT_ONCE), config).run(model)
            } else {
                Runner::new(PctScheduler::new_from_seed(seed, 3, AT_ONCE), config).run(model)
            };
        }
        println!("models: {name}: {tried} schedules");
    }
}
