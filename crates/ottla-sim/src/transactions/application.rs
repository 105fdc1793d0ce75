//! An instance of the application: it sends transactions, repeats calls that time out, drops
//! futures and guards, and starts again after a fatal error.
#![allow(clippy::disallowed_types)]

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use ottla::sim::{SimMachine, Tick};
use ottla::{
    ConsumerGroupMetadata, Error, ErrorKind, OffsetAndMetadata, Producer, Record, Transaction,
};
use ottla_protocol::wire::TestRng;

use super::clients::Processes;
use super::history::{
    AcceptedRecord, FencedCall, Incarnation, OffsetsOutcome, TimedCall, TransactionEnd,
    TransactionHistories,
};
use crate::environment::group_id;
use crate::executor::{AwaitMode, Timers, await_or_drop};
use crate::history::encode_token;
use crate::scenario::Scenario;
use crate::trace::trace;

/// The time after the faults in which a call may still time out: longer than any request, backoff
/// or pause that began before.
const RECOVERY_TIME: Duration = Duration::from_secs(30);
/// The pause before a process starts again, and between attempts to abort.
const RESTART_PAUSE: Duration = Duration::from_millis(200);

/// State that the instances share with the simulation.
#[derive(Clone)]
pub(super) struct SharedState {
    pub(super) scenario: Scenario,
    /// A machine without a client, as the clock.
    pub(super) clock: SimMachine,
    pub(super) timers: Timers,
    pub(super) processes: Processes,
    pub(super) history: Rc<RefCell<TransactionHistories>>,
    /// When every fault ended; `Tick::NEVER` before.
    pub(super) healed_at: Rc<Cell<Tick>>,
}

/// A running process of an instance.
struct Process {
    client: u32,
    incarnation: usize,
    producer: Producer,
}

/// What an instance does after a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Continue,
    /// The producer can do nothing more.
    Restart,
}

/// One instance of the application.
pub(super) struct Instance {
    number: u64,
    id: u64,
    shared: SharedState,
    rng: TestRng,
    /// The longest pause before a transaction: the transactions of one instance in two spread over
    /// the time with faults.
    max_pause_ms: u64,
}

