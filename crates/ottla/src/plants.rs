//! Known bugs that can be put back, to prove that the simulation finds them: `plant!(Name)` is `false` unless
//! the crate is built with `--cfg ottla_plants` and somebody planted it.

macro_rules! plants {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The bugs.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Plant { $( $(#[$doc])* $name, )* }

        /// All of them.
        pub const PLANTS: &[Plant] = &[$( Plant::$name, )*];
    };
}

plants! {
    /// A request whose connection was lost counts as acknowledged.
    AckAfterLoss,
    /// Two batches in a row get the same sequence.
    SequenceTwice,
    /// The memory of a batch is not given back.
    MemoryKept,
    /// The memory of a batch that expires in flight is given back at once, and again when its bytes go.
    MemoryTwice,
    /// Whoever waits for little memory is served before those who wait for more.
    SmallOvertakes,
    /// A flush counts a batch that was split as done.
    FlushEndsAtSplit,
    /// What is to be sent again goes to the end of its line.
    RetryAtTheEnd,
    /// One broken order resequences every partition, whatever may have been written.
    AllResequenced,
    /// A request that times out is forgotten but its connection kept, and answers are not matched by number.
    LateAnswerMatched,
    /// What expires unsent has used up its sequences.
    SequenceAtClosing,
    /// A batch that may have been written is split.
    SplitWhatMayBeWritten,
    /// The sender is not told of a batch that was opened.
    LostWakeUp,
    /// A buffer is written again while it is to be sent.
    BufferReused,
    /// What was sent whole and has no answer counts as not written.
    LostIsNotWritten,
    /// Five batches may begin an order.
    FirstNotAlone,
    /// That a broker has forgotten the producer counts as proof that its log lacks the batch.
    ForgottenProves,
    /// What is in flight never expires.
    NoExpiryInFlight,
    /// Answers are matched by partition number, whatever the topic.
    TopicsMixedUp,
    /// A topic of another id is taken for the same.
    AnotherTopic,
    /// A caller that gives up waiting keeps its place in the line for memory.
    PlaceKept,
    /// One more request in flight than allowed.
    OneMoreInFlight,
    /// The backoff of a batch is over at once, and again.
    NoRest,
}

#[cfg(ottla_plants)]
static PLANTED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Plants one bug, or none.
#[cfg(ottla_plants)]
pub fn put_back(which: Option<Plant>) {
    PLANTED.store(which.map_or(0, |p| p as u8 + 1), std::sync::atomic::Ordering::SeqCst);
}

#[cfg(ottla_plants)]
pub(crate) fn is_planted(which: Plant) -> bool {
    PLANTED.load(std::sync::atomic::Ordering::Relaxed) == which as u8 + 1
}

/// Whether a bug is planted; a constant `false` in every build but the one that is made for it.
macro_rules! plant {
    ($name:ident) => {{
        #[cfg(ottla_plants)]
        let planted = crate::plants::is_planted(crate::plants::Plant::$name);
        #[cfg(not(ottla_plants))]
        let planted = false;
        planted
    }};
}
pub(crate) use plant;
