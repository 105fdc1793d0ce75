//! The transactional calls of a producer (KIP-98): Kafka's `initTransactions`, `beginTransaction`,
//! `sendOffsetsToTransaction`, `commitTransaction` and `abortTransaction`.
//!
//! Each call posts an event to the sender, whose `transactions/` does the work, and waits.

use std::fmt;
use std::sync::Arc;

use super::Producer;
use super::inner::ProducerInner;
use crate::consumer_offsets::{ConsumedOffsets, ConsumerGroupMetadata, OffsetAndMetadata};
use crate::error::{Error, ErrorKind};
use crate::injected_bugs::inject_bug;
use crate::metrics::Sensor;
use crate::sync::Mutex;
use crate::time::Tick;
use crate::wakeup::event_queue::Event;
use crate::wakeup::transaction_call::{CallFuture, CallResult, TransactionCall};
use crate::wakeup::waiters::DeadlineWaiter;

/// The transactional calls that a producer remembers.
#[derive(Debug, Default)]
pub(super) struct PendingCalls {
    /// A call of `init_transactions` that has no result yet. A repeated call waits for it.
    init: Mutex<Option<Arc<CallResult>>>,
}

/// The transactional calls.
impl Producer {
    /// Gets a producer id for the transactional id, and ends the transactions of earlier producers
    /// with it (Kafka's `initTransactions`). A transactional producer calls it once, first.
    ///
    /// It waits until the transactions of an earlier producer are complete. That producer is fenced
    /// from then on: its calls fail with [`ErrorKind::Fenced`]. Blocks for at most `max.block.ms`;
    /// inside an async executor, use [`init_transactions_async`](Self::init_transactions_async).
    ///
    /// ```no_run
    /// use ottla::{Producer, Record};
    ///
    /// # fn main() -> Result<(), ottla::Error> {
    /// let producer = Producer::builder()
    ///     .bootstrap_servers("localhost:9092")
    ///     .transactional_id("orders-1")
    ///     .build()?;
    /// producer.init_transactions()?;
    ///
    /// let mut transaction = producer.begin_transaction()?;
    /// producer.send(Record::to("orders").key("customer-7").value("3 apples"))?;
    /// producer.send(Record::to("stock").key("apples").value("-3"))?;
    /// transaction.commit()?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// - [`ErrorKind::TransactionTimeout`]: call it again.
    /// - [`ErrorKind::InvalidTransactionState`]: it was called before, or the producer has no
    ///   `transactional.id`.
    /// - [`ErrorKind::Authorization`]: the principal may not use the transactional id. The call can
    ///   be repeated after the grant.
    /// - [`ErrorKind::Authentication`], [`ErrorKind::Config`]: a broker has rejected the client and
    ///   no other is connected, or no server fits these settings. The call can be made again.
    /// - [`ErrorKind::WouldDeadlock`] inside a callback; [`ErrorKind::Closed`], or the error that
    ///   ended the producer.
    pub fn init_transactions(&self) -> Result<(), Error> {
        let wait = self.inner.wait_for_init()?;
        let call = wait.call.clone();
        let result = self.inner.wait_blocking(wait);
        self.inner.init_ended(&call, &result);
        result
    }

    /// Like [`init_transactions`](Self::init_transactions), without blocking.
    ///
    /// A future that is dropped stops nothing: call it again to wait for the result.
    ///
    /// # Errors
    /// The errors of [`init_transactions`](Self::init_transactions).
    pub async fn init_transactions_async(&self) -> Result<(), Error> {
        let wait = self.inner.wait_for_init()?;
        let call = wait.call.clone();
        let result = self.inner.wait_async(wait).await;
        self.inner.init_ended(&call, &result);
        result
    }

    /// Begins a transaction (Kafka's `beginTransaction`). Every record that the producer then
    /// accepts, from any clone and thread, is part of it, until it is committed or aborted.
    ///
    /// It waits for the end of a transaction that was dropped before it had ended. Blocks for at
    /// most `max.block.ms`; inside an async executor, use
    /// [`begin_transaction_async`](Self::begin_transaction_async).
    ///
    /// # Errors
    /// - [`ErrorKind::InvalidTransactionState`]: `init_transactions` was not called, or another
    ///   transaction is open.
    /// - [`ErrorKind::TransactionTimeout`]: no transaction has begun; call it again.
    /// - [`ErrorKind::Authentication`]: the epoch has to be bumped first, a broker has rejected
    ///   this client, and no other is connected. No transaction has begun; call it again.
    /// - [`ErrorKind::WouldDeadlock`] inside a callback; [`ErrorKind::Closed`], or the error that
    ///   ended the producer.
    pub fn begin_transaction(&self) -> Result<Transaction, Error> {
        let begin = self.inner.begin()?;
        let result = self.inner.wait_blocking(begin.wait());
        begin.end(result)
    }

