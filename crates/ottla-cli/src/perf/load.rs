//! What is sent, and when each record is due.

use std::thread;
use std::time::Duration;

use crate::Stop;
use crate::args::{Keys, PerfArgs};
use crate::perf::stats::Clock;

/// Values made up in advance, so that making them up is not what is measured.
const MADE: usize = 1024;

/// Values and keys of the records.
pub(crate) struct Load {
    values: Values,
    keys: Option<(Keys, u64)>,
    keyed: bool,
    seed: u64,
}

enum Values {
    /// One behind the other, each of this size.
    Fixed(Vec<u8>, usize),
    /// Drawn at random.
    Drawn(Vec<Vec<u8>>),
    /// The record's number.
    Number,
}

/// A word for a number (SplitMix64).
fn mixed(n: u64) -> u64 {
    let mut z = n.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl Load {
    pub(crate) fn new(args: &PerfArgs) -> Result<Load, Stop> {
        let given =
            [args.record_size.is_some(), args.payload_file.is_some(), args.payload_monotonic];
        if given.into_iter().filter(|g| *g).count() != 1 {
            return Err(Stop::usage(
                "give exactly one of --record-size, --payload-file and --payload-monotonic",
            ));
        }
        let values = match (&args.payload_file, args.record_size) {
            (Some(path), _) => from_file(args, path)?,
            (None, Some(size)) => {
                let letters = (0..MADE as u64 * u64::from(size))
                    .map(|n| b'A' + (mixed(args.random_seed ^ n) % 26) as u8);
                Values::Fixed(letters.take(64 << 20).collect(), size as usize)
            }
            (None, None) => Values::Number,
        };
        let keys = match (args.key_distribution, args.record_key_range) {
            (Some(how), Some(range)) if how != Keys::None => Some((how, range)),
            _ => None,
        };
        Ok(Load { values, keys, keyed: args.keyed, seed: args.random_seed })
    }

    pub(crate) fn value<'a>(&'a self, i: u64, text: &'a mut String) -> &'a [u8] {
        match &self.values {
            Values::Fixed(bytes, size) => {
                let count = bytes.len() / size;
                let at = (i % count as u64) as usize * size;
                &bytes[at..at + size]
            }
            Values::Drawn(list) => &list[(mixed(self.seed ^ i) % list.len() as u64) as usize],
            Values::Number => {
                use std::fmt::Write;
                text.clear();
                let _ = write!(text, "{i}");
                text.as_bytes()
            }
        }
    }

    pub(crate) fn key(&self, i: u64) -> Option<[u8; 8]> {
        if self.keyed {
            return Some(i.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
        }
        let (how, range) = self.keys?;
        let n = if how == Keys::Range { i } else { mixed(self.seed ^ i) };
        Some((n % range).to_be_bytes())
    }

    /// Bytes of each value, if all have as many, and of each key.
    pub(crate) fn bytes_a_record(&self) -> (u64, u64) {
        let size = match &self.values {
            Values::Fixed(_, size) => *size as u64,
            Values::Drawn(_) | Values::Number => 0,
        };
        (size, if self.keyed || self.keys.is_some() { 8 } else { 0 })
    }

    /// Whether values differ in size.
    pub(crate) fn varies(&self) -> bool {
        !matches!(self.values, Values::Fixed(..))
    }
}

fn from_file(args: &PerfArgs, path: &std::path::Path) -> Result<Values, Stop> {
    let bytes = std::fs::read(path).map_err(|e| Stop::usage(format!("{}: {e}", path.display())))?;
    if let Some(size) = args.size {
        let size = size as usize;
        if bytes.is_empty() || !bytes.len().is_multiple_of(size) {
            return Err(Stop::usage(format!(
                "{} is not a whole number of values of {size} bytes",
                path.display()
            )));
        }
        return Ok(Values::Fixed(bytes, size));
    }
    let text = String::from_utf8_lossy(&bytes);
    let delimiter = args.payload_delimiter.replace("\\n", "\n").replace("\\t", "\t");
    // What comes behind the last delimiter is no value if it is nothing.
    let list: Vec<Vec<u8>> =
        text.split(&*delimiter).filter(|v| !v.is_empty()).map(|v| v.as_bytes().to_vec()).collect();
    if list.iter().all(Vec::is_empty) {
        return Err(Stop::usage(format!("{} holds no values", path.display())));
    }
    if !args.json {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        println!("Reading payloads from: {}", absolute.display());
        println!("Number of records read: {}", list.len());
    }
    Ok(Values::Drawn(list))
}

/// When records are due: all at once, or each in its millisecond, whether or not the producer keeps up.
#[derive(Clone, Copy)]
pub(crate) struct Pacer {
    rate: f64,
    start: u64,
}

impl Pacer {
    pub(crate) fn start(args: &PerfArgs, clock: Clock) -> Pacer {
        let rate =
            args.rate.map(|r| r as f64).or(args.throughput.filter(|t| *t > 0.0)).unwrap_or(0.0);
        Pacer { rate: rate.max(0.0), start: clock.now() }
    }

    /// Waits until the record is due; that time, in nanoseconds.
    #[inline]
    pub(crate) fn due(self, i: u64, clock: Clock) -> u64 {
        let now = clock.now();
        if self.rate == 0.0 {
            return now;
        }
        let due = self.start + (i as f64 * 1000.0 / self.rate) as u64 * 1_000_000;
        if due > now {
            thread::sleep(Duration::from_nanos(due - now));
        }
        due
    }
}
