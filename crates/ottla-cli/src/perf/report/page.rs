//! The report as one HTML file: charts and tables of one run, or of several beside each other.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::chart::{Axis, Chart, GRID, SERIES, Scale, Series, TEXT};
use super::run_data::{RunData, Sample, sum};
use crate::units::{bytes, count, time_us};

/// Returns a value of a sample, if the sample has it.
type SampleValue = fn(&Sample) -> Option<f64>;

/// The names of the four percentiles of samples and steps.
const PERCENTILES: [&str; 4] = ["p50", "p99", "p99.9", "max"];
const RESULTS: &str = "Results";
const SECONDS: Axis = Axis { scale: Scale::Linear, label: "seconds since the start" };
/// The same colours for dark pages, in the order of [`SERIES`].
const DARK_SERIES: [&str; 6] = ["#56B4E9", "#F28E2B", "#2CC49A", "#E39BC6", "#F0E442", "#A9A4FF"];

/// Returns the page for these runs.
pub(super) fn page(runs: &[RunData]) -> Result<String, String> {
    let title = match runs {
        [run] => format!("ottla perf: {}", run.name),
        _ => format!("ottla perf: {} runs", runs.len()),
    };
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <meta name=\"color-scheme\" content=\"light dark\"/>\n\
         <title>{0}</title>\n<style>\n{1}</style>\n</head>\n<body>\n<h1>{0}</h1>\n",
        escaped(&title),
        style_sheet()
    );
    html += &results(runs);
    html += "<div class=\"charts\">\n";
    for chart in charts(runs).iter().filter(|chart| chart.has_values()) {
        html += &figure(chart)?;
    }
    html += "</div>\n";
    html += &sweep_table(runs);
    for (caption, entries) in [
        ("Load", (|run| &run.load) as fn(&RunData) -> &_),
        ("Cluster", |run| &run.cluster),
        ("Machine", |run| &run.machine),
        ("Settings", |run| &run.settings),
    ] {
        let names: BTreeSet<&String> = runs.iter().flat_map(|run| entries(run).keys()).collect();
        if names.is_empty() {
            continue;
        }
        let rows = names.into_iter().map(|name| {
            let values = runs.iter().map(|run| entries(run).get(name).cloned().unwrap_or_default());
            (name.clone(), values.collect::<Vec<_>>())
        });
        html += &table(caption, runs, rows);
    }
    html += "</body>\n</html>\n";
    Ok(html)
}

/// Returns a text for HTML, between tags or in an attribute.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '&' => out += "&amp;",
            '"' => out += "&quot;",
            c if c.is_control() && c != '\n' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

fn style_sheet() -> String {
    let mut css = String::from(include_str!("page.css"));
    let hex = |c: &plotters::style::RGBColor| format!("#{:02X}{:02X}{:02X}", c.0, c.1, c.2);
    let mut rule = |from: &str, to: &str| {
        let _ = writeln!(css, "svg [stroke=\"{from}\"] {{ stroke: {to} }}");
        let _ = writeln!(css, "svg [fill=\"{from}\"] {{ fill: {to} }}");
    };
    rule(&hex(&TEXT), "var(--text)");
    rule(&hex(&GRID), "var(--grid)");
    for (i, colour) in SERIES.iter().enumerate() {
        rule(&hex(colour), &format!("var(--series-{i})"));
    }
    let light: String =
        SERIES.iter().enumerate().map(|(i, c)| format!("--series-{i}: {}; ", hex(c))).collect();
    let dark: String =
        DARK_SERIES.iter().enumerate().map(|(i, c)| format!("--series-{i}: {c}; ")).collect();
    let _ = writeln!(css, ":root {{ {light}}}");
    let _ = writeln!(css, "@media (prefers-color-scheme: dark) {{ :root {{ {dark}}} }}");
    css
}

