//! Decides what happens to a batch after a Produce response: a table and a pure function over it.
//!
//! `responses.rs` collects the facts, asks [`decide`] and applies the verdict. A test writes the
//! table into `docs/VERDICTS.md`.

use ottla_protocol::ErrorCode;

use crate::error::RecordStatus;
use crate::injected_bugs::inject_bug;

/// What happens to a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The batch is complete, with the offset of the response.
    Complete,
    /// An earlier attempt has completed the batch; its offset is unknown.
    Duplicate,
    /// The batch is sent again unchanged, after the backoff.
    Retry {
        /// Whether the client's metadata is out of date and has to be requested.
        refresh_metadata: bool,
    },
    /// The batch is sent again in parts.
    Split,
    /// The producer's epoch is bumped, and the partition restarts at sequence 0. The batch is sent
    /// again if it is known not to be persisted; otherwise it fails.
    BumpEpoch {
        /// Whether a new producer id is needed, because the log rejects this id in any epoch.
        new_producer_id: bool,
    },
    /// The records fail; the producer continues.
    Fail,
    /// The records and the whole producer fail.
    FailProducer,
}

/// What is known about a batch when its response arrives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    pub(crate) code: ErrorCode,
    /// Whether batches carry sequences.
    pub(crate) idempotent: bool,
    /// Whether batches are part of transactions.
    pub(crate) transactional: bool,
    /// Whether the partition has lost a sequence.
    pub(crate) unresolved: bool,
    /// The number of requests that carried the batch, this one included.
    pub(crate) attempts: u32,
    /// The setting `retries`.
    pub(crate) retries: u32,
    /// Whether the batch is completed already or its delivery timeout has expired.
    pub(crate) expired: bool,
    pub(crate) record_count: i32,
    /// The record status, with this response taken into account.
    pub(crate) status: RecordStatus,
    /// Whether the batch starts right after the last acknowledged sequence.
    pub(crate) follows_last_acked: bool,
    /// Whether the batch starts before the last acknowledged sequence: a later batch of the epoch
    /// is acknowledged.
    pub(crate) precedes_last_acked: bool,
    /// Whether the batch is the first of its epoch and nothing of the epoch is acknowledged.
    pub(crate) first_of_epoch: bool,
    /// Whether the responding broker leads the partition, according to the client's metadata.
    pub(crate) from_leader: bool,
    /// Whether the response contains the log start offset.
    pub(crate) has_log_start_offset: bool,
}

impl Facts {
    fn can_retry(&self) -> bool {
        !self.expired && self.attempts <= self.retries
    }

    /// Whether the batch may be sent again, and its partition may get a new epoch. The sequences of
    /// a transaction end with an abort.
    fn can_retry_idempotent(&self) -> bool {
        self.idempotent && !self.transactional && self.can_retry()
    }
}

