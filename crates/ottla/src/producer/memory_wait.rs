//! Waiting for memory (`buffer.memory`) within `max.block.ms`.
//!
//! `send` waits here when the buffer pool is exhausted. The pool serves its waiters first come,
//! first served.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::inner::ProducerInner;
use crate::accumulator::buffer_pool::{AllocateFuture, BufferRequest, PooledBuf};
use crate::error::{Error, ErrorKind};
use crate::metrics::Sensor;
use crate::time::Tick;
use crate::wakeup::event_queue::Event;
use crate::wakeup::waiters::DeadlineWaiter;

impl ProducerInner {
    /// Waits for a buffer, behind the callers that waited before.
    pub(super) async fn allocate_buffer(
        &self,
        request: BufferRequest,
        deadline: Tick,
    ) -> Result<PooledBuf, Error> {
        let wait = self.start_memory_wait(request, deadline);
        let start = self.accumulator.env.now();
        // An async caller has no timer of its own: the sender wakes it at its deadline.
        self.accumulator.post(Event::Waiter { deadline, waiter: wait.waiter.clone() }, deadline);
        let result = wait.await;
        self.record_wait_time(Sensor::BufferpoolWait, start);
        if result.as_ref().is_err_and(|e| e.kind() == ErrorKind::BufferExhausted) {
            let now = self.accumulator.env.now();
            self.counters.sensors.record(&[(Sensor::BufferExhausted, 1.0)], now);
        }
        result
    }

    fn start_memory_wait(&self, request: BufferRequest, deadline: Tick) -> MemoryWaitFuture<'_> {
        let allocation = self.accumulator.pool.allocate(request);
        let waiter = DeadlineWaiter::new(allocation.pool_waiter_id());
        MemoryWaitFuture {
            inner: self,
            allocation,
            deadline,
            size: request.charge,
            waiter,
            has_notified_sender: false,
        }
    }

    #[cold]
    fn buffer_exhausted_error(&self, size: usize) -> Error {
        let reason = self.health.unavailable_summary().unwrap_or_else(|| {
            "the brokers take records more slowly than the application sends them; \
             raise buffer.memory or max.block.ms"
                .into()
        });
        let message = format!(
            "buffer.memory ({} bytes) stayed exhausted for max.block.ms ({} ms): \
             could not allocate {size} bytes: {reason}",
            self.accumulator.pool.total_memory(),
            self.config.max_block.as_millis()
        );
        Error::new(ErrorKind::BufferExhausted, message)
    }
}

/// Waits for memory until a deadline.
struct MemoryWaitFuture<'h> {
    inner: &'h ProducerInner,
    allocation: AllocateFuture,
    deadline: Tick,
    size: usize,
    waiter: Arc<DeadlineWaiter>,
    has_notified_sender: bool,
}

impl Future for MemoryWaitFuture<'_> {
    type Output = Result<PooledBuf, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        this.waiter.register(cx.waker());
        match Pin::new(&mut this.allocation).poll(cx) {
            Poll::Ready(Err(e)) if e.kind() == ErrorKind::BufferExhausted => {
                Poll::Ready(Err(this.inner.buffer_exhausted_error(this.size)))
            }
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending if this.inner.accumulator.env.now() >= this.deadline => {
                Poll::Ready(Err(this.inner.buffer_exhausted_error(this.size)))
            }
            Poll::Pending => {
                // Lingering batches hold memory, so the sender must send them now. The event is
                // posted after the first poll, which put this caller into the wait queue: earlier,
                // the sender could find the queue empty and ignore the event.
                if !std::mem::replace(&mut this.has_notified_sender, true) {
                    this.inner.accumulator.post(Event::MemoryWanted, Tick(0));
                }
                Poll::Pending
            }
        }
    }
}
