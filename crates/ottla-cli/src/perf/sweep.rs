//! `--sweep`: the latency at rising rates, and the highest rate under a latency.
//!
//! The load is open: a record's latency begins when the record is due, whether or not the producer
//! was ready for it. So a producer that cannot keep up shows it in its latencies.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::report::{SweepStep, percentiles};
use super::{PerfRun, PerfStats};
use crate::args::PerfArgs;
use crate::units::{count, time_us};
use crate::{CliError, error_with_reference};

/// A step ends at the latest after this multiple of its duration.
const MAX_STEP_FACTOR: u32 = 2;
/// A step whose last record is acknowledged later than this part of its duration is not sustained.
const MAX_DELAY_FRACTION: f64 = 0.05;
/// The time that is always allowed for the last records.
const MIN_DELAY: Duration = Duration::from_millis(500);
/// Steps between the last good rate and the first bad one.
const REFINEMENTS: u32 = 4;
/// The first records use a new connection, cold caches and small batches. They are not measured.
const WARM_UP: Duration = Duration::from_secs(1);

/// The rates of `--sweep FROM..TO`, in records a second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct SweepRange {
    from: f64,
    to: f64,
}

impl std::str::FromStr for SweepRange {
    type Err = String;

    fn from_str(text: &str) -> Result<SweepRange, String> {
        let (from, to) = text.split_once("..").ok_or("expected FROM..TO, such as 1000..100000")?;
        let rate = |text: &str| match text.trim().replace('_', "").parse::<f64>() {
            Ok(rate) if (1.0..=1e9).contains(&rate) => Ok(rate),
            _ => Err(format!("{text:?} is no rate from 1 to 1000000000")),
        };
        let (from, to) = (rate(from)?, rate(to)?);
        if from < to { Ok(SweepRange { from, to }) } else { Err("FROM must be below TO".into()) }
    }
}

impl SweepRange {
    /// Returns rates from the first to the last one, each the same multiple of the one before.
    fn rates(self, steps: u32) -> impl Iterator<Item = f64> {
        let factor = (self.to / self.from).powf(1.0 / f64::from(steps.max(2) - 1));
        (0..steps.max(2)).map(move |i| (self.from * factor.powi(i as i32)).round())
    }
}

/// The result of a sweep.
pub(super) struct Sweep {
    /// By rate.
    pub(super) steps: Vec<SweepStep>,
    p99_limit_us: Option<u64>,
}

impl Sweep {
    /// Runs the load at each rate. Prints a line for each, unless the output is JSON.
    pub(super) fn run(
        args: &PerfArgs,
        range: SweepRange,
        run: &PerfRun<'_>,
    ) -> Result<Sweep, CliError> {
        let p99_limit_us = args.sweep_p99.map(|ms| (ms * 1e3) as u64);
        let mut sweep = Sweep { steps: Vec::new(), p99_limit_us };
        let duration = Duration::from_secs(args.sweep_seconds);
        let mut next_record = 0;
        let mut step = |rate: f64, duration: Duration| -> Result<SweepStep, CliError> {
            let records = (rate * duration.as_secs_f64()).ceil().max(1.0) as u64;
            let range = next_record..next_record + records;
            next_record = range.end;
            run_step(run, range, rate, duration)
        };
        step(range.from, WARM_UP)?;
        for rate in range.rates(args.sweep_steps) {
            let result = step(rate, duration)?;
            if !run.stats.is_running() {
                return Ok(sweep);
            }
            sweep.add(args, run.stats, result);
            // A higher rate would only be later.
            if !result.is_sustained {
                break;
            }
        }
        for _ in 0..REFINEMENTS {
            let Some(rate) = sweep.next_refinement() else { break };
            let result = step(rate, duration)?;
            if !run.stats.is_running() {
                break;
            }
            sweep.add(args, run.stats, result);
        }
        Ok(sweep)
    }

    fn add(&mut self, args: &PerfArgs, stats: &PerfStats, step: SweepStep) {
        if !args.json {
            stats.print(format_args!("{}", self.line(&step)));
        }
        self.steps.push(step);
        self.steps.sort_by(|a, b| a.offered.total_cmp(&b.offered));
    }

    /// Returns whether the load kept its rate and its latency.
    fn is_good(&self, step: &SweepStep) -> bool {
        let [_, p99, ..] = step.latency_us;
        step.is_sustained && self.p99_limit_us.is_none_or(|limit| p99 <= limit)
    }

    /// Returns the highest rate up to which every step was good.
    fn highest_good(&self) -> Option<&SweepStep> {
        self.steps.iter().take_while(|step| self.is_good(step)).last()
    }

    /// Returns the rate in the middle between the last good and the first bad one.
    fn next_refinement(&self) -> Option<f64> {
        let bad = self.steps.iter().find(|step| !self.is_good(step))?;
        let good = self.highest_good()?;
        let middle = (good.offered * bad.offered).sqrt().round();
        (good.offered < middle && middle < bad.offered).then_some(middle)
    }

    fn line(&self, step: &SweepStep) -> String {
        let [p50, p99, p999, max] = step.latency_us.map(time_us);
        let verdict = if !step.is_sustained {
            ", not sustained"
        } else if !self.is_good(step) {
            ", above the limit"
        } else {
            ""
        };
        let failed = match step.failed {
            0 => String::new(),
            n => format!(", {} failed", count(n)),
        };
        format!(
            "{} records/sec offered, {} achieved, latency {p50} 50th, {p99} 99th, {p999} 99.9th, \
             {max} max{failed}{verdict}",
            count(step.offered as u64),
            count(step.achieved as u64)
        )
    }