impl Instance {
    pub(super) fn new(number: u64, shared: SharedState) -> Instance {
        let s = &shared.scenario;
        let mut rng = TestRng::new(s.seed ^ (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let is_slow = rng.next_below(2) == 0;
        let max_pause_ms = if is_slow { 2 * s.heal_after_ms / s.transactions } else { 0 };
        Instance { number, id: number % s.transactional_ids, shared, rng, max_pause_ms }
    }

    /// Runs the scenario's transactions. The last process stays open.
    pub(super) async fn run(mut self) {
        let mut left = self.shared.scenario.transactions;
        while left > 0 {
            let process = self.start_process();
            let is_initialized = self.init(&process).await;
            left -= 1;
            while is_initialized && left > 0 {
                left -= 1;
                let pause = Duration::from_millis(self.rng.next_below(self.max_pause_ms + 1));
                self.pause(pause).await;
                let next = self.run_transaction(&process).await;
                if next == Next::Restart || self.one_in(15) {
                    break;
                }
            }
            if left == 0 && is_initialized {
                return;
            }
            self.stop_process(process).await;
        }
    }

    /// Commits a transaction with a record for each partition, in a new process. All faults have
    /// ended, so it has to succeed.
    pub(super) async fn verify_recovery(mut self) {
        let process = self.start_process();
        if !self.init(&process).await {
            let mut history = self.shared.history.borrow_mut();
            return history.violations.push("init_transactions failed after recovery".to_owned());
        }
        let Some(mut transaction) = self.begin(&process).await else {
            let mut history = self.shared.history.borrow_mut();
            return history.violations.push("begin_transaction failed after recovery".to_owned());
        };
        let txn = self.shared.history.borrow_mut().begin(process.incarnation);
        self.shared.history.borrow_mut().transactions[txn].must_commit = true;
        let s = self.shared.scenario.clone();
        for topic in 0..s.topics {
            for partition in 0..s.partitions as i32 {
                let _ = self.send(&process, txn, (topic, partition), AwaitMode::ToEnd).await;
            }
        }
        let _ = self.send_offsets(&transaction, txn, AwaitMode::ToEnd).await;
        let _ = self.commit(&mut transaction, txn).await;
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.rng.next_below(n) == 0
    }

    /// Drops one future in `n`.
    fn mode(&mut self, n: u64) -> AwaitMode {
        if self.one_in(n) { AwaitMode::PollOnce } else { AwaitMode::ToEnd }
    }

    fn now(&self) -> Tick {
        self.shared.clock.now()
    }

    async fn pause(&self, time: Duration) {
        let until = self.now().after(time);
        self.shared.timers.sleep_until(&self.shared.clock, until).await;
    }

    fn trace(&self, message: impl FnOnce() -> String) {
        trace(&self.shared.clock, || format!("instance {}: {}", self.number, message()));
    }

    fn start_process(&mut self) -> Process {
        let s = &self.shared.scenario;
        let (client, producer) = self.shared.processes.start(s, self.number, self.id);
        self.trace(|| format!("process {client} starts"));
        let mut history = self.shared.history.borrow_mut();
        history.incarnations.push(Incarnation {
            client,
            instance: self.number,
            id: self.id,
            initialized_at: None,
        });
        Process { client, incarnation: history.incarnations.len() - 1, producer }
    }

    async fn stop_process(&mut self, process: Process) {
        let timeout = match self.rng.next_below(4) {
            0 => {
                self.trace(|| "is killed".to_owned());
                self.shared.processes.kill(process.client);
                return self.pause(RESTART_PAUSE).await;
            }
            1 => Duration::ZERO,
            2 => Duration::from_millis(50),
            _ => Duration::from_secs(5),
        };
        self.trace(|| format!("closes within {timeout:?}"));
        let _ = process.producer.close_async(timeout).await;
        self.pause(RESTART_PAUSE).await;
    }

    /// Notes the result of a call. Returns whether the producer can do nothing more.
    fn note(&self, name: &'static str, called_at: Tick, result: &Result<(), Error>) {
        let returned_at = self.now();
        self.trace(|| match result {
            Ok(()) => format!("{name} succeeded"),
            Err(e) => format!("{name} failed: {:?}: {e}", e.kind()),
        });
        let mut history = self.shared.history.borrow_mut();
        history.calls.push(TimedCall { name, instance: self.number, called_at, returned_at });
        let Err(e) = result else { return };
        if e.kind() == ErrorKind::Internal {
            history.add_violation(name, e);
        }
        let late = self.shared.healed_at.get().after(RECOVERY_TIME);
        if e.kind() == ErrorKind::TransactionTimeout && called_at > late {
            history.violations.push(format!(
                "{name} timed out, and all faults have ended {} s before: {e}",
                called_at.since(self.shared.healed_at.get()).as_secs()
            ));
        }
    }

    fn note_fenced(&self, process: &Process, e: &Error) {
        if e.kind() == ErrorKind::Fenced {
            let fenced = FencedCall { incarnation: process.incarnation, error: e.to_string() };
            self.shared.history.borrow_mut().fenced.push(fenced);
        }
    }

    /// Calls `init_transactions` until it succeeds. Returns whether it does.
    async fn init(&mut self, process: &Process) -> bool {
        loop {
            let called_at = self.now();
            let mode = self.mode(12);
            let result = await_or_drop(process.producer.init_transactions_async(), mode).await;
            // A dropped future continues, and the next call waits for it.
            let Some(result) = result else { continue };
            self.note("init_transactions", called_at, &result);
            match result {
                Ok(()) => {
                    let now = self.now();
                    let mut history = self.shared.history.borrow_mut();
                    history.incarnations[process.incarnation].initialized_at = Some(now);
                    return true;
                }
                Err(e) if e.kind() == ErrorKind::TransactionTimeout => {}
                Err(e) => {
                    self.note_fenced(process, &e);
                    return false;
                }
            }
        }
    }

    async fn begin(&mut self, process: &Process) -> Option<Transaction> {
        loop {
            let called_at = self.now();
            let mode = self.mode(12);
            let result = await_or_drop(process.producer.begin_transaction_async(), mode).await;
            // After a dropped future no transaction begins, or it is aborted.
            let Some(result) = result else { continue };
            let noted = result.as_ref().map(|_| ()).map_err(Clone::clone);
            self.note("begin_transaction", called_at, &noted);
            match result {
                Ok(transaction) => return Some(transaction),
                Err(e) if e.kind() == ErrorKind::TransactionTimeout => {}
                Err(e) => {
                    self.note_fenced(process, &e);
                    if e.kind() == ErrorKind::InvalidTransactionState {
                        self.shared.history.borrow_mut().add_violation("begin_transaction", &e);
                    }
                    return None;
                }
            }
        }
    }

    async fn run_transaction(&mut self, process: &Process) -> Next {
        let Some(mut transaction) = self.begin(process).await else { return Next::Restart };
        let txn = self.shared.history.borrow_mut().begin(process.incarnation);
        self.trace(|| format!("transaction {txn} begins"));
        if let Err(e) = self.send_records(process, &transaction, txn).await {
            self.note_fenced(process, &e);
            if is_end_of_producer(&e) {
                return Next::Restart;
            }
            // A transaction that has failed cannot be committed: half of the instances try.
            if self.one_in(2) {
                return self.abort(process, &mut transaction, txn).await;
            }
        }
        match self.rng.next_below(20) {
            0..12 => {}
            12 | 13 => {
                self.shared.history.borrow_mut().transactions[txn].end = TransactionEnd::Unknown;
                let _ = self.poll_commit_once(&mut transaction, txn).await;
                let pause = Duration::from_millis(self.rng.next_below(300));
                self.pause(pause).await;
            }
            14 => {
                let _ = self.poll_commit_once(&mut transaction, txn).await;
                self.trace(|| "drops the guard of a pending commit".to_owned());
                return Next::Continue;
            }
            15 | 16 => return self.abort(process, &mut transaction, txn).await,
            17 => {
                let _ = await_or_drop(transaction.abort_async(), AwaitMode::PollOnce).await;
                return Next::Continue;
            }
            18 => {
                self.trace(|| "drops the guard".to_owned());
                return Next::Continue;
            }
            _ => {
                self.shared.processes.kill(process.client);
                return Next::Restart;
            }
        }
        match self.commit(&mut transaction, txn).await {
            Ok(next) => next,
            Err(e) => {
                self.note_fenced(process, &e);
                if e.requires_abort() {
                    self.abort(process, &mut transaction, txn).await
                } else {
                    Next::Restart
                }
            }
        }
    }

    /// Polls the future of a commit once and drops it. The commit continues.
    async fn poll_commit_once(&mut self, transaction: &mut Transaction, txn: usize) -> Option<()> {
        self.set_end(txn, TransactionEnd::Unknown, None);
        let result = await_or_drop(transaction.commit_async(), AwaitMode::PollOnce).await?;
        match result {
            Ok(()) => self.set_end(txn, TransactionEnd::Committed, None),
            Err(e) if e.requires_abort() => self.set_end(txn, TransactionEnd::Failed, Some(&e)),
            Err(_) => {}
        }
        Some(())
    }

    fn set_end(&self, txn: usize, end: TransactionEnd, e: Option<&Error>) {
        let mut history = self.shared.history.borrow_mut();
        let transaction = &mut history.transactions[txn];
        if let Some(e) = e {
            let source = std::error::Error::source(e).map_or_else(String::new, |s| s.to_string());
            transaction.error = Some(format!("{e}: {source}"));
        }
        // The first final result stays.
        if !matches!(transaction.end, TransactionEnd::Committed | TransactionEnd::Failed) {
            transaction.end = end;
        }
    }

    /// Sends the records of a transaction, and perhaps offsets.
    async fn send_records(
        &mut self,
        process: &Process,
        transaction: &Transaction,
        txn: usize,
    ) -> Result<(), Error> {
        let s = self.shared.scenario.clone();
        let count = self.rng.next_below(s.records_per_transaction + 1);
        let offsets_at = if self.one_in(3) { self.rng.next_below(count + 1) } else { u64::MAX };
        for index in 0..=count {
            if index == offsets_at {
                let mode = self.mode(10);
                self.send_offsets(transaction, txn, mode).await?;
            }
            if index == count {
                break;
            }
            if self.one_in(3) {
                let pause = Duration::from_micros(self.rng.next_below(s.max_pause_us + 1));
                self.pause(pause).await;
            }
            let to = (self.rng.next_below(s.topics), self.rng.next_below(s.partitions) as i32);
            let mode = self.mode(15);
            self.send(process, txn, to, mode).await?;
            if self.one_in(12) {
                let _ = process.producer.flush_async().await;
            }
        }
        Ok(())
    }

    /// Sends a record.
    async fn send(
        &mut self,
        process: &Process,
        txn: usize,
        (topic, partition): (u64, i32),
        mode: AwaitMode,
    ) -> Result<(), Error> {
        let topic = self.shared.scenario.topic_name(topic);
        let index = self.shared.history.borrow().transactions[txn].records.len() as u64;
        let token = encode_token(txn as u64, index);
        let mut value = format!("{txn}/{index}/").into_bytes();
        // A short value is smaller than any limit of the scenarios.
        let is_checked = self.shared.history.borrow().transactions[txn].must_commit;
        let max_len = if is_checked { 1 } else { self.shared.scenario.max_value_len };
        let padding = self.rng.next_below(max_len);
        value.extend((0..padding).map(|i| b'a' + (i % 7) as u8));
        let record = Record::to(&topic).partition(partition).value(&value).token(token);
        let called_at = self.now();
        let send = process.producer.send_async(record);
        let result = await_or_drop(send, mode).await;
        let Some(result) = result else { return Ok(()) };
        self.note("send", called_at, &result.as_ref().map(|_| ()).map_err(Clone::clone));
        let accepted_at = self.now();
        let mut history = self.shared.history.borrow_mut();
        let transaction = &mut history.transactions[txn];
        match result {
            Ok(delivery) => {
                transaction.records.push(AcceptedRecord {
                    topic,
                    partition,
                    value,
                    token,
                    accepted_at,
                    delivery,
                });
                Ok(())
            }
            Err(e) => {
                transaction.has_rejected_record = true;
                if e.kind() == ErrorKind::InvalidTransactionState {
                    history.add_violation("send", &e);
                }
                Err(e)
            }
        }
    }

    async fn send_offsets(
        &mut self,
        transaction: &Transaction,
        txn: usize,
        mode: AwaitMode,
    ) -> Result<(), Error> {
        let offset = TransactionHistories::offset_of(txn);
        let last = self.shared.scenario.partitions as i32 - 1;
        let offsets =
            [OffsetAndMetadata::new("t0", 0, offset), OffsetAndMetadata::new("t0", last, offset)];
        let group = ConsumerGroupMetadata::new(group_id(self.id));
        self.shared.history.borrow_mut().transactions[txn].offsets = OffsetsOutcome::PossiblyAdded;
        let called_at = self.now();
        let count = if last == 0 { 1 } else { 2 };
        let call = transaction.send_offsets_async(&offsets[..count], &group);
        let result = await_or_drop(call, mode).await;
        let Some(result) = result else { return Ok(()) };
        self.note("send_offsets", called_at, &result);
        match result {
            Ok(()) => {
                let mut history = self.shared.history.borrow_mut();
                history.transactions[txn].offsets = OffsetsOutcome::Added;
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    /// Commits, and repeats the call after a time-out.
    async fn commit(&mut self, transaction: &mut Transaction, txn: usize) -> Result<Next, Error> {
        self.set_end(txn, TransactionEnd::Unknown, None);
        let mut timeouts = 0;
        loop {
            let called_at = self.now();
            let result = transaction.commit_async().await;
            self.note("commit", called_at, &result);
            match result {
                Ok(()) => {
                    self.set_end(txn, TransactionEnd::Committed, None);
                    return Ok(Next::Continue);
                }
                Err(e) if e.kind() == ErrorKind::TransactionTimeout => {
                    timeouts += 1;
                    // The guard of a pending commit is dropped: the commit continues.
                    if timeouts > 2 && self.one_in(3) {
                        return Ok(Next::Continue);
                    }
                }
                Err(e) if e.requires_abort() => {
                    self.set_end(txn, TransactionEnd::Failed, Some(&e));
                    return Err(e);
                }
                Err(e) => {
                    self.set_end(txn, TransactionEnd::Unknown, Some(&e));
                    if !is_end_of_producer(&e) {
                        self.shared.history.borrow_mut().add_violation("commit", &e);
                    }
                    return Err(e);
                }
            }
        }
    }

    /// Aborts, and repeats the call until it succeeds.
    async fn abort(
        &mut self,
        process: &Process,
        transaction: &mut Transaction,
        txn: usize,
    ) -> Next {
        let mut attempts = 0;
        loop {
            let called_at = self.now();
            let result = transaction.abort_async().await;
            self.note("abort", called_at, &result);
            match result {
                Ok(()) => return Next::Continue,
                Err(e) if e.kind() == ErrorKind::TransactionTimeout => {
                    attempts += 1;
                    if attempts > 2 && self.one_in(3) {
                        return Next::Continue;
                    }
                }
                // The epoch could not be bumped after the abort.
                Err(e) if e.requires_abort() => self.pause(RESTART_PAUSE).await,
                Err(e) => {
                    self.note_fenced(process, &e);
                    let mut history = self.shared.history.borrow_mut();
                    if !is_end_of_producer(&e) {
                        history.add_violation(&format!("abort of transaction {txn}"), &e);
                    }
                    return Next::Restart;
                }
            }
        }
    }
}

/// Returns whether the producer can do nothing more after this error.
fn is_end_of_producer(e: &Error) -> bool {
    e.is_fatal() || e.kind() == ErrorKind::Closed
}
