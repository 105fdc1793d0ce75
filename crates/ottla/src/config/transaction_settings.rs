//! The settings of a transactional producer.

use std::time::Duration;

use super::Properties;

/// The settings of a transactional producer (KIP-98).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransactionSettings {
    /// The name under which the cluster keeps the transactions of this producer and of its
    /// successors (`transactional.id`).
    pub transactional_id: String,
    /// The time after which the cluster aborts a transaction that was not ended
    /// (`transaction.timeout.ms`).
    pub timeout: Duration,
}

impl TransactionSettings {
    #[cfg(test)]
    pub(crate) fn for_tests(transactional_id: &str, timeout: Duration) -> TransactionSettings {
        TransactionSettings { transactional_id: transactional_id.to_owned(), timeout }
    }

    /// Returns `None` if the producer is not transactional.
    pub(super) fn new(p: &Properties) -> Option<TransactionSettings> {
        Some(TransactionSettings {
            transactional_id: p.value("transactional.id")?.to_owned(),
            timeout: p.get_duration_ms("transaction.timeout.ms"),
        })
    }
}
