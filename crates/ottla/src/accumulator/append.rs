//! The hot path: a record into its partition's open batch, on the caller's thread.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::Accumulator;
use super::batch::{Meta, OpenBatch};
use super::buffer_pool::PooledBuf;
use super::completion::{Callback, Completion, Delivery, Ends};
use super::mailbox::Event;
use super::partition::{Partition, Queue, Slot};
use super::partitioner::{Choice, choose, is_worn, switch};
use super::topics::Topic;
use crate::error::Error;
use crate::producer::Prepared;
use crate::time::Tick;

/// What came of an attempt.
#[derive(Debug)]
pub(crate) enum Append {
    /// It is in a batch.
    Done(Delivery),
    /// A new batch is needed, and a buffer of this size for it.
    NeedsBuffer(usize),
}

/// What an append that needs several attempts keeps from one to the next.
#[derive(Debug, Default)]
pub(crate) struct Attempt {
    /// A buffer for a new batch; one that was not needed goes back.
    pub(crate) spare: Option<PooledBuf>,
    /// A choice that does not move, made once.
    fixed: Option<usize>,
}

/// A batch that the appender took out of its partition and has to close.
struct Taken(Option<Box<OpenBatch>>);

impl Accumulator {
    /// Tries to append. With a spare buffer (of at least the size asked for) it opens a batch where one
    /// is needed.
    pub(crate) fn append(
        &self,
        topic: &Arc<Topic>,
        record: &Prepared<'_>,
        callback: &mut Option<Callback>,
        attempt: &mut Attempt,
    ) -> Result<Append, Error> {
        let spread = self.settings.spread;
        loop {
            let choice = match attempt.fixed {
                Some(p) => Choice::Fixed(p),
                None => choose(topic, record.partition, record.key, spread, || self.env.random())?,
            };
            let (index, moves) = match choice {
                Choice::Fixed(p) => (*attempt.fixed.insert(p), false),
                Choice::Sticky(p) => (p, true),
            };
            let Some(partition) = topic.partitions.load().get(index).cloned() else {
                // The topic was re-created with fewer, just now.
                attempt.fixed = None;
                continue;
            };
            let mut queue = partition.queue.lock();
            if self.closed.load(Relaxed) {
                return Err(self.refusal());
            }
            if let Some(open) = queue.open.as_deref_mut()
                && open.fits(record)
            {
                let (delivery, bytes) = put(open, record, callback);
                let taken = take_if_full(&mut queue);
                self.after(topic, &partition, queue, taken, bytes, moves.then_some(index));
                return Ok(Append::Done(delivery));
            }
            // A full sticky partition is left before memory is asked for (KIP-794).
            if moves && is_worn(queue.sticky, self.settings.batch_size.max(1), queue.all_full()) {
                queue.sticky = 0;
                drop(queue);
                switch(topic, index, self.env.random());
                continue;
            }
            let Some(buf) = attempt.spare.take() else {
                return Ok(Append::NeedsBuffer(self.settings.batch_size.max(record.bound)));
            };
            let old = take(&mut queue);
            let mut open = self.open(buf, &partition, record);
            let (delivery, bytes) = put(&mut open, record, callback);
            queue.open = Some(Box::new(open));
            let taken = match take_if_full(&mut queue) {
                Taken(Some(new)) => {
                    // The record fills its batch by itself: two to close, in order.
                    let announce = !std::mem::replace(&mut queue.announced, true);
                    drop(queue);
                    if announce {
                        self.post(Event::Opened(partition.clone()), Tick(0));
                    }
                    self.finish(&partition, old);
                    self.finish(&partition, Taken(Some(new)));
                    self.worn(topic, &partition, bytes, moves.then_some(index));
                    return Ok(Append::Done(delivery));
                }
                Taken(None) => old,
            };
            self.after(topic, &partition, queue, taken, bytes, moves.then_some(index));
            return Ok(Append::Done(delivery));
        }
    }

    fn open(&self, buf: PooledBuf, partition: &Arc<Partition>, record: &Prepared<'_>) -> OpenBatch {
        let number = self.next_number();
        let meta = Meta {
            partition: partition.clone(),
            number,
            place: (number, 0),
            created: self.env.now(),
            base_timestamp: record.timestamp,
            max_timestamp: record.timestamp,
            count: 0,
        };
        let topic = partition.topic.clone();
        let done = Completion::new(topic, partition.index, record.timestamp, self.callers.clone());
        OpenBatch::new(buf, meta, Ends::new(done, self.listeners.clone()), self.settings.batch_size)
    }

    /// What follows an append: the lock goes, the sender hears, a batch that was taken is closed.
    fn after(
        &self,
        topic: &Topic,
        partition: &Arc<Partition>,
        mut queue: crate::sync::Guard<'_, Queue>,
        taken: Taken,
        bytes: usize,
        sticky: Option<usize>,
    ) {
        let mut worn = false;
        if sticky.is_some() {
            queue.sticky += bytes;
            worn = is_worn(queue.sticky, self.settings.batch_size.max(1), queue.all_full());
            if worn {
                queue.sticky = 0;
            }
        }
        let announce = !std::mem::replace(&mut queue.announced, true);
        drop(queue);
        if announce {
            let due = if self.settings.linger.is_zero() || taken.0.is_some() {
                Tick(0)
            } else {
                self.env.now().after(self.settings.linger)
            };
            self.post(Event::Opened(partition.clone()), due);
        }
        self.finish(partition, taken);
        if let (true, Some(index)) = (worn, sticky) {
            switch(topic, index, self.env.random());
        }
    }

    fn worn(&self, topic: &Topic, partition: &Partition, bytes: usize, sticky: Option<usize>) {
        let Some(index) = sticky else { return };
        let mut queue = partition.queue.lock();
        queue.sticky += bytes;
        let worn = is_worn(queue.sticky, self.settings.batch_size.max(1), queue.all_full());
        if worn {
            queue.sticky = 0;
        }
        drop(queue);
        if worn {
            switch(topic, index, self.env.random());
        }
    }

    /// Closes a batch that was taken, off the lock, and tells the sender.
    fn finish(&self, partition: &Arc<Partition>, taken: Taken) {
        let Taken(Some(open)) = taken else { return };
        self.close_into_slot(*open);
        self.post(Event::Full(partition.clone()), Tick(0));
    }

    /// Closes a batch for which a slot was kept, and fills it.
    pub(crate) fn close_into_slot(&self, open: OpenBatch) {
        let partition = open.meta.partition.clone();
        let mut encoder = self.encoder();
        partition.fill(open.close(encoder.as_mut()));
        self.return_encoder(encoder);
    }
}

fn put(
    open: &mut OpenBatch,
    record: &Prepared<'_>,
    callback: &mut Option<Callback>,
) -> (Delivery, usize) {
    let bytes = open.append(record);
    (open.ends.add(record.timestamp, record.token, callback.take()), bytes)
}

/// Takes the open batch out, keeping its place in the line.
fn take(queue: &mut Queue) -> Taken {
    let open = queue.open.take();
    if let Some(open) = &open {
        queue.line.push_back(Slot::Closing(open.meta.number, open.meta.created));
    }
    Taken(open)
}

fn take_if_full(queue: &mut Queue) -> Taken {
    if queue.open.as_ref().is_some_and(|b| b.is_full()) { take(queue) } else { Taken(None) }
}

/// Takes the open batch of a partition for the sender to close.
pub(super) fn take_open(queue: &mut Queue) -> Option<Box<OpenBatch>> {
    take(queue).0
}
