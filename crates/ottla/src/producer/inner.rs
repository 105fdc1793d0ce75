//! What all clones of a producer share, and how a caller waits for metadata and memory.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use super::Record;
use crate::accumulator::RecordAccumulator;
use crate::accumulator::buffer_pool::{AllocateFuture, PooledBuf};
use crate::accumulator::event_queue::Event;
use crate::accumulator::topics::TopicInfo;
use crate::accumulator::waiters::{DeadlineWaiter, FlushCompletion, FlushFuture};
use crate::client::SharedHealth;
use crate::error::{Error, ErrorKind};
use crate::metrics::{Counters, Metric, MetricValue, Sensor};
use crate::sync::Mutex;
use crate::time::Tick;

/// Shared by all clones.
pub(crate) struct ProducerInner {
    pub(crate) client_id: String,
    pub(crate) accumulator: Arc<RecordAccumulator>,
    pub(crate) health: SharedHealth,
    pub(crate) counters: Arc<Counters>,
    pub(crate) max_request_size: usize,
    /// The smaller of that and `buffer.memory`.
    pub(crate) max_record_size: usize,
    pub(crate) partitioner: Option<Box<dyn super::Partitioner>>,
    /// No code of the application's has a say in what becomes of a record.
    pub(crate) can_use_fast_path: bool,
    pub(crate) max_block: Duration,
    pub(crate) delivery_timeout: Duration,
    pub(crate) sender_thread: Mutex<Option<JoinHandle<()>>>,
    /// The calendar's milliseconds when it was built.
    pub(crate) started_ms: i64,
    pub(crate) pid: u32,
}

/// The longest that dropping a producer waits.
const DROP_TIMEOUT: Duration = Duration::from_secs(5);

/// What a close takes beyond its time-out at most, where a handler does not return.
const CLOSE_GRACE_PERIOD: Duration = Duration::from_secs(2);

