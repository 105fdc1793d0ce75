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
use crate::history::{Ended, Ends, History, Refused, Sent, Told, token};
use crate::scenario::Scenario;
use crate::trace::trace;

/// What callers share with the world.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) s: Scenario,
    pub(crate) machine: SimMachine,
    pub(crate) timers: Timers,
    pub(crate) history: Rc<RefCell<History>>,
    pub(crate) ends: Ends,
    pub(crate) callbacks: Arc<Mutex<Vec<(u64, Told)>>>,
}

/// One virtual caller.
pub(crate) struct Caller {
    pub(crate) caller: u64,
    pub(crate) shared: Shared,
    /// Deliveries nobody has looked at yet, by the record's index in the history.
    pub(crate) pending: Vec<(usize, Delivery)>,
}

/// A record that is about to be sent.
struct Draft {
    n: u64,
    topic: String,
    partition: Option<i32>,
    key: Option<Vec<u8>>,
    value: Vec<u8>,
    with_callback: bool,
    /// Whether it has headers, made from its value.
    with_headers: bool,
    /// Its own timestamp.
    timestamp: Option<i64>,
}

impl Draft {
    /// A value for a partition, and nothing else.
    fn plain(n: u64, topic: String, partition: i32, value: String) -> Draft {
        Draft {
            n,
            topic,
            partition: Some(partition),
            key: None,
            value: value.into_bytes(),
            with_callback: false,
            with_headers: false,
            timestamp: None,
        }
    }
}

impl Caller {
    pub(crate) async fn run(mut self, producer: Producer) {
        let s = self.shared.s.clone();
        let mut g = TestRng::new(s.seed ^ (self.caller + 1).wrapping_mul(0x9E37_79B9));
        for n in 0..s.records {
            if g.next_below(3) == 0 {
                let pause = Duration::from_micros(g.next_below(s.pause_us + 1));
                let machine = &self.shared.machine;
                self.shared.timers.until(machine, machine.now().after(pause)).await;
            }
            let draft = self.draft(n, &mut g);
            // A future that is dropped half way must leave nothing behind.
            let dropped = g.next_below(10) == 0;
            self.send(&producer, draft, dropped).await;
            match g.next_below(12) {
                0 => self.flush(&producer).await,
                1 => self.settle().await,
                _ => {}
            }
        }
        self.settle().await;
    }

    fn draft(&self, n: u64, g: &mut TestRng) -> Draft {
        let s = &self.shared.s;
        let mut value = format!("{}/{n}/", self.caller).into_bytes();
        let letters = if s.plain_values { 1 } else { 7 };
        value.extend((0..g.next_below(s.value_max)).map(|_| b'a' + (g.next_u64() % letters) as u8));
        Draft {
            n,
            topic: s.topic(g.next_below(s.topics)),
            partition: (g.next_below(4) == 0).then(|| g.next_below(s.partitions) as i32),
            key: (g.next_below(2) == 0).then(|| g.next_bytes().to_vec()),
            value,
            with_callback: g.next_below(5) == 0,
            with_headers: g.next_below(4) == 0,
            timestamp: (g.next_below(8) == 0).then(|| g.next_below(1_700_000_000_000) as i64),
        }
    }

    async fn send(&mut self, producer: &Producer, d: Draft, dropped: bool) {
        let token = token(self.caller, d.n);
        let mut record = Record::to(&d.topic).maybe_key(d.key.as_deref()).value(&d.value);
        record = record.token(token);
        let headers = headers(&d.value);
        if d.with_headers {
            record = record.headers(&headers);
        }
        if let Some(at) = d.timestamp {
            record = record.timestamp(at);
        }
        if let Some(p) = d.partition {
            record = record.partition(p);
        }
        let asked = self.shared.machine.now();
        let result = if d.with_callback {
            let heard = self.shared.callbacks.clone();
            let callback = move |result: Result<ottla::RecordMetadata, Error>| {
                let told = result.map(|m| m.offset()).map_err(|e| e.to_string());
                heard.lock().unwrap_or_else(PoisonError::into_inner).push((token, told));
            };
            maybe(producer.send_with_async(record, callback), dropped).await
        } else {
            maybe(producer.send_async(record), dropped).await
        };
        if let Some(result) = result {
            self.accepted(result, d, asked);
        }
    }

