//! Draws the charts of docs/PERFORMANCE.md from the results that `run` of the peers has written.
//!
//! A result is a line of JSON: client, workload, records a second, CPU time, latency quantiles. A
//! chart shows the median of the rounds of each client.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde_json::Value;

/// The results, and the folder of the charts.
const RESULTS: &str = "docs/performance/results.jsonl";
const FOLDER: &str = "docs/performance";

/// The workloads at full speed, in the order of the panels, each with its title.
const WORKLOADS: [(&str, &str); 7] = [
    ("small", "100 B"),
    ("tiny", "10 B"),
    ("keyed", "100 B with keys"),
    ("kb", "1 KB"),
    ("big", "10 KB"),
    ("lz4", "1 KB, lz4"),
    ("zstd", "1 KB, zstd"),
];
/// The workload at a fixed rate.
const RATE: &str = "rate";
/// The clients in the order of the bars. `limit` is what the machine allows without a client.
const CLIENTS: [&str; 6] = ["ottla", "franz-go", "librdkafka", "java", "krafka", "limit"];
const QUANTILES: [(&str, &str); 3] = [("p50_ms", "p50"), ("p99_ms", "p99"), ("p999_ms", "p99.9")];

const OURS: RGBColor = RGBColor(0x00, 0x72, 0xB2);
const OTHERS: RGBColor = RGBColor(0x9A, 0xA5, 0xAE);
const LIMIT: RGBColor = RGBColor(0xE3, 0xE6, 0xE8);
const TEXT: RGBColor = RGBColor(0x22, 0x22, 0x22);
const FONT: (&str, u32) = ("sans-serif", 13);
const TITLE_FONT: (&str, u32) = ("sans-serif", 15);

const PANEL_WIDTH: i32 = 440;
const BAR_HEIGHT: i32 = 18;
/// The place of a panel's title, and of the names of the clients.
const TITLE_HEIGHT: i32 = 28;
const NAME_WIDTH: i32 = 86;
/// The place of the number behind the longest bar.
const NUMBER_WIDTH: i32 = 84;
const GAP: i32 = 16;

type Drawing<T = ()> = Result<T, Box<dyn Error>>;

/// The median of each measured value, by workload, client and name of the value.
struct Medians(BTreeMap<(String, String, String), f64>);

impl Medians {
    fn parse(text: &str) -> Result<Medians, String> {
        let mut values: BTreeMap<_, Vec<f64>> = BTreeMap::new();
        for (i, line) in text.lines().enumerate() {
            let result: Value = serde_json::from_str(line)
                .map_err(|e| format!("{RESULTS}: line {}: {e}", i + 1))?;
            let name = |field: &str| result[field].as_str().unwrap_or_default().to_owned();
            let fields = result.as_object().into_iter().flatten();
            for (field, value) in fields.filter_map(|(k, v)| Some((k, v.as_f64()?))) {
                let key = (name("workload"), name("name"), field.clone());
                values.entry(key).or_default().push(value);
            }
        }
        if values.is_empty() {
            return Err(format!("{RESULTS} has no results"));
        }
        Ok(Medians(values.into_iter().map(|(key, values)| (key, median(values))).collect()))
    }

    fn get(&self, workload: &str, client: &str, field: &str) -> Option<f64> {
        let key = (workload.to_owned(), client.to_owned(), field.to_owned());
        self.0.get(&key).copied()
    }

    /// Returns a bar for each client that has run the workload.
    fn bars(&self, workload: &str, field: &str) -> Vec<(&'static str, f64)> {
        let bar = |client: &&'static str| Some((*client, self.get(workload, client, field)?));
        CLIENTS.iter().filter_map(bar).collect()
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    }
}

