//! Virtual callers: tasks that send, wait for memory, flush and drop futures half way.
//!
//! The simulation spawns them on its executor. They write everything they observe to the history.
#![allow(clippy::disallowed_types)]

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use ottla::sim::{SimMachine, Tick, with_shared_value};
use ottla::{Delivery, Error, ErrorKind, Header, Producer, Record, RecordMetadata};
use ottla_protocol::wire::TestRng;

use crate::executor::{AwaitMode, Timers, await_or_drop};
use crate::history::{
    CallbackCall, HandlerOutcomes, History, RecordHistory, RecordOutcome, RecoveryResult,
    RejectedSend, SendCall, SentRecord, Violation, decode_token, encode_token,
};
use crate::oracle::{FLUSH_INVARIANT, PARTITION_INVARIANT};
use crate::scenario::Scenario;
use crate::trace::trace;

/// Longer than the scenarios' `retry.backoff.max.ms` with jitter.
const MAX_METADATA_BACKOFF: Duration = Duration::from_millis(300);

/// State that the callers share with the simulation.
#[derive(Clone)]
pub(crate) struct SharedState {
    pub(crate) scenario: Scenario,
    pub(crate) machine: SimMachine,
    pub(crate) timers: Timers,
    pub(crate) history: Rc<RefCell<History>>,
    pub(crate) handler_outcomes: HandlerOutcomes,
    pub(crate) callback_calls: Arc<Mutex<Vec<CallbackCall>>>,
}

/// One virtual caller.
pub(crate) struct Caller {
    id: u64,
    shared: SharedState,
    /// Deliveries that the caller has not looked at yet.
    pending: Vec<PendingDelivery>,
}

struct PendingDelivery {
    /// The record's index in [`History::records`].
    record_index: usize,
    delivery: Delivery,
}

/// A record that is about to be sent.
struct NewRecord {
    index: u64,
    topic: String,
    partition: Option<i32>,
    key: Option<Vec<u8>>,
    value: Vec<u8>,
    has_callback: bool,
    /// Whether it has headers, made from its value.
    has_headers: bool,
    timestamp: Option<i64>,
}

impl NewRecord {
    /// Returns a record with a partition and a value only.
    fn value_only(index: u64, topic: String, partition: i32, value: String) -> NewRecord {
        NewRecord {
            index,
            topic,
            partition: Some(partition),
            key: None,
            value: value.into_bytes(),
            has_callback: false,
            has_headers: false,
            timestamp: None,
        }
    }
}

impl Caller {
    pub(crate) fn new(id: u64, shared: SharedState) -> Caller {
        Caller { id, shared, pending: Vec::new() }
    }

    /// Sends the scenario's records, with pauses, flushes and dropped futures between them.
    pub(crate) async fn run(mut self, producer: Producer) {
        let s = self.shared.scenario.clone();
        let mut rng = TestRng::new(s.seed ^ (self.id + 1).wrapping_mul(0x9E37_79B9));
        for index in 0..s.records_per_caller {
            if rng.next_below(3) == 0 {
                let pause = Duration::from_micros(rng.next_below(s.max_pause_us + 1));
                let machine = &self.shared.machine;
                self.shared.timers.sleep_until(machine, machine.now().after(pause)).await;
            }
            let record = self.random_record(index, &mut rng);
            // A future that is dropped half way must leave nothing behind in the producer.
            let mode = if rng.next_below(10) == 0 { AwaitMode::PollOnce } else { AwaitMode::ToEnd };
            self.send(&producer, record, mode).await;
            match rng.next_below(12) {
                0 => self.flush(&producer).await,
                1 => self.wait_for_deliveries().await,
                _ => {}
            }
        }
        self.wait_for_deliveries().await;
    }

    fn random_record(&self, index: u64, rng: &mut TestRng) -> NewRecord {
        let s = &self.shared.scenario;
        let mut value = format!("{}/{index}/", self.id).into_bytes();
        let alphabet = if s.compressible_values { 1 } else { 7 };
        value.extend(
            (0..rng.next_below(s.max_value_len)).map(|_| b'a' + (rng.next_u64() % alphabet) as u8),
        );
        NewRecord {
            index,
            topic: s.topic_name(rng.next_below(s.topics)),
            partition: (rng.next_below(4) == 0).then(|| rng.next_below(s.partitions) as i32),
            key: (rng.next_below(2) == 0).then(|| rng.next_bytes().to_vec()),
            value,
            has_callback: rng.next_below(5) == 0,
            has_headers: rng.next_below(4) == 0,
            timestamp: (rng.next_below(8) == 0).then(|| rng.next_below(1_700_000_000_000) as i64),
        }
    }