    /// Like [`begin_transaction`](Self::begin_transaction), without blocking.
    ///
    /// If the future is dropped, no transaction begins, or it is aborted.
    ///
    /// # Errors
    /// The errors of [`begin_transaction`](Self::begin_transaction).
    pub async fn begin_transaction_async(&self) -> Result<Transaction, Error> {
        let begin = self.inner.begin()?;
        let result = self.inner.wait_async(begin.wait()).await;
        begin.end(result)
    }
}

/// A wait for a transactional call.
struct Wait {
    call: Arc<CallResult>,
    name: &'static str,
    /// What a time-out means for the caller.
    after_timeout: &'static str,
    sensor: Sensor,
}

/// What a time-out means for a caller whose next call waits for the same result.
const CONTINUES: &str = "it continues, and the same call can be made again";

/// A `begin_transaction` that waits. The drop cancels it.
struct Begin {
    inner: Arc<ProducerInner>,
    call: Arc<CallResult>,
    has_begun: bool,
}

impl Begin {
    fn wait(&self) -> Wait {
        Wait {
            call: self.call.clone(),
            name: "begin_transaction",
            after_timeout: "no transaction has begun, and the call can be made again",
            sensor: Sensor::TxnBegin,
        }
    }

    fn end(mut self, result: Result<(), Error>) -> Result<Transaction, Error> {
        result?;
        self.has_begun = true;
        Ok(Transaction {
            inner: self.inner.clone(),
            begun_by: self.call.clone(),
            pending: None,
            has_ended: false,
        })
    }
}

impl Drop for Begin {
    fn drop(&mut self) {
        if !self.has_begun {
            self.inner.post_call(TransactionCall::Abandon(self.call.clone()));
        }
    }
}

/// An open transaction, from [`Producer::begin_transaction`].
///
/// Records that the producer accepts while it is open are part of it. Consumers with
/// `isolation.level=read_committed` see all of them after the [`commit`](Self::commit), and none
/// after an [`abort`](Self::abort).
///
/// Dropping a transaction without a commit aborts it, in the background; the next
/// [`begin_transaction`](Producer::begin_transaction) waits for the end of the abort.
///
/// If a record fails, or `send` does not accept one, the transaction fails: the next calls return
/// an error whose [`requires_abort`](Error::requires_abort) is true, with that failure as its
/// `source`. [`ErrorKind::Full`] and [`ErrorKind::NoMetadata`] of `try_send` are no such failures:
/// the same call can be made again.
///
/// ```no_run
/// use ottla::{ConsumerGroupMetadata, Error, OffsetAndMetadata, Producer, Record};
///
/// /// Consumes, transforms and produces: each input record counts exactly once.
/// fn process(producer: &Producer, input: &[(i64, &str)]) -> Result<(), Error> {
///     let mut transaction = producer.begin_transaction()?;
///     for (_, value) in input {
///         producer.enqueue(Record::to("output").value(value.to_uppercase().as_str()))?;
///     }
///     let next = input.last().map_or(0, |(offset, _)| offset + 1);
///     let offsets = [OffsetAndMetadata::new("input", 0, next)];
///     transaction.send_offsets(&offsets, &ConsumerGroupMetadata::new("upper-case"))?;
///     match transaction.commit() {
///         // The same input has to be processed again.
///         Err(e) if e.requires_abort() => transaction.abort(),
///         result => result,
///     }
/// }
/// ```
#[must_use = "a transaction that is dropped without a commit is aborted"]
pub struct Transaction {
    inner: Arc<ProducerInner>,
    /// The call that has begun it.
    begun_by: Arc<CallResult>,
    /// The commit or abort that has no result yet.
    pending: Option<PendingEnd>,
    has_ended: bool,
}

