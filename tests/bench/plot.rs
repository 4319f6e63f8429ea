#![forbid(unsafe_code)]
//! Draws the plots of `scripts/bench`: SVG files, from a JSON file that says what is on each.

use std::error::Error;

use plotters::coord::combinators::IntoLogRange as _;
use plotters::prelude::*;
use serde::Deserialize;

/// Two colours that are told apart in print, too.
const COLOURS: [RGBColor; 4] = [
    RGBColor(0, 90, 160),
    RGBColor(200, 90, 0),
    RGBColor(90, 140, 60),
    RGBColor(120, 120, 120),
];
const FONT: (&str, u32) = ("sans-serif", 14);

#[derive(Deserialize)]
struct Plot {
    file: String,
    title: String,
    kind: Kind,
    x_label: String,
    y_label: String,
    points: Vec<Point>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Bars,
    Lines,
}

#[derive(Deserialize)]
struct Point {
    label: String,
    x: f64,
    median: f64,
    least: f64,
    most: f64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os()
        .nth(1)
        .ok_or("usage: portreeve-plot FILE.json")?;
    let plots: Vec<Plot> = serde_json::from_slice(&std::fs::read(path)?)?;
    for plot in &plots {
        match plot.kind {
            Kind::Bars => bars(plot)?,
            Kind::Lines => lines(plot)?,
        }
    }
    Ok(())
}

impl Plot {
    fn most(&self) -> f64 {
        let most = self.points.iter().map(|point| point.most);
        1.1 * most.fold(f64::MIN_POSITIVE, f64::max)
    }
}

/// A bar for each point, from above to below, with its spread.
fn bars(plot: &Plot) -> Result<(), Box<dyn Error>> {
    let rows = u32::try_from(plot.points.len())?;
    let area = SVGBackend::new(&plot.file, (720, 90 + 26 * rows)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(&plot.title, ("sans-serif", 18))
        .margin(10)
        .y_label_area_size(210)
        .x_label_area_size(40)
        .build_cartesian_2d(0.0..plot.most(), 0.0..f64::from(rows))?;
    let name = |y: &f64| label(plot, f64::from(rows) - *y);
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(2 * plot.points.len() + 1)
        .y_label_formatter(&name)
        .x_desc(&plot.y_label)
        .label_style(FONT)
        .draw()?;
    for (row, point) in (0..rows).zip(&plot.points) {
        let y = f64::from(rows - row) - 0.5;
        let colour = COLOURS[usize::from(!point.label.starts_with("portreeve"))];
        let bar = Rectangle::new([(0.0, y - 0.3), (point.median, y + 0.3)], colour.filled());
        let spread = PathElement::new([(point.least, y), (point.most, y)], BLACK);
        chart.draw_series([bar])?;
        chart.draw_series([spread])?;
    }
    area.present()?;
    Ok(())
}

/// The name of the row whose middle is at `from_top`; the axis asks at borders, too.
fn label(plot: &Plot, from_top: f64) -> String {
    let row = (0u32..)
        .zip(&plot.points)
        .find(|(row, _)| (f64::from(*row) + 0.5 - from_top).abs() < 0.01);
    row.map_or(String::new(), |(_, point)| point.label.clone())
}

/// A line for each label, over a logarithmic axis.
fn lines(plot: &Plot) -> Result<(), Box<dyn Error>> {
    let area = SVGBackend::new(&plot.file, (720, 360)).into_drawing_area();
    area.fill(&WHITE)?;
    let xs = || plot.points.iter().map(|point| point.x);
    let (first, last) = (xs().fold(f64::MAX, f64::min), xs().fold(1.0, f64::max));
    let mut chart = ChartBuilder::on(&area)
        .caption(&plot.title, ("sans-serif", 18))
        .margin(10)
        .margin_right(30)
        .y_label_area_size(60)
        .x_label_area_size(40)
        .build_cartesian_2d((first * 0.9..last * 1.1).log_scale(), 0.0..plot.most())?;
    chart
        .configure_mesh()
        .x_desc(&plot.x_label)
        .y_desc(&plot.y_label)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .label_style(FONT)
        .draw()?;
    let mut labels: Vec<&str> = plot
        .points
        .iter()
        .map(|point| point.label.as_str())
        .collect();
    labels.sort_unstable();
    labels.dedup();
    // Ours first, in its colour.
    labels.sort_by_key(|label| !label.starts_with("portreeve"));
    for (label, colour) in labels.iter().zip(COLOURS.iter().cycle()) {
        let own = || plot.points.iter().filter(|point| point.label == *label);
        let line = LineSeries::new(
            own().map(|point| (point.x, point.median)),
            colour.stroke_width(2),
        );
        chart
            .draw_series(line)?
            .label(*label)
            .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        let spread = own().map(|point| {
            ErrorBar::new_vertical(
                point.x,
                point.least,
                point.median,
                point.most,
                colour.filled(),
                6,
            )
        });
        chart.draw_series(spread)?;
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .label_font(FONT)
        .draw()?;
    area.present()?;
    Ok(())
}
