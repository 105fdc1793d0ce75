//! The pool of buffer memory, limited by `buffer.memory` (Kafka's `BufferPool`).
//!
//! Callers allocate through [`BufferPool::allocate`]. Waiting callers are served first come, first
//! served. All freed memory goes to the first waiter until its request is complete, then to the
//! next, so a small request never overtakes a large one. The thread that drops a [`PooledBuf`] does
//! this work. A future that is dropped returns its memory in the same way. The sender's thread
//! never waits here.

mod allocate_future;
mod deferred_wakes;

use crate::sync::atomic::{AtomicUsize, Ordering};
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use crate::error::{Error, ErrorKind};
use crate::injected_bugs::inject_bug;
use crate::snapshot::MemorySnapshot;
use crate::sync::{Mutex, wake_all};
use crate::wakeup::lifecycle::LifecycleCell;

pub(crate) use allocate_future::AllocateFuture;

/// The pool of buffer memory.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct BufferPool {
    state: Mutex<PoolState>,
    total_memory: u64,
    /// The size of the buffers that are kept for reuse: `batch.size`.
    poolable_size: usize,
    /// The number of waiters, readable without the lock.
    waiting: AtomicUsize,
    /// The size that was last refused to a caller that does not wait; 0 for none.
    refused_size: AtomicUsize,
    /// No memory is allocated unless the producer is running.
    lifecycle: Arc<LifecycleCell>,
}

#[derive(Debug, Default)]
struct PoolState {
    /// The bytes that are neither in use nor in `free`. Negative while usage exceeds the limit, see
    /// [`BufferPool::allocate_over_limit`].
    unallocated: i64,
    /// Free buffers of the poolable size. First in, first out: a stack would reuse the buffer that
    /// another core has just freed, and its cache lines would move between the cores.
    free: VecDeque<Vec<u8>>,
    waiters: VecDeque<Waiter>,
    granted: Vec<Grant>,
    /// The wakers of callers that have got memory while wake-ups are deferred, see
    /// [`BufferPool::defer_wakes`]; `None` if they are not.
    deferred_wakers: Option<Vec<Waker>>,
    /// The id of the last waiter. Ids begin at 1.
    last_id: u64,
}

/// A caller that waits for memory.
#[derive(Debug)]
struct Waiter {
    id: u64,
    needed_bytes: u64,
    accumulated_bytes: u64,
    waker: Waker,
}

/// Memory that belongs to a former waiter that was woken, but has not collected the memory yet.
#[derive(Debug)]
struct Grant {
    /// The waiter's id.
    id: u64,
    /// The charge in bytes.
    size: u64,
    /// A free buffer, if the waiter gets one.
    buffer: Option<Vec<u8>>,
}

/// What a caller asks the pool for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BufferRequest {
    /// The bytes of `buffer.memory`.
    pub(crate) charge: usize,
    /// The bytes of the buffer: less than `charge` if the batch shares a large value with the
    /// caller.
    pub(crate) capacity: usize,
}

impl From<usize> for BufferRequest {
    fn from(size: usize) -> BufferRequest {
        BufferRequest { charge: size, capacity: size }
    }
}

/// A buffer and its share of `buffer.memory`. Dropping it returns both to the pool.
#[derive(Debug)]
#[allow(unreachable_pub, reason = "the doctests of `sim::types` use this type")]
pub struct PooledBuf {
    pub(crate) bytes: Vec<u8>,
    /// The bytes of `buffer.memory` that this buffer uses.
    charge: u64,
    pool: Arc<BufferPool>,
}

impl AsRef<[u8]> for PooledBuf {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for PooledBuf {
    fn drop(&mut self) {
        let charge = inject_bug!(BufferLeaked, self.charge);
        let charge = inject_bug!(BufferFreedTwice, charge);
        self.pool.deallocate(charge, std::mem::take(&mut self.bytes));
    }
}

impl PooledBuf {
    /// Returns the bytes of `buffer.memory` that it uses.
    pub(super) fn charge(&self) -> usize {
        self.charge as usize
    }

    pub(super) fn pool(&self) -> &Arc<BufferPool> {
        &self.pool
    }

