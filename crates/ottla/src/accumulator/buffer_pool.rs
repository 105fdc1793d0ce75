//! `buffer.memory`: handed out first come first served, in pieces as it comes free, never taken.
//!
//! Callers ask through [`BufferPool::allocate`]; whoever drops a [`PooledBuf`] serves the head of the line,
//! piece by piece, and goes on to the next. A waiting or granted future that is dropped gives back and hands
//! on. Nothing on the sender's thread ever waits here.

use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::error::{Error, ErrorKind};
use crate::injected_bugs::inject_bug;
use crate::sync::{Mutex, wake_all};

/// The pool.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct BufferPool {
    state: Mutex<PoolState>,
    total_memory: u64,
    poolable_size: usize,
    /// Waiters, for whoever wants to know without the lock.
    waiting: AtomicUsize,
}

#[derive(Debug, Default)]
struct PoolState {
    /// Memory in no buffer; below zero while a debt is open.
    unallocated: i64,
    /// Buffers of exactly the poolable size. A queue: a stack's top lines bounce between cores.
    free: VecDeque<Vec<u8>>,
    waiters: VecDeque<Waiter>,
    granted: Vec<(u64, u64, Option<Vec<u8>>)>,
    /// Why no more memory is handed out.
    close_reason: Option<Error>,
    next_id: u64,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    needed_bytes: u64,
    accumulated_bytes: u64,
    waker: Waker,
}

/// A buffer and what was accounted for it; dropping it gives that back.
#[derive(Debug)]
#[allow(unreachable_pub, reason = "the doctests of `sim::types` look at it")]
pub struct PooledBuf {
    pub(crate) bytes: Vec<u8>,
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
        if inject_bug!(BufferLeaked) {
            return;
        }
        self.pool.deallocate(self.charge, std::mem::take(&mut self.bytes));
    }
}

impl PooledBuf {
    pub(super) fn pool(&self) -> &Arc<BufferPool> {
        &self.pool
    }

    /// These bytes in as few of these buffers as hold them; the others go back. What no single one holds is
    /// put into memory of its own, accounted for by those it replaces.
    pub(super) fn with_contents(
        full: Vec<PooledBuf>,
        last: PooledBuf,
        bytes: &[&[u8]],
    ) -> PooledBuf {
        let len: usize = bytes.iter().map(|b| b.len()).sum();
        let mut rest = full.into_iter();
        let (mut first, mut last) = match rest.next() {
            Some(first) => (first, Some(last)),
            None => (last, None),
        };
        first.bytes.clear();
        if first.bytes.capacity() < len {
            while first.charge < len as u64 {
                let Some(mut next) = rest.next().or_else(|| last.take()) else { break };
                first.charge += std::mem::take(&mut next.charge);
            }
            first.bytes = Vec::with_capacity(len);
        }
        bytes.iter().for_each(|b| first.bytes.extend_from_slice(b));
        first
    }

    /// The same for what is in the buffers.
    pub(super) fn joined(mut full: Vec<PooledBuf>, mut last: PooledBuf) -> PooledBuf {
        if full.is_empty() {
            return last;
        }
        let contents: Vec<Vec<u8>> =
            (full.iter_mut().chain([&mut last])).map(|b| std::mem::take(&mut b.bytes)).collect();
        let pieces: Vec<&[u8]> = contents.iter().map(Vec::as_slice).collect();
        PooledBuf::with_contents(full, last, &pieces)
    }
}

/// Memory that is accounted for and is no buffer: tokens and callbacks of a closed batch.
#[derive(Debug)]
pub(crate) struct Charge {
    bytes: u64,
    pool: Arc<BufferPool>,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.pool.credit(self.bytes);
    }
}

impl BufferPool {
    /// Accounts for memory that is there already. As with [`charge`](Self::charge), nothing waits.
    pub(crate) fn account(self: &Arc<Self>, bytes: usize) -> Charge {
        self.debit(bytes);
        Charge { bytes: bytes as u64, pool: self.clone() }
    }

    pub(crate) fn new(total: u64, poolable: usize) -> Arc<BufferPool> {
        let state = PoolState {
            unallocated: i64::try_from(total).unwrap_or(i64::MAX),
            ..PoolState::default()
        };
        Arc::new(BufferPool {
            state: Mutex::new(state),
            total_memory: total,
            poolable_size: poolable,
            waiting: AtomicUsize::new(0),
        })
    }

    /// A buffer of this size if it can be had without waiting and nobody waits already.
    pub(crate) fn try_allocate(self: &Arc<Self>, size: usize) -> Result<Option<PooledBuf>, Error> {
        self.check_size(size)?;
        // Dropped after the lock.
        let mut dropped = Vec::new();
        let mut state = self.state.lock();
        if let Some(why) = &state.close_reason {
            return Err(why.clone());
        }
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
        self.allocate_buffer(size as u64, buffer).map(Some)
    }

