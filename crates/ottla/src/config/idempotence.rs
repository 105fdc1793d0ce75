//! `enable.idempotence`, and the settings that must fit it: `acks`, `retries` and the number of
//! requests in flight.

use super::Properties;
use super::choices::Acks;
use crate::error::Error;

/// More requests in flight than this break the idempotent producer: the broker remembers the
/// sequences of only five batches per producer and partition (KIP-98).
const MAX_IN_FLIGHT_IDEMPOTENT: i64 = 5;

/// librdkafka's default of `max.in.flight.requests.per.connection`.
const LIBRDKAFKA_MAX_IN_FLIGHT: i64 = 1_000_000;

const MAX_IN_FLIGHT: &str = "max.in.flight.requests.per.connection";

/// Whether the producer is idempotent, and the number of requests in flight, which depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Idempotence {
    pub(super) enabled: bool,
    pub(super) max_in_flight: usize,
}

impl Idempotence {
    /// As Kafka does: a conflicting `acks` or `retries` turns idempotence off, unless
    /// `enable.idempotence=true` was set; then it is an error. Too many requests in flight are an
    /// error unless `enable.idempotence=false` was set, also where `acks` or `retries` turn it off
    /// (CASES PC1). A transactional producer is always idempotent.
    ///
    /// Only librdkafka's default of 1,000,000 requests is not an error: in librdkafka it stands
    /// for no limit, and idempotence lowers it to 5 there, too.
    pub(super) fn new(p: &Properties) -> Result<Idempotence, Error> {
        let given = p.get_usize(MAX_IN_FLIGHT);
        let is_transactional = p.value("transactional.id").is_some();
        if !p.get_bool("enable.idempotence") {
            if is_transactional {
                let message = "transactional.id needs enable.idempotence=true";
                return Err(Error::config(message));
            }
            return Ok(Idempotence { enabled: false, max_in_flight: given });
        }
        let is_explicit = p.value("enable.idempotence").is_some();
        let conflict = conflicting_setting(p);
        if let (true, Some(name)) = (is_explicit || is_transactional, conflict) {
            let (written, value) = (p.written_name(name), p.get_str(name));
            let advice = match name {
                "acks" => format!("set {written}=all"),
                _ => format!("set {written} to at least 1"),
            };
            let needs =
                if is_transactional { "transactional.id" } else { "enable.idempotence=true" };
            let message = format!("{needs} conflicts with {written}={value}; {advice}");
            return Err(Error::config(message));
        }
        let in_flight = p.get_i64(MAX_IN_FLIGHT);
        let is_librdkafka_default = in_flight == LIBRDKAFKA_MAX_IN_FLIGHT && !is_explicit;
        if in_flight > MAX_IN_FLIGHT_IDEMPOTENT && !is_librdkafka_default {
            return Err(Error::config(format!(
                "To use the idempotent producer, {} must be set to at most \
                 {MAX_IN_FLIGHT_IDEMPOTENT}. Current value is {in_flight}. (Or set \
                 enable.idempotence=false.)",
                p.written_name(MAX_IN_FLIGHT)
            )));
        }
        Ok(match conflict {
            Some(_) => Idempotence { enabled: false, max_in_flight: given },
            None => {
                let max_in_flight = given.min(MAX_IN_FLIGHT_IDEMPOTENT as usize);
                Idempotence { enabled: true, max_in_flight }
            }
        })
    }
}

/// Returns the setting whose value excludes idempotence.
fn conflicting_setting(p: &Properties) -> Option<&'static str> {
    if !matches!(p.get_str("acks").parse(), Ok(Acks::All)) {
        return Some("acks");
    }
    (p.get_i64("retries") == 0).then_some("retries")
}

/// Returns what a user should know of settings that change each other without an error.
pub(super) fn notice(p: &Properties) -> Option<String> {
    // An error is the result of `build`.
    let idempotence = Idempotence::new(p).ok()?;
    if idempotence.enabled {
        let given = p.get_usize(MAX_IN_FLIGHT);
        return (given != idempotence.max_in_flight).then(|| {
            format!(
                "{}={given} is librdkafka's default; this producer is idempotent and has at most \
                 {} requests in flight; set enable.idempotence=false for more",
                p.written_name(MAX_IN_FLIGHT),
                idempotence.max_in_flight
            )
        });
    }
    // With `enable.idempotence=false` it is off because the user wants it so.
    let name = conflicting_setting(p).filter(|_| p.get_bool("enable.idempotence"))?;
    let (written, value) = (p.written_name(name), p.get_str(name));
    Some(format!(
        "{written}={value} turns idempotence off, which is on by default: records may be lost, or \
         stored twice or in another order, where they otherwise would not; remove it, or set \
         enable.idempotence=false if this is intended"
    ))
}
