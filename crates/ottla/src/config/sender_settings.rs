//! The settings of the sender: acknowledgements, idempotence, retries.

use std::time::Duration;

use super::choices::Acks;
use super::idempotence::Idempotence;
use super::timeouts::Timeouts;
use super::transaction_settings::TransactionSettings;
use super::{BackoffRange, Properties};
use crate::error::Error;

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
    /// Whether the client pushes its metrics to brokers that request them (`enable.metrics.push`,
    /// KIP-714).
    pub metrics_push: bool,
    /// The rack of this client (`client.rack`), which the pushed metrics carry; may be empty.
    pub client_rack: String,
    /// The settings of a transactional producer; `None` without `transactional.id`.
    pub transactions: Option<TransactionSettings>,
}

impl SenderSettings {
    pub(super) fn new(p: &Properties) -> Result<SenderSettings, Error> {
        let acks = p.get_str("acks").parse()?;
        let idempotence = Idempotence::new(p)?;
        let backoff = BackoffRange::new(p, "retry.backoff.ms", "retry.backoff.max.ms");
        Ok(SenderSettings {
            acks,
            idempotent: idempotence.enabled,
            max_in_flight: idempotence.max_in_flight,
            max_request_size: p.get_usize("max.request.size"),
            retries: u32::try_from(p.get_i64("retries")).unwrap_or(u32::MAX),
            retry_backoff: backoff.initial,
            retry_backoff_max: backoff.max,
            request_timeout: Timeouts::new(p)?.request,
            delivery_timeout: Timeouts::new(p)?.delivery,
            metadata_max_age: p.get_duration_ms("metadata.max.age.ms"),
            client_rack: p.get_str("client.rack").to_owned(),
            metrics_push: p.get_bool("enable.metrics.push"),
            transactions: TransactionSettings::new(p),
        })
    }
}