    fn accepted(&mut self, result: Result<Delivery, Error>, d: Draft, asked: Tick) {
        let machine = &self.shared.machine;
        let at = machine.now();
        let mut history = self.shared.history.borrow_mut();
        history.waits.push((asked, at));
        match result {
            Ok(delivery) => {
                let partition = delivery.partition();
                if d.partition.is_some_and(|p| p != partition) {
                    let what = format!("{partition} where {:?} was asked for", d.partition);
                    history.broken.push(("a record goes to the partition it asks for", what));
                }
                let caller = self.caller;
                trace(machine, || {
                    format!("caller {caller}: record {} accepted for {}-{partition}", d.n, d.topic)
                });
                self.pending.push((history.records.len(), delivery));
                let sent = Sent {
                    caller,
                    n: d.n,
                    topic: d.topic,
                    partition,
                    key: d.key,
                    value: d.value,
                    asked,
                    accepted: at,
                    with_callback: d.with_callback,
                    with_headers: d.with_headers,
                    timestamp: d.timestamp,
                };
                history.records.push((sent, None));
            }
            Err(e) => {
                trace(machine, || format!("caller {}: record {} refused: {e}", self.caller, d.n));
                let known = |r: &Sent| r.topic == d.topic && r.accepted < asked;
                let no_memory = e.kind() == ErrorKind::BufferExhausted
                    && d.partition.is_none()
                    && history.records.iter().any(|(r, _)| known(r));
                history.refused.push(Refused { asked, at, no_memory });
            }
        }
    }

    /// A flush returns when everything accepted before it has ended.
    async fn flush(&mut self, producer: &Producer) {
        let before: Vec<u64> = {
            let history = self.shared.history.borrow();
            history.records.iter().map(|(r, _)| token(r.caller, r.n)).collect()
        };
        if producer.flush_async().await.is_err() {
            return;
        }
        let open = before.into_iter().find(|t| !self.shared.ends.knows(*t));
        if let Some(open) = open {
            let what =
                format!("record {} of caller {} had not ended", open & 0xffff_ffff, open >> 32);
            self.shared.history.borrow_mut().broken.push(("a flush waits for all there was", what));
        }
    }

    /// Waits for every end, all at once, so that each is seen when it comes.
    pub(crate) async fn settle(&mut self) {
        let (pending, shared) = (&mut self.pending, &self.shared);
        std::future::poll_fn(|cx| {
            pending.retain_mut(|(index, delivery)| match std::pin::Pin::new(delivery).poll(cx) {
                std::task::Poll::Pending => true,
                std::task::Poll::Ready(result) => {
                    let ended = Ended { at: shared.machine.now(), result };
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
    pub(crate) async fn into_the_dark(
        mut self,
        producer: Producer,
        partitions: Vec<(String, i32)>,
    ) {
        for (n, (topic, p)) in partitions.into_iter().enumerate() {
            let value = format!("{}/{n}/dark", self.caller);
            let d = Draft::plain(n as u64, topic, p, value);
            self.send(&producer, d, false).await;
        }
        self.settle().await;
    }

    /// One record to each partition, twice: once to find out how the world is now, which must arrive where there is
    /// time to send it again, and once that must arrive.
    pub(crate) async fn probe(mut self, producer: Producer, partitions: Vec<(String, i32)>) {
        let s = &self.shared.s;
        let patient = s.retries > 100 && s.delivery_ms >= 1_000;
        for round in 0..2 {
            let counts = patient || round == 1;
            for (i, (topic, p)) in partitions.iter().enumerate() {
                let n = round * partitions.len() as u64 + i as u64;
                let value = format!("{}/{n}/probe", self.caller);
                let d = Draft::plain(n, topic.clone(), *p, value);
                let before = self.shared.history.borrow().records.len();
                self.send(&producer, d, false).await;
                let accepted = self.shared.history.borrow().records.len() > before;
                if !accepted && counts {
                    let where_to = format!("{}-{p}", partitions[i].0);
                    let refused = Err("it was refused".to_owned());
                    self.shared.history.borrow_mut().probes.push((where_to, refused));
                }
            }
            let from: Vec<usize> = self.pending.iter().map(|p| p.0).collect();
            self.settle().await;
            let mut history = self.shared.history.borrow_mut();
            for index in from.into_iter().filter(|_| counts) {
                let (sent, ended) = &history.records[index];
                let where_to = format!("{}-{}", sent.topic, sent.partition);
                let result = match ended.as_ref().map(|e| &e.result) {
                    Some(Ok(_)) => Ok(()),
                    Some(Err(e)) => Err(e.to_string()),
                    None => Err("it never ended".to_owned()),
                };
                history.probes.push((where_to, result));
            }
        }
    }
}

/// The headers of a record with this value: one of it, one that is null, one of the same name that is empty.
pub(crate) fn headers(value: &[u8]) -> [ottla::Header<'_>; 3] {
    let null = ottla::Header { key: "none", value: None };
    [ottla::Header::new("its", &value[..value.len().min(9)]), null, ottla::Header::new("none", b"")]
}

/// The future's outcome; none if it is dropped where it would have to wait.
async fn maybe<F: Future>(future: F, dropped: bool) -> Option<F::Output> {
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