impl ProducerInner {
    /// A forked child has the memory of a producer and none of its threads.
    pub(super) fn check_fork(&self) -> Result<(), Error> {
        if std::process::id() == self.pid {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Forked,
            "this producer belongs to the process before fork; make a new one",
        ))
    }

    /// A caller waited since then.
    pub(super) fn record_wait_time(&self, sensor: Sensor, from: Tick) {
        let now = self.accumulator.env.now();
        self.counters.sensors.record(&[(sensor, now.since(from).as_nanos() as f64)], now);
    }

    /// All metrics: what the sensors tell, and what is so just now.
    pub(super) fn metrics(&self) -> Vec<Metric> {
        if self.accumulator.is_closed() {
            return Vec::new();
        }
        let now = self.accumulator.env.now();
        let mut all = self.counters.sensors.read(&self.client_id, now);
        let tags = || vec![("client-id", self.client_id.clone())];
        let mut now_is = |name, description, value: f64| {
            let (group, value) = ("producer-metrics", MetricValue::Number(value));
            all.push(Metric { name, group, description, tags: tags(), value });
        };
        let pool = &self.accumulator.pool;
        now_is("buffer-total-bytes", "buffer.memory", pool.total_memory() as f64);
        let balance = pool.balance() as f64;
        now_is(
            "buffer-available-bytes",
            "What no record occupies; below zero while a debt is open",
            balance,
        );
        now_is("waiting-threads", "Callers that wait for memory", pool.waiting() as f64);
        let load = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
        let in_flight = load(&self.counters.requests_in_flight);
        now_is("requests-in-flight", "Requests without an answer", in_flight as f64);
        let age = match load(&self.counters.last_metadata_tick) {
            0 => f64::NAN,
            at => now.since(Tick(at)).as_secs_f64(),
        };
        now_is("metadata-age", "Seconds since metadata came", age);
        let totals = self.counters.totals();
        let open = totals.connection_creation_total.saturating_sub(totals.connection_close_total);
        now_is("connection-count", "Connections", open as f64);
        let mut info = |name, description, value| {
            all.push(Metric { name, group: "app-info", description, tags: tags(), value });
        };
        let version = env!("CARGO_PKG_VERSION").to_owned();
        info("version", "The version of ottla", MetricValue::Text(version));
        let commit = option_env!("OTTLA_COMMIT").unwrap_or("unknown").to_owned();
        info("commit-id", "The commit it was built from", MetricValue::Text(commit));
        let started = MetricValue::Number(self.started_ms as f64);
        info(
            "start-time-ms",
            "When the producer was built, in milliseconds since the epoch",
            started,
        );
        let (name, group) = ("count", "kafka-metrics-count");
        let value = MetricValue::Number(all.len() as f64 + 1.0);
        let description = "How many metrics there are";
        all.push(Metric { name, group, description, tags: tags(), value });
        all
    }

    /// When a caller that begins now has waited for `max.block.ms`.
    pub(super) fn max_block_deadline(&self) -> Tick {
        self.accumulator.env.now().after(self.max_block)
    }

    pub(super) fn begin_close(&self, timeout: Duration) {
        self.accumulator.closed.store(true, Ordering::Relaxed);
        let by = self.accumulator.env.now().after(timeout);
        self.accumulator.topics.notify_error_all(&Error::closed());
        self.accumulator.pool.close(&self.accumulator.closed_while_waiting_error());
        self.accumulator.post(Event::Close(by), Tick(0));
    }

    pub(super) fn close(&self, timeout: Duration) -> Result<(), Error> {
        self.check_fork()?;
        let inside = self.accumulator.caller_context.is_in_callback();
        self.begin_close(if inside { Duration::ZERO } else { timeout });
        if inside {
            return Ok(());
        }
        // Everything is settled when the flush is answered, and the thread is about to end. A handler of the
        // application's that never returns must not hold its caller for ever.
        let by = self.accumulator.env.now().after(timeout).after(CLOSE_GRACE_PERIOD);
        let flush = Arc::<FlushCompletion>::default();
        self.accumulator.post(Event::Flush(flush.clone()), Tick(0));
        let settled =
            self.accumulator.caller_context.block_on(FlushFuture(flush), Some(by)).is_ok();
        let thread = self.sender_thread.lock().take();
        if !settled {
            tracing::warn!(
                client = self.client_id,
                "a callback or handler does not return; its thread is left to itself"
            );
            return Ok(());
        }
        match thread.map(JoinHandle::join) {
            Some(Err(_)) => Err(Error::new(ErrorKind::Internal, "the producer's thread panicked")),
            _ => Ok(()),
        }
    }

    pub(super) fn topic_blocking(&self, name: &str) -> Result<Arc<TopicInfo>, Error> {
        let record = Record::to(name);
        if let Some(topic) = self.find_topic(name, None) {
            return Ok(topic);
        }
        if self.accumulator.caller_context.is_in_callback() {
            self.accumulator.post(Event::TopicWanted(name.into()), Tick(0));
            let what = format!("topic {name} is not known yet, and a callback cannot wait for it");
            return Err(Error::new(ErrorKind::NoMetadata, what));
        }
        let waiting = std::pin::pin!(self.wait_on_metadata(&record, self.max_block_deadline()));
        match self.accumulator.caller_context.block_on(waiting, None) {
            Ok(result) => result,
            Err(_) => Err(Error::new(ErrorKind::Internal, "an endless wait ended")),
        }
    }

    pub(super) async fn topic_async(&self, name: &str) -> Result<Arc<TopicInfo>, Error> {
        self.wait_on_metadata(&Record::to(name), self.max_block_deadline()).await
    }

    /// The topic, once its partitions are known and the one that is asked for is among them.
    pub(super) async fn wait_on_metadata(
        &self,
        record: &Record<'_>,
        by: Tick,
    ) -> Result<Arc<TopicInfo>, Error> {
        let (wait, from) = (self.start_topic_wait(record, by)?, self.accumulator.env.now());
        self.accumulator.post(Event::Waiter(by, wait.waiter.clone()), by);
        let topic = wait.await;
        self.record_wait_time(Sensor::MetadataWait, from);
        topic
    }

    fn start_topic_wait<'h>(
        &'h self,
        record: &Record<'_>,
        by: Tick,
    ) -> Result<TopicWaitFuture<'h>, Error> {
        validate_topic_name(record.topic)?;
        let name: Arc<str> = record.topic.into();
        let wait = DeadlineWaiter::new(Arc::default());
        let partition = record.partition;
        Ok(TopicWaitFuture {
            inner: self,
            name,
            partition,
            deadline: by,
            first_round: None,
            waiter: wait,
            last_error: None,
        })
    }

    /// Memory, in its turn.
    pub(super) async fn allocate_buffer(&self, size: usize, by: Tick) -> Result<PooledBuf, Error> {
        let (wait, from) = (self.start_memory_wait(size, by), self.accumulator.env.now());
        self.accumulator.post(Event::Waiter(by, wait.waiter.clone()), by);
        let memory = wait.await;
        self.record_wait_time(Sensor::BufferpoolWait, from);
        if memory.as_ref().is_err_and(|e| e.kind() == ErrorKind::BufferExhausted) {
            self.counters
                .sensors
                .record(&[(Sensor::BufferExhausted, 1.0)], self.accumulator.env.now());
        }
        memory
    }

    fn start_memory_wait(&self, size: usize, by: Tick) -> MemoryWaitFuture<'_> {
        let allocate = self.accumulator.pool.allocate(size);
        let wait = DeadlineWaiter::new(allocate.shared_waiter_id());
        MemoryWaitFuture {
            inner: self,
            allocation: allocate,
            deadline: by,
            size,
            waiter: wait,
            has_notified_sender: false,
        }
    }

    fn buffer_exhausted_error(&self, size: usize) -> Error {
        let why = self.health.unreachable_summary().unwrap_or_else(|| {
            "the brokers take records more slowly than they come; raise buffer.memory or max.block.ms".into()
        });
        let ms = self.max_block.as_millis();
        Error::new(
            ErrorKind::BufferExhausted,
            format!(
                "no {size} bytes of buffer.memory ({}) came free within max.block.ms ({ms} ms): {why}",
                self.accumulator.pool.total_memory()
            ),
        )
    }
}

