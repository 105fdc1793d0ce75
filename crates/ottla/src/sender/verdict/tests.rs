use super::*;
use crate::config::push_wrapped;
use crate::error::RecordStatus::{NotPersisted, PossiblyPersisted};

fn facts_for_code(code: ErrorCode) -> Facts {
    Facts {
        code,
        idempotent: true,
        transactional: false,
        unresolved: false,
        attempts: 1,
        retries: 3,
        expired: false,
        record_count: 5,
        status: NotPersisted,
        follows_last_acked: false,
        precedes_last_acked: false,
        first_of_epoch: false,
        from_leader: true,
        has_log_start_offset: true,
    }
}

fn verdict_for(facts: &Facts) -> Verdict {
    decide(facts).verdict
}

fn verdict_for_code(code: ErrorCode) -> Verdict {
    verdict_for(&facts_for_code(code))
}

/// Returns facts for each rule, in order, for which this rule decides.
fn rule_examples() -> Vec<Facts> {
    use ErrorCode as E;
    let out_of_order = facts_for_code(E::OUT_OF_ORDER_SEQUENCE_NUMBER);
    let unknown_producer = facts_for_code(E::UNKNOWN_PRODUCER_ID);
    vec![
        facts_for_code(E::NONE),
        facts_for_code(E::DUPLICATE_SEQUENCE_NUMBER),
        facts_for_code(E::PRODUCER_FENCED),
        Facts { transactional: true, ..facts_for_code(E::INVALID_PRODUCER_ID_MAPPING) },
        Facts { transactional: true, ..out_of_order },
        Facts { follows_last_acked: true, ..out_of_order },
        Facts { precedes_last_acked: true, status: PossiblyPersisted, ..out_of_order },
        Facts { first_of_epoch: true, ..out_of_order },
        Facts { follows_last_acked: true, from_leader: false, ..out_of_order },
        out_of_order,
        Facts { first_of_epoch: true, ..unknown_producer },
        Facts { first_of_epoch: true, attempts: 2, ..unknown_producer },
        unknown_producer,
        facts_for_code(E::INVALID_PRODUCER_ID_MAPPING),
        facts_for_code(E::INVALID_PRODUCER_EPOCH),
        facts_for_code(E::MESSAGE_TOO_LARGE),
        facts_for_code(E::NOT_LEADER_OR_FOLLOWER),
        facts_for_code(E::NOT_ENOUGH_REPLICAS),
        facts_for_code(E(4321)),
        facts_for_code(E::TOPIC_AUTHORIZATION_FAILED),
    ]
}

#[test]
fn every_rule_decides_for_its_example() {
    let examples = rule_examples();
    assert_eq!(examples.len(), RULES.len());
    for (i, (rule, facts)) in RULES.iter().zip(&examples).enumerate() {
        let first = RULES.iter().position(|r| r.codes.contains(facts.code) && (r.applies)(facts));
        assert_eq!(first, Some(i), "{facts:?}");
        assert_eq!(verdict_for(facts), rule.verdict);
    }
}

// CASES: SN9, SN14, SN21.
#[test]
fn acknowledged_and_duplicate_batches_complete() {
    assert_eq!(verdict_for_code(ErrorCode::NONE), Verdict::Complete);
    assert_eq!(verdict_for_code(ErrorCode::DUPLICATE_SEQUENCE_NUMBER), Verdict::Duplicate);
    let not_idempotent =
        Facts { idempotent: false, ..facts_for_code(ErrorCode::DUPLICATE_SEQUENCE_NUMBER) };
    assert_eq!(verdict_for(&not_idempotent), Verdict::Fail, "the batch has no sequence");
    // An acknowledged batch completes even if it has expired and has no retry left.
    let late = Facts { expired: true, attempts: 99, ..facts_for_code(ErrorCode::NONE) };
    assert_eq!(verdict_for(&late), Verdict::Complete);
}

// CASES: SN10, F2.10.
#[test]
fn out_of_order_batch_is_retried_after_the_batches_before_it() {
    assert_eq!(verdict_for_code(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER), RETRY);
}

/// A restarted broker knows only the last batch of a producer (the simulation found it with seed
/// 7013003): a batch before it was retried until it expired.
#[test]
fn possibly_persisted_batch_that_the_broker_has_forgotten_is_not_retried() {
    let forgotten = Facts {
        precedes_last_acked: true,
        status: PossiblyPersisted,
        ..facts_for_code(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER)
    };
    assert_eq!(verdict_for(&forgotten), Verdict::Fail);
    assert_eq!(verdict_for(&Facts { status: NotPersisted, ..forgotten }), RETRY);
    assert_eq!(verdict_for(&Facts { from_leader: false, ..forgotten }), RETRY_AFTER_METADATA);
}