    /// Replaces the contents of these buffers by `contents`, in one buffer.
    ///
    /// The first buffer is reused if it has the capacity, and the others return to the pool.
    /// Otherwise new memory is allocated. It takes over the charges of the old buffers until they
    /// cover it.
    pub(super) fn with_contents(
        full: Vec<PooledBuf>,
        last: PooledBuf,
        contents: &[u8],
    ) -> PooledBuf {
        let len = contents.len();
        let mut others = full.into_iter();
        let (mut first, mut last) = match others.next() {
            Some(first) => (first, Some(last)),
            None => (last, None),
        };
        first.bytes.clear();
        if first.bytes.capacity() < len {
            while first.charge < len as u64 {
                let Some(mut next) = others.next().or_else(|| last.take()) else { break };
                let taken = next.charge.min(len as u64 - first.charge);
                (first.charge, next.charge) = (first.charge + taken, next.charge - taken);
            }
            first.bytes = Vec::with_capacity(len);
        }
        first.bytes.extend_from_slice(contents);
        first
    }
}

/// A share of `buffer.memory` for memory that is not a pooled buffer, such as tokens and callbacks.
#[derive(Debug)]
pub(crate) struct Charge {
    bytes: u64,
    pool: Arc<BufferPool>,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.pool.release(self.bytes);
    }
}

impl BufferPool {
    pub(crate) fn new(
        total_memory: u64,
        poolable_size: usize,
        lifecycle: Arc<LifecycleCell>,
    ) -> Arc<BufferPool> {
        let state = PoolState {
            unallocated: i64::try_from(total_memory).unwrap_or(i64::MAX),
            ..PoolState::default()
        };
        Arc::new(BufferPool {
            state: Mutex::new(state),
            total_memory,
            poolable_size,
            waiting: AtomicUsize::new(0),
            refused_size: AtomicUsize::new(0),
            lifecycle,
        })
    }

    /// Returns a buffer. Returns `None` if the memory is not free, or if other callers wait
    /// already.
    ///
    /// # Errors
    /// The charge exceeds `buffer.memory`, or the producer accepts no more records.
    pub(crate) fn try_allocate(
        self: &Arc<Self>,
        request: impl Into<BufferRequest>,
    ) -> Result<Option<PooledBuf>, Error> {
        let request = request.into();
        let size = request.charge;
        self.check_size(size)?;
        // Freed after the lock is released: freeing memory can be slow.
        let mut dropped = Vec::new();
        let mut state = self.state.lock();
        self.check_running()?;
        if !state.waiters.is_empty() {
            return Ok(None);
        }
        let buffer = if size == self.poolable_size { state.free.pop_front() } else { None };
        if buffer.is_none() {
            state.release_free_buffers(size as u64, self.poolable_size, &mut dropped);
            if state.unallocated < size as i64 {
                return Ok(None);
            }
            state.unallocated -= size as i64;
        }
        drop(state);
        drop(dropped);
        self.allocate_buffer(request, buffer).map(Some)
    }

    /// Returns a future for a buffer.
    pub(crate) fn allocate(self: &Arc<Self>, request: impl Into<BufferRequest>) -> AllocateFuture {
        AllocateFuture::new(self.clone(), request.into())
    }

    /// Returns a buffer of `size` bytes at once, even if this exceeds `buffer.memory`.
    ///
    /// Only a split calls it. Parts that waited for memory would block their partition's queue, and
    /// the batches in that queue hold the memory. Java's producer allocates the parts outside its
    /// pool for this reason. The excess is short: no allocation succeeds until usage is back under
    /// the limit.
    pub(crate) fn allocate_over_limit(self: &Arc<Self>, size: usize) -> PooledBuf {
        self.reserve(size);
        PooledBuf { bytes: Vec::with_capacity(size), charge: size as u64, pool: self.clone() }
    }

    /// Charges memory that is allocated already. Like
    /// [`allocate_over_limit`](Self::allocate_over_limit), it does not wait.
    pub(crate) fn charge_bytes(self: &Arc<Self>, bytes: usize) -> Charge {
        self.reserve(bytes);
        Charge { bytes: bytes as u64, pool: self.clone() }
    }

    fn reserve(&self, size: usize) {
        let mut dropped = Vec::new();
        let mut state = self.state.lock();
        state.unallocated -= size as i64;
        state.release_free_buffers(0, self.poolable_size, &mut dropped);
        drop(state);
    }

    /// Returns an error if the producer accepts no more records.
    ///
    /// Called under the pool's lock: a caller that enters the wait queue before
    /// [`fail_waiters`](Self::fail_waiters) is removed by it, and a later one gets this error.
    fn check_running(&self) -> Result<(), Error> {
        if self.lifecycle.is_running() {
            return Ok(());
        }
        Err(self.lifecycle.error_for_waiting_call())
    }

