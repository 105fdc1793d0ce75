//! The transaction coordinator (KIP-98, KIP-890).
//!
//! [`crate::api`] handles the requests. `metadata` and `end_txn` decide what a request changes,
//! `coordinator` applies it, `markers` ends transactions in their partitions, step by step.
//! `produce` checks that a batch belongs to an open transaction.
//!
//! The state of the coordinator is in memory only. It survives a stop of its node, but not the end
//! of the process, even with a data directory.

mod metadata;
mod end_txn;
mod coordinator;
mod markers;
mod produce;

pub(crate) use coordinator::TransactionCoordinator;
pub(crate) use end_txn::EndTxn;
pub(crate) use markers::MarkerRequest;
pub(crate) use metadata::{ProducerIdAndEpoch, TopicPartition};

/// The transaction version with which each transaction bumps its producer's epoch (KIP-890).
pub(crate) const TRANSACTIONS_V2: i16 = 2;