// CASES: SN12, F2.10.
#[test]
fn out_of_order_after_the_last_acked_batch_bumps_the_epoch() {
    let next = Facts {
        follows_last_acked: true,
        ..facts_for_code(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER)
    };
    assert_eq!(verdict_for(&next), NEW_EPOCH);
    assert_eq!(
        verdict_for(&Facts { from_leader: false, ..next }),
        RETRY_AFTER_METADATA,
        "only the leader knows the log"
    );
    assert_eq!(verdict_for(&Facts { idempotent: false, ..next }), Verdict::Fail);
    assert_eq!(verdict_for(&Facts { expired: true, ..next }), Verdict::Fail);
    assert_eq!(verdict_for(&Facts { attempts: 4, ..next }), Verdict::Fail);
}

// CASES: SN22, SN24, F2.11.
#[test]
fn unknown_producer_id_bumps_the_epoch_but_not_for_its_first_batch() {
    let unknown_producer = facts_for_code(ErrorCode::UNKNOWN_PRODUCER_ID);
    assert_eq!(verdict_for(&unknown_producer), NEW_EPOCH);
    let first = Facts { first_of_epoch: true, ..unknown_producer };
    assert_eq!(verdict_for(&first), RETRY, "no second bump");
    assert_eq!(verdict_for(&Facts { attempts: 2, ..first }), NEW_PRODUCER_ID, "no second bump");
    let without_offset = Facts { has_log_start_offset: false, ..unknown_producer };
    assert_eq!(verdict_for(&without_offset), RETRY);
    assert_eq!(verdict_for(&Facts { attempts: 2, ..without_offset }), NEW_EPOCH);
    assert_eq!(verdict_for(&Facts { expired: true, ..unknown_producer }), Verdict::Fail);
}

#[test]
fn forgotten_producer_id_uses_up_no_retry() {
    for code in [ErrorCode::UNKNOWN_PRODUCER_ID, ErrorCode::INVALID_PRODUCER_ID_MAPPING] {
        for first_of_epoch in [false, true] {
            let facts = Facts { attempts: 99, first_of_epoch, ..facts_for_code(code) };
            assert!(matches!(verdict_for(&facts), Verdict::BumpEpoch { .. }), "{code}");
        }
    }
}

// CASES: F2.9.
#[test]
fn rejected_producer_epoch_or_id_needs_a_new_producer_id() {
    assert_eq!(verdict_for_code(ErrorCode::INVALID_PRODUCER_EPOCH), NEW_PRODUCER_ID);
    assert_eq!(verdict_for_code(ErrorCode::INVALID_PRODUCER_ID_MAPPING), NEW_PRODUCER_ID);
}

// CASES: SN25, SN27.
#[test]
fn only_fatal_codes_fail_the_producer() {
    for code in [
        ErrorCode::PRODUCER_FENCED,
        ErrorCode::CLUSTER_AUTHORIZATION_FAILED,
        ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        ErrorCode::UNSUPPORTED_VERSION,
    ] {
        assert_eq!(verdict_for_code(code), Verdict::FailProducer, "{code}");
        let not_idempotent = Facts { idempotent: false, ..facts_for_code(code) };
        assert_eq!(
            verdict_for(&not_idempotent),
            Verdict::Fail,
            "{code}: without idempotence only the batch fails"
        );
    }
    let fatal = |code: i16| verdict_for(&facts_for_code(ErrorCode(code))) == Verdict::FailProducer;
    assert_eq!((-1..200).filter(|c| fatal(*c)).collect::<Vec<_>>(), [31, 35, 53, 90]);
}

// CASES: SN8, SN27.
#[test]
fn codes_that_are_not_retriable_fail_only_the_batch() {
    for code in [
        ErrorCode::TOPIC_AUTHORIZATION_FAILED,
        ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT,
        ErrorCode::INVALID_RECORD,
        ErrorCode::INVALID_TIMESTAMP,
        ErrorCode::INVALID_REQUIRED_ACKS,
        ErrorCode::RECORD_LIST_TOO_LARGE,
    ] {
        assert_eq!(verdict_for_code(code), Verdict::Fail, "{code}");
    }
    assert_eq!(verdict_for_code(ErrorCode(4321)), Verdict::Fail, "an unknown code is final");
}