    /// Returns an error if `size` exceeds the whole pool, because the caller would wait without
    /// end.
    fn check_size(&self, size: usize) -> Result<(), Error> {
        if size as u64 <= self.total_memory {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::RecordTooLarge,
            format!(
                "record needs a buffer of {size} bytes, but buffer.memory has only {} bytes; \
                 send a smaller record or raise buffer.memory",
                self.total_memory
            ),
        ))
    }

    /// Allocates the memory of a buffer that is charged already. If that fails, the charge is
    /// returned.
    fn allocate_buffer(
        self: &Arc<Self>,
        request: BufferRequest,
        reused: Option<Vec<u8>>,
    ) -> Result<PooledBuf, Error> {
        let (bytes, capacity) = (reused.unwrap_or_default(), request.capacity);
        let mut buf = PooledBuf { bytes, charge: request.charge as u64, pool: self.clone() };
        if buf.bytes.capacity() < capacity
            && let Err(e) = buf.bytes.try_reserve_exact(capacity)
        {
            let message = format!(
                "allocating a buffer of {capacity} bytes failed: the process is out of memory; \
                 lower buffer.memory"
            );
            return Err(Error::new(ErrorKind::BufferExhausted, message).with_source(e));
        }
        Ok(buf)
    }

    /// Takes back the charge of memory that was not a pooled buffer.
    fn release(&self, charge: u64) {
        let (mut wakers, mut dropped) = (Vec::new(), Vec::new());
        {
            let mut state = self.state.lock();
            state.unallocated += charge as i64;
            self.serve_waiters(&mut state, &mut wakers, &mut dropped);
        }
        wake_all(wakers);
    }

    /// Takes back a buffer and its charge.
    fn deallocate(&self, charge: u64, mut bytes: Vec<u8>) {
        let mut wakers = Vec::new();
        let mut dropped = Vec::new();
        {
            let mut state = self.state.lock();
            let is_poolable =
                charge == self.poolable_size as u64 && bytes.capacity() == self.poolable_size;
            // While usage exceeds the limit, memory is freed and not kept in the free list.
            if is_poolable && charge > 0 && state.unallocated >= 0 {
                bytes.clear();
                state.free.push_back(bytes);
            } else {
                state.unallocated += charge as i64;
                dropped.push(bytes);
            }
            self.serve_waiters(&mut state, &mut wakers, &mut dropped);
        }
        wake_all(wakers);
    }

    /// Gives free memory to the first waiter until its request is complete, then to the next.
    ///
    /// The caller holds the lock. It wakes `wakers` and drops `dropped` after it has released the
    /// lock.
    fn serve_waiters(
        &self,
        state: &mut PoolState,
        wakers: &mut Vec<Waker>,
        dropped: &mut Vec<Vec<u8>>,
    ) {
        while let Some(first) = state.waiters.front() {
            let missing = first.needed_bytes - first.accumulated_bytes;
            let has_nothing = first.accumulated_bytes == 0;
            let mut buffer = None;
            if has_nothing && missing == self.poolable_size as u64 {
                buffer = state.free.pop_front();
            }
            if buffer.is_none() {
                state.release_free_buffers(missing, self.poolable_size, dropped);
                let available = u64::try_from(state.unallocated).unwrap_or(0);
                let taken = missing.min(available);
                state.unallocated -= taken as i64;
                let Some(first) = state.waiters.front_mut() else {
                    break;
                };
                first.accumulated_bytes += taken;
                if first.accumulated_bytes < first.needed_bytes {
                    break;
                }
            }
            if let Some(w) = state.waiters.pop_front() {
                state.granted.push(Grant { id: w.id, size: w.needed_bytes, buffer });
                state.deferred_wakers.as_mut().unwrap_or(wakers).push(w.waker);
            }
        }
        self.waiting.store(state.waiters.len(), Ordering::Relaxed);
    }

    /// Ends a wait. Memory that the waiter has accumulated, or was granted and has not collected,
    /// goes to the next waiters.
    fn cancel(&self, id: u64) {
        let id = inject_bug!(CancelledWaiterKept, id);
        let mut wakers = Vec::new();
        let mut dropped = Vec::new();
        {
            let mut state = self.state.lock();
            if let Some(i) = state.waiters.iter().position(|w| w.id == id) {
                if let Some(w) = state.waiters.remove(i) {
                    state.unallocated += w.accumulated_bytes as i64;
                    // Dropping a waker runs foreign code, so it leaves the lock with the others.
                    // That it is woken once more does no harm.
                    wakers.push(w.waker);
                }
            } else if let Some(i) = state.granted.iter().position(|g| g.id == id) {
                let grant = state.granted.swap_remove(i);
                match grant.buffer {
                    // As in `deallocate`: no free list while usage exceeds the limit.
                    Some(buffer) if state.unallocated >= 0 => state.free.push_back(buffer),
                    buffer => {
                        state.unallocated += grant.size as i64;
                        dropped.extend(buffer);
                    }
                }
            }
            self.serve_waiters(&mut state, &mut wakers, &mut dropped);
        }
        wake_all(wakers);
    }

    /// Takes back the memory of a waiter that has reached its deadline. 0 means no waiter.
    ///
    /// The sender calls it. A waiter that was woken but whose future is not polled would otherwise
    /// keep its grant, and the callers behind it would get nothing.
    pub(crate) fn revoke(&self, waiter_id: u64) {
        if waiter_id != 0 {
            self.cancel(waiter_id);
        }
    }

    /// Fails all waiters: the producer accepts no more records.
    ///
    /// Buffers in use still return, and a waiter can still collect memory that was granted to it.
    pub(crate) fn fail_waiters(&self) {
        let wakers: Vec<Waker> = {
            let mut state = self.state.lock();
            let accumulated: u64 = state.waiters.iter().map(|w| w.accumulated_bytes).sum();
            state.unallocated += accumulated as i64;
            self.waiting.store(0, Ordering::Relaxed);
            state.waiters.drain(..).map(|w| w.waker).collect()
        };
        wake_all(wakers);
    }

    /// Returns the number of callers that wait for memory.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Records that a caller that does not wait found no memory of this size. Returns whether the
    /// caller has to notify the sender, which knows of no earlier refusal.
    pub(crate) fn record_refusal(&self, size: usize) -> bool {
        self.refused_size.swap(size.max(1), Ordering::Relaxed) == 0
    }

    /// Returns whether callers lack memory: they wait for it, or it was refused to one that does
    /// not wait and is still not free.
    pub(crate) fn is_exhausted(&self) -> bool {
        if self.waiting() > 0 {
            return true;
        }
        if self.refused_size.load(Ordering::Relaxed) == 0 {
            return false;
        }
        // Cleared before the memory is looked at: a caller that is refused after this line notifies
        // the sender again.
        let size = self.refused_size.swap(0, Ordering::Relaxed);
        let is_free = {
            let state = self.state.lock();
            let free = state.free.len() as i64 * self.poolable_size as i64;
            state.unallocated + free >= size as i64
        };
        if !is_free {
            self.refused_size.store(size, Ordering::Relaxed);
        }
        !is_free
    }

    /// Returns the bytes that are not in use; 0 while usage exceeds the limit.
    pub(crate) fn available_memory(&self) -> u64 {
        self.snapshot().available_bytes
    }

    /// Returns the bytes that are not in use; negative while usage exceeds the limit.
    pub(crate) fn balance(&self) -> i64 {
        let state = self.state.lock();
        state.unallocated + (state.free.len() * self.poolable_size) as i64
    }

    /// Returns the memory of the pool and its waiters at one moment.
    pub(crate) fn snapshot(&self) -> MemorySnapshot {
        let state = self.state.lock();
        let free = (state.free.len() * self.poolable_size) as i64;
        let awaited = state.waiters.iter().map(|w| w.needed_bytes - w.accumulated_bytes);
        MemorySnapshot {
            total_bytes: self.total_memory,
            available_bytes: u64::try_from(state.unallocated.saturating_add(free)).unwrap_or(0),
            waiting_callers: state.waiters.len(),
            awaited_bytes: awaited.sum(),
        }
    }

    /// Returns the bytes that are neither in use nor in the free list.
    #[cfg(test)]
    pub(crate) fn unallocated_memory(&self) -> i64 {
        self.state.lock().unallocated
    }

    pub(crate) fn total_memory(&self) -> u64 {
        self.total_memory
    }
}

impl PoolState {
    /// Moves free buffers to `dropped` until `needed` bytes are unallocated, or no buffer is left.
    fn release_free_buffers(
        &mut self,
        needed: u64,
        poolable_size: usize,
        dropped: &mut Vec<Vec<u8>>,
    ) {
        while self.unallocated < needed as i64 {
            let Some(buffer) = self.free.pop_back() else {
                break;
            };
            self.unallocated += poolable_size as i64;
            dropped.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests;