/// Returns the table of the results.
fn results(runs: &[RunData]) -> String {
    type Cell = fn(&RunData) -> String;
    let rows: [(&str, Cell); 16] = [
        ("started", |run| super::date(run.started_ms)),
        ("version", |run| format!("ottla {}", run.version)),
        ("records acknowledged", |run| count(run.totals.records)),
        ("records failed", |run| count(run.totals.failed)),
        ("duration", |run| format!("{:.2} s", run.totals.wall_s)),
        ("records a second", |run| count(per_second(run, run.totals.records as f64) as u64)),
        ("megabytes a second", |run| {
            format!("{:.2}", per_second(run, run.totals.bytes as f64) / 1e6)
        }),
        ("latency, p50", |run| latency(run, 0.5)),
        ("latency, p90", |run| latency(run, 0.9)),
        ("latency, p99", |run| latency(run, 0.99)),
        ("latency, p99.9", |run| latency(run, 0.999)),
        ("latency, maximum", |run| latency(run, 1.0)),
        ("mean batch", mean_batch),
        ("records retried", |run| count(sum(run.samples.iter().map(|s| s.records_retried)))),
        ("CPU time a record", |run| {
            let totals = &run.totals;
            let us = (totals.user_s + totals.sys_s) * 1e6 / totals.records.max(1) as f64;
            format!("{us:.3} µs")
        }),
        ("most memory", |run| bytes(run.totals.max_rss_kb as f64 * 1024.0)),
    ];
    // A sweep has a table for each rate.
    let has_totals = runs.iter().any(|run| run.sweep.is_empty());
    let rows = rows
        .iter()
        .take(if has_totals { rows.len() } else { 2 })
        .map(|(name, cell)| ((*name).to_owned(), runs.iter().map(cell).collect::<Vec<_>>()));
    table(RESULTS, runs, rows)
}

fn per_second(run: &RunData, n: f64) -> f64 {
    n / run.totals.wall_s.max(1e-9)
}

fn latency(run: &RunData, quantile: f64) -> String {
    run.latency_at(quantile).map_or("–".into(), time_us)
}

fn mean_batch(run: &RunData) -> String {
    let batches = sum(run.samples.iter().map(|s| s.batches));
    let size = sum(run.samples.iter().map(|s| s.batch_bytes));
    if batches == 0 { "–".into() } else { bytes(size as f64 / batches as f64) }
}

/// Returns a table with a column for each run. Settings that differ are marked.
fn table(
    caption: &str,
    runs: &[RunData],
    rows: impl Iterator<Item = (String, Vec<String>)>,
) -> String {
    let mut html = format!("<table>\n<caption>{}</caption>\n", escaped(caption));
    if runs.len() > 1 {
        html += "<tr><th></th>";
        runs.iter().for_each(|run| html += &format!("<th>{}</th>", escaped(&run.name)));
        html += "</tr>\n";
    }
    for (name, values) in rows {
        // Measurements differ always.
        let differs = caption != RESULTS && values.windows(2).any(|pair| pair[0] != pair[1]);
        html += if differs { "<tr class=\"differs\">" } else { "<tr>" };
        html += &format!("<th>{}</th>", escaped(&name));
        values.iter().for_each(|value| html += &format!("<td>{}</td>", escaped(value)));
        html += "</tr>\n";
    }
    html + "</table>\n"
}

fn figure(chart: &Chart) -> Result<String, String> {
    let mut html = format!("<figure>\n<figcaption>{}", escaped(chart.title));
    // A single line is what the title says.
    if chart.series.len() > 1 {
        for (i, series) in chart.series.iter().enumerate() {
            let (name, colour) = (escaped(&series.name), i % SERIES.len());
            let _ = write!(
                html,
                " <span class=\"key\" style=\"--key: var(--series-{colour})\">{name}</span>"
            );
        }
    }
    html += "</figcaption>\n";
    html += &chart.to_svg()?;
    Ok(html + "</figure>\n")
}

