//! The settings of the sender: acknowledgements, idempotence, retries.

use std::time::Duration;

use super::choices::Acks;
use super::timeouts::Timeouts;
use super::transaction_settings::TransactionSettings;
use super::{BackoffRange, Properties};
use crate::error::Error;

/// More requests in flight than this break the idempotent producer: the broker remembers the
/// sequences of only five batches per producer and partition (KIP-98).
const MAX_IN_FLIGHT_IDEMPOTENT: i64 = 5;

/// The settings that decide how batches are sent.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SenderSettings {
    /// Which replicas must have a record before the broker acknowledges it (`acks`).
    pub acks: Acks,
    /// Whether retries write no record twice and keep the order of each partition
    /// (`enable.idempotence`, KIP-98). False if `acks` or `retries` exclude it.
    pub idempotent: bool,
    /// The largest number of requests without a response on one connection
    /// (`max.in.flight.requests.per.connection`).
    pub max_in_flight: usize,
    /// The largest size of a request, and of a record before compression, in bytes
    /// (`max.request.size`).
    pub max_request_size: usize,
    /// How often a batch is sent again after a retriable error (`retries`).
    pub retries: u32,
    /// The time before the first retry (`retry.backoff.ms`). It doubles with each further failure.
    pub retry_backoff: Duration,
    /// The longest time before a retry (`retry.backoff.max.ms`, KIP-580).
    pub retry_backoff_max: Duration,
    /// The time that a broker has for its response (`request.timeout.ms`).
    pub request_timeout: Duration,
    /// The time from a batch's first record until the batch is acknowledged or fails
    /// (`delivery.timeout.ms`).
    pub delivery_timeout: Duration,
    /// How long a MESSAGE_TOO_LARGE error limits the batches of its topic
    /// (`metadata.max.age.ms`).
    pub metadata_max_age: Duration,
    /// The settings of a transactional producer; `None` without `transactional.id`.
    pub transactions: Option<TransactionSettings>,
}

impl SenderSettings {
    pub(super) fn new(p: &Properties) -> Result<SenderSettings, Error> {
        let acks = p.get_str("acks").parse()?;
        let backoff = BackoffRange::new(p, "retry.backoff.ms", "retry.backoff.max.ms");
        Ok(SenderSettings {
            acks,
            idempotent: is_idempotent(p, acks)?,
            max_in_flight: p.get_usize("max.in.flight.requests.per.connection"),
            max_request_size: p.get_usize("max.request.size"),
            retries: u32::try_from(p.get_i64("retries")).unwrap_or(u32::MAX),
            retry_backoff: backoff.initial,
            retry_backoff_max: backoff.max,
            request_timeout: Timeouts::new(p)?.request,
            delivery_timeout: Timeouts::new(p)?.delivery,
            metadata_max_age: p.get_duration_ms("metadata.max.age.ms"),
            transactions: TransactionSettings::new(p),
        })
    }
}

/// Returns whether the producer is idempotent.
///
/// As Kafka does: a conflicting `acks` or `retries` turns idempotence off, unless
/// `enable.idempotence=true` was set; then it is an error. Too many requests in flight are an error
/// unless `enable.idempotence=false` was set, also where `acks` or `retries` turn it off
/// (CASES PC1). A transactional producer is always idempotent.
fn is_idempotent(p: &Properties, acks: Acks) -> Result<bool, Error> {
    let is_transactional = p.value("transactional.id").is_some();
    if !p.get_bool("enable.idempotence") {
        if is_transactional {
            let message = "transactional.id needs enable.idempotence=true";
            return Err(Error::config(message));
        }
        return Ok(false);
    }
    let is_explicit = p.value("enable.idempotence").is_some();
    let conflicts = [
        (acks != Acks::All, format!("acks={acks}; set acks=all")),
        (p.get_i64("retries") == 0, "retries=0; set retries to at least 1".to_owned()),
    ];
    let conflict = conflicts.into_iter().find(|(is_conflict, _)| *is_conflict);
    if let (true, Some((_, conflict))) = (is_transactional, &conflict) {
        return Err(Error::config(format!("transactional.id conflicts with {conflict}")));
    }
    if let (true, Some((_, conflict))) = (is_explicit, &conflict) {
        return Err(Error::config(format!("enable.idempotence=true conflicts with {conflict}")));
    }
    let in_flight = p.get_i64("max.in.flight.requests.per.connection");
    if in_flight > MAX_IN_FLIGHT_IDEMPOTENT {
        return Err(Error::config(format!(
            "To use the idempotent producer, max.in.flight.requests.per.connection must be set to \
             at most {MAX_IN_FLIGHT_IDEMPOTENT}. Current value is {in_flight}. (Or set \
             enable.idempotence=false.)"
        )));
    }
    Ok(conflict.is_none())
}
