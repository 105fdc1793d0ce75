//! Known bugs that can be put back, to prove that the simulation finds them: `plant!(Name)` is `false` unless
//! the crate is built with `--cfg ottla_plants` and somebody planted it.

/// The bugs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// A request whose connection was lost counts as acknowledged.
    AckAfterLoss = 1,
    /// Two batches in a row get the same sequence.
    SequenceTwice = 2,
    /// The memory of a batch is not given back.
    MemoryKept = 3,
}

/// All of them.
pub const PLANTS: [Plant; 3] = [Plant::AckAfterLoss, Plant::SequenceTwice, Plant::MemoryKept];

#[cfg(ottla_plants)]
static PLANTED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Plants one bug, or none.
#[cfg(ottla_plants)]
pub fn put_back(which: Option<Plant>) {
    PLANTED.store(which.map_or(0, |p| p as u8), std::sync::atomic::Ordering::SeqCst);
}

#[cfg(ottla_plants)]
pub(crate) fn is_planted(which: Plant) -> bool {
    PLANTED.load(std::sync::atomic::Ordering::Relaxed) == which as u8
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
