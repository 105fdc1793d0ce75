//! Known bugs that a test can switch on, to prove that the simulation finds them.
//!
//! `inject_bug!(Name)` marks the code of the bug. It is a constant `false`, unless the crate is
//! built with `--cfg ottla_injected_bugs` and a test switched the bug on with `inject`.
//! `cargo xtask test` checks that the simulation finds each of them.

macro_rules! injected_bugs {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A bug that can be switched on.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum InjectedBug { $( $(#[$doc])* $name, )* }

        /// All bugs.
        pub const INJECTED_BUGS: &[InjectedBug] = &[$( InjectedBug::$name, )*];
    };
}

injected_bugs! {
    /// A request whose connection was lost counts as acknowledged.
    AckAfterDisconnect,
    /// Two successive batches get the same sequence.
    DuplicateSequence,
    /// A batch's buffer never returns to the pool.
    BufferLeaked,
    /// The buffer of a batch that expires in flight is freed at once, and again when the request
    /// ends.
    BufferFreedTwice,
    /// A caller that waits for little memory overtakes earlier callers that wait for more.
    UnfairAllocation,
    /// A flush counts a batch that was split as completed.
    FlushIgnoresSplit,
    /// A batch to retry goes to the back of its partition's queue.
    RetryAtBackOfQueue,
    /// An unresolved sequence in one partition restarts the sequences of every partition, even of
    /// those with batches that may be persisted.
    ResequenceAll,
    /// After a request timeout the connection stays open, and responses are not matched by
    /// correlation id.
    LateResponseMatched,
    /// A batch that expires before it is sent uses up its sequences.
    SequenceLostOnExpiry,
    /// A batch that may be persisted is split.
    SplitPossiblyPersisted,
    /// The event of an opened batch does not wake the sender.
    LostWakeup,
    /// A buffer is overwritten while its batch still has to be sent.
    BufferReused,
    /// A batch whose request was fully sent and got no response counts as not persisted.
    LostRequestNotPersisted,
    /// Five batches of a new epoch may be in flight before the first is acknowledged.
    FirstBatchNotAlone,
    /// `UNKNOWN_PRODUCER_ID` counts as proof that the log does not contain the batch.
    UnknownProducerIdIsProof,
    /// A batch in flight never expires.
    NoInFlightExpiry,
    /// Responses are matched by partition number alone, without the topic.
    TopicIgnoredInResponse,
    /// A topic that was deleted and created again, with a new id, counts as the same topic.
    RecreatedTopicIgnored,
    /// A caller that stops waiting for memory keeps its place in the wait queue.
    CancelledWaiterKept,
    /// A connection has one more request in flight than allowed.
    ExtraInFlightRequest,
    /// A batch is retried without backoff.
    NoRetryBackoff,
}

/// The bug that is switched on, as its number plus 1; 0 for none.
#[cfg(ottla_injected_bugs)]
static INJECTED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Switches one bug on, or all of them off.
#[cfg(ottla_injected_bugs)]
pub fn inject(bug: Option<InjectedBug>) {
    INJECTED.store(bug.map_or(0, |b| b as u8 + 1), std::sync::atomic::Ordering::SeqCst);
}

#[cfg(ottla_injected_bugs)]
pub(crate) fn is_injected(bug: InjectedBug) -> bool {
    INJECTED.load(std::sync::atomic::Ordering::Relaxed) == bug as u8 + 1
}

/// Returns whether a bug is switched on; a constant `false` without `--cfg ottla_injected_bugs`.
macro_rules! inject_bug {
    ($name:ident) => {{
        #[cfg(ottla_injected_bugs)]
        let injected = crate::injected_bugs::is_injected(crate::injected_bugs::InjectedBug::$name);
        #[cfg(not(ottla_injected_bugs))]
        let injected = false;
        injected
    }};
}
pub(crate) use inject_bug;
