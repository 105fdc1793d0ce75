//! Counts what other threads hold and the sender cannot see: a partition that was not announced
//! yet, and a batch that is being closed or split. The thread that holds it posts an event later.
//!
//! The last flushes of a producer need the count. When the sender ends, it completes every batch in
//! its reach, but not these. The thread that holds one fails its records, because its event cannot
//! be posted any more. Only then may a flush return.

use std::sync::Arc;

use crate::sync::Mutex;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::wakeup::waiters::FlushCompletion;

const ONE_ANNOUNCEMENT: u64 = 1;
const ONE_JOB: u64 = 1 << 32;
/// Set when the sender ends.
const SENDER_ENDED: u64 = 1 << 63;

/// The posts that other threads will make, and the flushes that wait for them after the sender's
/// end.
#[derive(Debug, Default)]
pub(crate) struct PendingPosts {
    /// The announcements in the low half, the jobs in the high half, and [`SENDER_ENDED`]. One
    /// variable, so that each change of it sees all of them: either the thread that makes the last
    /// post sees that the sender has ended, or the sender sees that no post is pending.
    state: AtomicU64,
    /// The flushes that no sender will complete.
    flushes: Mutex<Vec<Arc<FlushCompletion>>>,
}

impl PendingPosts {
    /// Counts a caller that will post [`Event::BatchOpened`], which announces a partition to the
    /// sender. Called under the partition's lock, with `PartitionQueue::is_tracked_by_sender` set.
    ///
    /// [`Event::BatchOpened`]: super::event_queue::Event::BatchOpened
    pub(crate) fn begin_announcement(&self) {
        self.state.fetch_add(ONE_ANNOUNCEMENT, Ordering::Relaxed);
    }

    /// Ends what [`begin_announcement`](Self::begin_announcement) began. Called after the post.
    pub(crate) fn end_announcement(&self) {
        self.end(ONE_ANNOUNCEMENT);
    }

    /// Counts a thread that closes or splits a batch, and will post how that ended. A caller that
    /// closes a batch begins under the partition's lock.
    pub(crate) fn begin_job(self: &Arc<Self>) -> PendingJob {
        self.state.fetch_add(ONE_JOB, Ordering::Relaxed);
        PendingJob(self.clone())
    }

    fn end(&self, one: u64) {
        // Release, after the post: a thread that reads that none is pending finds the event in the
        // queue. Acquire: this thread sees the flushes that were added before the sender's end.
        if self.state.fetch_sub(one, Ordering::AcqRel) == SENDER_ENDED + one {
            self.complete_flushes();
        }
    }

    /// Returns whether a caller is between its append and its announcement.
    pub(crate) fn has_announcements(&self) -> bool {
        self.state.load(Ordering::Acquire) & (ONE_JOB - 1) != 0
    }

    /// Adds a flush that no sender will complete. It completes when the sender has ended and no
    /// post is pending.
    pub(crate) fn add_flush(&self, flush: Arc<FlushCompletion>) {
        self.flushes.lock().push(flush);
        // A change, not a load, although the value stays: the thread that changes the state next
        // sees the flush.
        if self.state.fetch_or(0, Ordering::AcqRel) == SENDER_ENDED {
            self.complete_flushes();
        }
    }

    /// The sender has ended, and has completed every batch in its reach.
    pub(crate) fn sender_ended(&self) {
        if self.state.fetch_or(SENDER_ENDED, Ordering::AcqRel) & !SENDER_ENDED == 0 {
            self.complete_flushes();
        }
    }

    fn complete_flushes(&self) {
        // Completed without the lock: a wake-up runs code of the application's executor.
        let flushes = std::mem::take(&mut *self.flushes.lock());
        flushes.iter().for_each(|flush| flush.complete());
    }
}

/// A batch that is being closed or split. It is dropped after the post, and after the batch is
/// completed if it could not be posted; also if the thread panics.
#[derive(Debug)]
#[must_use]
pub(crate) struct PendingJob(Arc<PendingPosts>);

impl Drop for PendingJob {
    fn drop(&mut self) {
        self.0.end(ONE_JOB);
    }
}

#[cfg(all(test, not(ottla_loom)))]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Waker};

    use super::*;
    use crate::wakeup::waiters::FlushFuture;

    fn is_complete(completion: &Arc<FlushCompletion>) -> bool {
        let mut future = FlushFuture { completion: completion.clone() };
        Pin::new(&mut future).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn flushes_wait_for_the_last_post_after_the_end_of_the_sender() {
        let pending = Arc::<PendingPosts>::default();
        let flush = Arc::<FlushCompletion>::default();
        pending.begin_announcement();
        let job = pending.begin_job();
        assert!(pending.has_announcements());
        pending.add_flush(flush.clone());
        drop(job);
        pending.end_announcement();
        assert!(!is_complete(&flush), "the sender still fails batches");
        let job = pending.begin_job();
        pending.sender_ended();
        assert!(!pending.has_announcements());
        assert!(!is_complete(&flush), "a batch is being closed");
        drop(job);
        assert!(is_complete(&flush));
        let later = Arc::<FlushCompletion>::default();
        pending.add_flush(later.clone());
        assert!(is_complete(&later), "no post is pending");
    }
}
