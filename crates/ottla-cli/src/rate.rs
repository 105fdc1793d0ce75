//! A steady rate of records or bytes, or the pace of their timestamps: the option `--rate`.

use std::time::Duration;

/// The rate of `--rate`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Rate {
    /// Records a second.
    Records(f64),
    /// Bytes of the input's text a second.
    Bytes(f64),
    /// The pace of the records' timestamps, this many times as fast.
    Timestamps(f64),
}

/// The units of bytes.
const UNITS: [(&str, f64); 7] = [
    ("kib", 1024.0),
    ("mib", 1_048_576.0),
    ("gib", 1_073_741_824.0),
    ("kb", 1e3),
    ("mb", 1e6),
    ("gb", 1e9),
    ("b", 1.0),
];

/// Parses a number, with a unit if it counts bytes, or with an `x`.
pub(crate) fn parse_rate(text: &str) -> Result<Rate, String> {
    let lower = text.trim().to_ascii_lowercase();
    let lower = lower.strip_suffix("/s").unwrap_or(&lower);
    let unit = UNITS.iter().find_map(|(unit, factor)| Some((lower.strip_suffix(unit)?, factor)));
    let speed = lower.strip_suffix('x');
    let number = unit.map_or(speed.unwrap_or(lower), |(number, _)| number).trim();
    let is_plain = |c: char| c.is_ascii_digit() || c == '.';
    let value = number.parse::<f64>().ok().filter(|_| number.chars().all(is_plain));
    let value = value.filter(|v| v.is_finite() && *v > 0.0).ok_or_else(|| {
        "expected records a second such as 500, bytes a second such as 20kB, 1.5MB or 8MiB, or the \
         pace of the records' timestamps such as 1x or 10x"
            .to_owned()
    })?;
    Ok(match unit {
        None if speed.is_some() => Rate::Timestamps(value),
        None => Rate::Records(value),
        Some((_, factor)) => Rate::Bytes(value * factor),
    })
}

/// The longest time that a load that is late may catch up. After a longer stall it continues at the
/// rate, without a burst.
const MAX_LAG: Duration = Duration::from_millis(10);

/// Says how long the next record has to wait.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    rate: Rate,
    /// When the next record is due, in seconds.
    due: f64,
    /// The first timestamp in milliseconds, and when its record was due.
    first: Option<(i64, f64)>,
}

impl RateLimiter {
    pub(crate) fn new(rate: Rate) -> RateLimiter {
        RateLimiter { rate, due: 0.0, first: None }
    }

    /// Returns how long the next record has to wait. `now` is the time since any fixed moment.
    pub(crate) fn delay(&mut self, now: Duration) -> Duration {
        if !matches!(self.rate, Rate::Timestamps(_)) {
            self.due = self.due.max(now.saturating_sub(MAX_LAG).as_secs_f64());
        }
        let delay = (self.due - now.as_secs_f64()).max(0.0);
        // A rate of one record in an age gives a delay that no `Duration` holds.
        Duration::try_from_secs_f64(delay).unwrap_or(Duration::MAX)
    }

    /// Counts a record of `bytes` bytes.
    pub(crate) fn add_record(&mut self, bytes: usize) {
        self.due += match self.rate {
            Rate::Records(rate) => rate.recip(),
            Rate::Bytes(rate) => bytes as f64 / rate,
            Rate::Timestamps(_) => 0.0,
        };
    }

