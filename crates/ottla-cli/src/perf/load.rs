//! The records that `ottla perf` sends: their keys, their values and the time each is due.

use std::thread;
use std::time::Duration;

use bytes::Bytes;
use ottla_protocol::random::{GOLDEN_GAMMA, mix64};

use crate::CliError;
use crate::args::{KeyDistribution, PerfArgs};
use crate::console::print_line;
use crate::perf::clock::Clock;

/// Number of values of `--record-size`. They are generated before the measurement starts.
const PREGENERATED_VALUES: usize = 1024;
/// Limit of the memory for them. Fewer values are generated if they are large.
const MAX_PREGENERATED_BYTES: usize = 64 << 20;
/// The smallest value that is passed as `Bytes`. The library copies smaller ones.
const SHARED_VALUE_BYTES: usize = 4096;
/// Bytes of a key: a number in big-endian order.
const KEY_BYTES: u64 = 8;

/// The keys and values of the run, each a function of the record's number and the seed.
pub(crate) struct Workload {
    values: ValueSource,
    key_range: Option<KeyRange>,
    has_unique_keys: bool,
    seed: u64,
}

enum ValueSource {
    /// Values of the same length, one after the other. The count is kept, because a division for
    /// each record would show in the figures.
    Fixed { bytes: Bytes, value_len: usize, count: u64 },
    /// Values of which each record gets one at random.
    Sampled(Vec<Vec<u8>>),
    /// The record's number as text.
    RecordNumber,
}

impl ValueSource {
    /// Values of `size` bytes each: as many as there are whole ones.
    fn fixed(bytes: Vec<u8>, size: u32) -> ValueSource {
        let value_len = size as usize;
        let count = (bytes.len() / value_len) as u64;
        ValueSource::Fixed { bytes: bytes.into(), value_len, count }
    }
}

/// Keys from 0 to `len` - 1.
#[derive(Clone, Copy)]
struct KeyRange {
    distribution: KeyDistribution,
    len: u64,
}

/// Sizes that all records have in common.
pub(crate) struct RecordSizes {
    /// Bytes of each value; 0 if values have different lengths.
    pub(crate) value_bytes: u64,
    /// Bytes of each key; 0 without keys.
    pub(crate) key_bytes: u64,
}

/// Returns the `n`-th value of SplitMix64 from seed 0, so that record `n` is reproducible.
fn nth_random(n: u64) -> u64 {
    mix64(n.wrapping_add(1).wrapping_mul(GOLDEN_GAMMA))
}

impl Workload {
    pub(crate) fn new(args: &PerfArgs) -> Result<Workload, CliError> {
        let sources =
            [args.record_size.is_some(), args.payload_file.is_some(), args.payload_monotonic];
        if sources.into_iter().filter(|is_given| *is_given).count() != 1 {
            return Err(CliError::usage(
                "give exactly one of --record-size, --payload-file and --payload-monotonic",
            ));
        }
        let values = match (&args.payload_file, args.record_size) {
            (Some(path), _) => read_values(args, path)?,
            (None, Some(size)) => {
                let characters = (0..PREGENERATED_VALUES as u64 * u64::from(size))
                    .map(|n| b'A' + (nth_random(args.random_seed ^ n) % 26) as u8);
                let bytes: Vec<u8> = characters.take(MAX_PREGENERATED_BYTES).collect();
                ValueSource::fixed(bytes, size)
            }
            (None, None) => ValueSource::RecordNumber,
        };
        let key_range = match (args.key_distribution, args.record_key_range) {
            (Some(distribution), Some(len)) if distribution != KeyDistribution::None => {
                Some(KeyRange { distribution, len })
            }
            _ => None,
        };
        Ok(Workload { values, key_range, has_unique_keys: args.keyed, seed: args.random_seed })
    }

    /// Returns the value of record `i`. `text` is a buffer for values that are not stored.
    pub(crate) fn value<'a>(&'a self, i: u64, text: &'a mut String) -> &'a [u8] {
        match &self.values {
            ValueSource::Fixed { bytes, value_len, count } => {
                let start = (i % count) as usize * value_len;
                &bytes[start..start + value_len]
            }
            ValueSource::Sampled(values) => {
                &values[(nth_random(self.seed ^ i) % values.len() as u64) as usize]
            }
            ValueSource::RecordNumber => {
                use std::fmt::Write;
                text.clear();
                let _ = write!(text, "{i}");
                text.as_bytes()
            }
        }
    }

