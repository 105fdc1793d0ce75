//! The transaction coordinator (KIP-98, KIP-890).
//!
//! [`crate::api`] handles the requests. `metadata` and `end_txn` decide what a request changes,
//! `coordinator` applies it, `markers` ends transactions in their partitions, step by step.
//! `produce` checks that a batch belongs to an open transaction.
//!
//! With a data directory, `log` keeps the state of transactional ids over a restart. It writes each
//! state before the response that depends on it.

mod metadata;
mod end_txn;
mod coordinator;
mod log;
mod markers;
mod produce;

pub(crate) use coordinator::TransactionCoordinator;
pub(crate) use end_txn::EndTxn;
pub(crate) use markers::MarkerRequest;
pub(crate) use metadata::{ProducerIdAndEpoch, TopicPartition};

/// The transaction version with which each transaction bumps its producer's epoch (KIP-890).
pub(crate) const TRANSACTIONS_V2: i16 = 2;
