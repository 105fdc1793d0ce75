use std::fmt::Write;

use super::*;
use crate::error::RecordStatus::{NotPersisted, PossiblyPersisted};

fn facts_for_code(code: ErrorCode) -> Facts {
    Facts {
        code,
        idempotent: true,
        attempts: 1,
        retries: 3,
        expired: false,
        record_count: 5,
        status: NotPersisted,
        follows_last_acked: false,
        first_of_epoch: false,
        from_leader: true,
        has_log_start_offset: true,
    }
}

fn verdict_for(f: &Facts) -> Verdict {
    decide(f).verdict
}

fn verdict_for_code(code: ErrorCode) -> Verdict {
    verdict_for(&facts_for_code(code))
}

/// For each row, in order, facts that it alone decides.
fn rule_examples() -> Vec<Facts> {
    use ErrorCode as E;
    let out_of_order = facts_for_code(E::OUT_OF_ORDER_SEQUENCE_NUMBER);
    let unknown = facts_for_code(E::UNKNOWN_PRODUCER_ID);
    vec![
        facts_for_code(E::NONE),
        facts_for_code(E::DUPLICATE_SEQUENCE_NUMBER),
        facts_for_code(E::PRODUCER_FENCED),
        Facts { follows_last_acked: true, ..out_of_order },
        Facts { first_of_epoch: true, ..out_of_order },
        Facts { follows_last_acked: true, from_leader: false, ..out_of_order },
        out_of_order,
        Facts { first_of_epoch: true, ..unknown },
        unknown,
        facts_for_code(E::INVALID_PRODUCER_EPOCH),
        facts_for_code(E::MESSAGE_TOO_LARGE),
        facts_for_code(E::NOT_LEADER_OR_FOLLOWER),
        facts_for_code(E::NOT_ENOUGH_REPLICAS),
        facts_for_code(E(4321)),
        facts_for_code(E::TOPIC_AUTHORIZATION_FAILED),
    ]
}

#[test]
fn every_row_decides_something_and_says_so() {
    let examples = rule_examples();
    assert_eq!(examples.len(), RULES.len());
    for (i, (row, facts)) in RULES.iter().zip(&examples).enumerate() {
        let first = RULES.iter().position(|r| r.codes.contains(facts.code) && (r.applies)(facts));
        assert_eq!(first, Some(i), "{facts:?}");
        assert_eq!(verdict_for(facts), row.verdict);
    }
}

#[test]
fn sn9_sn14_sn21_done_and_duplicate() {
    assert_eq!(verdict_for_code(ErrorCode::NONE), Verdict::Complete);
    assert_eq!(verdict_for_code(ErrorCode::DUPLICATE_SEQUENCE_NUMBER), Verdict::Duplicate);
    let plain = Facts { idempotent: false, ..facts_for_code(ErrorCode::DUPLICATE_SEQUENCE_NUMBER) };
    assert_eq!(verdict_for(&plain), Verdict::Fail, "nobody gave it a sequence");
    // Whatever else is over, what is in the log is in the log.
    let late = Facts { expired: true, attempts: 99, ..facts_for_code(ErrorCode::NONE) };
    assert_eq!(verdict_for(&late), Verdict::Complete);
}

#[test]
fn sn10_f2_10_out_of_order_waits_for_those_before_it() {
    assert_eq!(verdict_for_code(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER), RETRY);
}

#[test]
fn sn12_f2_10_out_of_order_right_behind_the_last_acknowledged_begins_a_new_order() {
    let next = Facts {
        follows_last_acked: true,
        ..facts_for_code(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER)
    };
    assert_eq!(verdict_for(&next), NEW_EPOCH_NOT_PERSISTED);
    assert_eq!(
        verdict_for(&Facts { from_leader: false, ..next }),
        RETRY_AFTER_METADATA,
        "not the leader's word"
    );
    assert_eq!(verdict_for(&Facts { idempotent: false, ..next }), Verdict::Fail);
    assert_eq!(verdict_for(&Facts { expired: true, ..next }), Verdict::Fail);
    assert_eq!(verdict_for(&Facts { attempts: 4, ..next }), Verdict::Fail);
}