fn charts(runs: &[RunData]) -> Vec<Chart> {
    let mut charts = sweep_charts(runs);
    charts.push(over_time(
        runs,
        "Throughput",
        "records a second",
        &[("acknowledged", |s| Some(s.records as f64 / seconds(s)))],
    ));
    charts.push(latency_over_time(runs));
    charts.push(percentiles(runs));
    charts.push(over_time(runs, "Batch fill", "% of batch.size", &[("fill", |_| None)]));
    if let Some(chart) = charts.last_mut() {
        chart.series = runs.iter().map(batch_fill).collect();
    }
    charts.extend([
        over_time(
            runs,
            "Records a batch",
            "records",
            &[("records", |s| (s.batches > 0).then(|| s.records as f64 / s.batches as f64))],
        ),
        over_time(
            runs,
            "Compression",
            "% of uncompressed",
            &[("ratio", |s| s.gauges.compression_ratio.map(|ratio| ratio * 100.0))],
        ),
        over_time(
            runs,
            "Requests in flight",
            "requests",
            &[("requests", |s| s.gauges.requests_in_flight)],
        ),
        over_time(
            runs,
            "Retries and failures",
            "records a second",
            &[
                ("retried", |s| Some(s.records_retried as f64 / seconds(s))),
                ("failed", |s| Some(s.failed as f64 / seconds(s))),
            ],
        ),
        over_time(
            runs,
            "Throttle",
            "ms",
            &[("throttle", |s| Some(s.gauges.throttle_ms.unwrap_or_default()))],
        ),
        over_time(runs, "CPU", "% of one core", &[("CPU", |s| Some(s.cpu_s / seconds(s) * 100.0))]),
        over_time(
            runs,
            "Memory",
            "MiB",
            &[
                ("resident", |s| s.gauges.rss_kb.map(|kb| kb as f64 / 1024.0)),
                ("buffer.memory in use", |s| Some(s.gauges.memory_used as f64 / 1_048_576.0)),
            ],
        ),
    ]);
    charts
}

fn seconds(sample: &Sample) -> f64 {
    (sample.end_s - sample.start_s).max(1e-9)
}

/// Returns a chart of values over the time of the run, one line for each value and run.
fn over_time(
    runs: &[RunData],
    title: &'static str,
    label: &'static str,
    values: &[(&str, SampleValue)],
) -> Chart {
    let series = runs.iter().flat_map(|run| {
        values.iter().map(move |(name, value)| {
            series_of(run, line_name(runs, run, name, values.len()), value)
        })
    });
    let y = Axis { scale: Scale::Linear, label };
    Chart { title, x: SECONDS, y, series: series.collect() }
}

fn series_of(run: &RunData, name: String, value: impl Fn(&Sample) -> Option<f64>) -> Series {
    let points = run.samples.iter().map(|s| ((s.start_s + s.end_s) / 2.0, value(s)));
    Series { name, points: points.collect() }
}

/// Returns the name of a line: of the run, of the value, or both.
fn line_name(runs: &[RunData], run: &RunData, value: &str, values: usize) -> String {
    match (runs.len(), values) {
        (1, _) => value.to_owned(),
        (_, 1) => run.name.clone(),
        _ => format!("{}, {value}", run.name),
    }
}

fn batch_fill(run: &RunData) -> Series {
    let size = run.settings.get("batch.size").and_then(|size| size.parse::<f64>().ok());
    series_of(run, run.name.clone(), |s| {
        let size = size.filter(|size| *size > 0.0 && s.batches > 0)?;
        Some(s.batch_bytes as f64 / s.batches as f64 / size * 100.0)
    })
}

/// Returns the latencies over time: all percentiles of one run, or one of each run.
fn latency_over_time(runs: &[RunData]) -> Chart {
    let shown: &[usize] = if runs.len() == 1 { &[0, 1, 2, 3] } else { &[1] };
    let series = runs.iter().flat_map(|run| {
        shown.iter().map(|i| {
            let name = line_name(runs, run, PERCENTILES[*i], shown.len());
            series_of(run, name, |s| s.latency_us.map(|us| us[*i] as f64 / 1e3))
        })
    });
    let title = if runs.len() == 1 { "Latency" } else { "Latency, p99" };
    let y = Axis { scale: Scale::Log, label: "ms" };
    Chart { title, x: SECONDS, y, series: series.collect() }
}