/// The error codes that a rule is for.
#[derive(Debug, Clone, Copy)]
enum Codes {
    OneOf(&'static [ErrorCode]),
    /// Retriable codes that also demand a metadata update.
    RefreshRetriable,
    /// All retriable codes.
    Retriable,
    /// Codes that this version of the protocol does not define.
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

/// A row of the table.
pub(crate) struct Rule {
    codes: Codes,
    /// Describes `applies` in words.
    pub(crate) condition: &'static str,
    applies: fn(&Facts) -> bool,
    pub(crate) verdict: Verdict,
    pub(crate) reason: &'static str,
}

const RETRY: Verdict = Verdict::Retry { refresh_metadata: false };
const RETRY_AFTER_METADATA: Verdict = Verdict::Retry { refresh_metadata: true };
const NEW_EPOCH: Verdict = Verdict::BumpEpoch { new_producer_id: false };
const NEW_PRODUCER_ID: Verdict = Verdict::BumpEpoch { new_producer_id: true };

/// The table. The first rule that applies decides, so a special case comes before the general one.
const RULES: &[Rule] = &[
    Rule {
        codes: Codes::OneOf(&[ErrorCode::NONE]),
        condition: "",
        applies: |_| true,
        verdict: Verdict::Complete,
        reason: "The batch is written to as many replicas as `acks` requires.",
    },
    Rule {
        codes: Codes::OneOf(&[ErrorCode::DUPLICATE_SEQUENCE_NUMBER]),
        condition: "idempotent",
        applies: |f| f.idempotent,
        verdict: Verdict::Duplicate,
        reason: "An earlier attempt wrote the batch. The response does not contain its offset.",
    },
    Rule {
        codes: Codes::OneOf(&[
            ErrorCode::PRODUCER_FENCED,
            ErrorCode::CLUSTER_AUTHORIZATION_FAILED,
            ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
            ErrorCode::UNSUPPORTED_VERSION,
        ]),
        condition: "idempotent",
        applies: |f| f.idempotent,
        verdict: Verdict::FailProducer,
        reason: "The cluster will accept no batch from this producer.",
    },
    // Transactions come before the rules of the idempotent producer: a failed batch fails its
    // transaction, and the abort gives the next one a new epoch. So no batch is resequenced, and
    // nothing has to be proven about the log (CASES F1.8, F2.10, F2.11).
    Rule {
        codes: Codes::OneOf(&[ErrorCode::INVALID_PRODUCER_ID_MAPPING]),
        condition: "transactional",
        applies: |f| f.transactional,
        verdict: Verdict::FailProducer,
        reason: "Another producer with the same transactional id has a new producer id.",
    },
    Rule {
        codes: Codes::OneOf(&[ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER]),
        condition: "transactional, retry allowed, no sequence of the partition is lost, \
                    batch does not follow the last acknowledged one",
        applies: |f| f.transactional && f.can_retry() && !f.unresolved && !f.follows_last_acked,
        verdict: RETRY,
        reason: "An earlier batch is not in the log yet. The client sends that one first.",
    },
    // The gap that the leader sees cannot be an earlier batch of the client: these are all
    // acknowledged. So the leader has lost state (KIP-360). It is no proof that the log lacks a
    // batch that an earlier attempt may have written: the snapshot that a broker loads after a
    // clean shutdown keeps only the last batch of each producer. If this batch and a later one are
    // in the log, the restarted leader recognizes only the later one as a duplicate.
    Rule {
        codes: Codes::OneOf(&[ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER]),
        condition: "idempotent without transactions, retry allowed, \
                    response from the leader, \
                    batch follows the last acknowledged one",
        applies: |f| f.can_retry_idempotent() && f.from_leader && f.follows_last_acked,
        verdict: NEW_EPOCH,
        reason: "All earlier batches are acknowledged, so the leader has lost what it knew about \
                 the producer. Whether an earlier attempt wrote this batch stays unknown.",
    },
    Rule {
        codes: Codes::OneOf(&[ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER]),
        condition: "idempotent without transactions, retry allowed, \
                    response from the leader, possibly persisted, a later batch is acknowledged",
        applies: |f| {
            f.can_retry_idempotent()
                && f.from_leader
                && f.precedes_last_acked
                && f.status == RecordStatus::PossiblyPersisted
        },
        verdict: Verdict::Fail,
        reason: "No earlier batch is missing. The leader has forgotten this one, as after a \
                 restart, and no retry would ever succeed. No sequence is lost.",
    },
    Rule {
        codes: Codes::OneOf(&[ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER]),
        condition: "idempotent without transactions, retry allowed, \
                    response from the leader, \
                    first batch of its epoch",
        applies: |f| f.can_retry_idempotent() && f.from_leader && f.first_of_epoch,
        verdict: NEW_EPOCH,
        reason: "The leader knows other sequences of this producer id and epoch. \
                 Only a new epoch can start at sequence 0.",
    },
    Rule {
        codes: Codes::OneOf(&[ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER]),
        condition: "idempotent without transactions, retry allowed, response not from the leader",
        applies: |f| f.can_retry_idempotent() && !f.from_leader,
        verdict: RETRY_AFTER_METADATA,
        reason: "A broker that does not lead the partition proves nothing about the log.",
    },
    // No epoch bump here: the batch before it was rejected or is still in flight. Both go back to
    // the queue in order, and each retry goes alone (CASES SN10, F2.10).
    Rule {
        codes: Codes::OneOf(&[ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER]),
        condition: "idempotent without transactions, retry allowed",
        applies: Facts::can_retry_idempotent,
        verdict: RETRY,
        reason: "An earlier batch is not in the log yet. The client sends that one first.",
    },
    // The rules for a producer that the broker has forgotten do not check `retries`: the batch is
    // not at fault, and all batches behind it get the same error. `delivery.timeout.ms` and the
    // backoff limit the attempts.
    //
    // A response lacks the log start offset if the partition left the broker between the error and
    // the response. Kafka's TransactionManager retries until it gets an offset. Services that
    // imitate Kafka may never send one, so only the first attempt is retried.
    Rule {
        codes: Codes::OneOf(&[ErrorCode::UNKNOWN_PRODUCER_ID]),
        condition: "idempotent without transactions, retry allowed, first attempt, and either \
                    first batch of its epoch or no log start offset in the response",
        applies: |f| {
            f.can_retry_idempotent()
                && f.attempts == 1
                && (f.first_of_epoch || !f.has_log_start_offset)
        },
        verdict: RETRY,
        reason: "A broker accepts the first batch of an epoch without knowing the producer. \
                 A response without a log start offset is not reliable.",
    },
    // The first batch of an epoch does not bump the epoch: each retry would bump it again.
    Rule {
        codes: Codes::OneOf(&[ErrorCode::UNKNOWN_PRODUCER_ID]),
        condition: "idempotent without transactions, not expired, first batch of its epoch",
        applies: |f| f.idempotent && !f.transactional && !f.expired && f.first_of_epoch,
        verdict: NEW_PRODUCER_ID,
        reason: "The broker accepts only a producer id that it knows, and it knows only those that \
                 it has assigned lately.",
    },
    // No proof that the log lacks the batch: retention may have deleted the batch, or the broker
    // may have forgotten the producer after it had appended the batch.
    Rule {
        codes: Codes::OneOf(&[ErrorCode::UNKNOWN_PRODUCER_ID]),
        condition: "idempotent without transactions, not expired",
        applies: |f| f.idempotent && !f.transactional && !f.expired,
        verdict: NEW_EPOCH,
        reason: "The broker has forgotten the producer. \
                 That does not prove that its log lacks the batch.",
    },
    Rule {
        codes: Codes::OneOf(&[ErrorCode::INVALID_PRODUCER_ID_MAPPING]),
        condition: "idempotent without transactions, not expired",
        applies: |f| f.idempotent && !f.transactional && !f.expired,
        verdict: NEW_PRODUCER_ID,
        reason: "The broker does not know the producer id.",
    },
    Rule {
        codes: Codes::OneOf(&[ErrorCode::INVALID_PRODUCER_EPOCH]),
        condition: "idempotent without transactions, retry allowed",
        applies: Facts::can_retry_idempotent,
        verdict: NEW_PRODUCER_ID,
        reason: "The log has a later epoch of this producer id. \
                 Only a new producer id is certain to be accepted.",
    },
    // Does not check `can_retry`: a split consumes no attempt (CASES SN28). The parts would have
    // other sequences than the batch, so the broker would not recognize them as duplicates.
    Rule {
        codes: Codes::OneOf(&[ErrorCode::MESSAGE_TOO_LARGE]),
        condition: "two or more records, not expired, known not to be persisted",
        applies: |f| {
            f.record_count > 1
                && !f.expired
                && inject_bug!(SplitPossiblyPersisted, f.status == RecordStatus::NotPersisted)
        },
        verdict: Verdict::Split,
        reason: "The parts may fit. The client never splits a batch that may be in the log: \
                 its records could be there twice.",
    },
    Rule {
        codes: Codes::RefreshRetriable,
        condition: "retry allowed",
        applies: Facts::can_retry,
        verdict: RETRY_AFTER_METADATA,
        reason: "The client's metadata is out of date, or the connection was lost.",
    },
    Rule {
        codes: Codes::Retriable,
        condition: "retry allowed",
        applies: Facts::can_retry,
        verdict: RETRY,
        reason: "The error is temporary.",
    },
    Rule {
        codes: Codes::Unknown,
        condition: "",
        applies: |_| true,
        verdict: Verdict::Fail,
        reason: "A code that the client does not know is final. The error contains its number.",
    },
    Rule {
        codes: Codes::All,
        condition: "",
        applies: |_| true,
        verdict: Verdict::Fail,
        reason: "The broker would reject the same batch again, or no retry is allowed.",
    },
];

/// Returns the first rule that applies. The last one always does.
pub(crate) fn decide(facts: &Facts) -> &'static Rule {
    let rule = RULES.iter().find(|r| r.codes.contains(facts.code) && (r.applies)(facts));
    rule.unwrap_or(&RULES[RULES.len() - 1])
}

/// Returns whether the leader may have appended the batch although it responded with `code`.
///
/// "No" is safe only for codes that a leader returns before it appends (CASES B6). Every other
/// code may follow an append, a code that this client does not know included.
pub(crate) fn possibly_appended(code: ErrorCode, base_offset: Option<i64>) -> bool {
    match code {
        // A broker that loses the leadership while it waits for replicas reports the offset.
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION | ErrorCode::NOT_LEADER_OR_FOLLOWER => {
            base_offset.is_some()
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
        | ErrorCode::INVALID_PRODUCER_ID_MAPPING
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
