//! `--report` and `--compare`: the results of runs as a page with charts, or as JSON.

mod chart;
mod machine;
mod page;
mod run_data;
mod sampler;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use ottla::Producer;
use time::OffsetDateTime;

pub(crate) use run_data::{RunData, SweepStep, Totals, counts, percentiles};
pub(crate) use sampler::Sampler;

use crate::CliError;
use crate::args::PerfArgs;
use crate::clock::wall_clock_us;
use crate::console::{output_status, print_line};
use crate::doctor::cluster_summary;
use crate::units::{count, time_us};

/// The files of `--report`.
pub(crate) struct ReportFiles<'a>(Vec<(&'a Path, Format)>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Html,
    Json,
}

impl ReportFiles<'_> {
    /// Checks the names, and that the files can be written: a run may take hours.
    pub(crate) fn check(paths: &[PathBuf]) -> Result<ReportFiles<'_>, CliError> {
        let mut files = Vec::new();
        for path in paths {
            let extension = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
            let format = match extension.as_deref() {
                Some("html" | "htm") => Format::Html,
                Some("json") => Format::Json,
                _ => {
                    return Err(CliError::usage(format!(
                        "the name of --report {} must end in .html or .json",
                        path.display()
                    )));
                }
            };
            check_writable(path)?;
            files.push((path.as_path(), format));
        }
        Ok(ReportFiles(files))
    }

    /// Writes the files. One of JSON has one run.
    pub(crate) fn write(&self, runs: &[RunData]) -> Result<(), CliError> {
        for (path, format) in &self.0 {
            let cannot = |e: &dyn std::fmt::Display| {
                CliError::failed(format!("cannot write {}: {e}", path.display()))
            };
            let text = match (format, runs) {
                (Format::Html, _) => page::page(runs).map_err(|e| cannot(&e))?,
                (Format::Json, [run]) => serde_json::to_string(run).map_err(|e| cannot(&e))? + "\n",
                (Format::Json, _) => return Err(cannot(&"several runs have no file of JSON")),
            };
            let written = File::create(path).and_then(|mut f| f.write_all(text.as_bytes()));
            written.map_err(|e| cannot(&e))?;
        }
        Ok(())
    }
}

fn check_writable(path: &Path) -> Result<(), CliError> {
    let existed = path.exists();
    OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(|e| {
        CliError::usage(format!("cannot write {} of --report: {e}", path.display()))
    })?;
    if !existed {
        // A run that fails leaves no empty file.
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

/// Returns the data of a run that begins now, without its results.
pub(crate) fn begin_run(args: &PerfArgs, producer: &Producer) -> RunData {
    let started_ms = wall_clock_us() / 1000;
    let name = args
        .report_name
        .clone()
        .unwrap_or_else(|| format!("{} {}", args.topic(), date(started_ms)));
    let mut run = RunData::new(name, started_ms);
    run.load = load(args);
    let settings = producer.config().to_string();
    let entry = |line: &str| line.split_once('=').map(|(n, v)| (n.to_owned(), v.to_owned()));
    run.settings = settings.lines().filter_map(entry).collect();
    run.machine = machine::machine();
    if !args.report.is_empty() {
        run.cluster = cluster_summary(producer.config());
    }
    run
}

/// Returns the options that say what is sent.
fn load(args: &PerfArgs) -> BTreeMap<String, String> {
    let rate = args.rate.map(|r| r as f64).or(args.throughput).filter(|r| *r > 0.0);
    let payload = args.payload_file.as_ref().map(|path| path.display().to_string());
    let key_range = args.record_key_range.zip(args.key_distribution);
    let entries = [
        ("topic", Some(args.topic().to_owned())),
        ("records", args.num_records.map(count)),
        ("records of the warm-up", (args.warmup_records > 0).then(|| count(args.warmup_records))),
        ("offered records a second", rate.map(|r| count(r as u64))),
        ("bytes of a value", args.record_size.or(args.size).map(|n| count(n.into()))),
        ("payload file", payload),
        ("keys", args.keyed.then(|| "a different one for each record".to_owned())),
        ("key range", key_range.map(|(n, how)| format!("{}, {how:?}", count(n)))),
        ("threads", Some(args.threads.to_string())),
        ("send method", Some(format!("{:?}", args.path))),
    ];
    entries.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// `--compare`: reads the data of runs, prints their results and writes them as one report.
pub(crate) fn compare(args: &PerfArgs) -> Result<u8, CliError> {
    let files = ReportFiles::check(&args.report)?;
    if files.0.iter().any(|(_, format)| *format == Format::Json) {
        return Err(CliError::usage("--compare writes a page: name a --report that ends in .html"));
    }
    let mut runs = Vec::new();
    for path in &args.compare {
        let text = std::fs::read_to_string(path)
            .map_err(|e| CliError::usage(format!("cannot read {}: {e}", path.display())))?;
        let mut run = RunData::parse(&text)
            .map_err(|e| CliError::usage(format!("cannot compare {}: {e}", path.display())))?;
        // Runs of the same minute would have the same name.
        if runs.iter().any(|other: &RunData| other.name == run.name) {
            run.name += &format!(" ({})", path.display());
        }
        runs.push(run);
    }
    files.write(&runs)?;
    output_status(print_comparison(&runs))
}

fn print_comparison(runs: &[RunData]) -> std::io::Result<()> {
    let width = runs.iter().map(|run| run.name.chars().count()).max().unwrap_or(0).max(3);
    print_line!(
        "{:<width$} {:>12} {:>10} {:>10} {:>10} {:>10} {:>8}",
        "run",
        "records/s",
        "p50",
        "p99",
        "p99.9",
        "max",
        "failed"
    )?;
    for run in runs {
        let rate = run.totals.records as f64 / run.totals.wall_s.max(1e-9);
        let latency = |q| run.latency_at(q).map_or("-".into(), time_us);
        print_line!(
            "{:<width$} {:>12} {:>10} {:>10} {:>10} {:>10} {:>8}",
            run.name,
            count(rate as u64),
            latency(0.5),
            latency(0.99),
            latency(0.999),
            latency(1.0),
            count(run.totals.failed)
        )?;
    }
    Ok(())
}

/// Returns a time in milliseconds since 1970 as date and time in UTC.
pub(super) fn date(ms: i64) -> String {
    let date = OffsetDateTime::from_unix_timestamp(ms.div_euclid(1000));
    date.map_or("–".into(), |d| {
        let (month, minute) = (u8::from(d.month()), d.minute());
        format!("{}-{month:02}-{:02} {:02}:{minute:02} UTC", d.year(), d.day(), d.hour())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01 00:00 UTC");
        assert_eq!(date(951_782_399_000), "2000-02-28 23:59 UTC");
        assert_eq!(date(951_782_400_000), "2000-02-29 00:00 UTC");
        assert_eq!(date(1_700_000_000_000), "2023-11-14 22:13 UTC");
        assert_eq!(date(i64::MAX), "–");
    }

    #[test]
    fn report_needs_a_known_ending_and_a_writable_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| vec![dir.path().join(name)];
        for name in ["report.pdf", "report", "no/such/dir/report.html"] {
            assert!(ReportFiles::check(&path(name)).is_err(), "{name}");
        }
        let good = path("report.HTML");
        assert!(ReportFiles::check(&good).is_ok());
        assert!(!good[0].exists(), "the check leaves a file");
    }
}