/// Returns the latency of each percentile, as HdrHistogram plots it.
fn percentiles(runs: &[RunData]) -> Chart {
    let series = runs.iter().map(|run| {
        let total = sum(run.latency_us.iter().map(|(_, n)| *n));
        let (mut seen, mut points) = (0_u64, Vec::new());
        for (us, n) in &run.latency_us {
            // The share of the records that were faster: 100 % has no place on the axis.
            let quantile = seen as f64 / total as f64;
            points.push((quantile, Some(*us as f64 / 1e3)));
            seen = seen.saturating_add(*n);
            // The last record of this value.
            let last = (seen as f64 - 1.0).max(0.0) / total as f64;
            points.push((last.max(quantile), Some(*us as f64 / 1e3)));
        }
        Series { name: run.name.clone(), points }
    });
    let x = Axis { scale: Scale::Quantile, label: "percentile" };
    let y = Axis { scale: Scale::Log, label: "ms" };
    Chart { title: "Latency by percentile", x, y, series: series.collect() }
}

/// Returns latency against offered rate, and the rate that was achieved.
fn sweep_charts(runs: &[RunData]) -> Vec<Chart> {
    let sweeps: Vec<&RunData> = runs.iter().filter(|run| !run.sweep.is_empty()).collect();
    if sweeps.is_empty() {
        return Vec::new();
    }
    let shown: &[usize] = if runs.len() == 1 { &[0, 1, 2, 3] } else { &[1] };
    let x = Axis { scale: Scale::Log, label: "records a second, offered" };
    let latency = sweeps.iter().flat_map(|run| {
        shown.iter().map(|i| Series {
            name: line_name(runs, run, PERCENTILES[*i], shown.len()),
            points: run
                .sweep
                .iter()
                .map(|s| (s.offered, Some(s.latency_us[*i] as f64 / 1e3)))
                .collect(),
        })
    });
    let achieved = sweeps.iter().map(|run| Series {
        name: run.name.clone(),
        points: run.sweep.iter().map(|s| (s.offered, Some(s.achieved))).collect(),
    });
    let title = if runs.len() == 1 { "Latency by rate" } else { "Latency by rate, p99" };
    vec![
        Chart { title, x, y: Axis { scale: Scale::Log, label: "ms" }, series: latency.collect() },
        Chart {
            title: "Achieved rate",
            x,
            y: Axis { scale: Scale::Log, label: "records a second" },
            series: achieved.collect(),
        },
    ]
}

fn sweep_table(runs: &[RunData]) -> String {
    let mut html = String::new();
    for run in runs.iter().filter(|run| !run.sweep.is_empty()) {
        let name = if runs.len() > 1 { format!(" of {}", run.name) } else { String::new() };
        let _ = write!(
            html,
            "<table>\n<caption>Rates{}</caption>\n<tr><th>offered</th><th>achieved</th>\
             <th>p50</th><th>p99</th><th>p99.9</th><th>maximum</th><th>failed</th>\
             <th>sustained</th></tr>\n",
            escaped(&name)
        );
        for step in &run.sweep {
            let [p50, p99, p999, max] = step.latency_us.map(time_us);
            let sustained = if step.is_sustained { "yes" } else { "no" };
            let cells = [
                count(step.offered as u64),
                count(step.achieved as u64),
                p50,
                p99,
                p999,
                max,
                count(step.failed),
                sustained.to_owned(),
            ];
            let cells = cells.map(|cell| format!("<td>{cell}</td>")).concat();
            html += &format!("<tr>{cells}</tr>\n");
        }
        html += "</table>\n";
    }
    html
}

#[cfg(test)]
mod tests {
    use super::super::run_data::SweepStep;
    use super::super::run_data::tests::example;
    use super::*;