    /// Returns the last line.
    pub(super) fn summary(&self) -> String {
        let limit = match self.p99_limit_us {
            Some(us) => format!(" with a 99th percentile of at most {}", time_us(us)),
            None => String::new(),
        };
        match self.highest_good() {
            Some(step) => {
                format!("highest rate{limit}: {} records/sec", count(step.offered as u64))
            }
            None => format!("no rate was sustained{limit}"),
        }
    }

    /// Returns the object of `--json`.
    pub(super) fn to_json(&self) -> serde_json::Value {
        json!({
            "client": "ottla",
            "version": env!("CARGO_PKG_VERSION"),
            "steps": self.steps,
            "p99_limit_ms": self.p99_limit_us.map(|us| us as f64 / 1e3),
            "highest_rate": self.highest_good().map(|step| step.offered),
        })
    }
}

/// Sends records at a rate, and waits for their results.
fn run_step(
    run: &PerfRun<'_>,
    records: std::ops::Range<u64>,
    rate: f64,
    duration: Duration,
) -> Result<SweepStep, CliError> {
    let (stats, count) = (run.stats, records.end - records.start);
    let failed_before = stats.errors();
    stats.begin_step();
    let started = stats.clock().now();
    let (ended, end) = mpsc::channel::<()>();
    let sent = thread::scope(|scope| {
        let timer = thread::Builder::new().name("sweep-timer".into());
        timer
            .spawn_scoped(scope, move || {
                let timeout = duration * MAX_STEP_FACTOR;
                if end.recv_timeout(timeout) == Err(RecvTimeoutError::Timeout) {
                    stats.end_step();
                }
            })
            .map_err(|e| CliError::failed(format!("cannot start the thread sweep-timer: {e}")))?;
        let sent = run.send(records.start, records.end, Some(rate));
        drop(ended);
        sent
    });
    sent?;
    let flushed = run.producer.flush();
    flushed.map_err(|e| CliError::failed(error_with_reference(&e)))?;
    let seconds = ((stats.clock().now() - started) as f64 / 1e9).max(1e-9);
    let results = stats.results();
    let failed = results.failed - failed_before;
    let allowed = duration.as_secs_f64() * (1.0 + MAX_DELAY_FRACTION);
    let allowed = allowed.max((duration + MIN_DELAY).as_secs_f64());
    Ok(SweepStep {
        offered: rate,
        achieved: results.acknowledged as f64 / seconds.max(duration.as_secs_f64()),
        latency_us: percentiles(&results.latency_us).unwrap_or_default(),
        failed,
        is_sustained: results.acknowledged == count && failed == 0 && seconds <= allowed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(offered: f64, p99_us: u64, is_sustained: bool) -> SweepStep {
        let latency_us = [p99_us / 2, p99_us, p99_us * 2, p99_us * 3];
        SweepStep { offered, achieved: offered, latency_us, failed: 0, is_sustained }
    }

    fn sweep(steps: &[SweepStep], p99_limit_ms: Option<u64>) -> Sweep {
        Sweep { steps: steps.to_vec(), p99_limit_us: p99_limit_ms.map(|ms| ms * 1000) }
    }

    #[test]
    fn rates_rise_by_the_same_factor() {
        let range: SweepRange = "1_000..16000".parse().unwrap();
        let rates: Vec<f64> = range.rates(5).collect();
        assert_eq!(rates, [1000.0, 2000.0, 4000.0, 8000.0, 16000.0]);
        for text in ["1000", "0..5", "5..5", "9..5", "a..b", "1..inf", "-1..5", "1..NaN"] {
            assert!(text.parse::<SweepRange>().is_err(), "{text}");
        }
    }

    #[test]
    fn highest_rate_is_the_last_before_the_first_bad_one() {
        // The third is bad by its latency. A later good one is luck.
        let steps = [
            step(1e3, 900, true),
            step(2e3, 5000, true),
            step(4e3, 11_000, true),
            step(8e3, 1, true),
        ];
        let limited = sweep(&steps, Some(10));
        assert_eq!(limited.highest_good().unwrap().offered, 2e3);
        assert_eq!(limited.next_refinement(), Some(2828.0));
        assert!(limited.summary().ends_with("at most 10.0 ms: 2,000 records/sec"));
        assert!(limited.line(&steps[2]).ends_with(", above the limit"));
        assert_eq!(sweep(&steps, None).highest_good().unwrap().offered, 8e3);
        assert_eq!(sweep(&steps, None).next_refinement(), None);
    }

    #[test]
    fn rate_that_was_not_kept_is_no_result() {
        let steps = [step(1e3, 900, true), step(2e3, 900, false)];
        let unlimited = sweep(&steps, None);
        assert_eq!(unlimited.highest_good().unwrap().offered, 1e3);
        assert!(unlimited.line(&steps[1]).ends_with(", not sustained"));
        assert_eq!(unlimited.to_json()["highest_rate"], 1e3);
        assert_eq!(sweep(&steps[1..], None).summary(), "no rate was sustained");
        assert_eq!(sweep(&steps[1..], None).to_json()["highest_rate"], serde_json::Value::Null);
    }
}