    /// Returns a value of [`value`](Self::value) as `Bytes`, if it is so large that the producer
    /// does not copy such a value.
    pub(crate) fn share(&self, value: &[u8]) -> Option<Bytes> {
        match &self.values {
            ValueSource::Fixed { bytes, value_len, .. } if *value_len >= SHARED_VALUE_BYTES => {
                Some(bytes.slice_ref(value))
            }
            _ => None,
        }
    }

    /// Returns the key of record `i`.
    pub(crate) fn key(&self, i: u64) -> Option<[u8; KEY_BYTES as usize]> {
        if self.has_unique_keys {
            // An odd factor maps different numbers to different keys, spread over all bytes.
            return Some(i.wrapping_mul(GOLDEN_GAMMA).to_be_bytes());
        }
        let range = self.key_range?;
        let is_in_order = range.distribution == KeyDistribution::Range;
        let n = if is_in_order { i } else { nth_random(self.seed ^ i) };
        Some((n % range.len).to_be_bytes())
    }

    /// Returns the sizes that all records have in common.
    pub(crate) fn record_sizes(&self) -> RecordSizes {
        let value_bytes = match &self.values {
            ValueSource::Fixed { value_len, .. } => *value_len as u64,
            ValueSource::Sampled(_) | ValueSource::RecordNumber => 0,
        };
        let has_keys = self.has_unique_keys || self.key_range.is_some();
        RecordSizes { value_bytes, key_bytes: if has_keys { KEY_BYTES } else { 0 } }
    }

    /// Returns whether values have different lengths.
    pub(crate) fn has_variable_size(&self) -> bool {
        !matches!(self.values, ValueSource::Fixed { .. })
    }
}

fn read_values(args: &PerfArgs, path: &std::path::Path) -> Result<ValueSource, CliError> {
    let bytes = std::fs::read(path)
        .map_err(|e| CliError::usage(format!("cannot read {}: {e}", path.display())))?;
    if let Some(size) = args.size {
        let value_len = size as usize;
        if bytes.is_empty() || !bytes.len().is_multiple_of(value_len) {
            let (path, len) = (path.display(), bytes.len());
            return Err(CliError::usage(format!(
                "{path} has {len} bytes, which is not a multiple of --size {value_len}"
            )));
        }
        return Ok(ValueSource::fixed(bytes, size));
    }
    let text = String::from_utf8_lossy(&bytes);
    let delimiter = args.payload_delimiter.replace("\\n", "\n").replace("\\t", "\t");
    // Empty values are left out, among them the one after a delimiter at the end of the file.
    let values: Vec<Vec<u8>> =
        text.split(&*delimiter).filter(|v| !v.is_empty()).map(|v| v.as_bytes().to_vec()).collect();
    if values.is_empty() {
        return Err(CliError::usage(format!("{} contains no values", path.display())));
    }
    if !args.json {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        // An error recurs at the first results, and ends the run there.
        let _ = print_line!("Reading payloads from: {}", absolute.display());
        let _ = print_line!("Number of records read: {}", values.len());
    }
    Ok(ValueSource::Sampled(values))
}

/// Delays each record until it is due. Without a rate, every record is due at once.
///
/// Due times depend only on the start and the rate, not on the progress. A producer that is late
/// therefore has higher latencies, rather than a lower rate ("coordinated omission").
#[derive(Clone, Copy)]
pub(crate) struct ThroughputThrottler {
    /// 0 for no limit.
    records_per_second: f64,
    start_ns: u64,
}

impl ThroughputThrottler {
    pub(crate) fn start(rate: Option<f64>, clock: &Clock) -> ThroughputThrottler {
        ThroughputThrottler { records_per_second: rate.unwrap_or(0.0), start_ns: clock.now() }
    }

    /// Waits until record `i` is due. Returns the due time in nanoseconds of the clock, or the
    /// current time without a rate.
    #[inline]
    pub(crate) fn wait_until_due(self, i: u64, clock: &Clock) -> u64 {
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
