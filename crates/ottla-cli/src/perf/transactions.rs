//! The transactions of `ottla perf`: when each begins and ends, and how long its commit takes.

use std::time::{Duration, Instant};

use ottla::{Error, Producer, Properties, Transaction};
use ottla_protocol::Uuid;

use super::stats::PerfStats;
use crate::args::PerfArgs;
use crate::{CliError, error_with_reference};

/// How long a transaction lasts if the options do not say, as in kafka-producer-perf-test.
const DEFAULT_DURATION: Duration = Duration::from_secs(3);
/// The generated transactional id starts with it, as in kafka-producer-perf-test.
const GENERATED_ID_PREFIX: &str = "performance-producer-";

/// When a transaction is committed.
#[derive(Debug, Clone, Copy)]
pub(super) enum TransactionLimit {
    Duration(Duration),
    Records(u64),
}

impl TransactionLimit {
    /// Returns the limit if an option or a setting is about transactions. Sets a generated
    /// transactional id if they name none.
    pub(super) fn from_args(
        args: &PerfArgs,
        properties: &mut Properties,
    ) -> Result<Option<TransactionLimit>, CliError> {
        let duration = args.transaction_duration_ms.map(Duration::from_millis);
        let limit = match (args.transaction_records, duration) {
            (Some(records), _) => Some(TransactionLimit::Records(records)),
            (None, Some(duration)) => Some(TransactionLimit::Duration(duration)),
            (None, None) => None,
        };
        let has_id = properties.get("transactional.id").is_some();
        if limit.is_none() && !has_id {
            return Ok(None);
        }
        if args.threads > 1 {
            return Err(CliError::usage(
                "--threads must be 1 with transactions: a producer has one transaction at a time",
            ));
        }
        if !has_id {
            let (high, low) = (random_u64()?, random_u64()?);
            let id = format!("{GENERATED_ID_PREFIX}{}", Uuid::from_random(high, low));
            properties
                .set_from("transactional.id", &id, &ottla::Origin::CommandLine)
                .map_err(|e| CliError::usage(e.to_string()))?;
        }
        Ok(Some(limit.unwrap_or(TransactionLimit::Duration(DEFAULT_DURATION))))
    }
}

fn random_u64() -> Result<u64, CliError> {
    getrandom::u64().map_err(|e| CliError::failed(format!("cannot generate a random id: {e}")))
}

/// The transactions of a sending thread. Without a limit, the records are in no transaction.
pub(super) struct PerfTransactions<'a> {
    limit: Option<TransactionLimit>,
    producer: &'a Producer,
    stats: &'a PerfStats,
    open: Option<OpenTransaction>,
}

struct OpenTransaction {
    transaction: Transaction,
    begun_at: Instant,
    records: u64,
}

impl<'a> PerfTransactions<'a> {
    pub(super) fn new(
        limit: Option<TransactionLimit>,
        producer: &'a Producer,
        stats: &'a PerfStats,
    ) -> PerfTransactions<'a> {
        PerfTransactions { limit, producer, stats, open: None }
    }

    /// Begins a transaction unless one is open. Called before each record.
    #[inline]
    pub(super) fn begin_if_needed(&mut self) -> Result<(), CliError> {
        if self.limit.is_none() || self.open.is_some() {
            return Ok(());
        }
        let transaction =
            self.producer.begin_transaction().map_err(|e| failed("cannot begin", &e))?;
        self.open = Some(OpenTransaction { transaction, begun_at: Instant::now(), records: 0 });
        Ok(())
    }

    /// Commits the transaction if it has reached its limit. Called after each record.
    #[inline]
    pub(super) fn commit_if_due(&mut self) -> Result<(), CliError> {
        let (Some(limit), Some(open)) = (self.limit, &mut self.open) else { return Ok(()) };
        open.records += 1;
        let is_due = match limit {
            TransactionLimit::Duration(duration) => open.begun_at.elapsed() >= duration,
            TransactionLimit::Records(records) => open.records >= records,
        };
        if is_due { self.commit() } else { Ok(()) }
    }

    /// Commits the open transaction.
    pub(super) fn commit(&mut self) -> Result<(), CliError> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        let started_at = Instant::now();
        if let Err(e) = open.transaction.commit() {
            if e.requires_abort() {
                // The error of the commit says more than that of an abort.
                let _ = open.transaction.abort();
            }
            return Err(failed("a transaction was not committed", &e));
        }
        self.stats.add_commit(started_at.elapsed());
        Ok(())
    }
}

fn failed(what: &str, e: &Error) -> CliError {
    CliError::failed(format!("{what}: {}", error_with_reference(e)))
}
