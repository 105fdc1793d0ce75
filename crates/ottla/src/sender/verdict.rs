//! What an answer means for a batch: one table, a pure function over it. The sender applies it.

use ottla_protocol::ErrorCode;

use crate::error::RecordStatus;
use crate::injected_bugs::inject_bug;

/// What becomes of the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Written, at the offset the answer gives.
    Complete,
    /// Written by an earlier attempt; the offset is not known.
    Duplicate,
    /// To be sent again as it is, after the backoff; after fresh metadata too where that may help.
    Retry {
        /// Whether what is known of leaders is out of date.
        refresh_metadata: bool,
    },
    /// To be sent again in parts.
    Split,
    /// To be sent again in a new order, from sequence 0, if the log is known to lack it.
    Resequence {
        /// This answer proves that the log lacks it.
        proven_not_persisted: bool,
        /// A new epoch of the same id would not do.
        new_producer_id: bool,
    },
    /// Its records failed for good; the producer goes on.
    Fail,
    /// Its records failed, and so does everything else: the producer is of no more use.
    FailProducer,
}

/// What is known when the answer comes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    pub(crate) code: ErrorCode,
    /// Whether batches carry sequences.
    pub(crate) idempotent: bool,
    /// Requests that carried it, this one too.
    pub(crate) attempts: u32,
    /// `retries`.
    pub(crate) retries: u32,
    /// Whether its end has been told already, or its time is over.
    pub(crate) expired: bool,
    /// Records in it.
    pub(crate) record_count: i32,
    /// What is known of it, this answer counted.
    pub(crate) status: RecordStatus,
    /// Whether its sequence follows the last one that was acknowledged in its order.
    pub(crate) follows_last_acked: bool,
    /// Whether it begins its order: nothing of it was acknowledged.
    pub(crate) first_of_epoch: bool,
    /// Whether the broker that answered leads the partition, as far as metadata knows.
    pub(crate) from_leader: bool,
    /// Whether the answer tells where the log starts.
    pub(crate) has_log_start_offset: bool,
}

impl Facts {
    fn can_retry(&self) -> bool {
        !self.expired && self.attempts <= self.retries
    }
}

/// The codes a row is for.
#[derive(Debug, Clone, Copy)]
enum Codes {
    OneOf(&'static [ErrorCode]),
    /// Those that say "try again" and "ask for metadata".
    RefreshRetriable,
    /// The others that say "try again".
    Retriable,
    /// Those this version of the protocol does not have.
    Unknown,
    All,
}

impl Codes {
    fn contains(self, code: ErrorCode) -> bool {
        match self {
            Codes::OneOf(list) => list.contains(&code),
            Codes::RefreshRetriable => code.is_retriable() && code.is_invalid_metadata(),
            Codes::Retriable => code.is_retriable(),
            Codes::Unknown => !code.is_known(),
            Codes::All => true,
        }
    }
}

/// A row: the first that holds decides.
pub(crate) struct Rule {
    codes: Codes,
    /// `holds` in words.
    pub(crate) condition: &'static str,
    applies: fn(&Facts) -> bool,
    pub(crate) verdict: Verdict,
    pub(crate) reason: &'static str,
}

const RETRY: Verdict = Verdict::Retry { refresh_metadata: false };
const RETRY_AFTER_METADATA: Verdict = Verdict::Retry { refresh_metadata: true };
const NEW_EPOCH: Verdict =
    Verdict::Resequence { proven_not_persisted: false, new_producer_id: false };
const NEW_EPOCH_NOT_PERSISTED: Verdict =
    Verdict::Resequence { proven_not_persisted: true, new_producer_id: false };
const NEW_PRODUCER_ID: Verdict =
    Verdict::Resequence { proven_not_persisted: false, new_producer_id: true };

/// The table.
#[rustfmt::skip]
const RULES: &[Rule] = &[
    Rule { codes: Codes::OneOf(&[ErrorCode::NONE]), condition: "", applies: |_| true, verdict: Verdict::Complete,
        reason: "The leader has it, as far as `acks` asked." },
    Rule { codes: Codes::OneOf(&[ErrorCode::DUPLICATE_SEQUENCE_NUMBER]), condition: "idempotent", applies: |f| f.idempotent, verdict: Verdict::Duplicate,
        reason: "An earlier attempt was written; which offset it has is not said." },
    Rule { codes: Codes::OneOf(&[ErrorCode::PRODUCER_FENCED, ErrorCode::CLUSTER_AUTHORIZATION_FAILED, ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED, ErrorCode::UNSUPPORTED_VERSION]),
        condition: "idempotent", applies: |f| f.idempotent, verdict: Verdict::FailProducer,
        reason: "Nothing this producer sends will be taken." },
    Rule { codes: Codes::OneOf(&[ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER]), condition: "idempotent, may be sent again, answered by the leader, right behind the last acknowledged sequence",
        applies: |f| f.idempotent && f.can_retry() && f.from_leader && f.follows_last_acked, verdict: NEW_EPOCH_NOT_PERSISTED,
        reason: "None is missing before it, so the leader has lost what it knew: its log lacks this batch for sure." },
    Rule { codes: Codes::OneOf(&[ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER]), condition: "idempotent, may be sent again, answered by the leader, first of its order",
        applies: |f| f.idempotent && f.can_retry() && f.from_leader && f.first_of_epoch, verdict: NEW_EPOCH,
        reason: "The leader knows another order under this id and epoch; a new one begins anew." },
    Rule { codes: Codes::OneOf(&[ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER]), condition: "idempotent, may be sent again, not from the leader",
        applies: |f| f.idempotent && f.can_retry() && !f.from_leader, verdict: RETRY_AFTER_METADATA,
        reason: "A broker that does not lead proves nothing." },
    Rule { codes: Codes::OneOf(&[ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER]), condition: "idempotent, may be sent again", applies: |f| f.idempotent && f.can_retry(), verdict: RETRY,
        reason: "A batch before it is not there yet; it goes first." },
    Rule { codes: Codes::OneOf(&[ErrorCode::UNKNOWN_PRODUCER_ID]), condition: "idempotent, may be sent again, and it begins its order or the log's start is not told",
        applies: |f| f.idempotent && f.can_retry() && (f.first_of_epoch || !f.has_log_start_offset), verdict: RETRY,
        reason: "A batch that begins an order needs no state at the broker." },
    Rule { codes: Codes::OneOf(&[ErrorCode::UNKNOWN_PRODUCER_ID]), condition: "idempotent, may be sent again", applies: |f| f.idempotent && f.can_retry(), verdict: NEW_EPOCH,
        reason: "The broker has forgotten the producer; that says nothing of what its log holds." },
    Rule { codes: Codes::OneOf(&[ErrorCode::INVALID_PRODUCER_EPOCH, ErrorCode::INVALID_PRODUCER_ID_MAPPING]), condition: "idempotent, may be sent again", applies: |f| f.idempotent && f.can_retry(), verdict: NEW_PRODUCER_ID,
        reason: "The log knows a later epoch of this id, or does not know the id: only a new id is sure to be taken." },
    Rule { codes: Codes::OneOf(&[ErrorCode::MESSAGE_TOO_LARGE]), condition: "two records or more, its time is not over, known not to be written",
        applies: |f| f.record_count > 1 && !f.expired && (f.status == RecordStatus::NotPersisted || inject_bug!(SplitPossiblyPersisted)), verdict: Verdict::Split,
        reason: "Its parts may fit. A batch that may be in the log is never cut: its parts would stand there again." },
    Rule { codes: Codes::RefreshRetriable, condition: "may be sent again", applies: Facts::can_retry, verdict: RETRY_AFTER_METADATA,
        reason: "What is known of leaders is out of date, or the connection was lost." },
    Rule { codes: Codes::Retriable, condition: "may be sent again", applies: Facts::can_retry, verdict: RETRY,
        reason: "It passes." },
    Rule { codes: Codes::Unknown, condition: "", applies: |_| true, verdict: Verdict::Fail,
        reason: "A code from the future is final for the batch; the error names its number." },
    Rule { codes: Codes::All, condition: "", applies: |_| true, verdict: Verdict::Fail,
        reason: "The same request would be refused again, or there is no time or no retry left." },
];

/// The row that decides; the last one holds for everything.
pub(crate) fn decide(f: &Facts) -> &'static Rule {
    let row = RULES.iter().find(|row| row.codes.contains(f.code) && (row.applies)(f));
    row.unwrap_or(&RULES[RULES.len() - 1])
}

