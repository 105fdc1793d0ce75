//! Where records wait: memory, batches, and the line of each partition. Callers append; the sender asks what
//! is ready, drains it, and settles it. Knows no socket and no protocol beyond the record batch.

pub(crate) mod append;
pub(crate) mod batch;
pub(crate) mod buffer_pool;
pub(crate) mod completion;
pub(crate) mod drain;
pub(crate) mod mailbox;
pub(crate) mod partition;
pub(crate) mod partitioner;
pub(crate) mod ready;
pub(crate) mod split;
pub(crate) mod topics;
pub(crate) mod waits;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ottla_protocol::compression::{Codec, Compressor};

use crate::error::{Error, ErrorKind};
use crate::sync::Mutex;
use crate::time::{Env, Tick};
use batch::Encoder;
use buffer_pool::BufferPool;
use completion::{Callers, Listeners, Outcome};
use mailbox::{Event, Mailbox};
use partition::{Partition, Slot};
use partitioner::Spread;
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
}

/// What callers and the sender share.
pub(crate) struct Accumulator {
    pub(crate) settings: Settings,
    pub(crate) env: Arc<dyn Env>,
    pub(crate) pool: Arc<BufferPool>,
    pub(crate) mailbox: Mailbox,
    pub(crate) topics: Topics,
    pub(crate) callers: Arc<Callers>,
    pub(crate) listeners: Arc<Listeners>,
    /// No record is accepted any more.
    pub(crate) closed: AtomicBool,
    /// Why, where that is not that somebody closed the producer.
    fatal: OnceLock<Error>,
    numbers: AtomicU64,
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
    ) -> Arc<Accumulator> {
        Arc::new(Accumulator {
            settings,
            env,
            pool: BufferPool::new(settings.buffer_memory, settings.batch_size.max(1)),
            mailbox: Mailbox::new(),
            topics: Topics::default(),
            callers,
            listeners,
            closed: AtomicBool::new(false),
            fatal: OnceLock::new(),
            numbers: AtomicU64::new(0),
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

    fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Tells the sender; where it is gone, does what it would have done at its end.
    pub(crate) fn post(&self, event: Event, due: Tick) {
        if let Err(event) = self.mailbox.post(event, due) {
            self.undeliverable(event);
        }
    }

    /// What nobody will read: whoever waits for it must not be left waiting.
    pub(crate) fn undeliverable(&self, event: Event) {
        match event {
            Event::Opened(p) | Event::Full(p) => self.abandon(&p),
            Event::Caller(_, wait) => wait.fire(),
            Event::Flush(flush) => flush.finish(),
            Event::Starved | Event::Topic(_) | Event::Close(_) => {}
        }
    }

    /// Fails what a partition holds when the sender is gone.
    fn abandon(&self, p: &Partition) {
        let (line, open) = {
            let mut queue = p.queue.lock();
            let (closing, line): (Vec<_>, Vec<_>) =
                queue.line.drain(..).partition(|s| matches!(s, Slot::Closing(..)));
            queue.line.extend(closing);
            (line, queue.open.take())
        };
        for mut batch in
            (line.into_iter().filter_map(Slot::into_closed)).chain(open.map(|b| b.close(None)))
        {
            let e = Error::closed().certain(batch.known);
            batch.settle(Outcome::Failed(e));
        }
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
        let Some(encoder) = encoder.filter(|e| !e.broken) else { return };
        let mut kept = self.encoders.lock();
        if kept.len() < ENCODERS_KEPT {
            kept.push(encoder);
        }
    }
}