// CASES: SN28, SN32, F1.7.
#[test]
fn too_large_batch_is_split_unless_single_expired_or_possibly_persisted() {
    let large = facts_for_code(ErrorCode::MESSAGE_TOO_LARGE);
    assert_eq!(verdict_for(&large), Verdict::Split);
    assert_eq!(verdict_for(&Facts { record_count: 2, ..large }), Verdict::Split);
    assert_eq!(verdict_for(&Facts { record_count: 1, ..large }), Verdict::Fail);
    assert_eq!(verdict_for(&Facts { expired: true, ..large }), Verdict::Fail);
    assert_eq!(verdict_for(&Facts { status: PossiblyPersisted, ..large }), Verdict::Fail);
    let no_retry_left = Facts { attempts: 99, ..large };
    assert_eq!(verdict_for(&no_retry_left), Verdict::Split, "a split consumes no attempt");
    assert_eq!(verdict_for(&Facts { idempotent: false, ..large }), Verdict::Split);
}

// CASES: SN3, SN32, F2.12.
#[test]
fn batch_is_not_retried_after_the_last_retry_or_the_delivery_timeout() {
    for code in [ErrorCode::NOT_ENOUGH_REPLICAS, ErrorCode::NOT_LEADER_OR_FOLLOWER] {
        let retry =
            |attempts, expired| verdict_for(&Facts { attempts, expired, ..facts_for_code(code) });
        assert!(matches!(retry(3, false), Verdict::Retry { .. }), "the third of three retries");
        assert_eq!(retry(4, false), Verdict::Fail);
        assert_eq!(retry(1, true), Verdict::Fail);
    }
}

// CASES: B6, LR5.
#[test]
fn every_error_code_is_retried_and_refreshes_metadata_as_in_kafka() {
    let with_refresh = [3, 5, 6, 9, 13, 56, 72, 74, 100, 103];
    let without_refresh = [2, 7, 14, 15, 16, 19, 20, 41, 51, 75, 89];
    for code in -1..200 {
        let facts = Facts { idempotent: false, ..facts_for_code(ErrorCode(code)) };
        let expected = match code {
            0 => Verdict::Complete,
            10 => Verdict::Split,
            c if with_refresh.contains(&c) => RETRY_AFTER_METADATA,
            c if without_refresh.contains(&c) => RETRY,
            _ if ErrorCode(code).is_retriable() => continue,
            _ => Verdict::Fail,
        };
        assert_eq!(verdict_for(&facts), expected, "{}", ErrorCode(code));
    }
}

// CASES: B6.
#[test]
fn only_codes_returned_before_the_append_exclude_that_the_batch_was_appended() {
    // A leader returns these codes before it appends anything.
    let before_append = [
        0, 2, 5, 10, 17, 18, 19, 21, 29, 31, 32, 35, 42, 43, 44, 45, 46, 47, 48, 49, 51, 53, 59,
        74, 76, 87, 89, 90, 100, 103, 120,
    ];
    for code in -1..200 {
        let with_offset = possibly_appended(ErrorCode(code), Some(5));
        let without_offset = possibly_appended(ErrorCode(code), None);
        let expected = match code {
            3 | 6 => (true, false),
            c if before_append.contains(&c) => (false, false),
            _ => (true, true),
        };
        assert_eq!((with_offset, without_offset), expected, "{code}");
    }
    assert!(!possibly_appended(ErrorCode::NOT_LEADER_OR_FOLLOWER, None));
    let offset_zero = possibly_appended(ErrorCode::NOT_LEADER_OR_FOLLOWER, Some(0));
    assert!(offset_zero, "offset 0 is an offset");
}

const INTRODUCTION: &str = "\
# Verdicts: what the client does with a batch after a Produce response

A test writes this page from the table in `crates/ottla/src/sender/verdict.rs`. For each error code
in a Produce response, the first rule that applies decides. A rule gives the error codes, the
condition, the verdict, and the reason.

- **Retry allowed**: the batch was retried fewer than `retries` times, and `delivery.timeout.ms` has
  not expired.
- **Not persisted**: the batch is certainly in no log. **Possibly persisted**: the batch may be in
  the log.
- **Bump the epoch**: the partition continues at sequence 0 of a new producer epoch (KIP-360). The
  client does this when no batch of the partition is in flight.
- **In a transaction**, records that fail also fail the transaction: only an abort can follow. It
  bumps the epoch, so no batch of the transaction gets a new sequence.

";

const POSSIBLY_APPENDED: &str = "
## Was the batch appended?

