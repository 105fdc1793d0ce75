//! The data of a run: what `--report FILE.json` writes and `--compare` reads.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The number that changes when a file of an older version cannot be read any more.
const FORMAT: u32 = 1;

/// A run: what it did, with which settings, on which machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RunData {
    format: u32,
    /// Names the run in a comparison.
    pub(crate) name: String,
    /// Milliseconds since 1970.
    pub(crate) started_ms: i64,
    /// The version of the command.
    pub(crate) version: String,
    /// The options of the load.
    pub(crate) load: BTreeMap<String, String>,
    /// The effective settings. Secrets are hidden.
    pub(crate) settings: BTreeMap<String, String>,
    pub(crate) machine: BTreeMap<String, String>,
    /// The cluster; empty in files of older versions.
    #[serde(default)]
    pub(crate) cluster: BTreeMap<String, String>,
    pub(crate) totals: Totals,
    /// Latencies in microseconds, each with its number of records.
    pub(crate) latency_us: Vec<(u64, u64)>,
    pub(crate) samples: Vec<Sample>,
    /// The steps of `--sweep`, by their rate; empty without it.
    #[serde(default)]
    pub(crate) sweep: Vec<SweepStep>,
}

/// The results of the whole run.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Totals {
    /// Acknowledged records.
    pub(crate) records: u64,
    pub(crate) failed: u64,
    /// Bytes of keys and values, uncompressed.
    pub(crate) bytes: u64,
    pub(crate) wall_s: f64,
    /// CPU time of the process.
    pub(crate) user_s: f64,
    pub(crate) sys_s: f64,
    pub(crate) max_rss_kb: u64,
}

/// An interval of the run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// Start and end, in seconds since the start of the run.
    pub(crate) start_s: f64,
    pub(crate) end_s: f64,
    /// Acknowledged records, and their bytes.
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    pub(crate) failed: u64,
    /// The percentiles 50, 99, 99.9 and 100 of the latencies in microseconds.
    pub(crate) latency_us: Option<[u64; 4]>,
    pub(crate) batches: u64,
    /// Compressed bytes of the batches.
    pub(crate) batch_bytes: u64,
    pub(crate) records_retried: u64,
    pub(crate) cpu_s: f64,
    /// At the end of the interval.
    pub(crate) gauges: Gauges,
}

/// Values of one moment.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Gauges {
    pub(crate) requests_in_flight: Option<f64>,
    /// Compressed size divided by uncompressed size, of the last batches.
    pub(crate) compression_ratio: Option<f64>,
    /// The longest throttle that a broker requested lately.
    pub(crate) throttle_ms: Option<f64>,
    pub(crate) rss_kb: Option<u64>,
    /// Used bytes of `buffer.memory`.
    pub(crate) memory_used: u64,
}

/// What one rate of a sweep gave.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct SweepStep {
    /// Records a second that the load offered, and that were acknowledged.
    pub(crate) offered: f64,
    pub(crate) achieved: f64,
    /// The percentiles 50, 99, 99.9 and 100 of the latencies, from the time when each record was
    /// due.
    pub(crate) latency_us: [u64; 4],
    pub(crate) failed: u64,
    /// All records were sent and acknowledged in time.
    pub(crate) is_sustained: bool,
}

impl RunData {
    /// A run without results.
    pub(crate) fn new(name: String, started_ms: i64) -> RunData {
        RunData {
            format: FORMAT,
            name,
            started_ms,
            version: env!("CARGO_PKG_VERSION").into(),
            load: BTreeMap::new(),
            settings: BTreeMap::new(),
            machine: BTreeMap::new(),
            cluster: BTreeMap::new(),
            totals: Totals::default(),
            latency_us: Vec::new(),
            samples: Vec::new(),
            sweep: Vec::new(),
        }
    }

    /// Reads the text of a file. The error says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<RunData, String> {
        let not_a_report = |e: serde_json::Error| {
            format!("it is no report of ottla perf ({e}); --report FILE.json writes one")
        };
        let value: serde_json::Value = serde_json::from_str(text).map_err(not_a_report)?;
        match value.get("format").and_then(serde_json::Value::as_u64) {
            Some(format) if format != u64::from(FORMAT) => Err(format!(
                "its format is {format}, and this version reads {FORMAT}; repeat the run"
            )),
            _ => serde_json::from_value(value).map_err(not_a_report),
        }
    }

    /// Returns the latency in microseconds below which this part of the records is; `None` without
    /// records.
    pub(crate) fn latency_at(&self, quantile: f64) -> Option<u64> {
        let total = sum(self.latency_us.iter().map(|(_, n)| *n));
        let rank = (quantile * total as f64).ceil().max(1.0) as u64;
        let mut seen = 0_u64;
        self.latency_us.iter().find_map(|(us, n)| {
            seen = seen.saturating_add(*n);
            (seen >= rank).then_some(*us)
        })
    }
}

