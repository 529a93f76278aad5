//! The data of `growth`, and curves of it as an SVG.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::procfs::Machine;
use crate::report::{median, short};

/// The findings of `growth`.
#[derive(Debug, Serialize, Deserialize)]
pub struct Growth {
    /// The machine.
    pub machine: Machine,
    /// How often each point was measured.
    pub runs: u32,
    /// One panel for each figure.
    pub panels: Vec<Panel>,
}

/// The curves of one figure, over one size that grows.
#[derive(Debug, Serialize, Deserialize)]
pub struct Panel {
    /// The figure.
    pub title: String,
    /// What grows.
    pub x: String,
    /// The figure's unit.
    pub y: String,
    /// The curves, one for each process that was measured.
    pub lines: Vec<Line>,
}

/// One curve.
#[derive(Debug, Serialize, Deserialize)]
pub struct Line {
    /// The name of the process that was measured.
    pub name: String,
    /// From the smallest size to the largest.
    pub points: Vec<Point>,
}

/// The figure at one size.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Point {
    /// The size.
    pub x: f64,
    /// The figure's median.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Point {
    /// A point from all values measured at one size.
    pub fn of(x: u32, values: &[f64]) -> Point {
        let bound = |choose: fn(f64, f64) -> f64| values.iter().copied().reduce(choose).unwrap_or(f64::NAN);
        Point { x: f64::from(x), median: median(values), min: bound(f64::min), max: bound(f64::max) }
    }
}

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 46.0;
const BOTTOM: f64 = 56.0;
const COLOURS: [&str; 2] = ["#0b5394", "#888888"];

impl Growth {
    /// The data as a table.
    pub fn text(&self) -> String {
        let Machine { processor, cores, kernel, load, .. } = &self.machine;
        let mut out = format!("growth: {processor}, {cores} cores, Linux {kernel}, load average {load}\n");
        for panel in &self.panels {
            writeln!(out, "{} ({}), over {}", panel.title, panel.y, panel.x).expect("a String takes everything");
            for line in &panel.lines {
                for Point { x, median, min, max } in &line.points {
                    let (median, min, max) = (short(*median), short(*min), short(*max));
                    writeln!(out, "  {:14} {x:>7}  {median:>10}   ({min} – {max})", line.name)
                        .expect("a String takes everything");
                }
            }
        }
        out
    }

    /// The data as a picture, two panels in a row.
    pub fn svg(&self) -> String {
        let rows = self.panels.len().div_ceil(2) as f64;
        let (width, height) = (WIDTH * 2.0, HEIGHT * rows + 24.0);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        for (number, panel) in self.panels.iter().enumerate() {
            let (column, row) = ((number % 2) as f64, (number / 2) as f64);
            let place = format!("<g transform=\"translate({} {})\">\n", column * WIDTH, row * HEIGHT);
            out += &place;
            panel.draw(&mut out);
            out += "</g>\n";
        }
        let Machine { processor, cores, kernel, .. } = &self.machine;
        let note = format!(
            "{processor}, {cores} cores, Linux {kernel}; medians of {} runs, bars from the smallest to the largest",
            self.runs
        );
        text(&mut out, width / 2.0, height - 8.0, "middle", &note);
        out += "</svg>\n";
        out
    }
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, what: &str) {
    let what = what.replace('&', "&amp;").replace('<', "&lt;");
    writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{what}</text>")
        .expect("a String takes everything");
}

/// The next of 1, 2, 5, 10, 20, … that is not smaller.
fn round_up(value: f64) -> f64 {
    let power = 10_f64.powf(value.max(1e-9).log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|step| step * power).find(|&round| round >= value).unwrap_or(value)
}

impl Panel {
    fn draw(&self, out: &mut String) {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let top = round_up(points().map(|point| point.max).fold(0.0, f64::max));
        let sizes: Vec<f64> =
            self.lines.first().map(|line| line.points.iter().map(|point| point.x).collect()).unwrap_or_default();
        let (Some(least), Some(most)) = (sizes.first(), sizes.last()) else { return };
        let (inner_width, inner_height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
        // Sizes grow by factors, so their axis is logarithmic; the axis of costs starts at zero.
        let at_x = |x: f64| LEFT + 12.0 + (x / least).ln() / (most / least).ln() * (inner_width - 24.0);
        let at_y = |y: f64| TOP + inner_height - y / top * inner_height;
        text(out, LEFT, 20.0, "start", &format!("{}, {}", self.title, self.y));
        text(out, LEFT + inner_width / 2.0, HEIGHT - 16.0, "middle", &self.x);
        for step in 0..=4 {
            let value = top * f64::from(step) / 4.0;
            let (y, end) = (at_y(value), LEFT + inner_width);
            writeln!(out, "<path d=\"M{LEFT} {y:.1}H{end}\" stroke=\"#dddddd\"/>").expect("a String takes everything");
            text(out, LEFT - 6.0, y + 4.0, "end", &short(value));
        }
        for &size in &sizes {
            text(out, at_x(size), TOP + inner_height + 18.0, "middle", &size.to_string());
        }
        for (number, (line, colour)) in self.lines.iter().zip(COLOURS).enumerate() {
            let path: Vec<String> =
                line.points.iter().map(|point| format!("{:.1} {:.1}", at_x(point.x), at_y(point.median))).collect();
            let path = path.join("L");
            writeln!(out, "<path d=\"M{path}\" stroke=\"{colour}\" fill=\"none\" stroke-width=\"2\"/>")
                .expect("a String takes everything");
            for point in &line.points {
                let (x, y, low, high) = (at_x(point.x), at_y(point.median), at_y(point.min), at_y(point.max));
                writeln!(
                    out,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/><path d=\"M{x:.1} {low:.1}V{high:.1}\" \
                     stroke=\"{colour}\"/>"
                )
                .expect("a String takes everything");
            }
            let x = LEFT + 12.0 + number as f64 * 130.0;
            writeln!(out, "<path d=\"M{x} 33h18\" stroke=\"{colour}\" stroke-width=\"2\"/>")
                .expect("a String takes everything");
            text(out, x + 24.0, 37.0, "start", &line.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        for (value, want) in [(0.9, 1.0), (1.0, 1.0), (3.0, 5.0), (4900.0, 5000.0), (5100.0, 10_000.0)] {
            assert!((round_up(value) - want).abs() < 1e-6, "{value}");
        }
    }
}
