//! Line charts as SVG, by `plotters`.
//!
//! The colours are those of a light page. The page's style sheet replaces each of them, by its
//! value, if the reader prefers dark pages.

use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::prelude::*;

const SIZE: (u32, u32) = (640, 260);
const FONT: (&str, u32) = ("sans-serif", 15);

/// The colours of series, by Okabe and Ito: people who confuse colours can tell them apart.
pub(super) const SERIES: [RGBColor; 6] = [
    RGBColor(0x00, 0x72, 0xB2),
    RGBColor(0xD5, 0x5E, 0x00),
    RGBColor(0x00, 0x9E, 0x73),
    RGBColor(0xCC, 0x79, 0xA7),
    RGBColor(0x8A, 0x6D, 0x00),
    RGBColor(0x56, 0x4F, 0xC4),
];
pub(super) const TEXT: RGBColor = RGBColor(0x33, 0x33, 0x34);
pub(super) const GRID: RGBColor = RGBColor(0xDD, 0xDD, 0xDE);

/// How the values of an axis lie on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    /// From 0 on.
    Linear,
    Log,
    /// Quantiles, so that 90 %, 99 % and 99.9 % are equally far from each other.
    Quantile,
}

/// The positions from one end of an axis to the other, and those with a label.
struct AxisRange {
    range: Range<f64>,
    labels: Vec<f64>,
}

/// An axis: its scale and its unit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    pub(super) scale: Scale,
    pub(super) label: &'static str,
}

/// A line. A point without a value interrupts it.
pub(super) struct Series {
    pub(super) name: String,
    pub(super) points: Vec<(f64, Option<f64>)>,
}

pub(super) struct Chart {
    pub(super) title: &'static str,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) series: Vec<Series>,
}

impl Scale {
    /// Returns where a value lies on the axis; `None` if it has no place there.
    fn position(self, value: f64) -> Option<f64> {
        let position = match self {
            Scale::Linear => value,
            Scale::Log => value.log10(),
            Scale::Quantile => -(1.0 - value).log10(),
        };
        position.is_finite().then_some(position)
    }

    fn label(self, position: f64) -> String {
        match self {
            Scale::Linear => short(position),
            Scale::Log => short(10_f64.powf(position)),
            Scale::Quantile => {
                let nines = position.round() as usize;
                // 0 %, 90 %, 99 %, 99.9 %.
                let percent = (1.0 - 10_f64.powf(-position)) * 100.0;
                format!("{percent:.*} %", nines.saturating_sub(2))
            }
        }
    }

    /// Returns the range of an axis for values, and the positions of its labels.
    fn range(self, positions: &[f64]) -> AxisRange {
        let max = positions.iter().copied().fold(f64::MIN, f64::max);
        let min = positions.iter().copied().fold(f64::MAX, f64::min);
        if positions.is_empty() {
            return AxisRange { range: 0.0..1.0, labels: vec![0.0, 1.0] };
        }
        match self {
            Scale::Linear => {
                let max = if max > 0.0 { max * 1.05 } else { 1.0 };
                let step = nice_step(max / 8.0);
                let labels = (0..20).map(|i| f64::from(i) * step).take_while(|p| *p <= max);
                AxisRange { range: 0.0..max, labels: labels.collect() }
            }
            Scale::Log => {
                let (from, to) = (min.floor(), max.ceil().max(min.floor() + 1.0));
                // Up to two decades have labels at 2 and 5, too.
                let factors: &[f64] = if to - from <= 2.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
                let decades = from as i32..=to as i32;
                let labels = decades
                    .flat_map(|d| factors.iter().map(move |f| f64::from(d) + f.log10()))
                    .filter(|p| *p <= to);
                AxisRange { range: from..to, labels: labels.collect() }
            }
            Scale::Quantile => {
                let to = (max * 1.02).max(1.0);
                let labels = (0..=to.floor() as i32).map(f64::from).collect();
                AxisRange { range: 0.0..to, labels }
            }
        }
    }
}

impl Ranged for AxisRange {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let part = (value - self.range.start) / (self.range.end - self.range.start);
        limit.0 + (part * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.labels.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// Returns the next step of the form 1, 2 or 5 times a power of ten.
fn nice_step(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|f| f * power >= step).unwrap_or(10.0);
    factor * power
}

/// Returns a number in few characters, such as 1.5M.
fn short(n: f64) -> String {
    let (value, unit) = match n.abs() {
        a if a >= 999_500_000.0 => (n / 1e9, "G"),
        a if a >= 999_500.0 => (n / 1e6, "M"),
        a if a >= 9_995.0 => (n / 1e3, "k"),
        _ => (n, ""),
    };
    let text = format!("{value:.3}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text}{unit}")
}

impl Chart {
    /// Returns whether a line has a value.
    pub(super) fn has_values(&self) -> bool {
        self.series.iter().any(|s| s.points.iter().any(|(_, y)| y.is_some()))
    }

