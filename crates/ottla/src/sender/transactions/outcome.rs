//! Decides what follows from the error code of a transactional request: a table and a pure
//! function over it.
//!
//! `responses.rs` asks [`decide`] and applies the outcome. A test writes the table into
//! `docs/TRANSACTIONS.md`.

use ottla_protocol::ErrorCode;

/// A request of the transaction manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Api {
    FindCoordinator,
    InitProducerId,
    AddPartitions,
    AddOffsets,
    TxnOffsetCommit,
    Commit,
    Abort,
}

/// What follows from a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The request has done its work.
    Done,
    /// The request is sent again after the backoff.
    Retry,
    /// The coordinator is looked up, and the request is sent to it after the backoff.
    FindCoordinator,
    /// The error concerns other partitions of the same request.
    NotAttempted,
    /// The coordinator has forgotten the producer id. The epoch is bumped, and nothing is left to
    /// abort.
    BumpEpoch,
    /// The transaction fails and has to be aborted. If no transaction is open, the call fails.
    Abortable,
    /// The producer fails.
    Fatal,
}

/// A row of the table.
pub(super) struct Rule {
    /// The requests; empty for all.
    pub(super) apis: &'static [Api],
    codes: Codes,
    pub(super) outcome: Outcome,
    #[cfg_attr(not(test), allow(dead_code, reason = "for the page in `docs`"))]
    pub(super) reason: &'static str,
}

#[cfg(test)]
impl Rule {
    pub(super) fn code_names(&self) -> String {
        match &self.codes {
            Codes::OneOf(list) | Codes::InDoubt(list) => {
                let names: Vec<String> = list.iter().map(ToString::to_string).collect();
                names.join(", ")
            }
            Codes::Retriable => "other retriable codes".to_owned(),
            Codes::All => "all other codes".to_owned(),
        }
    }
}

