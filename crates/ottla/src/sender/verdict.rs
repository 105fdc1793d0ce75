//! What an answer means for a batch: one table, a pure function over it. The sender applies it.

use ottla_protocol::ErrorCode;

use crate::error::RecordStatus;
use crate::plants::inject_bug;

/// What becomes of the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Written, at the offset the answer gives.
    Done,
    /// Written by an earlier attempt; the offset is not known.
    Duplicate,
    /// To be sent again as it is, after the backoff; after fresh metadata too where that may help.
    Retry {
        /// Whether what is known of leaders is out of date.
        metadata: bool,
    },
    /// To be sent again in parts.
    Split,
    /// To be sent again in a new order, from sequence 0, if the log is known to lack it.
    Resequence {
        /// This answer proves that the log lacks it.
        proven: bool,
        /// A new epoch of the same id would not do.
        new_id: bool,
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
    pub(crate) over: bool,
    /// Records in it.
    pub(crate) records: i32,
    /// What is known of it, this answer counted.
    pub(crate) known: RecordStatus,
    /// Whether its sequence follows the last one that was acknowledged in its order.
    pub(crate) next_in_line: bool,
    /// Whether it begins its order: nothing of it was acknowledged.
    pub(crate) begins: bool,
    /// Whether the broker that answered leads the partition, as far as metadata knows.
    pub(crate) by_leader: bool,
    /// Whether the answer tells where the log starts.
    pub(crate) log_start_told: bool,
}

impl Facts {
    fn again(&self) -> bool {
        !self.over && self.attempts <= self.retries
    }
}

/// The codes a row is for.
#[derive(Debug, Clone, Copy)]
enum Codes {
    These(&'static [ErrorCode]),
    /// Those that say "try again" and "ask for metadata".
    RetriableStale,
    /// The others that say "try again".
    Retriable,
    /// Those this version of the protocol does not have.
    Unknown,
    All,
}

impl Codes {
    fn has(self, code: ErrorCode) -> bool {
        match self {
            Codes::These(list) => list.contains(&code),
            Codes::RetriableStale => code.is_retriable() && code.is_invalid_metadata(),
            Codes::Retriable => code.is_retriable(),
            Codes::Unknown => !code.is_known(),
            Codes::All => true,
        }
    }
}

/// A row: the first that holds decides.
pub(crate) struct Row {
    codes: Codes,
    /// `holds` in words.
    pub(crate) when: &'static str,
    holds: fn(&Facts) -> bool,
    pub(crate) then: Verdict,
    pub(crate) why: &'static str,
}

const RETRY: Verdict = Verdict::Retry { metadata: false };
const RETRY_STALE: Verdict = Verdict::Retry { metadata: true };
const NEW_EPOCH: Verdict = Verdict::Resequence { proven: false, new_id: false };
const NEW_EPOCH_PROVEN: Verdict = Verdict::Resequence { proven: true, new_id: false };
const NEW_ID: Verdict = Verdict::Resequence { proven: false, new_id: true };

/// The table.
#[rustfmt::skip]
const TABLE: &[Row] = &[
    Row { codes: Codes::These(&[ErrorCode::NONE]), when: "", holds: |_| true, then: Verdict::Done,
        why: "The leader has it, as far as `acks` asked." },
    Row { codes: Codes::These(&[ErrorCode::DUPLICATE_SEQUENCE_NUMBER]), when: "idempotent", holds: |f| f.idempotent, then: Verdict::Duplicate,
        why: "An earlier attempt was written; which offset it has is not said." },
    Row { codes: Codes::These(&[ErrorCode::PRODUCER_FENCED, ErrorCode::CLUSTER_AUTHORIZATION_FAILED, ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED, ErrorCode::UNSUPPORTED_VERSION]),
        when: "idempotent", holds: |f| f.idempotent, then: Verdict::FailProducer,
        why: "Nothing this producer sends will be taken." },
    Row { codes: Codes::These(&[ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER]), when: "idempotent, may be sent again, answered by the leader, right behind the last acknowledged sequence",
        holds: |f| f.idempotent && f.again() && f.by_leader && f.next_in_line, then: NEW_EPOCH_PROVEN,
        why: "None is missing before it, so the leader has lost what it knew: its log lacks this batch for sure." },
    Row { codes: Codes::These(&[ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER]), when: "idempotent, may be sent again, answered by the leader, first of its order",
        holds: |f| f.idempotent && f.again() && f.by_leader && f.begins, then: NEW_EPOCH,
        why: "The leader knows another order under this id and epoch; a new one begins anew." },
    Row { codes: Codes::These(&[ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER]), when: "idempotent, may be sent again, not from the leader",
        holds: |f| f.idempotent && f.again() && !f.by_leader, then: RETRY_STALE,
        why: "A broker that does not lead proves nothing." },
    Row { codes: Codes::These(&[ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER]), when: "idempotent, may be sent again", holds: |f| f.idempotent && f.again(), then: RETRY,
        why: "A batch before it is not there yet; it goes first." },
    Row { codes: Codes::These(&[ErrorCode::UNKNOWN_PRODUCER_ID]), when: "idempotent, may be sent again, and it begins its order or the log's start is not told",
        holds: |f| f.idempotent && f.again() && (f.begins || !f.log_start_told), then: RETRY,
        why: "A batch that begins an order needs no state at the broker." },
    Row { codes: Codes::These(&[ErrorCode::UNKNOWN_PRODUCER_ID]), when: "idempotent, may be sent again", holds: |f| f.idempotent && f.again(), then: NEW_EPOCH,
        why: "The broker has forgotten the producer; that says nothing of what its log holds." },
    Row { codes: Codes::These(&[ErrorCode::INVALID_PRODUCER_EPOCH, ErrorCode::INVALID_PRODUCER_ID_MAPPING]), when: "idempotent, may be sent again", holds: |f| f.idempotent && f.again(), then: NEW_ID,
        why: "The log knows a later epoch of this id, or does not know the id: only a new id is sure to be taken." },
    Row { codes: Codes::These(&[ErrorCode::MESSAGE_TOO_LARGE]), when: "two records or more, its time is not over, known not to be written",
        holds: |f| f.records > 1 && !f.over && (f.known == RecordStatus::NotPersisted || inject_bug!(SplitPossiblyPersisted)), then: Verdict::Split,
        why: "Its parts may fit. A batch that may be in the log is never cut: its parts would stand there again." },
    Row { codes: Codes::RetriableStale, when: "may be sent again", holds: Facts::again, then: RETRY_STALE,
        why: "What is known of leaders is out of date, or the connection was lost." },
    Row { codes: Codes::Retriable, when: "may be sent again", holds: Facts::again, then: RETRY,
        why: "It passes." },
    Row { codes: Codes::Unknown, when: "", holds: |_| true, then: Verdict::Fail,
        why: "A code from the future is final for the batch; the error names its number." },
    Row { codes: Codes::All, when: "", holds: |_| true, then: Verdict::Fail,
        why: "The same request would be refused again, or there is no time or no retry left." },
];

/// The row that decides; the last one holds for everything.
pub(crate) fn decide(f: &Facts) -> &'static Row {
    let row = TABLE.iter().find(|row| row.codes.has(f.code) && (row.holds)(f));
    row.unwrap_or(&TABLE[TABLE.len() - 1])
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
