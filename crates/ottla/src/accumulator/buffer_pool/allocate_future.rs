//! The future that waits for a buffer. `BufferPool::allocate` returns it.

use crate::sync::atomic::{AtomicU64, Ordering};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::{BufferPool, BufferRequest, PooledBuf, Waiter};
use crate::error::{Error, ErrorKind};
use crate::injected_bugs::inject_bug;
use crate::sync::wake_all;

/// Waits for a buffer. The first poll that does not succeed enters the wait queue; dropping the
/// future leaves it.
#[derive(Debug)]
pub(crate) struct AllocateFuture {
    pool: Arc<BufferPool>,
    request: BufferRequest,
    /// Its id in the wait queue; `None` before it enters and after it has collected its memory.
    waiter_id: Option<u64>,
    /// The id for the sender, which revokes the grant at the deadline; 0 before it enters.
    pool_waiter_id: Arc<AtomicU64>,
}

impl AllocateFuture {
    pub(super) fn new(pool: Arc<BufferPool>, request: BufferRequest) -> AllocateFuture {
        let pool_waiter_id = Arc::new(AtomicU64::new(0));
        AllocateFuture { pool, request, waiter_id: None, pool_waiter_id }
    }

    pub(crate) fn pool_waiter_id(&self) -> Arc<AtomicU64> {
        self.pool_waiter_id.clone()
    }
}

impl Future for AllocateFuture {
    type Output = Result<PooledBuf, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let Some(id) = this.waiter_id else {
            if let Some(buf) = this.pool.try_allocate(this.request)? {
                return Poll::Ready(Ok(buf));
            }
            // Cloned before the lock: a waker is foreign code.
            let waker = cx.waker().clone();
            let mut state = this.pool.state.lock();
            this.pool.check_running()?;
            state.last_id += 1;
            let id = state.last_id;
            this.waiter_id = Some(id);
            this.pool_waiter_id.store(id, Ordering::Relaxed);
            let needed_bytes = this.request.charge as u64;
            let position = inject_bug!(UnfairAllocation, state.waiters.len());
            let waiter = Waiter { id, needed_bytes, accumulated_bytes: 0, waker };
            state.waiters.insert(position, waiter);
            // Memory that was freed between `try_allocate` and this lock found no waiter. Without
            // this call the new waiter would not get it.
            let (mut wakers, mut dropped) = (Vec::new(), Vec::new());
            this.pool.serve_waiters(&mut state, &mut wakers, &mut dropped);
            drop(state);
            wake_all(wakers);
            return Poll::Pending;
        };
        let (mut old_waker, waker) = (None, cx.waker().clone());
        let mut state = this.pool.state.lock();
        if let Some(i) = state.granted.iter().position(|g| g.id == id) {
            let grant = state.granted.swap_remove(i);
            drop(state);
            this.waiter_id = None;
            return Poll::Ready(this.pool.allocate_buffer(this.request, grant.buffer));
        }
        this.pool.check_running()?;
        let waiter = state.waiters.iter_mut().find(|w| w.id == id);
        let is_revoked = waiter.is_none();
        if let Some(w) = waiter {
            old_waker = Some(std::mem::replace(&mut w.waker, waker));
        }
        drop(state);
        drop(old_waker);
        if is_revoked {
            return Poll::Ready(Err(Error::new(
                ErrorKind::BufferExhausted,
                "allocating a buffer failed: max.block.ms expired before the memory was collected",
            )));
        }
        Poll::Pending
    }
}

impl Drop for AllocateFuture {
    fn drop(&mut self) {
        if let Some(id) = self.waiter_id {
            self.pool.cancel(id);
        }
    }
}
