//! Virtual callers: they send, wait for memory, flush, look at ends or do not, drop futures half way.
#![allow(clippy::disallowed_types)]

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ottla::sim::{SimMachine, Tick};
use ottla::{Delivery, Error, ErrorKind, Producer, Record};
use ottla_protocol::wire::TestRng;

use crate::executor::Timers;
use crate::history::{
    CallbackResult, HandlerOutcomes, History, RecordOutcome, RejectedSend, SentRecord, encode_token,
};
use crate::scenario::Scenario;
use crate::trace::trace;

/// What callers share with the world.
#[derive(Clone)]
pub(crate) struct SharedState {
    pub(crate) scenario: Scenario,
    pub(crate) machine: SimMachine,
    pub(crate) timers: Timers,
    pub(crate) history: Rc<RefCell<History>>,
    pub(crate) handler_outcomes: HandlerOutcomes,
    pub(crate) callback_results: Arc<Mutex<Vec<(u64, CallbackResult)>>>,
}

/// One virtual caller.
pub(crate) struct Caller {
    pub(crate) id: u64,
    pub(crate) shared: SharedState,
    /// Deliveries nobody has looked at yet, by the record's index in the history.
    pub(crate) pending: Vec<(usize, Delivery)>,
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
    /// Its own timestamp.
    timestamp: Option<i64>,
}