#[test]
fn sn22_sn24_f2_11_an_unknown_producer_begins_anew_unless_it_just_did() {
    let unknown = facts_for_code(ErrorCode::UNKNOWN_PRODUCER_ID);
    assert_eq!(verdict_for(&unknown), NEW_EPOCH);
    assert_eq!(verdict_for(&Facts { first_of_epoch: true, ..unknown }), RETRY, "no second bump");
    assert_eq!(verdict_for(&Facts { has_log_start_offset: false, ..unknown }), RETRY);
    assert_eq!(verdict_for(&Facts { expired: true, ..unknown }), Verdict::Fail);
}

#[test]
fn f2_an_epoch_or_id_the_log_does_not_take_asks_for_a_new_id() {
    assert_eq!(verdict_for_code(ErrorCode::INVALID_PRODUCER_EPOCH), NEW_PRODUCER_ID);
    assert_eq!(verdict_for_code(ErrorCode::INVALID_PRODUCER_ID_MAPPING), NEW_PRODUCER_ID);
}

#[test]
fn sn25_sn27_only_these_end_the_producer() {
    for code in [
        ErrorCode::PRODUCER_FENCED,
        ErrorCode::CLUSTER_AUTHORIZATION_FAILED,
        ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        ErrorCode::UNSUPPORTED_VERSION,
    ] {
        assert_eq!(verdict_for_code(code), Verdict::FailProducer, "{code}");
        let plain = Facts { idempotent: false, ..facts_for_code(code) };
        assert_eq!(verdict_for(&plain), Verdict::Fail, "{code}: without an id only the batch");
    }
    let fatal = |code: i16| verdict_for(&facts_for_code(ErrorCode(code))) == Verdict::FailProducer;
    assert_eq!((-1..200).filter(|c| fatal(*c)).collect::<Vec<_>>(), [31, 35, 53, 90]);
}

#[test]
fn sn8_sn27_these_fail_the_batch_alone() {
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
    assert_eq!(verdict_for_code(ErrorCode(4321)), Verdict::Fail, "a code from the future is final");
}

#[test]
fn sn28_sn32_f1_7_too_large_is_split_unless_it_is_one_over_or_possibly_written() {
    let large = facts_for_code(ErrorCode::MESSAGE_TOO_LARGE);
    assert_eq!(verdict_for(&large), Verdict::Split);
    assert_eq!(verdict_for(&Facts { record_count: 2, ..large }), Verdict::Split);
    assert_eq!(verdict_for(&Facts { record_count: 1, ..large }), Verdict::Fail);
    assert_eq!(verdict_for(&Facts { expired: true, ..large }), Verdict::Fail);
    assert_eq!(verdict_for(&Facts { status: PossiblyPersisted, ..large }), Verdict::Fail);
    assert_eq!(verdict_for(&Facts { attempts: 99, ..large }), Verdict::Split, "takes no attempt");
    assert_eq!(verdict_for(&Facts { idempotent: false, ..large }), Verdict::Split);
}

#[test]
fn sn3_sn32_f2_12_nothing_is_sent_again_after_the_last_retry_or_past_its_time() {
    for code in [ErrorCode::NOT_ENOUGH_REPLICAS, ErrorCode::NOT_LEADER_OR_FOLLOWER] {
        let retry = |attempts, over| {
            verdict_for(&Facts { attempts, expired: over, ..facts_for_code(code) })
        };
        assert!(matches!(retry(3, false), Verdict::Retry { .. }), "the third of three retries");
        assert_eq!(retry(4, false), Verdict::Fail);
        assert_eq!(retry(1, true), Verdict::Fail);
    }
}

/// Every code of B6: whether it is sent again, and whether metadata is asked for first.
#[test]
fn b6_lr5_what_is_sent_again() {
    let stale = [3, 5, 6, 9, 13, 56, 72, 74, 100, 103];
    let plain = [2, 7, 14, 15, 16, 19, 20, 41, 51, 75, 89];
    for code in -1..200 {
        let f = Facts { idempotent: false, ..facts_for_code(ErrorCode(code)) };
        let expected = match code {
            0 => Verdict::Complete,
            10 => Verdict::Split,
            c if stale.contains(&c) => RETRY_AFTER_METADATA,
            c if plain.contains(&c) => RETRY,
            _ if ErrorCode(code).is_retriable() => continue,
            _ => Verdict::Fail,
        };
        assert_eq!(verdict_for(&f), expected, "{}", ErrorCode(code));
    }
}

