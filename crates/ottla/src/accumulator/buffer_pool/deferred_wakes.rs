//! Defers wake-ups while many buffers are freed, so that a caller is woken once and not for each.

use super::BufferPool;
use crate::sync::wake_all;

/// Defers the wake-ups of a pool. Dropping it wakes the callers that have got memory since.
#[must_use]
pub(crate) struct DeferredWakes<'a> {
    /// `None` if no caller waited.
    pool: Option<&'a BufferPool>,
}

impl BufferPool {
    /// Defers the wake-ups of callers that get memory until the result is dropped.
    ///
    /// Waiters are served as usual: the first has its memory reserved at once. If no caller waits,
    /// nothing is deferred, and the lock is not taken.
    pub(crate) fn defer_wakes(&self) -> DeferredWakes<'_> {
        if self.waiting() == 0 {
            return DeferredWakes { pool: None };
        }
        self.state.lock().deferred_wakers.get_or_insert_default();
        DeferredWakes { pool: Some(self) }
    }
}

impl Drop for DeferredWakes<'_> {
    fn drop(&mut self) {
        if let Some(pool) = self.pool {
            let wakers = pool.state.lock().deferred_wakers.take();
            wake_all(wakers.into_iter().flatten());
        }
    }
}

#[cfg(all(test, not(ottla_loom)))]
mod tests {
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Waker};

    use super::*;
    use crate::accumulator::buffer_pool::AllocateFuture;
    use crate::sync::CountingWaker;

    fn is_ready(future: &mut AllocateFuture, count: &Arc<CountingWaker>) -> bool {
        let waker = Waker::from(count.clone());
        Pin::new(future).poll(&mut Context::from_waker(&waker)).is_ready()
    }

    #[test]
    fn caller_is_woken_once_when_all_buffers_are_free() {
        let pool = BufferPool::new(4, 1, Arc::default());
        let held: Vec<_> = (0..4).map(|_| pool.try_allocate(1).unwrap().unwrap()).collect();
        let (mut first, mut second) = (pool.allocate(1), pool.allocate(2));
        let counts = [(); 2].map(|()| Arc::<CountingWaker>::default());
        assert!(!is_ready(&mut first, &counts[0]) && !is_ready(&mut second, &counts[1]));
        let wakeups = || counts.each_ref().map(|c| c.count());
        let deferred = pool.defer_wakes();
        drop(held);
        assert_eq!((wakeups(), pool.waiting()), ([0, 0], 0), "their memory is reserved already");
        drop(deferred);
        assert_eq!((wakeups(), pool.available_memory()), ([1, 1], 1));
        assert!(is_ready(&mut first, &counts[0]) && is_ready(&mut second, &counts[1]));
        // Afterwards, a caller is woken at once.
        let (held, mut third) = (pool.try_allocate(4).unwrap().unwrap(), pool.allocate(4));
        assert!(!is_ready(&mut third, &counts[0]));
        drop(held);
        assert_eq!(wakeups(), [2, 1]);
    }
}