impl NewRecord {
    /// A value for a partition, and nothing else.
    fn value_only(n: u64, topic: String, partition: i32, value: String) -> NewRecord {
        NewRecord {
            index: n,
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
    pub(crate) async fn run(mut self, producer: Producer) {
        let s = self.shared.scenario.clone();
        let mut g = TestRng::new(s.seed ^ (self.id + 1).wrapping_mul(0x9E37_79B9));
        for n in 0..s.records_per_caller {
            if g.next_below(3) == 0 {
                let pause = Duration::from_micros(g.next_below(s.max_pause_us + 1));
                let machine = &self.shared.machine;
                self.shared.timers.sleep_until(machine, machine.now().after(pause)).await;
            }
            let draft = self.random_record(n, &mut g);
            // A future that is dropped half way must leave nothing behind.
            let dropped = g.next_below(10) == 0;
            self.send(&producer, draft, dropped).await;
            match g.next_below(12) {
                0 => self.flush(&producer).await,
                1 => self.wait_for_deliveries().await,
                _ => {}
            }
        }
        self.wait_for_deliveries().await;
    }

    fn random_record(&self, n: u64, g: &mut TestRng) -> NewRecord {
        let s = &self.shared.scenario;
        let mut value = format!("{}/{n}/", self.id).into_bytes();
        let letters = if s.compressible_values { 1 } else { 7 };
        value.extend(
            (0..g.next_below(s.max_value_len)).map(|_| b'a' + (g.next_u64() % letters) as u8),
        );
        NewRecord {
            index: n,
            topic: s.topic_name(g.next_below(s.topics)),
            partition: (g.next_below(4) == 0).then(|| g.next_below(s.partitions) as i32),
            key: (g.next_below(2) == 0).then(|| g.next_bytes().to_vec()),
            value,
            has_callback: g.next_below(5) == 0,
            has_headers: g.next_below(4) == 0,
            timestamp: (g.next_below(8) == 0).then(|| g.next_below(1_700_000_000_000) as i64),
        }
    }

    async fn send(&mut self, producer: &Producer, d: NewRecord, dropped: bool) {
        let token = encode_token(self.id, d.index);
        let mut record = Record::to(&d.topic).maybe_key(d.key.as_deref()).value(&d.value);
        record = record.token(token);
        let headers = headers_for_value(&d.value);
        if d.has_headers {
            record = record.headers(&headers);
        }
        if let Some(at) = d.timestamp {
            record = record.timestamp(at);
        }
        if let Some(p) = d.partition {
            record = record.partition(p);
        }
        let asked = self.shared.machine.now();
        let result = if d.has_callback {
            let heard = self.shared.callback_results.clone();
            let callback = move |result: Result<ottla::RecordMetadata, Error>| {
                let told = result.map(|m| m.offset()).map_err(|e| e.to_string());
                heard.lock().unwrap_or_else(PoisonError::into_inner).push((token, told));
            };
            await_or_drop(producer.send_with_async(record, callback), dropped).await
        } else {
            await_or_drop(producer.send_async(record), dropped).await
        };
        if let Some(result) = result {
            self.on_send_result(result, d, asked);
        }
    }

    fn on_send_result(&mut self, result: Result<Delivery, Error>, d: NewRecord, asked: Tick) {
        let machine = &self.shared.machine;
        let at = machine.now();
        let mut history = self.shared.history.borrow_mut();
        history.send_calls.push((asked, at));
        match result {
            Ok(delivery) => {
                let partition = delivery.partition();
                if d.partition.is_some_and(|p| p != partition) {
                    let what = format!("{partition} where {:?} was asked for", d.partition);
                    history.violations.push(("a record goes to the partition it asks for", what));
                }
                let caller = self.id;
                trace(machine, || {
                    format!(
                        "caller {caller}: record {} accepted for {}-{partition}",
                        d.index, d.topic
                    )
                });
                self.pending.push((history.records.len(), delivery));
                let sent = SentRecord {
                    caller,
                    index: d.index,
                    topic: d.topic,
                    partition,
                    key: d.key,
                    value: d.value,
                    called_at: asked,
                    accepted_at: at,
                    has_callback: d.has_callback,
                    has_headers: d.has_headers,
                    timestamp: d.timestamp,
                };
                history.records.push((sent, None));
            }
            Err(e) => {
                trace(machine, || format!("caller {}: record {} refused: {e}", self.id, d.index));
                let known = |r: &SentRecord| r.topic == d.topic && r.accepted_at < asked;
                let no_memory = e.kind() == ErrorKind::BufferExhausted
                    && d.partition.is_none()
                    && history.records.iter().any(|(r, _)| known(r));
                history.rejected.push(RejectedSend {
                    called_at: asked,
                    returned_at: at,
                    is_memory_exhausted: no_memory,
                });
            }
        }
    }

    /// A flush returns when everything accepted before it has ended.
    async fn flush(&mut self, producer: &Producer) {
        let before: Vec<u64> = {
            let history = self.shared.history.borrow();
            history.records.iter().map(|(r, _)| encode_token(r.caller, r.index)).collect()
        };
        if producer.flush_async().await.is_err() {
            return;
        }
        let open = before.into_iter().find(|t| !self.shared.handler_outcomes.contains(*t));
        if let Some(open) = open {
            let what =
                format!("record {} of caller {} had not ended", open & 0xffff_ffff, open >> 32);
            self.shared
                .history
                .borrow_mut()
                .violations
                .push(("a flush waits for all there was", what));
        }
    }

    /// Waits for every end, all at once, so that each is seen when it comes.
    pub(crate) async fn wait_for_deliveries(&mut self) {
        let (pending, shared) = (&mut self.pending, &self.shared);
        std::future::poll_fn(|cx| {
            pending.retain_mut(|(index, delivery)| match std::pin::Pin::new(delivery).poll(cx) {
                std::task::Poll::Pending => true,
                std::task::Poll::Ready(result) => {
                    let ended = RecordOutcome { completed_at: shared.machine.now(), result };
                    let old = shared.history.borrow_mut().records[*index].1.replace(ended);
                    assert!(old.is_none(), "a record ends once");
                    false
                }
            });
            if pending.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }

    /// One record to each partition, while nobody is there.
    pub(crate) async fn send_during_outage(
        mut self,
        producer: Producer,
        partitions: Vec<(String, i32)>,
    ) {
        for (n, (topic, p)) in partitions.into_iter().enumerate() {
            let value = format!("{}/{n}/dark", self.id);
            let d = NewRecord::value_only(n as u64, topic, p, value);
            self.send(&producer, d, false).await;
        }
        self.wait_for_deliveries().await;
    }

    /// One record to each partition, twice: once to find out how the world is now, which must arrive where there is
    /// time to send it again, and once that must arrive.
    pub(crate) async fn verify_recovery(
        mut self,
        producer: Producer,
        partitions: Vec<(String, i32)>,
    ) {
        let s = &self.shared.scenario;
        let patient = s.retries > 100 && s.delivery_timeout_ms >= 1_000;
        for round in 0..2 {
            let counts = patient || round == 1;
            for (i, (topic, p)) in partitions.iter().enumerate() {
                let n = round * partitions.len() as u64 + i as u64;
                let value = format!("{}/{n}/probe", self.id);
                let d = NewRecord::value_only(n, topic.clone(), *p, value);
                let before = self.shared.history.borrow().records.len();
                self.send(&producer, d, false).await;
                let accepted = self.shared.history.borrow().records.len() > before;
                if !accepted && counts {
                    let where_to = format!("{}-{p}", partitions[i].0);
                    let refused = Err("it was refused".to_owned());
                    self.shared.history.borrow_mut().recovery_results.push((where_to, refused));
                }
            }
            let from: Vec<usize> = self.pending.iter().map(|p| p.0).collect();
            self.wait_for_deliveries().await;
            let mut history = self.shared.history.borrow_mut();
            for index in from.into_iter().filter(|_| counts) {
                let (sent, ended) = &history.records[index];
                let where_to = format!("{}-{}", sent.topic, sent.partition);
                let result = match ended.as_ref().map(|e| &e.result) {
                    Some(Ok(_)) => Ok(()),
                    Some(Err(e)) => Err(e.to_string()),
                    None => Err("it never ended".to_owned()),
                };
                history.recovery_results.push((where_to, result));
            }
        }
    }
}

/// The headers of a record with this value: one of it, one that is null, one of the same name that is empty.
pub(crate) fn headers_for_value(value: &[u8]) -> [ottla::Header<'_>; 3] {
    let null = ottla::Header { key: "none", value: None };
    [ottla::Header::new("its", &value[..value.len().min(9)]), null, ottla::Header::new("none", b"")]
}

/// The future's outcome; none if it is dropped where it would have to wait.
async fn await_or_drop<F: Future>(future: F, dropped: bool) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    if !dropped {
        return Some(future.await);
    }
    std::future::poll_fn(|cx| {
        std::task::Poll::Ready(match future.as_mut().poll(cx) {
            std::task::Poll::Ready(out) => Some(out),
            std::task::Poll::Pending => None,
        })
    })
    .await
}
