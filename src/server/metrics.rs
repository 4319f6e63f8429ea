#![forbid(unsafe_code)]
//! The daemon's counters as text for Prometheus and its like (OpenMetrics 1.0).

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text::encode};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::listener::{CounterSample, OVERLOAD};
use super::queue::Waits;
use super::status::OverloadStatus;
use crate::tls::{Domain, Domains};

/// Everything that is measured, at one moment.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) listeners: Vec<ListenerSample>,
    pub(crate) busy: usize,
    /// How long turns waited in the queue, as [`Waits::sample`] gives it.
    pub(crate) waits: (Vec<u64>, Duration),
    pub(crate) domains: Arc<Domains>,
    pub(crate) overload: OverloadStatus,
}

/// One listener's part.
#[derive(Debug)]
pub(crate) struct ListenerSample {
    pub(crate) name: Arc<str>,
    /// Absent for UDP, which has no connections.
    pub(crate) active: Option<u32>,
    /// Absent for TCP.
    pub(crate) exchanges: Option<u64>,
    pub(crate) counters: CounterSample,
}

/// The text.
pub(crate) fn text(sample: Sample) -> String {
    let mut registry = Registry::with_prefix("portreeve");
    registry.register_collector(Box::new(sample));
    let mut text = String::new();
    // A string takes all that is written to it.
    let _ = encode(&mut text, &registry);
    text
}

/// A family's rows: the labels and the value of each.
type Rows<'a> = Vec<(Vec<(&'static str, &'a str)>, u64)>;

impl Collector for Sample {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let counters = [
            (
                "connections_accepted",
                "Connections that were admitted",
                self.tcp(|one| one.counters.accepted),
            ),
            (
                "connections_rejected",
                "Connections that were refused",
                self.labelled(true, "reason", |counters| &counters.rejected),
            ),
            (
                "datagrams",
                "Datagrams that were admitted",
                self.each(false, |one| one.counters.accepted),
            ),
            (
                "datagrams_dropped",
                "Datagrams that were dropped",
                self.dropped(),
            ),
            (
                "tls_handshakes",
                "TLS handshakes that ended",
                self.labelled(true, "result", |counters| &counters.handshakes),
            ),
            (
                "proxy_headers_bad",
                "Connections closed for their PROXY header",
                self.tcp(|one| one.counters.bad_prefaces),
            ),
            (
                "abuse",
                "Misdeeds that modules reported",
                self.tcp(|one| one.counters.abuse),
            ),
            (
                "panics",
                "Connections closed because their module panicked",
                self.tcp(|one| one.counters.panics),
            ),
        ];
        for (name, help, rows) in counters {
            family(&mut encoder, name, help, MetricType::Counter, &rows)?;
        }
        let gauges = [
            (
                "connections_active",
                "Connections now, those in their handshake included",
                self.tcp(|one| one.active.unwrap_or(0).into()),
            ),
            (
                "exchanges_active",
                "Conversations of datagram modules from ports of their own",
                self.each(false, |one| one.exchanges.unwrap_or(0)),
            ),
            (
                "workers_busy",
                "Workers in a turn",
                vec![(Vec::new(), self.busy as u64)],
            ),
            (
                "overload_stage",
                "What is done to stay in service, 0 (nothing) to 3",
                vec![(Vec::new(), self.overload.stage.into())],
            ),
            (
                "descriptors_open",
                "Open descriptors",
                vec![(Vec::new(), self.overload.descriptors.used)],
            ),
            (
                "memory_resident_bytes",
                "Resident memory",
                vec![(Vec::new(), self.overload.memory.used)],
            ),
            (
                "certificate_expiry_seconds",
                "When a domain's certificate ends, in seconds since 1970",
                self.expiries(),
            ),
        ];
        for (name, help, rows) in gauges {
            family(&mut encoder, name, help, MetricType::Gauge, &rows)?;
        }
        self.waits(&mut encoder)
    }
}

impl Sample {
    fn tcp(&self, value: impl Fn(&ListenerSample) -> u64) -> Rows<'_> {
        self.each(true, value)
    }

    /// A row for each listener of a transport.
    fn each(&self, tcp: bool, value: impl Fn(&ListenerSample) -> u64) -> Rows<'_> {
        let listeners = self.of(tcp);
        listeners
            .map(|one| (vec![("listener", &*one.name)], value(one)))
            .collect()
    }

    /// A row for each listener of a transport and each value of a further label.
    fn labelled<const N: usize>(
        &self,
        tcp: bool,
        label: &'static str,
        values: impl Fn(&CounterSample) -> &[(&'static str, u64); N],
    ) -> Rows<'_> {
        let mut rows = Rows::new();
        for one in self.of(tcp) {
            for (name, value) in values(&one.counters) {
                rows.push((vec![("listener", &*one.name), (label, name)], *value));
            }
        }
        rows
    }

    /// Datagrams that were refused, and those that were admitted and found no room.
    fn dropped(&self) -> Rows<'_> {
        let mut rows = self.labelled(false, "reason", |counters| &counters.rejected);
        for one in self.of(false) {
            let labels = vec![("listener", &*one.name), ("reason", OVERLOAD)];
            rows.push((labels, one.counters.lost));
        }
        rows
    }

    fn of(&self, tcp: bool) -> impl Iterator<Item = &ListenerSample> {
        self.listeners
            .iter()
            .filter(move |one| one.active.is_some() == tcp)
    }

    fn waits(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (counts, sum) = &self.waits;
        let bounds = Waits::BOUNDS.iter().map(Duration::as_secs_f64);
        let buckets: Vec<_> = bounds
            .chain([f64::INFINITY])
            .zip(counts.iter().copied())
            .collect();
        let help = "How long turns waited for a worker";
        let mut histogram =
            encoder.encode_descriptor("queue_wait_seconds", help, None, MetricType::Histogram)?;
        let count = counts.iter().sum();
        histogram.encode_histogram::<NoLabelSet>(sum.as_secs_f64(), count, &buckets, None)
    }

    fn expiries(&self) -> Rows<'_> {
        let expiry = |domain: &'_ Domain| {
            let expires = domain.certificate.given()?.expires();
            let since = expires.duration_since(SystemTime::UNIX_EPOCH);
            Some(since.map_or(0, |since| since.as_secs()))
        };
        let domains = self.domains.iter();
        domains
            .filter_map(|domain| Some((vec![("domain", domain.name.as_str())], expiry(domain)?)))
            .collect()
    }
}

fn family(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    kind: MetricType,
    rows: &Rows<'_>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, kind)?;
    for (labels, value) in rows {
        let labels = labels.as_slice();
        let mut metric = family.encode_family(&labels)?;
        match kind {
            MetricType::Counter => metric.encode_counter::<NoLabelSet, u64, f64>(value, None)?,
            _ => metric.encode_gauge(value)?,
        }
    }
    Ok(())
}