#[derive(Debug)]
struct PendingEnd {
    is_commit: bool,
    call: Arc<CallResult>,
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("producer", &self.inner.config.client.client_id)
            .field("has_ended", &self.has_ended)
            .finish_non_exhaustive()
    }
}

impl Transaction {
    /// Adds the offsets of consumed records to the transaction (Kafka's
    /// `sendOffsetsToTransaction`): the group's coordinator stores them when the transaction is
    /// committed.
    ///
    /// Each offset is that of the next record to read. Blocks until the coordinator has the
    /// offsets, for at most `max.block.ms`. Without offsets it does nothing.
    ///
    /// # Errors
    /// - An error whose [`requires_abort`](Error::requires_abort) is true: the transaction has
    ///   failed. Its `source` says why: the member has left the group, or may not use it, or an
    ///   earlier record has failed.
    /// - [`ErrorKind::TransactionTimeout`]: the offsets may still be added; abort the transaction.
    /// - [`ErrorKind::InvalidTransactionState`]: the transaction has ended, or the group is
    ///   incomplete.
    /// - [`ErrorKind::WouldDeadlock`] inside a callback; [`ErrorKind::Closed`], or the error that
    ///   ended the producer.
    pub fn send_offsets(
        &self,
        offsets: &[OffsetAndMetadata],
        group: &ConsumerGroupMetadata,
    ) -> Result<(), Error> {
        match self.begin_send_offsets(offsets, group)? {
            Some(wait) => self.inner.wait_blocking(wait),
            None => Ok(()),
        }
    }

    /// Like [`send_offsets`](Self::send_offsets), without blocking.
    ///
    /// A future that is dropped after its first poll may have added the offsets.
    ///
    /// # Errors
    /// The errors of [`send_offsets`](Self::send_offsets).
    pub async fn send_offsets_async(
        &self,
        offsets: &[OffsetAndMetadata],
        group: &ConsumerGroupMetadata,
    ) -> Result<(), Error> {
        match self.begin_send_offsets(offsets, group)? {
            Some(wait) => self.inner.wait_async(wait).await,
            None => Ok(()),
        }
    }

    fn begin_send_offsets(
        &self,
        offsets: &[OffsetAndMetadata],
        group: &ConsumerGroupMetadata,
    ) -> Result<Option<Wait>, Error> {
        self.inner.check_transactional("Transaction::send_offsets")?;
        group.check()?;
        if self.has_ended || self.pending.is_some() {
            return Err(has_ended("send_offsets"));
        }
        if offsets.is_empty() {
            return Ok(None);
        }
        let consumed = ConsumedOffsets { group: group.clone(), offsets: offsets.to_vec() };
        let call = Arc::<CallResult>::default();
        self.inner.post_call(TransactionCall::SendOffsets(consumed, call.clone()));
        Ok(Some(Wait {
            call,
            name: "send_offsets",
            after_timeout: "the offsets may still be added; abort the transaction",
            sensor: Sensor::TxnSendOffsets,
        }))
    }

    /// Sends all records of the transaction, waits until each is acknowledged, and commits (Kafka's
    /// `commitTransaction`).
    ///
    /// Blocks for at most `max.block.ms`; inside an async executor, use
    /// [`commit_async`](Self::commit_async).
    ///
    /// # Errors
    /// - [`ErrorKind::TransactionTimeout`]: the commit continues in the background. Only the same
    ///   call may follow; it waits for the result. If the transaction is dropped instead, the next
    ///   [`begin_transaction`](Producer::begin_transaction) waits.
    /// - An error whose [`requires_abort`](Error::requires_abort) is true: the transaction has
    ///   failed. Its `source` says why.
    /// - [`ErrorKind::InvalidTransactionState`]: the transaction has ended, or an abort is pending.
    /// - [`ErrorKind::WouldDeadlock`] inside a callback; [`ErrorKind::Fenced`] or another fatal
    ///   error: the producer can do nothing more.
    pub fn commit(&mut self) -> Result<(), Error> {
        let wait = self.begin_end(true)?;
        let result = self.inner.wait_blocking(wait);
        self.after_end(result)
    }

    /// Like [`commit`](Self::commit), without blocking.
    ///
    /// A future that is dropped stops nothing: the commit continues, and the same call waits for
    /// its result.
    ///
    /// # Errors
    /// The errors of [`commit`](Self::commit).
    pub async fn commit_async(&mut self) -> Result<(), Error> {
        let wait = self.begin_end(true)?;
        let result = self.inner.wait_async(wait).await;
        self.after_end(result)
    }

