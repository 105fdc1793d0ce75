//! What an answer means for a batch: a pure function. The sender applies it.

use ottla_protocol::ErrorCode;

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
    /// To be sent again under a new epoch, from sequence 0, if the log is known to lack it.
    Resequence,
    /// Failed for good.
    Fail,
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
    /// Whether its sequence follows the last one that was acknowledged.
    pub(crate) next_in_line: bool,
}

/// The table.
pub(crate) fn verdict(f: Facts) -> Verdict {
    let again = !f.over && f.attempts <= f.retries;
    match f.code {
        ErrorCode::NONE => Verdict::Done,
        ErrorCode::DUPLICATE_SEQUENCE_NUMBER if f.idempotent => Verdict::Duplicate,
        // A batch before it failed and will be sent again, or, if none is missing, the broker has lost the
        // producer's state: then its log lacks this batch for sure (F2).
        ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER if f.idempotent && again => {
            if f.next_in_line {
                Verdict::Resequence
            } else {
                Verdict::Retry { metadata: false }
            }
        }
        ErrorCode::UNKNOWN_PRODUCER_ID if f.idempotent && again => Verdict::Resequence,
        code if code.is_retriable() && again => {
            Verdict::Retry { metadata: code.refreshes_metadata() }
        }
        _ => Verdict::Fail,
    }
}

/// Whether this answer leaves open that the batch was appended (CASES B6).
pub(crate) fn possibly_appended(code: ErrorCode, base_offset: i64) -> bool {
    match code {
        ErrorCode::REQUEST_TIMED_OUT
        | ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND
        | ErrorCode::KAFKA_STORAGE_ERROR
        | ErrorCode::UNKNOWN_SERVER_ERROR => true,
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION | ErrorCode::NOT_LEADER_OR_FOLLOWER => {
            base_offset >= 0
        }
        code => !code.is_known(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(code: ErrorCode) -> Facts {
        Facts { code, idempotent: true, attempts: 1, retries: 3, over: false, next_in_line: false }
    }

    #[test]
    fn the_table() {
        use Verdict::*;
        let v = |code| verdict(facts(code));
        assert_eq!(v(ErrorCode::NONE), Done);
        assert_eq!(v(ErrorCode::DUPLICATE_SEQUENCE_NUMBER), Duplicate);
        assert_eq!(v(ErrorCode::NOT_LEADER_OR_FOLLOWER), Retry { metadata: true });
        assert_eq!(v(ErrorCode::NOT_ENOUGH_REPLICAS), Retry { metadata: false });
        assert_eq!(v(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER), Retry { metadata: false });
        let next = Facts { next_in_line: true, ..facts(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER) };
        assert_eq!(verdict(next), Resequence);
        assert_eq!(v(ErrorCode::UNKNOWN_PRODUCER_ID), Resequence);
        assert_eq!(v(ErrorCode::MESSAGE_TOO_LARGE), Fail);
        assert_eq!(v(ErrorCode::TOPIC_AUTHORIZATION_FAILED), Fail);
        assert_eq!(v(ErrorCode(4321)), Fail, "a code from the future is final");
        let plain = Facts { idempotent: false, ..facts(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER) };
        assert_eq!(verdict(plain), Fail);
    }

    #[test]
    fn sn3_sn32_nothing_is_sent_again_after_the_last_retry_or_past_its_time() {
        let spent = Facts { attempts: 4, ..facts(ErrorCode::NOT_ENOUGH_REPLICAS) };
        assert_eq!(verdict(spent), Verdict::Fail);
        let over = Facts { over: true, ..facts(ErrorCode::NOT_LEADER_OR_FOLLOWER) };
        assert_eq!(verdict(over), Verdict::Fail);
    }

    #[test]
    fn b6_was_it_appended() {
        for code in [7, 20, 56, -1, 4321] {
            assert!(possibly_appended(ErrorCode(code), -1), "{code}");
        }
        for code in [3, 6] {
            assert!(
                possibly_appended(ErrorCode(code), 5) && !possibly_appended(ErrorCode(code), -1)
            );
        }
        for code in [10, 19, 29, 45, 87] {
            assert!(!possibly_appended(ErrorCode(code), 5), "{code}");
        }
    }
}
