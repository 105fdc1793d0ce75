//! The steps of a connection: the name, TCP, TLS, SASL, the API versions.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc;
use std::time::Duration;

use ottla::tools::{Probe, ProbeConnection};
use ottla_protocol::messages::ApiVersionsResponse;
use ottla_protocol::{ApiKey, ErrorCode};

use super::kafka_release::kafka_release;
use super::report::{Failed, Passed};
use crate::start_thread;

/// The longest time that a name lookup may take.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);
/// A certificate that expires within this time deserves a note.
const EXPIRES_SOON_DAYS: i64 = 30;
const MS_PER_DAY: i64 = 24 * 3600 * 1000;

/// Returns all addresses of a name.
pub(super) fn resolve(host: &str, port: u16) -> Result<(Vec<SocketAddr>, Passed), Failed> {
    let (sender, receiver) = mpsc::channel();
    let name = host.to_owned();
    // A name server that does not respond blocks the lookup for a long time.
    start_thread("resolve", move || {
        let _ = sender.send((name.as_str(), port).to_socket_addrs().map(Vec::from_iter));
    })
    .map_err(|e| Failed::new(e.message, ""))?;
    let change = "check the spelling of the name, and this machine's name servers and hosts file";
    let addresses = match receiver.recv_timeout(RESOLVE_TIMEOUT) {
        Ok(Ok(addresses)) if !addresses.is_empty() => addresses,
        Ok(Ok(_)) => return Err(Failed::new(format!("{host} has no address"), change)),
        Ok(Err(e)) => {
            return Err(Failed::new(format!("{host} cannot be resolved: {e}"), change));
        }
        Err(_) => {
            let seconds = RESOLVE_TIMEOUT.as_secs();
            return Err(Failed::new(
                format!("{host}: no name server responded in {seconds} s"),
                change,
            ));
        }
    };
    let mut text: Vec<String> = addresses.iter().map(|a| a.ip().to_string()).collect();
    text.dedup();
    Ok((addresses, Passed::new(text.join(", "))))
}

/// Connects to each address. The connection to the first that works stays open.
pub(super) fn connect(
    probe: &mut Probe,
    host: &str,
    addresses: &[SocketAddr],
) -> Result<(ProbeConnection, Passed), Failed> {
    let (mut open, mut connected, mut failures) = (None, Vec::new(), Vec::new());
    for address in addresses {
        match probe.connect(host, *address) {
            Ok(connection) if open.is_none() => {
                connected.push(address.to_string());
                open = Some(connection);
            }
            Ok(connection) => {
                connected.push(address.to_string());
                probe.close(&connection);
            }
            Err(reason) => failures.push(format!("{address}: {reason}")),
        }
    }
    let Some(connection) = open else {
        let is_silent = failures.iter().all(|f| f.contains("no connection within"));
        let change = if is_silent {
            "nothing responds there: check address and port, and the firewalls between here and \
             there"
        } else {
            "check that a broker runs there and listens on this port (listeners), and the firewall"
        };
        return Err(Failed::new(failures.join("; "), change));
    };
    let notes =
        failures.iter().map(|f| format!("{f}; the client tries the next address")).collect();
    Ok((connection, Passed { text: connected.join(", "), notes }))
}

/// Takes the steps after TCP.
pub(super) fn set_up(probe: &mut Probe, connection: &mut ProbeConnection) -> Result<(), Failed> {
    finish_tls(probe, connection)?;
    authenticate(probe, connection)?;
    versions(probe, connection)?;
    Ok(())
}

/// Makes a call that may be repeated, on a connection that may have ended while other brokers were
/// checked, or after a request that got no response in time. Connects again if it has.
///
/// The broker may close the connection just before the request, and this side learns it only from
/// the missing response. So a call whose connection ends is made once more on a new connection.
pub(super) fn with_open_connection<T>(
    probe: &mut Probe,
    connection: &mut ProbeConnection,
    call: impl Fn(&mut Probe, &mut ProbeConnection) -> Result<T, Failed>,
) -> Result<T, Failed> {
    let was_open = probe.is_open(connection);
    if !was_open {
        reopen(probe, connection)?;
    }
    let result = call(probe, connection);
    if result.is_ok() || !was_open || !connection.ended_at_request() {
        return result;
    }
    reopen(probe, connection)?;
    call(probe, connection)
}

