#![forbid(unsafe_code)]
//! What was counted, and how it is told.

use std::io;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::options::Load;
use super::watch::Usage;

/// Latencies from a nanosecond to a minute, to three digits.
const LONGEST_NS: u64 = 60_000_000_000;

/// What one kind of work came to.
pub(super) struct Measured {
    histogram: Histogram<u64>,
    /// How long after their intended times operations began.
    late: Histogram<u64>,
    failed: u64,
    first_error: Option<io::Error>,
    /// Under way, or not begun, when it ended.
    pub(super) unfinished: u64,
}

impl Measured {
    pub(super) fn new() -> Self {
        let histogram = || {
            Histogram::new_with_bounds(1, LONGEST_NS, 3)
                .expect("the bounds are constants that it takes")
        };
        Measured {
            histogram: histogram(),
            late: histogram(),
            failed: 0,
            first_error: None,
            unfinished: 0,
        }
    }

    pub(super) fn begun(&mut self, late: Duration) {
        self.late.saturating_record(ns(late));
    }

    pub(super) fn ended(&mut self, after: Duration, result: io::Result<()>) {
        match result {
            Ok(()) => {
                self.histogram.saturating_record(ns(after));
            }
            Err(error) => {
                self.failed += 1;
                self.first_error.get_or_insert(error);
            }
        }
    }

    /// So many were lost without a word.
    pub(super) fn lost(&mut self, count: u64) {
        self.failed += count;
    }

    pub(super) fn done(&self) -> u64 {
        self.histogram.len()
    }

    pub(super) fn tried(&self) -> u64 {
        self.done() + self.failed
    }

    fn json(&self, seconds: f64) -> Value {
        let us = |ns: u64| Duration::from_nanos(ns).as_secs_f64() * 1e6;
        let at = |quantile| us(self.histogram.value_at_quantile(quantile));
        json!({
            "operations": self.done(),
            "failed": self.failed,
            "first_error": self.first_error.as_ref().map(ToString::to_string),
            "unfinished": self.unfinished,
            "rate": per(self.done(), seconds),
            "late_us": {"p50": us(self.late.value_at_quantile(0.5)), "p99": us(self.late.value_at_quantile(0.99))},
            "latency_us": {
                "p50": at(0.5), "p99": at(0.99), "p999": at(0.999), "max": us(self.histogram.max()),
            },
        })
    }
}

/// What a run came to.
pub(super) struct Report {
    main: Measured,
    side: Option<Measured>,
    seconds: f64,
    usage: Usage,
    /// Of the handshakes begun: complete ones and resumed ones.
    pub(super) handshakes: Option<(u64, u64)>,
    /// Connections held, and the server's anonymous memory before and with them, in bytes.
    pub(super) held: Option<(usize, u64, u64)>,
    /// Bytes moved.
    pub(super) bytes: Option<u64>,
}

impl Report {
    /// # Errors
    /// Nothing of what was tried succeeded, and the first reason.
    pub(super) fn of(
        mut main: Measured,
        side: Option<Measured>,
        seconds: f64,
        usage: Usage,
    ) -> io::Result<Self> {
        if main.done() == 0 {
            let none = || io::Error::other("not one operation came to its end");
            return Err(main.first_error.take().unwrap_or_else(none));
        }
        Ok(Report {
            main,
            side,
            seconds,
            usage,
            handshakes: None,
            held: None,
            bytes: None,
        })
    }

    pub(super) fn print(&self, mode: &str, load: &Load) {
        let value = self.json(mode, load);
        if load.json {
            println!("{value}");
            return;
        }
        let latency = &value["latency_us"];
        println!(
            "{mode}: {} operations in {:.2} s ({:.0}/s), {} failed, {} unfinished",
            value["operations"],
            self.seconds,
            value["rate"].as_f64().unwrap_or_default(),
            value["failed"],
            value["unfinished"],
        );
        let us = |name: &str| latency[name].as_f64().unwrap_or_default();
        println!(
            "latency in us: p50 {:.0}, p99 {:.0}, p99.9 {:.0}, most {:.0}",
            us("p50"),
            us("p99"),
            us("p999"),
            us("max"),
        );
        for name in [
            "first_error",
            "server",
            "handshakes",
            "held",
            "bytes",
            "side",
        ] {
            if !value[name].is_null() {
                println!("{name}: {}", value[name]);
            }
        }
    }

    fn json(&self, mode: &str, load: &Load) -> Value {
        let mut value = self.main.json(self.seconds);
        value["mode"] = json!(mode);
        value["target"] = json!(load.target.to_string());
        value["connections"] = json!(load.connections);
        value["seconds"] = json!(self.seconds);
        value["load_cpu_seconds"] = json!(self.usage.load);
        value["other_cpu_seconds"] = json!(self.usage.other);
        if !load.watch.is_empty() {
            value["server"] = json!({
                "cpu_seconds": self.usage.server,
                "cpu_us_per_operation": self.usage.server * 1e6 / approximate(self.main.done().max(1)),
            });
        }
        if let Some((full, resumed)) = self.handshakes {
            value["handshakes"] = json!({"full": full, "resumed": resumed});
        }
        if let Some((count, before, with)) = self.held {
            value["held"] = json!({
                "connections": count, "bytes_before": before, "bytes_with": with,
                "bytes_per_connection": approximate(with.saturating_sub(before)) / approximate(count.max(1) as u64),
            });
        }
        if let Some(bytes) = self.bytes {
            value["bytes"] = json!(bytes);
        }
        if let Some(side) = &self.side {
            value["side"] = side.json(self.seconds);
        }
        value
    }
}

fn ns(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(LONGEST_NS)
}

fn per(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 {
        approximate(count) / seconds
    } else {
        0.0
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn approximate(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use super::Measured;

    #[test]
    fn failures_are_counted_and_have_no_latency() {
        let mut measured = Measured::new();
        for ms in 1..=100 {
            measured.ended(Duration::from_millis(ms), Ok(()));
        }
        measured.ended(Duration::ZERO, Err(io::ErrorKind::TimedOut.into()));
        let json = measured.json(2.0);
        assert_eq!(json["operations"], 100);
        assert_eq!(json["failed"], 1);
        assert_eq!(json["rate"], 50.0);
        let p99 = json["latency_us"]["p99"].as_f64().unwrap();
        assert!((98_900.0..99_200.0).contains(&p99), "{p99}");
    }
}
