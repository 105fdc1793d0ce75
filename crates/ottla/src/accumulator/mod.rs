//! Where records wait: memory, batches, and the line of each partition. Callers append; the sender asks what
//! is ready, drains it, and settles it. Knows no socket and no protocol beyond the record batch.

pub(crate) mod append;
pub(crate) mod batch;
pub(crate) mod buffer_pool;
pub(crate) mod callers;
pub(crate) mod completion;
pub(crate) mod drain;
pub(crate) mod ends;
pub(crate) mod mailbox;
mod marks;
pub(crate) mod partition;
pub(crate) mod partitioner;
pub(crate) mod ready;
pub(crate) mod shelf;
pub(crate) mod sizing;
pub(crate) mod split;
pub(crate) mod topics;
pub(crate) mod waits;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use ottla_protocol::compression::{Codec, Compressor};

use crate::error::{Error, ErrorKind};
use crate::sync::Mutex;
use crate::time::{Env, Hands, Tick};
use batch::{ClosedBatch, Encoder, OpenBatch};
use buffer_pool::BufferPool;
use callers::Callers;
use completion::Outcome;
use ends::Listeners;
use mailbox::{Event, Mailbox};
use partition::{Partition, Slot};
use partitioner::{Rack, Spread};
use topics::Topics;

/// The settings that decide how records wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Settings {
    pub(crate) batch_size: usize,
    pub(crate) linger: Duration,
    pub(crate) delivery_timeout: Duration,
    pub(crate) buffer_memory: u64,
    pub(crate) codec: Codec,
    pub(crate) level: i32,
    pub(crate) spread: Spread,
    /// Whether short queues are drawn more often (KIP-794).
    pub(crate) adaptive: bool,
    /// How long a node may leave its batches waiting before it is drawn no more; zero for ever.
    pub(crate) availability: Duration,
}

/// What callers and the sender share.
pub(crate) struct Accumulator {
    pub(crate) settings: Settings,
    pub(crate) env: Arc<dyn Env>,
    pub(crate) pool: Arc<BufferPool>,
    pub(crate) topics: Topics,
    pub(crate) callers: Arc<Callers>,
    pub(crate) listeners: Arc<Listeners>,
    /// No record is accepted any more.
    pub(crate) closed: AtomicBool,
    /// Why, where that is not that somebody closed the producer.
    fatal: OnceLock<Error>,
    numbers: AtomicU64,
    /// Itself, for work that outlives a call.
    me: Weak<Accumulator>,
    /// Helpers that take work from callers, once the sender has brought them.
    pub(crate) hands: OnceLock<Arc<dyn Hands>>,
    /// The rack whose leaders are preferred.
    pub(crate) rack: Rack,
    encoders: Mutex<Vec<Encoder>>,
}

/// Codec contexts that are kept; more callers than this compress with a context of their own for once.
const ENCODERS_KEPT: usize = 8;

impl Accumulator {
    pub(crate) fn new(
        settings: Settings,
        env: Arc<dyn Env>,
        callers: Arc<Callers>,
        listeners: Arc<Listeners>,
        rack: Rack,
    ) -> Arc<Accumulator> {
        Arc::new_cyclic(|me| Accumulator {
            me: me.clone(),
            hands: OnceLock::new(),
            settings,
            env,
            pool: BufferPool::new(settings.buffer_memory, settings.batch_size.max(1)),
            topics: Topics::default(),
            callers,
            listeners,
            closed: AtomicBool::new(false),
            fatal: OnceLock::new(),
            numbers: AtomicU64::new(0),
            rack,
            encoders: Mutex::default(),
        })
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// The producer is of no more use, for this reason: every later `send` fails with it.
    pub(crate) fn refuse_all(&self, why: &Error) {
        let _ = self.fatal.set(why.clone());
        self.closed.store(true, Ordering::Release);
    }

    /// The same for a caller that was waiting when it happened.
    pub(crate) fn refusal_meanwhile(&self) -> Error {
        let closed = || {
            let message = "the producer was closed while send was in progress";
            Error::new(ErrorKind::Closed, message)
        };
        self.fatal.get().cloned().unwrap_or_else(closed)
    }

    /// Why no record is accepted any more.
    pub(crate) fn refusal(&self) -> Error {
        self.fatal.get().cloned().unwrap_or_else(Error::closed)
    }

    pub(crate) fn mailbox(&self) -> &Mailbox {
        &self.callers.mailbox
    }

    /// The number of the batch that was opened last.
    pub(crate) fn last_number(&self) -> u64 {
        self.numbers.load(Ordering::Relaxed)
    }

    fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Tells the sender; where it is gone, does what it would have done at its end.
    pub(crate) fn post(&self, event: Event, due: Tick) {
        if let Err(event) = self.mailbox().post(event, due) {
            self.undeliverable(event);
        }
    }

    /// What nobody will read: whoever waits for it must not be left waiting.
    pub(crate) fn undeliverable(&self, event: Event) {
        match event {
            Event::Opened(p) | Event::Full(p) => self.abandon(&p),
            Event::Caller(_, wait) => wait.fire(),
            Event::Flush(flush) => flush.finish(),
            Event::Cut(cut) => {
                let parts = cut.parts.into_iter().filter_map(Slot::into_closed);
                parts.for_each(|b| self.fail_closed(b));
            }
            Event::Starved
            | Event::Topic(_)
            | Event::Close(_)
            | Event::Awaited(..)
            | Event::Purge { .. } => {}
        }
    }

    /// Fails what a partition holds when the sender is gone.
    fn abandon(&self, p: &Partition) {
        let (line, open) = p.queue.lock().take_all();
        let line = line.into_iter().filter_map(Slot::into_closed);
        line.chain(open.map(OpenBatch::give_up)).for_each(|b| self.fail_closed(b));
    }

    fn fail_closed(&self, mut batch: ClosedBatch) {
        let e = self.refusal().certain(batch.known);
        batch.settle(Outcome::Failed(e));
    }

    /// A codec context, if there is a codec.
    fn encoder(&self) -> Option<Encoder> {
        if self.settings.codec == Codec::None {
            return None;
        }
        let kept = self.encoders.lock().pop();
        // The configuration was refused if this build had no such encoder.
        kept.or_else(|| {
            Compressor::new(self.settings.codec, self.settings.level).ok().map(Encoder::new)
        })
    }

    fn return_encoder(&self, encoder: Option<Encoder>) {
        let Some(mut encoder) = encoder.filter(|e| !e.broken) else { return };
        encoder.tidy();
        let mut kept = self.encoders.lock();
        if kept.len() < ENCODERS_KEPT {
            kept.push(encoder);
        }
    }
}

#[cfg(all(test, ottla_loom))]
mod models;
#[cfg(all(test, not(ottla_loom)))]
mod tests;