/// Whether this answer leaves open that the batch was appended (CASES B6). Only what a leader says before it appends
/// leaves nothing open; any other code, one from the future among them, may mean anything.
pub(crate) fn possibly_appended(code: ErrorCode, base_offset: i64) -> bool {
    match code {
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION | ErrorCode::NOT_LEADER_OR_FOLLOWER => {
            base_offset >= 0
        }
        ErrorCode::NONE
        | ErrorCode::CORRUPT_MESSAGE
        | ErrorCode::LEADER_NOT_AVAILABLE
        | ErrorCode::MESSAGE_TOO_LARGE
        | ErrorCode::INVALID_TOPIC_EXCEPTION
        | ErrorCode::RECORD_LIST_TOO_LARGE
        | ErrorCode::NOT_ENOUGH_REPLICAS
        | ErrorCode::INVALID_REQUIRED_ACKS
        | ErrorCode::TOPIC_AUTHORIZATION_FAILED
        | ErrorCode::CLUSTER_AUTHORIZATION_FAILED
        | ErrorCode::INVALID_TIMESTAMP
        | ErrorCode::UNSUPPORTED_VERSION
        | ErrorCode::INVALID_REQUEST
        | ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT
        | ErrorCode::POLICY_VIOLATION
        | ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER
        | ErrorCode::DUPLICATE_SEQUENCE_NUMBER
        | ErrorCode::INVALID_PRODUCER_EPOCH
        | ErrorCode::INVALID_TXN_STATE
        | ErrorCode::CONCURRENT_TRANSACTIONS
        | ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED
        | ErrorCode::UNKNOWN_PRODUCER_ID
        | ErrorCode::FENCED_LEADER_EPOCH
        | ErrorCode::UNSUPPORTED_COMPRESSION_TYPE
        | ErrorCode::INVALID_RECORD
        | ErrorCode::THROTTLING_QUOTA_EXCEEDED
        | ErrorCode::PRODUCER_FENCED
        | ErrorCode::UNKNOWN_TOPIC_ID
        | ErrorCode::INCONSISTENT_TOPIC_ID
        | ErrorCode::TRANSACTION_ABORTABLE => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests;
