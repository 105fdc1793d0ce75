//! What is sent, and when each record is due.

use std::thread;
use std::time::Duration;

use crate::CliError;
use crate::args::{KeyDistribution, PerfArgs};
use crate::perf::stats::Clock;

/// Values made up in advance, so that making them up is not what is measured.
const PREGENERATED_VALUES: usize = 1024;

/// Values and keys of the records.
pub(crate) struct Workload {
    values: ValueSource,
    key_range: Option<(KeyDistribution, u64)>,
    has_unique_keys: bool,
    seed: u64,
}

enum ValueSource {
    /// One behind the other, each of this size.
    Fixed(Vec<u8>, usize),
    /// Drawn at random.
    Sampled(Vec<Vec<u8>>),
    /// The record's number.
    RecordNumber,
}

/// A word for a number (SplitMix64).
fn splitmix64(n: u64) -> u64 {
    let mut z = n.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Workload {
    pub(crate) fn new(args: &PerfArgs) -> Result<Workload, CliError> {
        let given =
            [args.record_size.is_some(), args.payload_file.is_some(), args.payload_monotonic];
        if given.into_iter().filter(|g| *g).count() != 1 {
            return Err(CliError::usage(
                "give exactly one of --record-size, --payload-file and --payload-monotonic",
            ));
        }
        let values = match (&args.payload_file, args.record_size) {
            (Some(path), _) => read_values(args, path)?,
            (None, Some(size)) => {
                let letters = (0..PREGENERATED_VALUES as u64 * u64::from(size))
                    .map(|n| b'A' + (splitmix64(args.random_seed ^ n) % 26) as u8);
                ValueSource::Fixed(letters.take(64 << 20).collect(), size as usize)
            }
            (None, None) => ValueSource::RecordNumber,
        };
        let keys = match (args.key_distribution, args.record_key_range) {
            (Some(how), Some(range)) if how != KeyDistribution::None => Some((how, range)),
            _ => None,
        };
        Ok(Workload {
            values,
            key_range: keys,
            has_unique_keys: args.keyed,
            seed: args.random_seed,
        })
    }

    pub(crate) fn value<'a>(&'a self, i: u64, text: &'a mut String) -> &'a [u8] {
        match &self.values {
            ValueSource::Fixed(bytes, size) => {
                let count = bytes.len() / size;
                let at = (i % count as u64) as usize * size;
                &bytes[at..at + size]
            }
            ValueSource::Sampled(list) => {
                &list[(splitmix64(self.seed ^ i) % list.len() as u64) as usize]
            }
            ValueSource::RecordNumber => {
                use std::fmt::Write;
                text.clear();
                let _ = write!(text, "{i}");
                text.as_bytes()
            }
        }
    }

    pub(crate) fn key(&self, i: u64) -> Option<[u8; 8]> {
        if self.has_unique_keys {
            return Some(i.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
        }
        let (how, range) = self.key_range?;
        let n = if how == KeyDistribution::Range { i } else { splitmix64(self.seed ^ i) };
        Some((n % range).to_be_bytes())
    }

    /// Bytes of each value, if all have as many, and of each key.
    pub(crate) fn value_and_key_bytes(&self) -> (u64, u64) {
        let size = match &self.values {
            ValueSource::Fixed(_, size) => *size as u64,
            ValueSource::Sampled(_) | ValueSource::RecordNumber => 0,
        };
        (size, if self.has_unique_keys || self.key_range.is_some() { 8 } else { 0 })
    }

    /// Whether values differ in size.
    pub(crate) fn has_variable_size(&self) -> bool {
        !matches!(self.values, ValueSource::Fixed(..))
    }
}

fn read_values(args: &PerfArgs, path: &std::path::Path) -> Result<ValueSource, CliError> {
    let bytes =
        std::fs::read(path).map_err(|e| CliError::usage(format!("{}: {e}", path.display())))?;
    if let Some(size) = args.size {
        let size = size as usize;
        if bytes.is_empty() || !bytes.len().is_multiple_of(size) {
            return Err(CliError::usage(format!(
                "{} is not a whole number of values of {size} bytes",
                path.display()
            )));
        }
        return Ok(ValueSource::Fixed(bytes, size));
    }
    let text = String::from_utf8_lossy(&bytes);
    let delimiter = args.payload_delimiter.replace("\\n", "\n").replace("\\t", "\t");
    // What comes behind the last delimiter is no value if it is nothing.
    let list: Vec<Vec<u8>> =
        text.split(&*delimiter).filter(|v| !v.is_empty()).map(|v| v.as_bytes().to_vec()).collect();
    if list.iter().all(Vec::is_empty) {
        return Err(CliError::usage(format!("{} holds no values", path.display())));
    }
    if !args.json {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        println!("Reading payloads from: {}", absolute.display());
        println!("Number of records read: {}", list.len());
    }
    Ok(ValueSource::Sampled(list))
}

/// When records are due: all at once, or each in its millisecond, whether or not the producer keeps up.
#[derive(Clone, Copy)]
pub(crate) struct ThroughputThrottler {
    records_per_second: f64,
    start_ns: u64,
}

impl ThroughputThrottler {
    pub(crate) fn start(args: &PerfArgs, clock: Clock) -> ThroughputThrottler {
        let rate =
            args.rate.map(|r| r as f64).or(args.throughput.filter(|t| *t > 0.0)).unwrap_or(0.0);
        ThroughputThrottler { records_per_second: rate.max(0.0), start_ns: clock.now() }
    }

    /// Waits until the record is due; that time, in nanoseconds.
    #[inline]
    pub(crate) fn wait_until_due(self, i: u64, clock: Clock) -> u64 {
        let now = clock.now();
        if self.records_per_second == 0.0 {
            return now;
        }
        let due = self.start_ns + (i as f64 * 1000.0 / self.records_per_second) as u64 * 1_000_000;
        if due > now {
            thread::sleep(Duration::from_nanos(due - now));
        }
        due
    }
}