    async fn send(&mut self, producer: &Producer, new: NewRecord, mode: AwaitMode) {
        let token = encode_token(self.id, new.index);
        let mut record = Record::to(&new.topic).maybe_key(new.key.as_deref()).token(token);
        // The batch keeps a reference to half of the values, and copies the others.
        let shared_value = bytes::Bytes::copy_from_slice(&new.value);
        record = if new.index.is_multiple_of(2) {
            with_shared_value(record, &shared_value)
        } else {
            record.value(&new.value)
        };
        let headers = headers_for_value(&new.value);
        if new.has_headers {
            record = record.headers(&headers);
        }
        if let Some(timestamp) = new.timestamp {
            record = record.timestamp(timestamp);
        }
        if let Some(partition) = new.partition {
            record = record.partition(partition);
        }
        let called_at = self.shared.machine.now();
        let result = if new.has_callback {
            let calls = self.shared.callback_calls.clone();
            let callback = move |result: Result<RecordMetadata, Error>| {
                let result = result.map(|m| m.offset()).map_err(|e| e.to_string());
                let mut calls = calls.lock().unwrap_or_else(PoisonError::into_inner);
                calls.push(CallbackCall { token, result });
            };
            let send = ottla::sim::send_with_callback_and_delivery(producer, record, callback);
            await_or_drop(send, mode).await
        } else {
            await_or_drop(producer.send_async(record), mode).await
        };
        if let Some(result) = result {
            self.on_send_result(result, new, called_at);
        }
    }

    fn on_send_result(&mut self, result: Result<Delivery, Error>, new: NewRecord, called_at: Tick) {
        let returned_at = self.shared.machine.now();
        self.shared.history.borrow_mut().send_calls.push(SendCall { called_at, returned_at });
        match result {
            Ok(delivery) => self.on_accepted(delivery, new, called_at, returned_at),
            Err(e) => self.on_rejected(&e, &new, called_at, returned_at),
        }
    }

    fn on_accepted(
        &mut self,
        delivery: Delivery,
        new: NewRecord,
        called_at: Tick,
        accepted_at: Tick,
    ) {
        let mut history = self.shared.history.borrow_mut();
        let partition = delivery.partition();
        if new.partition.is_some_and(|p| p != partition) {
            history.violations.push(Violation {
                invariant: PARTITION_INVARIANT,
                details: format!("sent to {partition}, the record names {:?}", new.partition),
            });
        }
        let (id, index, topic) = (self.id, new.index, &new.topic);
        trace(&self.shared.machine, || {
            format!("caller {id}: record {index} accepted for {topic}-{partition}")
        });
        self.pending.push(PendingDelivery { record_index: history.records.len(), delivery });
        let sent = SentRecord {
            caller: self.id,
            index: new.index,
            topic: new.topic,
            partition,
            key: new.key,
            value: new.value,
            called_at,
            accepted_at,
            has_callback: new.has_callback,
            has_headers: new.has_headers,
            timestamp: new.timestamp,
        };
        history.records.push(RecordHistory { sent, outcome: None });
    }

    fn on_rejected(&self, e: &Error, new: &NewRecord, called_at: Tick, returned_at: Tick) {
        trace(&self.shared.machine, || {
            format!("caller {}: record {} rejected: {e}", self.id, new.index)
        });
        let mut history = self.shared.history.borrow_mut();
        // The call waited for memory alone if its topic's metadata was there before: an earlier
        // record to the topic proves that. A named partition might have waited for metadata.
        let is_topic_known =
            |r: &RecordHistory| r.sent.topic == new.topic && r.sent.accepted_at < called_at;
        let is_memory_exhausted = e.kind() == ErrorKind::BufferExhausted
            && new.partition.is_none()
            && history.records.iter().any(is_topic_known);
        history.rejected.push(RejectedSend { called_at, returned_at, is_memory_exhausted });
    }