    /// Draws the chart. The legend is part of the page.
    pub(super) fn to_svg(&self) -> Result<String, String> {
        let mut svg = String::new();
        self.draw(&mut svg).map_err(|e| format!("cannot draw {}: {e}", self.title))?;
        Ok(svg)
    }

    fn draw(&self, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
        let lines: Vec<Vec<Option<(f64, f64)>>> =
            self.series.iter().map(|s| self.line(s)).collect();
        let points = lines.iter().flatten().flatten();
        let (xs, ys): (Vec<f64>, Vec<f64>) = points.copied().unzip();
        let (x_axis, y_axis) = (self.x.scale.range(&xs), self.y.scale.range(&ys));
        let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        let mut chart = ChartBuilder::on(&root)
            .margin_right(24)
            .margin_top(10)
            .x_label_area_size(42)
            .y_label_area_size(64)
            .build_cartesian_2d(x_axis, y_axis)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(GRID)
            .label_style(FONT.into_font().color(&TEXT))
            .axis_desc_style(FONT.into_font().color(&TEXT))
            .x_labels(30)
            .y_labels(30)
            .x_desc(self.x.label)
            .y_desc(self.y.label)
            .x_label_formatter(&|position| self.x.scale.label(*position))
            .y_label_formatter(&|position| self.y.scale.label(*position))
            .draw()?;
        for (line, colour) in lines.into_iter().zip(SERIES.iter().cycle()) {
            let parts = line.split(Option::is_none);
            for part in parts.map(|part| part.iter().flatten().copied().collect::<Vec<_>>()) {
                // A line of one point would not be visible.
                if let [point] = part[..] {
                    chart.draw_series([Circle::new(point, 2, colour.filled())])?;
                } else {
                    chart.draw_series(LineSeries::new(part, colour.stroke_width(2)))?;
                }
            }
        }
        root.present()?;
        Ok(())
    }

    /// Returns the points of a line at their positions.
    fn line(&self, series: &Series) -> Vec<Option<(f64, f64)>> {
        let point = |(x, y): &(f64, Option<f64>)| {
            Some((self.x.scale.position(*x)?, self.y.scale.position((*y)?)?))
        };
        series.points.iter().map(point).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_on_axes_are_short() {
        let numbers = [0.0, 0.25, 5.0, 1500.0, 25_000.0, 1_500_000.0, 2e9];
        assert_eq!(numbers.map(short), ["0", "0.25", "5", "1500", "25k", "1.5M", "2G"]);
        assert_eq!([0.7, 1.0, 3.0, 60.0].map(nice_step), [1.0, 1.0, 5.0, 100.0]);
    }

    #[test]
    fn quantiles_lie_a_nine_apart() {
        let at = |q| Scale::Quantile.position(q).unwrap();
        assert!((at(0.99) - 2.0 * at(0.9)).abs() < 1e-9);
        let labels = [0.0, 1.0, 2.0, 3.0, 4.0].map(|p| Scale::Quantile.label(p));
        assert_eq!(labels, ["0 %", "90 %", "99 %", "99.9 %", "99.99 %"]);
        assert_eq!(Scale::Quantile.position(1.0), None, "100 % has no place");
    }

    #[test]
    fn ranges_contain_all_values() {
        assert_eq!(Scale::Linear.range(&[3.0, 100.0]).range, 0.0..105.0);
        assert_eq!(Scale::Log.range(&[0.3, 2.7]).range, 0.0..3.0);
        assert_eq!(Scale::Log.range(&[1.0, 1.0]).range, 1.0..2.0);
        assert_eq!(Scale::Linear.range(&[0.0]).range, 0.0..1.0);
        assert_eq!(Scale::Linear.range(&[]).range, 0.0..1.0);
    }

    #[test]
    fn line_is_interrupted_where_there_is_no_value() {
        let points = vec![(0.0, Some(1.0)), (1.0, Some(2.0)), (2.0, None), (3.0, Some(5.0))];
        let x = Axis { scale: Scale::Linear, label: "s" };
        let y = Axis { scale: Scale::Log, label: "ms" };
        let series = vec![Series { name: "p99".into(), points }];
        let svg = Chart { title: "Latency", x, y, series }.to_svg().unwrap();
        assert_eq!(
            svg.matches("<polyline").count(),
            svg.matches("<polyline fill=\"none\"").count()
        );
        assert_eq!(svg.matches("stroke=\"#0072B2\" stroke-width=\"2\"").count(), 1, "{svg}");
        assert_eq!(svg.matches("<circle").count(), 1, "{svg}");
    }
}
