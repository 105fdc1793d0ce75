//! Known bugs that a test can switch on, to prove that the simulation finds them.
//!
//! `inject_bug!(Name, value)` stands where the producer could make this mistake. It is `value`,
//! unless the crate is built with `--cfg ottla_injected_bugs` and a test switched the bug on with
//! `inject`. The wrong value is computed here, so the producer's own code has none.
//! `cargo xtask test` checks that the simulation finds each bug.

macro_rules! injected_bugs {
    ($(
        $(#[$doc:meta])*
        $name:ident($value:ident: $ty:ty $(, $context:ident: $context_ty:ty)*) $wrong:block
    )*) => {
        /// A bug that can be switched on.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum InjectedBug { $( $(#[$doc])* $name, )* }

        /// All bugs.
        pub const INJECTED_BUGS: &[InjectedBug] = &[$( InjectedBug::$name, )*];

        /// One function for each bug: it returns the right value or the wrong one.
        #[cfg(ottla_injected_bugs)]
        #[allow(non_snake_case, reason = "a function has the name of its bug")]
        pub(crate) mod hooks {
            #[allow(unused_imports, reason = "some of the types below are not in the prelude")]
            use super::*;

            $(
                #[allow(unused_variables, reason = "many a wrong value is constant")]
                pub(crate) fn $name($value: $ty $(, $context: $context_ty)*) -> $ty {
                    if is_injected(InjectedBug::$name) { $wrong } else { $value }
                }
            )*
        }
    };
}

injected_bugs! {
    /// A request whose connection was lost counts as acknowledged.
    AckAfterDisconnect(is_acknowledged: bool, is_failed: bool) { is_acknowledged || is_failed }
    /// The first two batches of an epoch get the same sequence.
    DuplicateSequence(next_sequence: i32, sequence: i32) {
        if sequence == 0 { 0 } else { next_sequence }
    }
    /// A batch uses up more sequences than it has records.
    SequenceSkipped(next_sequence: i32) { next_sequence.wrapping_add(1) & i32::MAX }
    /// The memory of a buffer never returns to the pool.
    BufferLeaked(charge: u64) { 0 }
    /// The memory of a buffer returns to the pool twice.
    BufferFreedTwice(charge: u64) { charge * 2 }
    /// A caller that waits for memory overtakes the callers that wait already.
    UnfairAllocation(position: usize) { 0 }
    /// A flush counts a batch that was split as completed.
    FlushIgnoresSplit(is_awaited: bool) { false }
    /// A batch to retry goes to the back of its partition's queue.
    RetryAtBackOfQueue(position: Option<usize>) { None }
    /// A retry gets a new sequence under a new epoch although it may be persisted.
    ResequenceAll(is_not_persisted: bool) { true }
    /// A response completes the newest request on its connection.
    NewestRequestCompleted(position: usize, count: usize) { count - 1 }
    /// A batch that may be persisted is split.
    SplitPossiblyPersisted(is_not_persisted: bool) { true }
    /// The event of an opened batch does not wake the sender.
    LostWakeup(deadline: Tick) { Tick::NEVER }
    /// The buffer of a closed batch is overwritten before the batch is sent.
    BufferReused(records: Bytes) {
        let mut bytes = records.to_vec();
        if let Some(byte) = bytes.iter_mut().rev().nth(1) {
            *byte ^= 1;
        }
        bytes.into()
    }
    /// A batch whose request was fully sent and got no response counts as not persisted.
    LostRequestNotPersisted(possibly_appended: bool) { false }
    /// Five batches of a new epoch may be in flight before the first is acknowledged.
    FirstBatchNotAlone(must_be_alone: bool) { false }
    /// `UNKNOWN_PRODUCER_ID` counts as proof that the log does not contain the batch.
    UnknownProducerIdIsProof(is_proven: bool, code: ErrorCode) {
        code == ErrorCode::UNKNOWN_PRODUCER_ID
    }
    /// A batch in flight never expires.
    NoInFlightExpiry(is_completed: bool) { true }
    /// Responses are matched by partition number alone, without the topic.
    TopicIgnoredInResponse(topic_order: std::cmp::Ordering) { std::cmp::Ordering::Equal }
    /// A topic that was deleted and created again, with a new id, counts as the same topic.
    RecreatedTopicIgnored(has_new_id: bool) { false }
    /// A caller that stops waiting for memory keeps its place in the wait queue.
    CancelledWaiterKept(waiter_id: u64) { 0 }
    /// A connection has one more request in flight than allowed.
    ExtraInFlightRequest(max_in_flight: usize) { max_in_flight + 1 }
    /// A batch is retried without backoff.
    NoRetryBackoff(backoff: Duration) { Duration::ZERO }
    /// A leader epoch that is older than the known one is never believed.
    OlderEpochNeverBelieved(is_believed: bool) { false }
    /// EndTxn does not wait for the batches of its transaction.
    CommitBeforeFlush(has_incomplete_batches: bool) { false }
    /// With version 1, a partition is not added to a transaction that has others already.
    PartitionNotAdded(has_joined: bool, has_started: bool) { has_joined || has_started }
    /// With version 1, the epoch is not bumped after a failed transaction.
    EpochKeptAfterAbort(has_lost_sequences: bool) { false }
    /// With version 1, the epoch is not bumped after a request without a response (KAFKA-17754).
    LostResponseForgotten(must_bump_epoch: bool) { false }
    /// A fenced producer continues as if its request had succeeded.
    FencedIgnored(code: ErrorCode) {
        match code {
            ErrorCode::PRODUCER_FENCED | ErrorCode::INVALID_PRODUCER_EPOCH => ErrorCode::NONE,
            other => other,
        }
    }
    /// A transactional producer continues its sequences under a new epoch.
    SequenceKeptAtBump(first_sequence: i32, last_sequence: i32, is_transactional: bool) {
        if is_transactional { last_sequence } else { first_sequence }
    }
    /// A transaction is committed although a record of it has failed.
    LostRecordIgnored(fails_transaction: bool) { false }
    /// With version 1, offsets are sent without adding their group to the transaction.
    GroupNotAdded(is_group_added: bool) { true }
    /// The drop of a transaction does not abort it.
    DropIgnored(must_abort: bool) { false }
    /// With version 2, the epoch in the response to EndTxn is ignored.
    EpochOfEndTxnIgnored(is_adopted: bool) { false }
}

impl InjectedBug {
    /// Returns whether only a transactional producer can make this mistake.
    pub fn is_transactional(self) -> bool {
        self as u8 >= InjectedBug::CommitBeforeFlush as u8
    }
}

#[cfg(ottla_injected_bugs)]
use std::time::Duration;

#[cfg(ottla_injected_bugs)]
use bytes::Bytes;
#[cfg(ottla_injected_bugs)]
use ottla_protocol::ErrorCode;

#[cfg(ottla_injected_bugs)]
use crate::time::Tick;

/// The bug that is switched on, as its number plus 1; 0 for none.
#[cfg(ottla_injected_bugs)]
static INJECTED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Switches one bug on, or all of them off.
#[cfg(ottla_injected_bugs)]
pub fn inject(bug: Option<InjectedBug>) {
    INJECTED.store(bug.map_or(0, |b| b as u8 + 1), std::sync::atomic::Ordering::SeqCst);
}

#[cfg(ottla_injected_bugs)]
fn is_injected(bug: InjectedBug) -> bool {
    INJECTED.load(std::sync::atomic::Ordering::Relaxed) == bug as u8 + 1
}

/// Returns `value`, or the wrong value of a bug that is switched on. Without
/// `--cfg ottla_injected_bugs` it is nothing but `value`.
macro_rules! inject_bug {
    ($name:ident, $value:expr $(, $context:expr)*) => {{
        #[cfg(ottla_injected_bugs)]
        let value = crate::injected_bugs::hooks::$name($value $(, $context)*);
        #[cfg(not(ottla_injected_bugs))]
        let value = $value;
        value
    }};
}
pub(crate) use inject_bug;