/// The error codes that a rule is for.
enum Codes {
    OneOf(&'static [ErrorCode]),
    /// These codes, if a request that starts the transaction was sent without a response, and no
    /// response shows that the transaction has started.
    InDoubt(&'static [ErrorCode]),
    Retriable,
    All,
}

impl Codes {
    fn contains(&self, code: ErrorCode, is_start_in_doubt: bool) -> bool {
        match self {
            Codes::OneOf(list) => list.contains(&code),
            Codes::InDoubt(list) => is_start_in_doubt && list.contains(&code),
            Codes::Retriable => code.is_retriable(),
            Codes::All => true,
        }
    }
}

/// The table. The first rule that applies decides (CASES TM10-TM14, TM19, TM27, F3.17).
pub(super) const RULES: &[Rule] = &[
    Rule { apis: &[], codes: Codes::OneOf(&[ErrorCode::NONE]), outcome: Outcome::Done, reason: "" },
    Rule {
        apis: &[
            Api::InitProducerId,
            Api::AddPartitions,
            Api::AddOffsets,
            Api::TxnOffsetCommit,
            Api::Commit,
            Api::Abort,
        ],
        codes: Codes::OneOf(&[ErrorCode::NOT_COORDINATOR, ErrorCode::COORDINATOR_NOT_AVAILABLE]),
        outcome: Outcome::FindCoordinator,
        reason: "The coordinator has moved.",
    },
    Rule {
        apis: &[Api::TxnOffsetCommit],
        codes: Codes::OneOf(&[ErrorCode::REQUEST_TIMED_OUT]),
        outcome: Outcome::FindCoordinator,
        reason: "The group's coordinator may have moved.",
    },
    Rule {
        apis: &[],
        codes: Codes::OneOf(&[ErrorCode::PRODUCER_FENCED, ErrorCode::INVALID_PRODUCER_EPOCH]),
        outcome: Outcome::Fatal,
        reason: "Another producer with the same transactional id has taken over, or the \
                 coordinator aborted the transaction after `transaction.timeout.ms`.",
    },
    Rule {
        apis: &[Api::InitProducerId],
        codes: Codes::OneOf(&[
            ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
            ErrorCode::CLUSTER_AUTHORIZATION_FAILED,
        ]),
        outcome: Outcome::Abortable,
        reason: "An administrator may grant the permission, and the call may be repeated.",
    },
    Rule {
        apis: &[],
        codes: Codes::OneOf(&[ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED]),
        outcome: Outcome::Fatal,
        reason: "The principal may not use the transactional id.",
    },
    Rule {
        apis: &[Api::Abort],
        codes: Codes::OneOf(&[ErrorCode::TRANSACTION_ABORTABLE]),
        outcome: Outcome::Fatal,
        reason: "The transaction can neither be committed nor aborted.",
    },
    Rule {
        apis: &[],
        codes: Codes::OneOf(&[ErrorCode::TRANSACTION_ABORTABLE]),
        outcome: Outcome::Abortable,
        reason: "The broker requires an abort (KIP-890).",
    },
    Rule {
        apis: &[Api::Abort],
        codes: Codes::OneOf(&[
            ErrorCode::UNKNOWN_PRODUCER_ID,
            ErrorCode::INVALID_PRODUCER_ID_MAPPING,
        ]),
        outcome: Outcome::BumpEpoch,
        reason: "The coordinator does not know the producer id any more.",
    },
    Rule {
        apis: &[Api::Abort],
        codes: Codes::InDoubt(&[ErrorCode::INVALID_TXN_STATE]),
        outcome: Outcome::BumpEpoch,
        reason: "If the request that starts the transaction got no response, there may be nothing \
                 to abort. If it got one, the last rule applies.",
    },
    Rule {
        apis: &[Api::AddPartitions, Api::AddOffsets, Api::Commit],
        codes: Codes::OneOf(&[ErrorCode::UNKNOWN_PRODUCER_ID]),
        outcome: Outcome::Abortable,
        reason: "The coordinator does not know the producer id any more. \
                 The abort bumps the epoch.",
    },
    Rule {
        apis: &[Api::AddPartitions],
        codes: Codes::OneOf(&[ErrorCode::OPERATION_NOT_ATTEMPTED]),
        outcome: Outcome::NotAttempted,
        reason: "Another partition of the request has failed.",
    },
    Rule {
        apis: &[Api::AddPartitions, Api::TxnOffsetCommit],
        codes: Codes::OneOf(&[ErrorCode::TOPIC_AUTHORIZATION_FAILED]),
        outcome: Outcome::Abortable,
        reason: "The principal may not use the topic.",
    },
    Rule {
        apis: &[Api::FindCoordinator, Api::AddOffsets, Api::TxnOffsetCommit],
        codes: Codes::OneOf(&[ErrorCode::GROUP_AUTHORIZATION_FAILED]),
        outcome: Outcome::Abortable,
        reason: "The principal may not use the group.",
    },
    Rule {
        apis: &[Api::TxnOffsetCommit],
        codes: Codes::OneOf(&[
            ErrorCode::FENCED_INSTANCE_ID,
            ErrorCode::UNKNOWN_MEMBER_ID,
            ErrorCode::ILLEGAL_GENERATION,
            ErrorCode::GROUP_ID_NOT_FOUND,
            ErrorCode::STALE_MEMBER_EPOCH,
        ]),
        outcome: Outcome::Abortable,
        reason: "The member has left the group, or the group was rebalanced.",
    },
    Rule {
        apis: &[],
        codes: Codes::Retriable,
        outcome: Outcome::Retry,
        reason: "The error is temporary.",
    },
    Rule {
        apis: &[Api::AddPartitions],
        codes: Codes::OneOf(&[
            ErrorCode::INVALID_TXN_STATE,
            ErrorCode::INVALID_PRODUCER_ID_MAPPING,
            ErrorCode::UNSUPPORTED_VERSION,
        ]),
        outcome: Outcome::Fatal,
        reason: "The coordinator's state of the transaction differs from the client's.",
    },
    Rule {
        apis: &[Api::AddPartitions],
        codes: Codes::All,
        outcome: Outcome::Abortable,
        reason: "A partition cannot take part in the transaction.",
    },
    Rule {
        apis: &[],
        codes: Codes::All,
        outcome: Outcome::Fatal,
        reason: "No retry can succeed, and the state of the transaction is unknown.",
    },
];

/// Returns what follows from a code. The last rule always applies.
///
/// `is_start_in_doubt`: a request that starts the transaction was sent, and whether it arrived is
/// not known.
pub(super) fn decide(api: Api, code: ErrorCode, is_start_in_doubt: bool) -> &'static Rule {
    let applies = |r: &&Rule| {
        (r.apis.is_empty() || r.apis.contains(&api)) && r.codes.contains(code, is_start_in_doubt)
    };
    RULES.iter().find(applies).unwrap_or(&RULES[RULES.len() - 1])
}