impl Drop for ProducerInner {
    fn drop(&mut self) {
        if std::process::id() != self.pid {
            // The thread is the parent's: joining it here would wait for ever.
            std::mem::forget(self.sender_thread.lock().take());
            return;
        }
        if self.accumulator.is_closed() && self.sender_thread.lock().is_none() {
            return;
        }
        let wait = self.delivery_timeout.min(DROP_TIMEOUT);
        let unwinding = std::thread::panicking();
        if unwinding || self.accumulator.caller_context.is_in_callback() {
            self.begin_close(if unwinding { Duration::ZERO } else { wait });
            return;
        }
        let used = self.accumulator.pool.total_memory() - self.accumulator.pool.available_memory();
        if used > 0 {
            tracing::warn!(
                client = self.client_id,
                bytes = used,
                "producer dropped with records under way; waiting at most {} ms for them",
                wait.as_millis()
            );
        }
        let _ = self.close(wait);
    }
}

/// Kafka's rule for topic names: 1 to 249 of letters, digits, `.`, `_`, `-`, and neither `.` nor `..`.
///
/// # Errors
/// [`ErrorKind::InvalidTopic`], naming what is wrong.
pub fn validate_topic_name(name: &str) -> Result<(), Error> {
    let bad = |why: &str| {
        Err(Error::new(ErrorKind::InvalidTopic, format!("the topic name {name:?} {why}")))
    };
    if name.is_empty() {
        return bad("is empty");
    }
    if name.len() > 249 {
        return bad("is longer than 249 characters");
    }
    if name == "." || name == ".." {
        return bad("is not allowed");
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if let Some(c) = name.chars().find(|c| !legal(*c)) {
        return bad(&format!("contains {c:?}; only letters, digits, '.', '_' and '-' are allowed"));
    }
    Ok(())
}

/// Waits until a topic's partitions are known.
struct TopicWaitFuture<'h> {
    inner: &'h ProducerInner,
    name: Arc<str>,
    partition: Option<i32>,
    deadline: Tick,
    /// News before this round is none.
    first_round: Option<u64>,
    waiter: Arc<DeadlineWaiter>,
    last_error: Option<Error>,
}

impl TopicWaitFuture<'_> {
    fn metadata_timeout_error(&self) -> Error {
        let ms = self.inner.max_block.as_millis();
        let what = match (self.partition, self.inner.accumulator.topics.get(&self.name)) {
            (Some(p), Some(topic)) => {
                let n = topic.partitions.len();
                let message = format!(
                    "topic {} has no partition {p}, only 0 to {}, and none came within max.block.ms ({ms} ms)",
                    self.name,
                    n.saturating_sub(1)
                );
                return Error::new(ErrorKind::MetadataTimeout, message);
            }
            _ => format!("no metadata for topic {} within max.block.ms ({ms} ms)", self.name),
        };
        let why = match (&self.last_error, self.inner.health.unreachable_summary()) {
            (_, Some(complaint)) => complaint,
            (Some(e), None) => e.to_string(),
            (None, None) => match self.inner.health.last_failure() {
                Some(last) => format!("the brokers did not tell; what failed last: {last}"),
                None => "the brokers did not answer".to_owned(),
            },
        };
        let e = Error::new(ErrorKind::MetadataTimeout, format!("{what}: {why}"));
        match &self.last_error {
            Some(cause) => e.with_source(cause.clone()),
            None => e,
        }
    }
}

impl Future for TopicWaitFuture<'_> {
    type Output = Result<Arc<TopicInfo>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let acc = &this.inner.accumulator;
        this.waiter.register(cx.waker());
        let (round, last) = acc.topics.register(&this.name, cx.waker());
        if acc.is_closed() {
            return Poll::Ready(Err(acc.closed_while_waiting_error()));
        }
        if let Some(topic) = this.inner.find_topic(&this.name, this.partition) {
            return Poll::Ready(Ok(topic));
        }
        // News from before this caller came is not an answer to it.
        let first = *this.first_round.get_or_insert(round);
        if round > first {
            if let Some(e) = &last
                && !e.is_retriable()
            {
                return Poll::Ready(Err(e.clone()));
            }
            this.last_error = last;
        }
        // Again at each news that did not suffice; the metadata's backoff bounds it.
        acc.post(Event::TopicWanted(this.name.clone()), Tick(0));
        if acc.env.now() >= this.deadline {
            return Poll::Ready(Err(this.metadata_timeout_error()));
        }
        Poll::Pending
    }
}

/// Waits for memory, in its turn.
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
                // Lingering batches hold memory: the sender is to let them go (once it is in the line).
                if !std::mem::replace(&mut this.has_notified_sender, true) {
                    this.inner.accumulator.post(Event::MemoryWanted, Tick(0));
                }
                Poll::Pending
            }
        }
    }
}