/// Connects again, to the same address.
fn reopen(probe: &mut Probe, connection: &mut ProbeConnection) -> Result<(), Failed> {
    probe.close(connection);
    let host = connection.host().to_owned();
    let (mut new, _) = connect(probe, &host, &[connection.address()])?;
    let result = set_up(probe, &mut new);
    if result.is_err() {
        probe.close(&new);
    }
    *connection = new;
    result.map_err(|mut e| {
        e.text = format!("the connection has ended, and the next one fails: {}", e.text);
        e
    })
}

/// Finishes the TLS handshake.
pub(super) fn finish_tls(
    probe: &mut Probe,
    connection: &mut ProbeConnection,
) -> Result<((), Passed), Failed> {
    let details = probe
        .finish_tls(connection)
        .map_err(|e| Failed::from(e).or_change("check security.protocol and the ssl.* settings"))?;
    let details = details.unwrap_or_default();
    let mut passed = Passed::new(format!("{}, {}", details.protocol, details.cipher_suite));
    for (i, c) in details.certificates.iter().enumerate() {
        let days = (c.not_after * 1000 - probe.wall_clock_ms()) / MS_PER_DAY;
        let names = match c.names.join(", ") {
            names if names.is_empty() => String::new(),
            names => format!(", for {names}"),
        };
        if i == 0 {
            passed.text +=
                &format!("; {}{names}, signed by {}, expires in {days} days", c.subject, c.issuer);
        } else {
            passed.notes.push(format!("chain: {}, expires in {days} days", c.subject));
        }
        if days < EXPIRES_SOON_DAYS {
            passed.notes.push(format!("{} expires on {}; renew it", c.subject, c.expires));
        }
    }
    Ok(((), passed))
}

/// Authenticates with SASL.
pub(super) fn authenticate(
    probe: &mut Probe,
    connection: &mut ProbeConnection,
) -> Result<((), Passed), Failed> {
    let details = probe.authenticate(connection).map_err(|e| {
        Failed::from(e).or_change(
            "check sasl.mechanism, and the user and password or the source of tokens \
             (sasl.jaas.config, sasl.oauthbearer.*)",
        )
    })?;
    let text = details.map_or_else(String::new, |d| match d.session_lifetime {
        Some(lifetime) => format!("{}, the session lasts {} s", d.mechanism, lifetime.as_secs()),
        None => d.mechanism,
    });
    Ok(((), Passed::new(text)))
}

/// Requests the versions and features of the broker.
pub(super) fn versions(
    probe: &mut Probe,
    connection: &mut ProbeConnection,
) -> Result<(ApiVersionsResponse, Passed), Failed> {
    let response = probe.api_versions(connection)?;
    let Some(produce) = connection.version(ApiKey::PRODUCE, 3, 13) else {
        let has_produce = response.api_keys.iter().any(|k| k.api_key == ApiKey::PRODUCE.0);
        let text = if has_produce {
            "the broker supports no version of Produce from 3 to 13"
        } else {
            "the broker does not serve Produce"
        };
        let change = "connect to a broker of Kafka 2.1 or newer, not to a controller";
        return Err(Failed::new(text, change));
    };
    let features = finalized_features(&response);
    let mut text = format!("{} APIs, Produce {produce}", response.api_keys.len());
    if let Some(release) = kafka_release(&response) {
        text += &format!("; {release} by its features");
    }
    if !features.is_empty() {
        text += &format!("; features: {}", features.join(", "));
    }
    Ok((response, Passed::new(text)))
}

/// Returns the features that the cluster has finalized, each with its level.
pub(super) fn finalized_features(response: &ApiVersionsResponse) -> Vec<String> {
    let features = response.finalized_features.iter();
    features.map(|f| format!("{} {}", f.name, f.max_version_level)).collect()
}

/// Returns an error code with Kafka's name and its description.
pub(super) fn code_text(code: ErrorCode) -> String {
    match code.description() {
        "" => code.to_string(),
        description => format!("{code}: {description}"),
    }
}