    /// A buffer of this size, at once and beside the line: for parts of a batch that must not wait. The balance
    /// may go below zero by it; nobody is served until that is repaid.
    pub(crate) fn charge(self: &Arc<Self>, size: usize) -> PooledBuf {
        self.debit(size);
        PooledBuf { bytes: Vec::with_capacity(size), charge: size as u64, pool: self.clone() }
    }

    fn debit(&self, size: usize) {
        let mut dropped = Vec::new();
        let mut state = self.state.lock();
        state.unallocated -= size as i64;
        state.release_free_buffers(0, self.poolable_size, &mut dropped);
        drop(state);
    }

    /// A buffer that nobody accounted for, for a planted bug.
    pub(crate) fn unaccounted_buffer(self: &Arc<Self>, size: usize) -> PooledBuf {
        PooledBuf { bytes: Vec::new(), charge: size as u64, pool: self.clone() }
    }

    /// A buffer of this size, in its turn.
    pub(crate) fn allocate(self: &Arc<Self>, size: usize) -> AllocateFuture {
        AllocateFuture {
            pool: self.clone(),
            size,
            id: None,
            shared_waiter_id: Arc::new(AtomicU64::new(0)),
        }
    }

    /// More than the pool has in all can never be had: say so at once, with both numbers.
    fn check_size(&self, size: usize) -> Result<(), Error> {
        if size as u64 <= self.total_memory {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::RecordTooLarge,
            format!(
                "a buffer of {size} bytes is more than buffer.memory ({}) in all",
                self.total_memory
            ),
        ))
    }

    /// The memory itself, once it is accounted for; a failure to get it gives the account back.
    fn allocate_buffer(
        self: &Arc<Self>,
        charge: u64,
        reused: Option<Vec<u8>>,
    ) -> Result<PooledBuf, Error> {
        let bytes = reused.unwrap_or_default();
        let mut buf = PooledBuf { bytes, charge, pool: self.clone() };
        if buf.bytes.capacity() < charge as usize
            && let Err(e) = buf.bytes.try_reserve_exact(charge as usize)
        {
            return Err(Error::new(ErrorKind::BufferExhausted, "the machine is out of memory")
                .with_source(e));
        }
        Ok(buf)
    }

    /// Takes back what was accounted for and is no buffer.
    fn credit(&self, charge: u64) {
        let (mut wakers, mut dropped) = (Vec::new(), Vec::new());
        {
            let mut state = self.state.lock();
            state.unallocated += charge as i64;
            self.serve_waiters(&mut state, &mut wakers, &mut dropped);
        }
        wake_all(wakers);
    }

    fn deallocate(&self, charge: u64, mut bytes: Vec<u8>) {
        let mut wakers = Vec::new();
        let mut dropped = Vec::new();
        {
            let mut state = self.state.lock();
            let whole =
                charge == self.poolable_size as u64 && bytes.capacity() == self.poolable_size;
            // What pays a debt is not kept as a buffer.
            if whole && charge > 0 && state.unallocated >= 0 {
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

    /// Fills the head of the line, completes it, goes on to the next.
    fn serve_waiters(
        &self,
        state: &mut PoolState,
        wakers: &mut Vec<Waker>,
        dropped: &mut Vec<Vec<u8>>,
    ) {
        if inject_bug!(UnfairAllocation) {
            state.waiters.make_contiguous().sort_by_key(|w| w.needed_bytes - w.accumulated_bytes);
        }
        while let Some(need) = state.waiters.front().map(|w| w.needed_bytes - w.accumulated_bytes) {
            let untouched = state.waiters.front().is_some_and(|w| w.accumulated_bytes == 0);
            let mut buffer = None;
            if untouched && need == self.poolable_size as u64 {
                buffer = state.free.pop_front();
            }
            if buffer.is_none() {
                state.release_free_buffers(need, self.poolable_size, dropped);
                let piece = need.min(u64::try_from(state.unallocated).unwrap_or(0));
                state.unallocated -= piece as i64;
                let Some(head) = state.waiters.front_mut() else {
                    break;
                };
                head.accumulated_bytes += piece;
                if head.accumulated_bytes < head.needed_bytes {
                    break;
                }
            }
            if let Some(w) = state.waiters.pop_front() {
                state.granted.push((w.id, w.needed_bytes, buffer));
                wakers.push(w.waker);
            }
        }
        self.waiting.store(state.waiters.len(), Ordering::Relaxed);
    }

    /// Ends a wait: what was gathered or granted goes back, and to whoever is next.
    fn cancel(&self, id: u64) {
        if inject_bug!(CancelledWaiterKept) {
            return;
        }
        let mut wakers = Vec::new();
        let mut dropped = Vec::new();
        {
            let mut state = self.state.lock();
            if let Some(at) = state.waiters.iter().position(|w| w.id == id) {
                if let Some(w) = state.waiters.remove(at) {
                    state.unallocated += w.accumulated_bytes as i64;
                    dropped.push(Vec::new());
                    // The waker is foreign code: it goes with the others, after the lock.
                    wakers.push(w.waker);
                }
            } else if let Some(at) = state.granted.iter().position(|g| g.0 == id) {
                let (_, charge, buffer) = state.granted.swap_remove(at);
                match buffer {
                    // What pays a debt is not kept as a buffer.
                    Some(b) if state.unallocated >= 0 => state.free.push_back(b),
                    kept => {
                        state.unallocated += charge as i64;
                        dropped.extend(kept);
                    }
                }
            }
            self.serve_waiters(&mut state, &mut wakers, &mut dropped);
        }
        wake_all(wakers);
    }

    /// Takes back a grant that its future did not collect by its deadline.
    pub(crate) fn revoke(&self, ticket: u64) {
        if ticket != 0 {
            self.cancel(ticket);
        }
    }

    /// No more memory is handed out; everyone who waits is told.
    pub(crate) fn close(&self, why: &Error) {
        let wakers: Vec<Waker> = {
            let mut state = self.state.lock();
            state.close_reason.get_or_insert_with(|| why.clone());
            let gathered: u64 = state.waiters.iter().map(|w| w.accumulated_bytes).sum();
            state.unallocated += gathered as i64;
            self.waiting.store(0, Ordering::Relaxed);
            state.waiters.drain(..).map(|w| w.waker).collect()
        };
        wake_all(wakers);
    }

    /// Callers in the line.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Memory in no buffer that is in use; 0 while a debt is open.
    pub(crate) fn available_memory(&self) -> u64 {
        let state = self.state.lock();
        let free = state.free.len() as u64 * self.poolable_size as u64;
        u64::try_from(state.unallocated.saturating_add(free as i64)).unwrap_or(0)
    }

    /// The balance: memory in no buffer that is in use, below zero while a debt is open.
    pub(crate) fn balance(&self) -> i64 {
        let state = self.state.lock();
        state.unallocated + (state.free.len() * self.poolable_size) as i64
    }

    /// Memory in no buffer at all.
    #[cfg(test)]
    pub(crate) fn unallocated_memory(&self) -> i64 {
        self.state.lock().unallocated
    }

    pub(crate) fn total_memory(&self) -> u64 {
        self.total_memory
    }
}

impl PoolState {
    /// Turns free buffers back into plain memory until `need` is there.
    fn release_free_buffers(&mut self, need: u64, poolable: usize, dropped: &mut Vec<Vec<u8>>) {
        while self.unallocated < need as i64 {
            let Some(buffer) = self.free.pop_back() else {
                break;
            };
            self.unallocated += poolable as i64;
            dropped.push(buffer);
        }
    }
}

/// A place in the line.
#[derive(Debug)]
pub(crate) struct AllocateFuture {
    pool: Arc<BufferPool>,
    size: usize,
    id: Option<u64>,
    /// The id, for whoever may have to revoke the grant; 0 while there is none.
    shared_waiter_id: Arc<AtomicU64>,
}

impl AllocateFuture {
    pub(crate) fn shared_waiter_id(&self) -> Arc<AtomicU64> {
        self.shared_waiter_id.clone()
    }
}

impl Future for AllocateFuture {
    type Output = Result<PooledBuf, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let Some(id) = this.id else {
            if let Some(buf) = this.pool.try_allocate(this.size)? {
                return Poll::Ready(Ok(buf));
            }
            // Cloned before the lock: a waker is foreign code.
            let waker = cx.waker().clone();
            let mut state = this.pool.state.lock();
            if let Some(why) = &state.close_reason {
                return Poll::Ready(Err(why.clone()));
            }
            state.next_id += 1;
            let id = state.next_id;
            this.id = Some(id);
            this.shared_waiter_id.store(id, Ordering::Relaxed);
            let need = this.size as u64;
            state.waiters.push_back(Waiter { id, needed_bytes: need, accumulated_bytes: 0, waker });
            // Memory may have come free between the attempt and the lock.
            let (mut wakers, mut dropped) = (Vec::new(), Vec::new());
            this.pool.serve_waiters(&mut state, &mut wakers, &mut dropped);
            drop(state);
            wake_all(wakers);
            return Poll::Pending;
        };
        let (mut old, waker) = (None, cx.waker().clone());
        let mut state = this.pool.state.lock();
        if let Some(at) = state.granted.iter().position(|g| g.0 == id) {
            let (_, charge, buffer) = state.granted.swap_remove(at);
            drop(state);
            this.id = None;
            return Poll::Ready(this.pool.allocate_buffer(charge, buffer));
        }
        if let Some(why) = &state.close_reason {
            return Poll::Ready(Err(why.clone()));
        }
        let place = state.waiters.iter_mut().find(|w| w.id == id);
        let revoked = place.is_none();
        if let Some(w) = place {
            old = Some(std::mem::replace(&mut w.waker, waker));
        }
        drop(state);
        drop(old);
        if revoked {
            return Poll::Ready(Err(Error::new(
                ErrorKind::BufferExhausted,
                "memory came too late",
            )));
        }
        Poll::Pending
    }
}

impl Drop for AllocateFuture {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.pool.cancel(id);
        }
    }
}

#[cfg(test)]
mod tests;