A batch starts as *not persisted*. Its status only moves to *possibly persisted*: no error proves
that the log lacks a batch that an earlier attempt may have written. OUT_OF_ORDER_SEQUENCE_NUMBER
does not, because the snapshot that a broker loads after a clean shutdown keeps only the last batch
of each producer.

An attempt makes a batch *possibly persisted* in two cases:

- The socket took the last byte of the request, and the client received no response.
- The table below says \"yes\" for the response.

Every other attempt leaves the status unchanged. A request whose last byte never left the client
cannot have been appended.

| response | possibly persisted |
|---|---|
| REQUEST_TIMED_OUT, NOT_ENOUGH_REPLICAS_AFTER_APPEND | yes |
| KAFKA_STORAGE_ERROR, UNKNOWN_SERVER_ERROR | yes |
| UNKNOWN_TOPIC_OR_PARTITION, NOT_LEADER_OR_FOLLOWER | if the response contains a base offset |
| a code that the client does not know, or that a leader never returns before an append | yes |
| a response that lacks the partition or cannot be decoded | yes |
| any other error: the leader returns it before it appends | no |
";

fn describe_codes(codes: Codes) -> String {
    match codes {
        Codes::OneOf(list) => list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        Codes::RefreshRetriable => "any other retriable code that demands metadata".to_owned(),
        Codes::Retriable => "any other retriable code".to_owned(),
        Codes::Unknown => "a code that the client does not know".to_owned(),
        Codes::All => "any other code".to_owned(),
    }
}

fn describe_verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Complete => "complete the batch",
        Verdict::Duplicate => "complete the batch, offset unknown",
        Verdict::Retry { refresh_metadata: false } => "retry after the backoff",
        Verdict::Retry { refresh_metadata: true } => {
            "request metadata, and retry after the backoff"
        }
        Verdict::Split => "split the batch, and send the parts without backoff",
        Verdict::BumpEpoch { new_producer_id: true } => {
            "request a new producer id; then send the batch again, or fail it if possibly persisted"
        }
        Verdict::BumpEpoch { new_producer_id: false } => {
            "bump the epoch; then send the batch again, or fail it if possibly persisted"
        }
        Verdict::Fail => "fail the records",
        Verdict::FailProducer => "fail the records and the producer",
    }
}

// CASES: F1.8, F2.10, F2.11, TM20, SN38.
#[test]
fn failed_batch_of_a_transaction_gets_no_new_epoch() {
    use ErrorCode as E;
    let facts = |code| Facts { transactional: true, ..facts_for_code(code) };
    for code in [
        E::INVALID_PRODUCER_EPOCH,
        E::INVALID_TXN_STATE,
        E::UNKNOWN_PRODUCER_ID,
        E::TRANSACTION_ABORTABLE,
    ] {
        assert_eq!(verdict_for(&facts(code)), Verdict::Fail, "{code}");
    }
    assert_eq!(verdict_for(&facts(E::INVALID_PRODUCER_ID_MAPPING)), Verdict::FailProducer);
    assert_eq!(verdict_for(&facts(E::CONCURRENT_TRANSACTIONS)), RETRY);
    let out_of_order = facts(E::OUT_OF_ORDER_SEQUENCE_NUMBER);
    assert_eq!(verdict_for(&out_of_order), RETRY, "an earlier batch is in flight");
    for lost in [
        Facts { follows_last_acked: true, ..out_of_order },
        Facts { unresolved: true, ..out_of_order },
        Facts { expired: true, ..out_of_order },
    ] {
        assert_eq!(verdict_for(&lost), Verdict::Fail);
    }
}

/// Compares `docs/VERDICTS.md` with the table. `OTTLA_WRITE_DOCS=1 cargo test -p ottla in_docs`
/// writes the page.
#[test]
fn verdict_table_in_docs_is_up_to_date() {
    let mut page = String::from(INTRODUCTION);
    for (i, rule) in RULES.iter().enumerate() {
        let (codes, verdict) = (describe_codes(rule.codes), describe_verdict(rule.verdict));
        let condition = match rule.condition {
            "" => String::new(),
            condition => format!(" if {condition}"),
        };
        let text = format!("{}. **{codes}**{condition}: {verdict}. {}", i + 1, rule.reason);
        push_wrapped(&mut page, &text, "   ");
    }
    page.push_str(POSSIBLY_APPENDED);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/VERDICTS.md");
    if std::env::var_os("OTTLA_WRITE_DOCS").is_some() {
        std::fs::write(path, &page).expect("docs/VERDICTS.md can be written");
    }
    print!("{page}");
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == page, "docs/VERDICTS.md is out of date: run with OTTLA_WRITE_DOCS=1");
}