    #[test]
    fn page_of_a_run_has_every_chart_and_table_and_loads_nothing() {
        let html = page(&[example("a run", 1)]).unwrap();
        for title in [
            "Throughput",
            "Latency",
            "Latency by percentile",
            "Batch fill",
            "Records a batch",
            "Compression",
            "Requests in flight",
            "Retries and failures",
            "Throttle",
            "CPU",
            "Memory",
        ] {
            assert!(html.contains(&format!("<figcaption>{title}")), "no chart {title}");
        }
        assert_eq!(html.matches("<svg").count(), 11);
        for part in ["<th>records acknowledged</th><td>10,000</td>", "<th>linger.ms</th><td>5</td>"]
        {
            assert!(html.contains(part), "no {part}");
        }
        for part in ["<script", "<link", "url(", "@import", " src=", " href="] {
            assert!(!html.contains(part), "{part} in the page");
        }
        // The only address is the name of the SVG vocabulary.
        assert_eq!(
            html.matches("http").count(),
            html.matches("http://www.w3.org/2000/svg").count()
        );
        assert!(html.contains("orders &amp; &lt;more&gt;"), "a text is not escaped");
    }

    #[test]
    fn compared_runs_have_a_line_and_a_column_each() {
        let html = page(&[example("first", 1), example("second <b>", 2)]).unwrap();
        assert!(html.contains("<th>first</th><th>second &lt;b&gt;</th>"));
        assert!(html.contains("<tr class=\"differs\"><th>linger.ms</th><td>5</td><td>10</td>"));
        assert!(html.contains("<tr><th>batch.size</th><td>16384</td><td>16384</td>"));
        let start = html.find("<figcaption>Throughput").unwrap();
        let chart = &html[start..start + html[start..].find("</figure>").unwrap()];
        for i in [0, 1] {
            assert!(chart.contains(&format!("var(--series-{i})")), "no key of line {i}");
        }
        assert_eq!(chart.matches("stroke-width=\"2\"").count(), 2, "{chart}");
    }

    #[test]
    fn sweep_has_its_charts_and_its_table() {
        let mut run = example("a sweep", 1);
        for rate in [1000.0, 2000.0, 4000.0] {
            run.sweep.push(SweepStep {
                offered: rate,
                achieved: rate.min(2500.0),
                latency_us: [900, 5_000, 9_000, 12_000],
                failed: 0,
                is_sustained: rate < 2500.0,
            });
        }
        let html = page(&[run]).unwrap();
        assert!(html.contains("<figcaption>Latency by rate") && html.contains("Achieved rate"));
        assert!(html.contains("<td>4,000</td><td>2,500</td>"), "{html}");
    }

    #[test]
    fn numbers_that_no_run_gives_do_no_harm() {
        for number in [0.0, -1.0, 1e-300, f64::MAX] {
            let mut run = example("a file of another program", 1);
            run.started_ms = i64::MIN;
            run.totals.wall_s = number;
            run.latency_us = vec![(0, u64::MAX), (u64::MAX, u64::MAX), (5, 0)];
            for sample in &mut run.samples {
                (sample.start_s, sample.end_s, sample.cpu_s) = (number, -number, number);
                (sample.records_retried, sample.batch_bytes) = (u64::MAX, u64::MAX);
                sample.latency_us = Some([0, u64::MAX, 1, 2]);
                sample.gauges.compression_ratio = Some(number);
            }
            let step = SweepStep {
                offered: number,
                achieved: -number,
                latency_us: [0, 1, u64::MAX, 3],
                failed: u64::MAX,
                is_sustained: false,
            };
            run.sweep = vec![step; 3];
            assert!(page(&[run]).is_ok(), "{number}");
        }
    }

    #[test]
    fn run_without_records_has_a_page() {
        let html = page(&[RunData::new("empty".into(), 0)]).unwrap();
        assert!(html.contains("<th>latency, p99</th><td>–</td>"), "{html}");
    }
}