/// Returns the sum of numbers, which may be those of a file that no run has written.
pub(crate) fn sum(numbers: impl Iterator<Item = u64>) -> u64 {
    numbers.fold(0, u64::saturating_add)
}

/// Returns each value of a histogram with its count.
pub(crate) fn counts(histogram: &Histogram<u64>) -> Vec<(u64, u64)> {
    let values = histogram.iter_recorded();
    values.map(|v| (v.value_iterated_to(), v.count_since_last_iteration())).collect()
}

/// Returns the percentiles 50, 99, 99.9 and 100; `None` without a value.
pub(crate) fn percentiles(histogram: &Histogram<u64>) -> Option<[u64; 4]> {
    let quantiles = [0.5, 0.99, 0.999, 1.0];
    (!histogram.is_empty()).then(|| quantiles.map(|q| histogram.value_at_quantile(q)))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A run of ten seconds with a failure, a throttle and a second without records.
    pub(crate) fn example(name: &str, factor: u64) -> RunData {
        let mut run = RunData::new(name.into(), 1_700_000_000_000);
        run.load.insert("topic".into(), "orders & <more>".into());
        run.settings.insert("batch.size".into(), "16384".into());
        run.settings.insert("linger.ms".into(), (factor * 5).to_string());
        run.machine.insert("CPU".into(), "2 × example".into());
        run.cluster.insert("id".into(), "tjxnsC5pSL".into());
        run.totals = Totals {
            records: 10_000 * factor,
            failed: 3,
            bytes: 1_000_000 * factor,
            wall_s: 10.0,
            user_s: 1.5,
            sys_s: 0.5,
            max_rss_kb: 20_480,
        };
        run.latency_us = vec![(900 * factor, 9_000), (5_000 * factor, 900), (80_000 * factor, 100)];
        for i in 0..10 {
            let latency_us = (i != 4).then_some([900 * factor, 5_000, 80_000, 81_000 + i]);
            run.samples.push(Sample {
                start_s: i as f64,
                end_s: i as f64 + 1.0,
                records: 1_000 * factor,
                bytes: 100_000 * factor,
                failed: u64::from(i == 5) * 3,
                latency_us,
                batches: 10,
                batch_bytes: 120_000,
                records_retried: 0,
                cpu_s: 0.2,
                gauges: Gauges {
                    requests_in_flight: Some(3.0),
                    compression_ratio: Some(0.5),
                    throttle_ms: (i > 7).then_some(20.0),
                    rss_kb: Some(20_000 + i),
                    memory_used: 100_000,
                },
            });
        }
        run
    }

    #[test]
    fn file_is_read_as_it_was_written() {
        let run = example("a", 1);
        let text = serde_json::to_string(&run).unwrap();
        assert_eq!(RunData::parse(&text).unwrap(), run);
    }

    #[test]
    fn other_files_are_refused_with_a_reason() {
        for (text, reason) in [
            ("", "no report of ottla perf (EOF"),
            ("{}", "missing field `format`"),
            ("[1]", "no report of ottla perf"),
            ("{\"format\": 7}", "its format is 7, and this version reads 1"),
            ("{\"client\": \"ottla\", \"records\": 5}", "--report FILE.json writes one"),
        ] {
            let error = RunData::parse(text).unwrap_err();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }

    #[test]
    fn quantiles_are_those_of_the_histogram() {
        let mut histogram = Histogram::new_with_bounds(1, 600_000_000, 3).unwrap();
        (1..=10_000).for_each(|us| histogram.record(us * 7).unwrap());
        let mut run = example("a", 1);
        run.latency_us = counts(&histogram);
        for q in [0.0, 0.5, 0.99, 0.9999, 1.0] {
            assert_eq!(run.latency_at(q), Some(histogram.value_at_quantile(q)), "{q}");
        }
        run.latency_us.clear();
        assert_eq!(run.latency_at(0.5), None);
    }
}
