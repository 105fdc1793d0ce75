//! Avro's logical type `decimal`: the unscaled number as two's complement, big endian.

/// Digits that a JSON number keeps exactly: this crate reads it as a float of 64 bits.
const EXACT_DIGITS: usize = 15;
/// Largest number of digits of a decimal. 38 fit the 128 bits of the unscaled number.
const MAX_DIGITS: usize = 38;

/// Returns the bytes of a number's text. `None` if the number has more digits than the type, or
/// more than a JSON number keeps.
pub(super) fn parse_decimal(
    text: &str,
    precision: usize,
    scale: usize,
    size: Option<usize>,
) -> Option<Vec<u8>> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
        None => (text, 0),
    };
    let (is_negative, digits) = match mantissa.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, mantissa),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let fraction = fraction.trim_end_matches('0');
    let significant = format!("{whole}{fraction}");
    let significant = significant.trim_start_matches('0');
    let is_float = text.contains(['.', 'e', 'E']);
    if is_float && significant.len() > EXACT_DIGITS {
        return None;
    }
    if significant.is_empty() {
        return to_bytes(0, size);
    }
    // The unscaled number is `significant` followed by `zeros` zeros.
    let zeros = i64::try_from(scale).ok()? + exponent - i64::try_from(fraction.len()).ok()?;
    let zeros = usize::try_from(zeros).ok().filter(|zeros| *zeros <= MAX_DIGITS)?;
    if significant.len() + zeros > precision.min(MAX_DIGITS) {
        return None;
    }
    let unscaled: i128 = format!("{significant}{}", "0".repeat(zeros)).parse().ok()?;
    to_bytes(if is_negative { -unscaled } else { unscaled }, size)
}

/// Returns the shortest two's complement of a number, or that of a size.
fn to_bytes(number: i128, size: Option<usize>) -> Option<Vec<u8>> {
    let all = number.to_be_bytes();
    let sign = if number < 0 { 0xff } else { 0 };
    let is_sign_only = |i: &usize| all[*i] == sign && (all[*i + 1] ^ sign) & 0x80 == 0;
    let start = (0..15).take_while(is_sign_only).count();
    let shortest = &all[start..];
    match size {
        None => Some(shortest.to_vec()),
        Some(size) => {
            let padding = size.checked_sub(shortest.len())?;
            Some([&vec![sign; padding], shortest].concat())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_the_shortest_twos_complement() {
        let of = |text: &str| parse_decimal(text, 10, 2, None);
        assert_eq!(of("0").unwrap(), [0]);
        assert_eq!(of("1.27").unwrap(), [127]);
        assert_eq!(of("1.28").unwrap(), [0, 128]);
        assert_eq!(of("-1.28").unwrap(), [128]);
        assert_eq!(of("-1.29").unwrap(), [255, 127]);
        assert_eq!(of("1.5e1").unwrap(), [5, 220]);
        assert_eq!(of("12.340").unwrap(), of("12.34").unwrap());
        assert_eq!(parse_decimal("-1", 4, 0, Some(3)).unwrap(), [255, 255, 255]);
    }

    #[test]
    fn too_many_digits_are_refused() {
        for text in ["1.234", "123456789.01", "1e9", "1e-3", "0.1234567890123456", "1e99999"] {
            assert_eq!(parse_decimal(text, 10, 2, None), None, "{text}");
        }
        assert_eq!(parse_decimal("40000", 5, 0, Some(2)), None);
        let digits = "9".repeat(38);
        assert!(parse_decimal(&digits, 40, 0, None).is_some());
        assert_eq!(parse_decimal(&format!("{digits}9"), 40, 0, None), None);
    }
}