    /// Aborts the transaction (Kafka's `abortTransaction`). Records that were not sent yet fail
    /// with [`ErrorKind::TransactionAborted`]; no `read_committed` consumer sees the others.
    ///
    /// Blocks for at most `max.block.ms`; inside an async executor, use
    /// [`abort_async`](Self::abort_async).
    ///
    /// # Errors
    /// - [`ErrorKind::TransactionTimeout`]: the abort continues in the background. Only the same
    ///   call may follow; it waits for the result.
    /// - [`ErrorKind::InvalidTransactionState`]: the transaction has ended, or a commit is pending.
    /// - [`ErrorKind::WouldDeadlock`] inside a callback; [`ErrorKind::Fenced`] or another fatal
    ///   error: the producer can do nothing more.
    pub fn abort(&mut self) -> Result<(), Error> {
        let wait = self.begin_end(false)?;
        let result = self.inner.wait_blocking(wait);
        self.after_end(result)
    }

    /// Like [`abort`](Self::abort), without blocking.
    ///
    /// A future that is dropped stops nothing: the abort continues, and the same call waits for its
    /// result.
    ///
    /// # Errors
    /// The errors of [`abort`](Self::abort).
    pub async fn abort_async(&mut self) -> Result<(), Error> {
        let wait = self.begin_end(false)?;
        let result = self.inner.wait_async(wait).await;
        self.after_end(result)
    }

    /// Posts the commit or abort, unless the same call is pending.
    fn begin_end(&mut self, is_commit: bool) -> Result<Wait, Error> {
        let (name, sensor) =
            if is_commit { ("commit", Sensor::TxnCommit) } else { ("abort", Sensor::TxnAbort) };
        self.inner.check_fork()?;
        let repeated = self.pending.as_ref().filter(|pending| pending.is_commit == is_commit);
        // The result counts, although the producer may have been closed or fenced since then.
        if let Some(PendingEnd { call, .. }) = repeated
            && call.is_complete()
        {
            return Ok(Wait { call: call.clone(), name, after_timeout: CONTINUES, sensor });
        }
        self.inner.check_transactional(&format!("Transaction::{name}"))?;
        if self.has_ended {
            return Err(has_ended(name));
        }
        let call = match &self.pending {
            Some(pending) if pending.is_commit == is_commit => pending.call.clone(),
            Some(_) => {
                let other = if is_commit { "abort" } else { "commit" };
                let message = format!(
                    "{name} failed: a {other} of the transaction is pending, and only the {other} \
                     can be repeated"
                );
                return Err(Error::new(ErrorKind::InvalidTransactionState, message));
            }
            None => {
                let call = Arc::<CallResult>::default();
                self.pending = Some(PendingEnd { is_commit, call: call.clone() });
                let event =
                    if is_commit { TransactionCall::Commit } else { TransactionCall::Abort };
                self.inner.post_call(event(call.clone()));
                call
            }
        };
        Ok(Wait { call, name, after_timeout: CONTINUES, sensor })
    }

    /// Takes over the result of a commit or abort.
    fn after_end(&mut self, result: Result<(), Error>) -> Result<(), Error> {
        match &result {
            Ok(()) => self.has_ended = true,
            // The call is still pending.
            Err(e) if e.kind() == ErrorKind::TransactionTimeout => return result,
            Err(e) => self.has_ended = e.is_fatal(),
        }
        self.pending = None;
        result
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if inject_bug!(DropIgnored, !self.has_ended) {
            self.inner.post_call(TransactionCall::Abandon(self.begun_by.clone()));
        }
    }
}

fn has_ended(call: &str) -> Error {
    let message = format!("{call} failed: the transaction has ended, or is about to end");
    Error::new(ErrorKind::InvalidTransactionState, message)
}

impl ProducerInner {
    /// Fails if a transactional call cannot be made now.
    fn check_transactional(&self, call: &str) -> Result<(), Error> {
        self.check_fork()?;
        if self.config.sender.transactions.is_none() {
            let message = format!("{call} failed: the producer has no transactional.id; set it");
            return Err(Error::new(ErrorKind::InvalidTransactionState, message));
        }
        self.accumulator.caller_context.check_can_block(call)?;
        let lifecycle = self.accumulator.lifecycle();
        if lifecycle.is_running() { Ok(()) } else { Err(lifecycle.error_for_new_call()) }
    }

