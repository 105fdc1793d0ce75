//! The deadlines of callers that wait for memory or metadata.
//!
//! The sender keeps them, because the future of an async caller has no timer and cannot wake
//! itself. Callers announce a deadline with `Event::Waiter`.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::sync::atomic::Ordering;
use crate::time::Tick;
use crate::wakeup::waiters::DeadlineWaiter;

/// The number of waiters below which the map is not pruned.
const MIN_WAITERS_TO_PRUNE: usize = 1024;

/// Orders waiting callers by deadline; the id makes the key unique.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct WaiterKey {
    deadline: Tick,
    id: u64,
}

/// The callers that wait, by deadline.
#[derive(Debug, Default)]
pub(super) struct WaiterDeadlines {
    waiters: BTreeMap<WaiterKey, Arc<DeadlineWaiter>>,
    last_id: u64,
}

impl WaiterDeadlines {
    pub(super) fn insert(&mut self, deadline: Tick, waiter: Arc<DeadlineWaiter>) {
        self.last_id += 1;
        self.waiters.insert(WaiterKey { deadline, id: self.last_id }, waiter);
    }

    /// Wakes callers whose deadline has expired. Returns the next deadline.
    ///
    /// Calls `revoke` first, with the caller's id in the buffer pool: memory that was granted to an
    /// expired caller goes to the next one.
    pub(super) fn wake_expired(&mut self, now: Tick, revoke: impl Fn(u64)) -> Tick {
        // A caller that is done drops its half of the waiter. Then the sender's is the only one.
        if self.waiters.len() > MIN_WAITERS_TO_PRUNE
            && self.last_id.is_multiple_of(MIN_WAITERS_TO_PRUNE as u64)
        {
            self.waiters.retain(|_, waiter| Arc::strong_count(waiter) > 1);
        }
        while let Some(first) = self.waiters.first_entry() {
            // Without this check, the sender would wake for callers that were served long ago.
            let is_done = Arc::strong_count(first.get()) == 1;
            if first.key().deadline > now && !is_done {
                return first.key().deadline;
            }
            let waiter = first.remove();
            if is_done {
                continue;
            }
            revoke(waiter.pool_waiter_id.load(Ordering::Relaxed));
            waiter.wake();
        }
        Tick::NEVER
    }

    /// Wakes all callers: the sender ends.
    pub(super) fn wake_all(&mut self) {
        std::mem::take(&mut self.waiters).values().for_each(|w| w.wake());
    }
}

#[cfg(all(test, not(ottla_loom)))]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::sync::CountingWaker;

    /// Returns a waiter that has registered a waker, and the number of its wakeups.
    fn waiter() -> (Arc<DeadlineWaiter>, Arc<CountingWaker>) {
        let (waiter, count) = (Arc::<DeadlineWaiter>::default(), Arc::<CountingWaker>::default());
        waiter.register(&Waker::from(count.clone()));
        (waiter, count)
    }

    #[test]
    fn waiter_is_woken_at_its_deadline_and_one_that_is_done_is_forgotten() {
        let mut deadlines = WaiterDeadlines::default();
        let ((first, first_count), (second, second_count)) = (waiter(), waiter());
        let (done, done_count) = waiter();
        first.pool_waiter_id.store(11, Ordering::Relaxed);
        deadlines.insert(Tick(30), first.clone());
        deadlines.insert(Tick(30), second.clone());
        deadlines.insert(Tick(20), done);
        let revoked = std::cell::RefCell::new(Vec::new());
        let revoke = |id| revoked.borrow_mut().push(id);
        assert_eq!(deadlines.wake_expired(Tick(10), revoke), Tick(30), "the third is done");
        assert_eq!(deadlines.wake_expired(Tick(30), revoke), Tick::NEVER);
        assert_eq!(*revoked.borrow(), [11, 0]);
        let counts = [&first_count, &second_count, &done_count].map(|c| c.count());
        assert_eq!(counts, [1, 1, 0]);
    }

    #[test]
    fn all_waiters_are_woken_when_the_sender_ends() {
        let mut deadlines = WaiterDeadlines::default();
        let (waiter, count) = waiter();
        deadlines.insert(Tick(30), waiter.clone());
        deadlines.wake_all();
        assert_eq!(count.count(), 1);
        assert_eq!(deadlines.wake_expired(Tick(1000), |_| {}), Tick::NEVER);
    }

    #[test]
    fn waiters_that_are_done_do_not_pile_up_behind_one_that_waits() {
        let mut deadlines = WaiterDeadlines::default();
        let (kept, _) = waiter();
        deadlines.insert(Tick(1), kept.clone());
        for n in 0..(3 * MIN_WAITERS_TO_PRUNE as u64) {
            deadlines.insert(Tick(100 + n), waiter().0);
            deadlines.wake_expired(Tick(0), |_| {});
        }
        assert!(deadlines.waiters.len() <= 2 * MIN_WAITERS_TO_PRUNE, "{}", deadlines.waiters.len());
    }
}