/// A group of bars, one for each client.
struct Panel {
    title: String,
    bars: Vec<(&'static str, f64)>,
}

/// Draws the charts and writes them.
pub(super) fn write(root: &Path) -> Result<(), String> {
    for (name, svg) in draw_all(&read_results(root)?)? {
        let path = root.join(FOLDER).join(name);
        std::fs::write(&path, svg).map_err(|e| format!("{}: {e}", path.display()))?;
        println!("wrote {FOLDER}/{name}");
    }
    Ok(())
}

fn read_results(root: &Path) -> Result<String, String> {
    std::fs::read_to_string(root.join(RESULTS)).map_err(|e| format!("{RESULTS}: {e}"))
}

/// Returns each chart with the name of its file.
fn draw_all(results: &str) -> Result<Vec<(&'static str, String)>, String> {
    let medians = Medians::parse(results)?;
    let panels = |field| -> Vec<Panel> {
        let panel = |&(workload, title): &(&str, &str)| Panel {
            title: title.to_owned(),
            bars: medians.bars(workload, field),
        };
        WORKLOADS.iter().map(panel).filter(|panel| !panel.bars.is_empty()).collect()
    };
    let latency: Vec<Panel> = QUANTILES
        .iter()
        .map(|(field, quantile)| Panel {
            title: format!("{quantile}, 1 KB at 20,000 records/s"),
            bars: medians.bars(RATE, field),
        })
        .filter(|panel| !panel.bars.is_empty())
        .collect();
    let charts = [
        ("throughput.svg", draw(&panels("rec_per_s"), thousands)),
        ("cpu.svg", draw(&panels("cpu_us_per_rec"), |us| format!("{us:.2} µs"))),
        ("latency.svg", draw(&latency, |ms| format!("{ms:.2} ms"))),
    ];
    let named = |(name, svg): (&'static str, Drawing<String>)| {
        Ok((name, svg.map_err(|e| format!("cannot draw {name}: {e}"))?))
    };
    charts.into_iter().map(named).collect()
}

fn thousands(records: f64) -> String {
    if records >= 999_500.0 {
        format!("{:.2} M/s", records / 1e6)
    } else {
        format!("{:.0} k/s", records / 1e3)
    }
}

/// Draws panels in two columns.
fn draw(panels: &[Panel], number: fn(f64) -> String) -> Drawing<String> {
    let bars = panels.iter().map(|panel| panel.bars.len()).max().unwrap_or(0);
    let height = TITLE_HEIGHT + BAR_HEIGHT * i32::try_from(bars)? + GAP;
    let rows = i32::try_from(panels.len().div_ceil(2))?;
    let size = (u32::try_from(2 * PANEL_WIDTH)?, u32::try_from(rows * height)?);
    let mut svg = String::new();
    let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
    root.fill(&WHITE)?;
    for (panel, i) in panels.iter().zip(0..) {
        panel.draw(&root, (i % 2 * PANEL_WIDTH, i / 2 * height), number)?;
    }
    root.present()?;
    drop(root);
    svg.push('\n');
    Ok(svg)
}

impl Panel {
    fn draw(
        &self,
        root: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
        (left, top): (i32, i32),
        number: fn(f64) -> String,
    ) -> Drawing {
        let style = |font: (&'static str, u32), at| {
            TextStyle::from(font.into_font()).color(&TEXT).pos(Pos::new(at, VPos::Center))
        };
        let names = left + NAME_WIDTH;
        let title = (names, top + TITLE_HEIGHT / 2);
        root.draw(&Text::new(self.title.clone(), title, style(TITLE_FONT, HPos::Left)))?;
        let longest = self.bars.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
        let width = f64::from(PANEL_WIDTH - NAME_WIDTH - NUMBER_WIDTH);
        for ((client, value), i) in self.bars.iter().zip(0..) {
            let colour = match *client {
                "ottla" => OURS,
                "limit" => LIMIT,
                _ => OTHERS,
            };
            let (from, to) =
                (top + TITLE_HEIGHT + i * BAR_HEIGHT, names + (width * value / longest) as i32);
            let bar = [(names, from + 2), (to, from + BAR_HEIGHT - 2)];
            root.draw(&Rectangle::new(bar, colour.filled()))?;
            let middle = from + BAR_HEIGHT / 2;
            root.draw(&Text::new(*client, (names - 6, middle), style(FONT, HPos::Right)))?;
            root.draw(&Text::new(number(*value), (to + 6, middle), style(FONT, HPos::Left)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace_root;

    #[test]
    fn median_of_the_rounds_is_drawn_for_each_client() {
        let line = |client, round, rate| {
            let name = format!(r#""name":"{client}","workload":"kb","round":{round}"#);
            format!(r#"{{{name},"rec_per_s":{rate},"cpu_us_per_rec":0.5}}"#)
        };
        let lines =
            [line("ottla", 1, 1_000), line("ottla", 2, 3_000_000), line("java", 1, 500_000)];
        let charts = draw_all(&lines.join("\n")).unwrap();
        let throughput = &charts[0].1;
        for text in ["1 KB", "ottla", "1.50 M/s", "java", "500 k/s"] {
            assert!(throughput.contains(text), "{text} is not in {throughput}");
        }
        assert!(!throughput.contains("zstd"), "no client has run it");
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
    }

    #[test]
    fn wrong_results_are_named() {
        assert!(draw_all("").unwrap_err().contains("no results"));
        assert!(draw_all("{}\n{").unwrap_err().contains("line 2"));
    }

    #[test]
    fn charts_in_docs_are_up_to_date() {
        for (name, svg) in draw_all(&read_results(&workspace_root()).unwrap()).unwrap() {
            let path = workspace_root().join(FOLDER).join(name);
            let drawn = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(drawn == svg, "{FOLDER}/{name} is out of date: run `cargo xtask charts`");
        }
    }
}
