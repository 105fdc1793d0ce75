//! Checks the value of a setting against its type and range, and parses `bootstrap.servers`.

use std::time::Duration;

use super::Origin;
use super::setting::{Setting, Type};
use crate::error::Error;

/// Removes what Java's `String.trim` removes at both ends: blanks and control characters, such as
/// the end of a line. `ConfigDef` trims the values of all types, text and passwords too.
pub(crate) fn trim(value: &str) -> &str {
    value.trim_matches(|c| c <= ' ')
}

/// Checks a value against the type and range of its setting. Returns it trimmed.
///
/// # Errors
/// An error that names the setting, the value, its origin and the expected range.
pub(crate) fn check_value<'v>(
    s: &Setting,
    value: &'v str,
    origin: Option<&Origin>,
) -> Result<&'v str, Error> {
    let trimmed = trim(value);
    let is_valid = match s.value_type {
        Type::Int(min, max) => trimmed.parse::<i64>().is_ok_and(|n| (min..=max).contains(&n)),
        Type::Long(min) => trimmed.parse::<i64>().is_ok_and(|n| n >= min),
        Type::Millis => parse_millis(trimmed).is_some(),
        Type::Bool => parse_bool(trimmed).is_some(),
        // Java ignores the case of some (the type of a store), librdkafka that of all.
        Type::Choice(all) => all.iter().any(|c| c.eq_ignore_ascii_case(trimmed)),
        Type::Double(min, max) => trimmed.parse::<f64>().is_ok_and(|n| (min..=max).contains(&n)),
        Type::Text | Type::Password | Type::List => true,
    };
    let error = |expected: &str| {
        let origin = origin.map_or(String::new(), |origin| format!(" (from {origin})"));
        let name = s.name;
        Error::config(format!("{name}={trimmed}{origin} is not valid; expected {expected}"))
    };
    if !is_valid {
        return Err(error(&s.value_type.describe_for_errors()));
    }
    if s.name.ends_with(".location") && trimmed.contains(char::is_control) {
        // `C:\temp\new.pem` in a properties file contains a tab and the end of a line.
        return Err(Error::config(format!(
            "{}={trimmed:?} contains a control character; a backslash begins an escape in a \
             properties file: write \\\\ or /",
            s.name
        )));
    }
    if s.name == "compression.gzip.level" && trimmed == "0" {
        return Err(error("1 to 9, or -1 for the default of the library"));
    }
    Ok(trimmed)
}

/// Parses `true` or `false`, or librdkafka's `t`, `1`, `f` or `0`, of any case.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "t" | "1" => Some(true),
        "false" | "f" | "0" => Some(false),
        _ => None,
    }
}

/// Parses milliseconds with at most three decimals, so that the result is exact. `None` if it is no
/// such number, or more than 2^63-1.
pub(crate) fn parse_millis(text: &str) -> Option<Duration> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let whole = whole.parse::<i64>().ok().and_then(|n| u64::try_from(n).ok())?;
    if fraction.is_empty() || fraction.len() > 3 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let micros = format!("{fraction:0<3}").parse().ok()?;
    Some(Duration::from_millis(whole) + Duration::from_micros(micros))
}

/// Returns a duration in milliseconds as text, exactly.
pub(crate) fn format_millis(duration: Duration) -> String {
    let (millis, rest) = (duration.as_millis(), duration.subsec_nanos() % 1_000_000);
    if rest == 0 {
        return millis.to_string();
    }
    format!("{millis}.{rest:06}").trim_end_matches('0').to_owned()
}

/// Parses a server as `host:port`. The security protocol may precede it, as in
/// `PLAINTEXT://host:9092`.
pub(crate) fn parse_host_port(entry: &str, protocol: &str) -> Result<(String, u16), Error> {
    let error = |reason: &str| Error::config(format!("bootstrap.servers: {entry:?} {reason}"));
    if entry.contains(char::is_whitespace) {
        return Err(error("contains whitespace; separate servers by commas"));
    }
    let rest = match entry.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(protocol) => rest,
        Some(_) => {
            return Err(error(&format!(
                "has a different protocol than security.protocol={protocol}; set both to the same"
            )));
        }
        None => entry,
    };
    let (host, port) =
        rest.rsplit_once(':').ok_or_else(|| error("has no port; write host:port"))?;
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.strip_suffix(']').ok_or_else(|| error("has no closing bracket"))?,
        None if host.contains(':') && host.parse::<std::net::Ipv6Addr>().is_err() => {
            return Err(error("is not a host and a port; write host:port or [IPv6]:port"));
        }
        None => host,
    };
    let port = port.parse::<u16>().ok().filter(|p| *p > 0);
    let port = port.ok_or_else(|| error("has a port that is not 1 to 65535"))?;
    if host.is_empty() {
        return Err(error("has no host; write host:port"));
    }
    Ok((host.to_owned(), port))
}

/// Parses `bootstrap.servers` and removes duplicates. An empty list is an error.
pub(crate) fn parse_bootstrap_servers(
    list: &str,
    protocol: &str,
) -> Result<Vec<(String, u16)>, Error> {
    let mut servers = Vec::new();
    for entry in list.split(',').map(str::trim).filter(|e| !e.is_empty()) {
        let server = parse_host_port(entry, protocol)?;
        if !servers.contains(&server) {
            servers.push(server);
        }
    }
    if servers.is_empty() {
        return Err(Error::config(
            "bootstrap.servers is empty; name at least one broker as host:port",
        ));
    }
    Ok(servers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_are_exact_to_the_microsecond_or_refused() {
        for (text, micros) in [("5", 5000), ("0.5", 500), ("1.250", 1250), ("0.001", 1)] {
            assert_eq!(parse_millis(text), Some(Duration::from_micros(micros)), "{text}");
        }
        for text in ["", ".5", "1.", "-1", "1.2345", "0.0001", "1e3", "1.-5", "9223372036854775808"]
        {
            assert_eq!(parse_millis(text), None, "{text}");
        }
        for (duration, text) in [
            (Duration::from_micros(1500), "1.5"),
            (Duration::from_secs(7), "7000"),
            (Duration::from_nanos(1), "0.000001"),
        ] {
            assert_eq!(format_millis(duration), text);
        }
    }

    // CASES: CU1.
    #[test]
    fn host_and_port_are_parsed_and_malformed_servers_are_errors() {
        for (entry, host, port) in [
            ("127.0.0.1:8000", "127.0.0.1", 8000),
            ("localhost:8080", "localhost", 8080),
            ("[::1]:8000", "::1", 8000),
            (
                "[2001:db8:85a3:8d3:1319:8a2e:370:7348]:1234",
                "2001:db8:85a3:8d3:1319:8a2e:370:7348",
                1234,
            ),
            ("PLAINTEXT://h:1", "h", 1),
        ] {
            assert_eq!(
                parse_host_port(entry, "PLAINTEXT").unwrap(),
                (host.to_owned(), port),
                "{entry}"
            );
        }
        for entry in
            ["localhost", "localhost:70000", "localhost:0", "a:1 b:2", ":1", "SSL://h:1", "[::1:9"]
        {
            assert!(parse_host_port(entry, "PLAINTEXT").is_err(), "{entry}");
        }
        assert_eq!(parse_bootstrap_servers(" a:1 , b:2,a:1 ", "SSL").unwrap().len(), 2);
        assert!(
            parse_bootstrap_servers(" , ", "SSL").is_err()
                && parse_bootstrap_servers("a:1 b:2", "SSL").is_err()
                && parse_bootstrap_servers("a:1\nb:2", "SSL").is_err()
        );
    }
}
