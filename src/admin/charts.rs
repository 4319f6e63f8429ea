#![forbid(unsafe_code)]
//! Graphs as SVG, drawn here, so that they need no script. Colours are the style sheet's.

use std::fmt::Write as _;

use maud::{Markup, html};

use super::history::{MOST, STEP, Sample};

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 150.0;
/// Room for the numbers at the left, and below for the time.
const LEFT: f64 = 38.0;
const BOTTOM: f64 = 20.0;
const TOP: f64 = 8.0;

/// One line of a graph. Its values end now; where there are fewer than fit, the graph begins later.
pub(super) struct Series {
    pub(super) name: String,
    pub(super) values: Vec<f64>,
}

/// The values of a gauge.
pub(super) fn gauge(samples: &[Sample], value: impl Fn(&Sample) -> u64) -> Vec<f64> {
    samples.iter().map(|sample| float(value(sample))).collect()
}

/// How much a counter grew a second, from each sample to the next. One that was set back (a listener went
/// away) did not grow.
pub(super) fn rate(samples: &[Sample], value: impl Fn(&Sample) -> u64) -> Vec<f64> {
    let pairs = samples
        .windows(2)
        .filter_map(|pair| <&[Sample; 2]>::try_from(pair).ok());
    pairs
        .map(|[before, after]| {
            let time = after.at.saturating_duration_since(before.at).as_secs_f64();
            float(value(after).saturating_sub(value(before))) / time.max(0.001)
        })
        .collect()
}

/// Counts and rates are far below 2^53.
#[allow(
    clippy::cast_precision_loss,
    reason = "a graph has a few hundred steps"
)]
fn float(value: u64) -> f64 {
    value as f64
}

/// A graph. `class` chooses the colours.
pub(super) fn chart(title: &str, class: &str, series: &[Series]) -> Markup {
    let largest = series
        .iter()
        .flat_map(|one| &one.values)
        .fold(0.0_f64, |most, value| most.max(*value));
    let top = nice(largest);
    let steps = window(series.iter().map(|one| one.values.len()).max().unwrap_or(0));
    html! {
        figure class={ "chart " (class) } {
            figcaption {
                h2 { (title) }
                ul class="legend" {
                    @for (index, one) in series.iter().enumerate() {
                        li class={ "s" (index) } {
                            span class="key" aria-hidden="true" {}
                            (one.name) " "
                            b { (short(one.values.last().copied().unwrap_or(0.0))) }
                        }
                    }
                }
            }
            svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label={ (title) ", the last " (covers(steps)) } {
                @for part in 0..=2 {
                    @let value = top * f64::from(part) / 2.0;
                    @let y = y(value, top);
                    line class="grid" x1=(LEFT) x2=(WIDTH) y1=(y) y2=(y) {}
                    text class="label" x=(LEFT - 6.0) y=(y + 4.0) text-anchor="end" { (short(value)) }
                }
                text class="label" x=(LEFT) y=(HEIGHT - 4.0) { (covers(steps)) " ago" }
                text class="label" x=(WIDTH) y=(HEIGHT - 4.0) text-anchor="end" { "now" }
                @for (index, one) in series.iter().enumerate().rev() {
                    g class={ "s" (index) } {
                        path class="area" d=(path(&one.values, top, steps, true)) {}
                        path class="line" d=(path(&one.values, top, steps, false)) {}
                    }
                }
            }
        }
    }
}

/// A line without anything around it, for a row of a table.
pub(super) fn spark(values: &[f64]) -> Markup {
    let largest = values
        .iter()
        .fold(0.0_f64, |most, value| most.max(*value))
        .max(0.5);
    let step = 120.0 / float(window(values.len()) as u64);
    let start = 120.0 - step * float(values.len() as u64);
    let mut d = String::new();
    for (index, value) in values.iter().enumerate() {
        let command = if index == 0 { 'M' } else { 'L' };
        let x = start + step * float(index as u64 + 1);
        let _ = write!(d, "{command}{x:.1} {:.1}", 22.0 - 20.0 * value / largest);
    }
    html! {
        svg class="spark" viewBox="0 0 120 24" aria-hidden="true" { path class="line" d=(d) {} }
    }
}

fn y(value: f64, top: f64) -> f64 {
    TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - value / top)
}

/// How many steps a graph shows: a minute, five or ten, so that a young one is not a dot at the edge.
fn window(values: usize) -> usize {
    let windows = [31, 151, MOST];
    windows
        .into_iter()
        .find(|window| values <= *window)
        .unwrap_or(MOST)
}

fn path(values: &[f64], top: f64, steps: usize, closed: bool) -> String {
    let step = (WIDTH - LEFT) / float(steps.saturating_sub(1).max(1) as u64);
    let values = &values[values.len().saturating_sub(steps)..];
    let start = WIDTH - step * float(values.len().saturating_sub(1) as u64);
    let mut d = String::new();
    for (index, value) in values.iter().enumerate() {
        let command = if index == 0 { 'M' } else { 'L' };
        let x = start + step * float(index as u64);
        let _ = write!(d, "{command}{x:.1} {:.1}", y(*value, top));
    }
    if closed && !values.is_empty() {
        let _ = write!(
            d,
            "L{WIDTH} {base}L{start:.1} {base}Z",
            base = HEIGHT - BOTTOM
        );
    }
    d
}

/// The next of 1, 2, 4, 5, 10, 20, .. that is not smaller, at least 2, so that halves are whole.
fn nice(value: f64) -> f64 {
    let mut unit = 1.0;
    loop {
        for factor in [2.0, 4.0, 10.0] {
            if value <= factor * unit {
                return factor * unit;
            }
        }
        unit *= 10.0;
        if unit > 1e15 {
            return value;
        }
    }
}

/// A number in at most five characters.
pub(super) fn short(value: f64) -> String {
    match value {
        value if value >= 1e9 => format!("{:.1}G", value / 1e9),
        value if value >= 1e6 => format!("{:.1}M", value / 1e6),
        value if value >= 1e4 => format!("{:.1}k", value / 1e3),
        value if value >= 100.0 || value.fract() == 0.0 => format!("{value:.0}"),
        value => format!("{value:.1}"),
    }
}

/// The time that so many steps cover.
fn covers(steps: usize) -> String {
    let minutes = (steps as u64 * STEP.as_secs() + 30) / 60;
    if minutes == 1 {
        "a minute".to_owned()
    } else {
        format!("{minutes} minutes")
    }
}

#[cfg(test)]
mod tests {
    use super::{nice, path, short};

    #[test]
    fn axes_end_at_round_numbers() {
        for (value, wanted) in [
            (0.0, 2.0),
            (2.0, 2.0),
            (2.1, 4.0),
            (5.0, 10.0),
            (11.0, 20.0),
            (399.0, 400.0),
        ] {
            assert!(
                (nice(value) - wanted).abs() < f64::EPSILON,
                "{value}: {}",
                nice(value)
            );
        }
        assert!(nice(f64::MAX).is_finite());
        assert_eq!(
            (short(0.0), short(1.25), short(12_345.0)),
            ("0".into(), "1.2".into(), "12.3k".into())
        );
    }

    #[test]
    fn a_path_ends_at_the_right_edge() {
        assert_eq!(path(&[], 2.0, 31, true), "");
        assert!(path(&[1.0, 2.0], 2.0, 31, false).ends_with("L420.0 8.0"));
    }
}
