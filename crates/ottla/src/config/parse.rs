//! A value as its type and range have it, or an error that names setting, value and range.

use super::table::{Setting, Type};
use crate::error::Error;

/// Checks a value against its setting; the value as it is meant (blanks around it gone).
pub(crate) fn check_value<'v>(s: &Setting, value: &'v str) -> Result<&'v str, Error> {
    let trimmed = value.trim();
    let ok = match s.value_type {
        Type::Int(min, max) => trimmed.parse::<i64>().is_ok_and(|n| (min..=max).contains(&n)),
        Type::Long(min) => trimmed.parse::<i64>().is_ok_and(|n| n >= min),
        Type::Bool => matches!(trimmed.to_ascii_lowercase().as_str(), "true" | "false"),
        Type::Choice(all)
            if matches!(s.name, "security.protocol" | "metadata.recovery.strategy") =>
        {
            all.iter().any(|c| c.eq_ignore_ascii_case(trimmed))
        }
        Type::Choice(all) => all.contains(&trimmed),
        Type::Double(min, max) => trimmed.parse::<f64>().is_ok_and(|n| (min..=max).contains(&n)),
        Type::Text | Type::Password => return Ok(value),
        Type::List => true,
    };
    // A gzip level is 1 to 9, or -1: 0 is in the range and is not a level.
    let ok = ok && !(s.name == "compression.gzip.level" && trimmed == "0");
    if ok {
        return Ok(trimmed);
    }
    Err(Error::config(format!(
        "{}={trimmed} is not {}",
        s.name,
        with_article(&s.value_type.describe())
    )))
}

fn with_article(what: &str) -> String {
    if what.contains(',') && !what.starts_with(['i', 'l', 'n']) {
        format!("one of {what}")
    } else {
        format!("a valid {what}")
    }
}

/// A host and a port; before it, perhaps, the protocol it is spoken to by.
pub(crate) fn parse_host_port(entry: &str, protocol: &str) -> Result<(String, u16), Error> {
    let bad = |why: &str| Error::config(format!("bootstrap.servers: {entry:?} {why}"));
    if entry.contains(char::is_whitespace) {
        return Err(bad("has a blank in it; separate servers by commas"));
    }
    // A listener's name may stand before it, as in PLAINTEXT://host:9092.
    let rest = match entry.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(protocol) => rest,
        Some(_) => {
            return Err(bad(&format!("has another protocol than security.protocol={protocol}")));
        }
        None => entry,
    };
    let (host, port) = rest.rsplit_once(':').ok_or_else(|| bad("has no port; write host:port"))?;
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.strip_suffix(']').ok_or_else(|| bad("has half a pair of brackets"))?,
        None if host.contains(':') && host.parse::<std::net::Ipv6Addr>().is_err() => {
            return Err(bad("is not a host and a port"));
        }
        None => host,
    };
    let port = port.parse::<u16>().ok().filter(|p| *p > 0);
    let port = port.ok_or_else(|| bad("has a port that is not 1 to 65535"))?;
    if host.is_empty() {
        return Err(bad("has no host"));
    }
    Ok((host.to_owned(), port))
}

/// `bootstrap.servers`: at least one, duplicates dropped.
pub(crate) fn parse_bootstrap_servers(
    list: &str,
    protocol: &str,
) -> Result<Vec<(String, u16)>, Error> {
    let mut out = Vec::new();
    for entry in list.split(',').map(str::trim).filter(|e| !e.is_empty()) {
        let server = parse_host_port(entry, protocol)?;
        if !out.contains(&server) {
            out.push(server);
        }
    }
    if out.is_empty() {
        return Err(Error::config(
            "bootstrap.servers is empty; name at least one broker as host:port",
        ));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cu1_hosts_and_ports() {
        for (good, host, port) in [
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
                parse_host_port(good, "PLAINTEXT").unwrap(),
                (host.to_owned(), port),
                "{good}"
            );
        }
        for bad in
            ["localhost", "localhost:70000", "localhost:0", "a:1 b:2", ":1", "SSL://h:1", "[::1:9"]
        {
            assert!(parse_host_port(bad, "PLAINTEXT").is_err(), "{bad}");
        }
        assert_eq!(parse_bootstrap_servers(" a:1 , b:2,a:1 ", "SSL").unwrap().len(), 2);
        assert!(
            parse_bootstrap_servers(" , ", "SSL").is_err()
                && parse_bootstrap_servers("a:1 b:2", "SSL").is_err()
                && parse_bootstrap_servers("a:1\nb:2", "SSL").is_err()
        );
    }
}