    /// Flushes, and checks that every record accepted before has completed.
    async fn flush(&mut self, producer: &Producer) {
        let accepted: Vec<u64> = {
            let history = self.shared.history.borrow();
            history.records.iter().map(|r| encode_token(r.sent.caller, r.sent.index)).collect()
        };
        if producer.flush_async().await.is_err() {
            return;
        }
        let outcomes = &self.shared.handler_outcomes;
        if let Some(token) = accepted.into_iter().find(|token| !outcomes.contains(*token)) {
            let (caller, index) = decode_token(token);
            self.shared.history.borrow_mut().violations.push(Violation {
                invariant: FLUSH_INVARIANT,
                details: format!("record {index} of caller {caller} was not completed"),
            });
        }
    }

    /// Waits for every pending delivery at once, so that each outcome gets its exact time.
    async fn wait_for_deliveries(&mut self) {
        let (pending, shared) = (&mut self.pending, &self.shared);
        std::future::poll_fn(|cx| {
            pending.retain_mut(|p| match Pin::new(&mut p.delivery).poll(cx) {
                Poll::Pending => true,
                Poll::Ready(result) => {
                    let outcome = RecordOutcome { completed_at: shared.machine.now(), result };
                    let mut history = shared.history.borrow_mut();
                    let earlier = history.records[p.record_index].outcome.replace(outcome);
                    assert!(earlier.is_none(), "a record completed twice");
                    false
                }
            });
            if pending.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Sends one record to each partition while every node is down.
    pub(crate) async fn send_during_outage(
        mut self,
        producer: Producer,
        partitions: Vec<(String, i32)>,
    ) {
        for (index, (topic, partition)) in partitions.into_iter().enumerate() {
            let value = format!("{}/{index}/dark", self.id);
            let record = NewRecord::value_only(index as u64, topic, partition, value);
            self.send(&producer, record, AwaitMode::ToEnd).await;
        }
        self.wait_for_deliveries().await;
    }

    /// Sends records to each partition after every fault has ended: two, or seven if a topic was
    /// restored.
    ///
    /// All but the last may meet stale metadata or a stale sequence, which costs an attempt. So
    /// they have to be acknowledged only where the settings leave time for a retry. The last has to
    /// be acknowledged in every run.
    pub(crate) async fn verify_recovery(
        mut self,
        producer: Producer,
        partitions: Vec<(String, i32)>,
    ) {
        let s = &self.shared.scenario;
        let can_retry = s.retries > 100 && s.delivery_timeout_ms >= 1_000;
        // The client believes an older leader epoch after five metadata responses. The rejection
        // of a record requests one of them, after a backoff.
        let has_restoration = s.has_restoration();
        let last_round = if has_restoration { 6 } else { 1 };
        for round in 0..=last_round {
            let is_checked = can_retry || round == last_round;
            if round > 0 && has_restoration {
                let next_round = self.shared.machine.now().after(MAX_METADATA_BACKOFF);
                self.shared.timers.sleep_until(&self.shared.machine, next_round).await;
            }
            for (i, (topic, partition)) in partitions.iter().enumerate() {
                let index = round * partitions.len() as u64 + i as u64;
                let value = format!("{}/{index}/probe", self.id);
                let record = NewRecord::value_only(index, topic.clone(), *partition, value);
                let accepted_before = self.shared.history.borrow().records.len();
                self.send(&producer, record, AwaitMode::ToEnd).await;
                let mut history = self.shared.history.borrow_mut();
                if history.records.len() == accepted_before && is_checked {
                    history.recovery_results.push(RecoveryResult {
                        partition: format!("{topic}-{partition}"),
                        result: Err("send rejected it".to_owned()),
                    });
                }
            }
            let sent: Vec<usize> = self.pending.iter().map(|p| p.record_index).collect();
            self.wait_for_deliveries().await;
            let mut history = self.shared.history.borrow_mut();
            for record_index in sent.into_iter().filter(|_| is_checked) {
                let record = &history.records[record_index];
                let partition = format!("{}-{}", record.sent.topic, record.sent.partition);
                let result = match record.result() {
                    Some(Ok(_)) => Ok(()),
                    Some(Err(e)) => Err(e.to_string()),
                    None => Err("it never completed".to_owned()),
                };
                history.recovery_results.push(RecoveryResult { partition, result });
            }
        }
    }
}

/// Returns the headers of a record with this value.
///
/// One holds a part of the value, one is null, and one with the same key is empty: null and empty
/// must stay apart on the wire.
pub(crate) fn headers_for_value(value: &[u8]) -> [Header<'_>; 3] {
    [
        Header::new("its", &value[..value.len().min(9)]),
        Header::null("none"),
        Header::new("none", b""),
    ]
}
