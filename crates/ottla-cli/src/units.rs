//! Numbers as people read them: with separators, with units.

use std::time::Duration;

/// Returns a number with a comma before each group of three digits.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Returns bytes in B, KiB, MiB or GiB.
pub(crate) fn bytes(n: f64) -> String {
    const UNITS: [&str; 4] = ["B", "KiB", "MiB", "GiB"];
    let (mut value, mut unit) = (n, 0);
    // 1023.95 KiB would be printed as 1024.0 KiB.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{value:.0} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Returns a time with three digits or one decimal, in ms, s or min.
pub(crate) fn time(d: Duration) -> String {
    let ms = d.as_secs_f64() * 1e3;
    if ms < 9.995 {
        format!("{ms:.2} ms")
    } else if ms < 99.95 {
        format!("{ms:.1} ms")
    } else if ms < 999.5 {
        format!("{ms:.0} ms")
    } else if ms < 119_950.0 {
        format!("{:.1} s", ms / 1e3)
    } else {
        format!("{:.0} min", ms / 60e3)
    }
}

/// Returns microseconds like [`time`].
pub(crate) fn time_us(us: u64) -> String {
    time(Duration::from_micros(us))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_separators_and_units() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        let sizes = [0.0, 1023.0, 1024.0, 1_048_575.0, 33_554_432.0, 5e15];
        assert_eq!(
            sizes.map(bytes),
            ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "32.0 MiB", "4656612.9 GiB"]
        );
        let times = [0, 1_234, 9_996, 12_345, 99_960, 999_600, 61_000_000, 7_200_000_000];
        assert_eq!(
            times.map(time_us),
            ["0.00 ms", "1.23 ms", "10.0 ms", "12.3 ms", "100 ms", "1.0 s", "61.0 s", "120 min"]
        );
    }
}
