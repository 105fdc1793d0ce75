//! Known bugs that can be put back, to prove that the simulation finds them: `inject_bug!(Name)` is `false` unless
//! the crate is built with `--cfg ottla_injected_bugs` and somebody planted it.

macro_rules! injected_bugs {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The bugs.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum InjectedBug { $( $(#[$doc])* $name, )* }

        /// All of them.
        pub const INJECTED_BUGS: &[InjectedBug] = &[$( InjectedBug::$name, )*];
    };
}

injected_bugs! {
    /// A request whose connection was lost counts as acknowledged.
    AckAfterDisconnect,
    /// Two batches in a row get the same sequence.
    DuplicateSequence,
    /// The memory of a batch is not given back.
    BufferLeaked,
    /// The memory of a batch that expires in flight is given back at once, and again when its bytes go.
    BufferFreedTwice,
    /// Whoever waits for little memory is served before those who wait for more.
    UnfairAllocation,
    /// A flush counts a batch that was split as done.
    FlushIgnoresSplit,
    /// What is to be sent again goes to the end of its line.
    RetryAtBackOfQueue,
    /// One broken order resequences every partition, whatever may have been written.
    ResequenceAll,
    /// A request that times out is forgotten but its connection kept, and answers are not matched by number.
    LateResponseMatched,
    /// What expires unsent has used up its sequences.
    SequenceLostOnExpiry,
    /// A batch that may have been written is split.
    SplitPossiblyPersisted,
    /// The sender is not told of a batch that was opened.
    LostWakeup,
    /// A buffer is written again while it is to be sent.
    BufferReused,
    /// What was sent whole and has no answer counts as not written.
    LostRequestNotPersisted,
    /// Five batches may begin an order.
    FirstBatchNotAlone,
    /// That a broker has forgotten the producer counts as proof that its log lacks the batch.
    UnknownProducerIdIsProof,
    /// What is in flight never expires.
    NoInFlightExpiry,
    /// Answers are matched by partition number, whatever the topic.
    TopicIgnoredInResponse,
    /// A topic of another id is taken for the same.
    RecreatedTopicIgnored,
    /// A caller that gives up waiting keeps its place in the line for memory.
    CancelledWaiterKept,
    /// One more request in flight than allowed.
    ExtraInFlightRequest,
    /// The backoff of a batch is over at once, and again.
    NoRetryBackoff,
}

#[cfg(ottla_injected_bugs)]
static INJECTED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Plants one bug, or none.
#[cfg(ottla_injected_bugs)]
pub fn inject(which: Option<InjectedBug>) {
    INJECTED.store(which.map_or(0, |p| p as u8 + 1), std::sync::atomic::Ordering::SeqCst);
}

#[cfg(ottla_injected_bugs)]
pub(crate) fn is_injected(which: InjectedBug) -> bool {
    INJECTED.load(std::sync::atomic::Ordering::Relaxed) == which as u8 + 1
}

/// Whether a bug is planted; a constant `false` in every build but the one that is made for it.
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