#[test]
fn b6_was_it_appended() {
    for code in -1..200 {
        let (told, untold) =
            (possibly_appended(ErrorCode(code), 5), possibly_appended(ErrorCode(code), -1));
        // What a leader refuses with before it appends anything.
        let before = [
            0, 2, 5, 10, 17, 18, 19, 21, 29, 31, 32, 35, 42, 43, 44, 45, 46, 47, 48, 51, 53, 59,
            74, 76, 87, 89, 90, 100, 103, 120,
        ];
        let expected = match code {
            3 | 6 => (true, false),
            c if before.contains(&c) => (false, false),
            _ => (true, true),
        };
        assert_eq!((told, untold), expected, "{code}");
    }
    assert!(!possibly_appended(ErrorCode::NOT_LEADER_OR_FOLLOWER, -1));
    assert!(possibly_appended(ErrorCode::NOT_LEADER_OR_FOLLOWER, 0), "offset 0 is an offset");
}

/// `docs/VERDICTS.md` is this table; `OTTLA_WRITE_DOCS=1 cargo test -p ottla verdict` writes it.
#[test]
fn the_table_in_docs_is_this_one() {
    let mut page = String::from(
        "# What an answer means for a batch\n\n\
         Written from the table in `crates/ottla/src/sender/verdict.rs` by its test. For each answer to a Produce\n\
         request, the first row that holds decides. \"May be sent again\" means: fewer than `retries` retries so far,\n\
         and `delivery.timeout.ms` is not over.\n\n\
         | answer | when | verdict | why |\n|---|---|---|---|\n",
    );
    for row in RULES {
        let codes = match row.codes {
            Codes::OneOf(list) => {
                list.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            }
            Codes::RefreshRetriable => {
                "any other that is retriable and calls for metadata".to_owned()
            }
            Codes::Retriable => "any other that is retriable".to_owned(),
            Codes::Unknown => "any code not known here".to_owned(),
            Codes::All => "anything else".to_owned(),
        };
        let then = match row.verdict {
            Verdict::Complete => "done",
            Verdict::Duplicate => "done, offset unknown",
            Verdict::Retry { refresh_metadata: false } => "send again after the backoff",
            Verdict::Retry { refresh_metadata: true } => {
                "send again after metadata and the backoff"
            }
            Verdict::Split => "split, send the parts at once",
            Verdict::Resequence { proven_not_persisted: true, .. } => {
                "new order under a new epoch; known not to be written"
            }
            Verdict::Resequence { new_producer_id: true, .. } => {
                "new order under a new producer id"
            }
            Verdict::Resequence { .. } => {
                "new order under a new epoch; fails if it may have been written"
            }
            Verdict::Fail => "fail the records",
            Verdict::FailProducer => "fail the records and the producer",
        };
        let _ = writeln!(page, "| {codes} | {} | {then} | {} |", row.condition, row.reason);
    }
    page.push_str(
        "\n## Was it appended?\n\n\
         What is known of a batch only grows: not written, then possibly written; only a leader's proof that its log\n\
         lacks the batch (above) takes that back. An attempt leaves it open if the\n\
         socket took the request's last byte and no answer came, or if the answer is one of these; any other error\n\
         says that this attempt was not written, and so does a request whose last byte never left.\n\n\
         | answer | leaves it open |\n|---|---|\n\
         | REQUEST_TIMED_OUT, NOT_ENOUGH_REPLICAS_AFTER_APPEND, KAFKA_STORAGE_ERROR, UNKNOWN_SERVER_ERROR | yes |\n\
         | UNKNOWN_TOPIC_OR_PARTITION, NOT_LEADER_OR_FOLLOWER | if the answer gives a base offset |\n\
         | any code not known here | yes |\n\
         | an answer that leaves the partition out, or cannot be read | yes |\n\
         | any other error | no |\n",
    );
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/VERDICTS.md");
    if std::env::var_os("OTTLA_WRITE_DOCS").is_some() {
        std::fs::write(path, &page).expect("docs are written");
    }
    print!("{page}");
    assert!(std::fs::read_to_string(path).unwrap_or_default() == page, "docs/VERDICTS.md is old");
}