    /// Has the current record wait as long after the first one as its timestamp says.
    ///
    /// A load that is late catches up: otherwise each stall would stretch the pace.
    pub(crate) fn add_timestamp(&mut self, timestamp_ms: i64, now: Duration) {
        let Rate::Timestamps(speed) = self.rate else { return };
        let (first_ms, start) = *self.first.get_or_insert((timestamp_ms, now.as_secs_f64()));
        let elapsed_ms = timestamp_ms.saturating_sub(first_ms) as f64;
        self.due = start + elapsed_ms / 1000.0 / speed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_is_records_or_bytes_with_a_unit() {
        for (text, rate) in [
            ("500", Rate::Records(500.0)),
            ("0.5", Rate::Records(0.5)),
            ("500/s", Rate::Records(500.0)),
            ("20kB", Rate::Bytes(20e3)),
            ("1.5 MB/s", Rate::Bytes(1.5e6)),
            ("8MiB", Rate::Bytes(8.0 * 1_048_576.0)),
            ("7b", Rate::Bytes(7.0)),
            ("1x", Rate::Timestamps(1.0)),
            ("0.5 X", Rate::Timestamps(0.5)),
        ] {
            assert_eq!(parse_rate(text), Ok(rate), "{text}");
        }
        for text in
            ["", "0", "-1", "1e3", "inf", "nan", "1TB", "MB", "1,5MB", "0kB", "x", "0x", "2x/x"]
        {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    /// Sends as the command does, on a clock that stands still but for its delays.
    fn send(limiter: &mut RateLimiter, now: &mut Duration, records: usize, bytes: usize) {
        for _ in 0..records {
            *now += limiter.delay(*now);
            limiter.add_record(bytes);
        }
    }

    #[test]
    fn records_and_bytes_are_spread_evenly() {
        for (rate, bytes) in [(Rate::Records(200.0), 1), (Rate::Bytes(20_000.0), 100)] {
            let (mut limiter, mut now) = (RateLimiter::new(rate), Duration::from_secs(5));
            send(&mut limiter, &mut now, 401, bytes);
            // The first records of a load may take back the time of `MAX_LAG`.
            let elapsed = (now - Duration::from_secs(5)).as_secs_f64();
            assert!((elapsed - 2.0).abs() <= 0.011, "{elapsed}");
        }
    }

    #[test]
    fn rate_near_zero_is_a_limit() {
        for rate in ["0.000000000000000000000000001", "0.000000000000000000000000001GB"] {
            let mut limiter = RateLimiter::new(parse_rate(rate).unwrap());
            assert_eq!(limiter.delay(Duration::ZERO), Duration::ZERO);
            limiter.add_record(1);
            assert!(limiter.delay(Duration::from_secs(9)) > Duration::from_secs(1 << 40));
        }
    }

    #[test]
    fn timestamps_set_the_pace() {
        let mut limiter = RateLimiter::new(Rate::Timestamps(2.0));
        let mut now = Duration::from_secs(7);
        let mut send = |limiter: &mut RateLimiter, timestamp_ms| {
            limiter.add_timestamp(timestamp_ms, now);
            now += limiter.delay(now);
            limiter.add_record(1);
            now
        };
        assert_eq!(send(&mut limiter, 1_700_000_000_000), Duration::from_secs(7));
        assert_eq!(send(&mut limiter, 1_700_000_001_000), Duration::from_millis(7500));
        // An older record is not held back, and does not change the pace.
        assert_eq!(send(&mut limiter, 1_600_000_000_000), Duration::from_millis(7500));
        assert_eq!(send(&mut limiter, 1_700_000_004_000), Duration::from_secs(9));
        // After a stall the load catches up.
        limiter.add_timestamp(1_700_000_006_000, Duration::from_secs(60));
        assert_eq!(limiter.delay(Duration::from_secs(60)), Duration::ZERO);
        limiter.add_timestamp(i64::MAX, Duration::from_secs(60));
        assert!(limiter.delay(Duration::from_secs(60)) > Duration::from_secs(1 << 40));
        limiter.add_timestamp(i64::MIN, Duration::from_secs(60));
        assert_eq!(limiter.delay(Duration::from_secs(60)), Duration::ZERO);
    }

    #[test]
    fn stall_is_not_followed_by_a_burst() {
        let (mut limiter, mut now) = (RateLimiter::new(Rate::Records(1000.0)), Duration::ZERO);
        send(&mut limiter, &mut now, 100, 1);
        now += Duration::from_secs(60);
        let after_stall = now;
        send(&mut limiter, &mut now, 1000, 1);
        assert!(now - after_stall >= Duration::from_millis(985), "{:?}", now - after_stall);
    }
}