    /// Posts the call. Does nothing in a forked child, whose queue may be locked forever: the drop
    /// of a transaction comes here, too.
    fn post_call(&self, call: TransactionCall) {
        if self.is_forked() {
            return;
        }
        self.accumulator.post(Event::Transaction(Box::new(call)), Tick(0));
    }

    fn wait_for_init(&self) -> Result<Wait, Error> {
        self.check_transactional("Producer::init_transactions")?;
        let mut pending = self.pending_calls.init.lock();
        let is_new = pending.is_none();
        let call = pending.get_or_insert_default().clone();
        drop(pending);
        if is_new {
            self.post_call(TransactionCall::Init(call.clone()));
        }
        let name = "init_transactions";
        Ok(Wait { call, name, after_timeout: CONTINUES, sensor: Sensor::TxnInit })
    }

    /// Forgets the call, unless it is still pending, or another caller has made a new one.
    fn init_ended(&self, call: &Arc<CallResult>, result: &Result<(), Error>) {
        let is_pending = matches!(result, Err(e) if e.kind() == ErrorKind::TransactionTimeout);
        if !is_pending {
            self.pending_calls.init.lock().take_if(|pending| Arc::ptr_eq(pending, call));
        }
    }

    fn begin(self: &Arc<Self>) -> Result<Begin, Error> {
        self.check_transactional("Producer::begin_transaction")?;
        let call = Arc::<CallResult>::default();
        self.post_call(TransactionCall::Begin(call.clone()));
        Ok(Begin { inner: self.clone(), call, has_begun: false })
    }

    fn call_future(&self, call: Arc<CallResult>) -> CallFuture {
        let deadline = self.max_block_deadline();
        let waiter = DeadlineWaiter::new(Arc::default());
        CallFuture { call, waiter, deadline, env: self.accumulator.env.clone() }
    }

    fn wait_blocking(&self, wait: Wait) -> Result<(), Error> {
        let start = self.accumulator.env.now();
        let future = self.call_future(wait.call);
        let deadline = future.deadline;
        let result = self.accumulator.caller_context.block_on(future, Some(deadline));
        self.record_wait_time(wait.sensor, start);
        match result {
            Ok(Some(result)) => result,
            Ok(None) | Err(_) => Err(self.transaction_timeout(wait.name, wait.after_timeout)),
        }
    }

    async fn wait_async(&self, wait: Wait) -> Result<(), Error> {
        let start = self.accumulator.env.now();
        let future = self.call_future(wait.call);
        // An async caller has no timer of its own: the sender wakes it at its deadline.
        let (deadline, waiter) = (future.deadline, future.waiter.clone());
        self.accumulator.post(Event::Waiter { deadline, waiter }, deadline);
        let result = future.await;
        self.record_wait_time(wait.sensor, start);
        result.unwrap_or_else(|| Err(self.transaction_timeout(wait.name, wait.after_timeout)))
    }

    fn transaction_timeout(&self, call: &str, after_timeout: &str) -> Error {
        let ms = self.config.max_block.as_millis();
        let reason = self.health.unavailable_summary().or_else(|| self.health.coordinator_error());
        let reason = match reason {
            Some(reason) => reason,
            None => "no response from the coordinator of the transaction, or records are not \
                     acknowledged yet"
                .to_owned(),
        };
        let message =
            format!("{call} did not end within max.block.ms ({ms} ms): {reason}; {after_timeout}");
        Error::new(ErrorKind::TransactionTimeout, message)
    }

    /// Fails the open transaction because `send` did not accept a record of it (CASES KP10).
    #[cold]
    pub(super) fn fail_transaction(&self, error: &Error) {
        let is_failure = match error.kind() {
            // The same call can be made again, or was not allowed at all.
            ErrorKind::Full
            | ErrorKind::NoMetadata
            | ErrorKind::InvalidTransactionState
            | ErrorKind::TransactionFailed
            | ErrorKind::Closed
            | ErrorKind::Forked => false,
            _ => !error.is_fatal(),
        };
        if is_failure && self.config.sender.transactions.is_some() {
            self.post_call(TransactionCall::SendFailed(error.clone()));
        }
    }
}
