//! The hot path: a record into its partition's open batch, on the caller's thread.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::Accumulator;
use super::batch::{Meta, OpenBatch, Room};
use super::buffer_pool::PooledBuf;
use super::completion::{CompletionOf, Delivery};
use super::ends::{Callback, Ends, Shell};
use super::mailbox::Event;
use super::partition::{Partition, Queue};
use super::partitioner::{Choice, Spread, choose, is_worn, part, switch};
use super::topics::Topic;
use crate::error::Error;
use crate::producer::Prepared;
use crate::sync::Guard;
use crate::time::Tick;
use ottla_protocol::compression::Codec;
use ottla_protocol::record::RecordLayout;

/// What came of an attempt.
#[derive(Debug)]
pub(crate) enum Append {
    /// It is in a batch; its delivery, if one was asked for.
    Done(Option<Delivery>),
    /// A new batch is needed, and a buffer of this size for it.
    NeedsBuffer(usize),
    /// The batch would go on in another buffer of this size, if one is free just now.
    NeedsMore(usize),
}

/// Who is told of a record's end.
#[derive(Default)]
pub(crate) struct Watch {
    pub(crate) callback: Option<Callback>,
    /// Whether a [`Delivery`] is wanted.
    pub(crate) delivery: bool,
}

/// What an append that needs several attempts keeps from one to the next.
#[derive(Debug, Default)]
pub(crate) struct Attempt {
    /// A buffer for a new batch; one that was not needed goes back.
    pub(crate) spare: Option<PooledBuf>,
    /// The shell of a new batch; fetched with no lock held, like the buffer.
    pub(crate) shell: Option<Shell>,
    /// A choice that does not move, made once.
    fixed: Option<usize>,
    /// It has gone out of another caller's way.
    parted: bool,
    /// No buffer was free to go on in: the open batch counts as full.
    pub(crate) no_more: bool,
    /// How long memory was waited for.
    pub(crate) waited: Duration,
}

/// Where an append stands: its topic, and the sticky choice it follows, if it does.
struct Spot<'a> {
    topic: &'a Topic,
    partition: &'a Arc<Partition>,
    sticky: Option<usize>,
}

impl Accumulator {
    /// Whether a record may try [`put_at_once`](Self::put_at_once): a choice that is made by counting is made once.
    #[inline]
    pub(crate) fn may_put_at_once(&self) -> bool {
        self.settings.spread != Spread::RoundRobin
    }

    /// Appends where that takes no more than a batch with room for the record; else nothing is done.
    #[inline]
    pub(crate) fn put_at_once(
        &self,
        topic: &Topic,
        record: &Prepared<'_>,
        watch: &mut Watch,
    ) -> Option<Option<Delivery>> {
        let (spread, random) = (self.settings.spread, || self.env.random());
        let count = topic.partitions.len();
        let chosen = choose(topic, count, record.partition, record.key, spread, random).ok()?;
        let (index, sticky) = match chosen {
            Choice::Fixed(p) => (p, None),
            Choice::Sticky(p) => (p, Some(p)),
        };
        let partition = topic.partitions.get(index)?;
        let Some(mut queue) = partition.queue.try_lock() else {
            self.met(&Spot { topic, partition, sticky });
            return None;
        };
        let open = queue.open_mut()?;
        let at = open.measure(&record.body, record.timestamp);
        if open.room(&at) != Room::Yes || self.closed.load(Relaxed) {
            return None;
        }
        Some(self.put(&Spot { topic, partition, sticky }, queue, (record, at), watch))
    }

    /// Tries to append. With a spare buffer (of at least the size asked for) it opens a batch where one
    /// is needed.
    pub(crate) fn append(
        &self,
        topic: &Topic,
        record: &Prepared<'_>,
        watch: &mut Watch,
        attempt: &mut Attempt,
    ) -> Result<Append, Error> {
        loop {
            let partitions = &topic.partitions;
            let choice = match attempt.fixed {
                Some(p) => Choice::Fixed(p),
                None => choose(
                    topic,
                    partitions.len(),
                    record.partition,
                    record.key,
                    self.settings.spread,
                    || self.env.random(),
                )?,
            };
            let (index, sticky) = match choice {
                Choice::Fixed(p) => (*attempt.fixed.insert(p), None),
                Choice::Sticky(p) => (p, Some(p)),
            };
            let Some(partition) = partitions.get(index) else {
                // The topic was re-created with fewer, just now.
                attempt.fixed = None;
                continue;
            };
            if attempt.spare.is_some() && attempt.shell.is_none() {
                attempt.shell = Some(self.listeners.shell(topic.sizing.expected()));
            }
            let spot = Spot { topic, partition, sticky };
            let Some(mut queue) = self.enter(&spot, &mut attempt.parted) else { continue };
            if self.closed.load(Relaxed) {
                return Err(self.refusal());
            }
            if let Some(open) = queue.open_mut() {
                let at = open.measure(&record.body, record.timestamp);
                match open.room(&at) {
                    Room::Yes => {
                        return Ok(Append::Done(self.put(&spot, queue, (record, at), watch)));
                    }
                    Room::Buffer if !attempt.no_more => match attempt.spare.take() {
                        Some(more) => {
                            open.extend(more);
                            return Ok(Append::Done(self.put(&spot, queue, (record, at), watch)));
                        }
                        None => return Ok(Append::NeedsMore(self.buffer_size(record))),
                    },
                    Room::Buffer | Room::No => {}
                }
            }
            // A full sticky partition is left before memory is asked for (KIP-794).
            if sticky.is_some() && self.is_worn(&queue) {
                queue.sticky = 0;
                drop(queue);
                switch(topic, index, self.env.random());
                continue;
            }
            let Some(buf) = attempt.spare.take() else {
                return Ok(Append::NeedsBuffer(self.buffer_size(record)));
            };
            let old = queue.close_open();
            let open = self.open(buf, partition, record, attempt);
            let at = open.measure(&record.body, record.timestamp);
            queue.set_open(open);
            let delivery = self.put(&spot, queue, (record, at), watch);
            if let Some(old) = old {
                self.finish(partition, old);
            }
            return Ok(Append::Done(delivery));
        }
    }

    fn buffer_size(&self, record: &Prepared<'_>) -> usize {
        self.settings.batch_size.max(record.bound)
    }

    /// The partition's lock. A sticky caller that finds another caller there goes elsewhere, once: none.
    #[inline]
    fn enter<'p>(&self, spot: &Spot<'p>, parted: &mut bool) -> Option<Guard<'p, Queue>> {
        if *parted || spot.sticky.is_none() {
            return Some(spot.partition.queue.lock());
        }
        if let Some(queue) = spot.partition.queue.try_lock() {
            return Some(queue);
        }
        *parted = true;
        (!self.met(spot)).then(|| spot.partition.queue.lock())
    }

    /// A lock was held. If another caller held it, and there is somewhere else to go, this one's sticky choice is
    /// there from here on.
    #[cold]
    fn met(&self, spot: &Spot<'_>) -> bool {
        let Some(index) = spot.sticky else { return false };
        // The sender only looks in, and is gone in a moment.
        !spot.partition.is_visited() && part(spot.topic, index, self.env.random())
    }

    fn open(
        &self,
        buf: PooledBuf,
        partition: &Arc<Partition>,
        record: &Prepared<'_>,
        attempt: &mut Attempt,
    ) -> OpenBatch {
        let number = self.next_number();
        let meta = Meta {
            partition: partition.clone(),
            number,
            place: (number, 0),
            created: self.env.now(),
            base_timestamp: record.timestamp,
            max_timestamp: record.timestamp,
            count: 0,
            largest: 0,
            waited: attempt.waited,
        };
        let (base_timestamp, callers) = (record.timestamp, self.callers.clone());
        let of = CompletionOf { partition: partition.clone(), number, base_timestamp, callers };
        let shell = attempt.shell.take().unwrap_or_default();
        let ends = Ends::new(self.listeners.clone(), shell, of);
        let sizing = &partition.sizing;
        let packs = self.settings.codec != Codec::None;
        OpenBatch::new(buf, meta, ends, sizing.plain_limit(self.settings.batch_size, packs))
    }

    /// Encodes the record into the open batch; what follows: the lock goes, the sender hears, the batch is
    /// closed if it is full.
    #[inline]
    fn put(
        &self,
        spot: &Spot<'_>,
        mut queue: Guard<'_, Queue>,
        (record, at): (&Prepared<'_>, RecordLayout),
        watch: &mut Watch,
    ) -> Option<Delivery> {
        let Some(open) = queue.open_mut() else {
            unreachable!("put is called where a batch is open");
        };
        let bytes = open.push(&record.body, at, record.timestamp);
        let delivery = open.ends.add(record.timestamp, record.token, watch);
        let (full, limit) = (open.is_full(), open.stay(self.settings.batch_size));
        let mut worn = false;
        if spot.sticky.is_some() {
            queue.sticky = queue.sticky.saturating_add(bytes as u32);
            worn = is_worn(queue.sticky as usize, limit, full);
        }
        if full || worn || !queue.announced {
            self.after(spot, queue);
        }
        delivery
    }

    /// What follows an append that filled a batch, wore the sticky choice out, or was the partition's first.
    #[cold]
    fn after(&self, spot: &Spot<'_>, mut queue: Guard<'_, Queue>) {
        let full = queue.open().is_some_and(OpenBatch::is_full);
        let taken = if full { queue.close_open() } else { None };
        let worn = spot.sticky.is_some() && self.is_worn(&queue);
        if worn {
            queue.sticky = 0;
        }
        let announce = !queue.announced;
        if announce {
            queue.announced = true;
            self.mailbox().announcing();
        }
        drop(queue);
        if announce {
            let due = if self.settings.linger.is_zero() || full {
                Tick(0)
            } else {
                self.env.now().after(self.settings.linger)
            };
            self.announce(spot.partition, due);
        }
        // First, so that others do not go on here while this one compresses.
        if let (true, Some(index)) = (worn, spot.sticky) {
            switch(spot.topic, index, self.env.random());
        }
        if let Some(batch) = taken {
            self.finish(spot.partition, batch);
        }
    }

    /// Closes a batch off the lock, and tells the sender. Where that means to compress it, a helper does, if none
    /// of its kind waits for one already.
    fn finish(&self, partition: &Arc<Partition>, batch: OpenBatch) {
        if self.settings.codec == Codec::None {
            self.close_into_slot(batch);
            return self.post_full(partition);
        }
        let work = CloseWork::of(self.me.upgrade(), batch);
        let back = match (self.hands.get(), work) {
            (Some(hands), Ok(work)) => hands.offer(Box::new(move || work.finish())),
            (None, Ok(work)) => {
                work.finish();
                None
            }
            // The accumulator is being dropped: there is no sender either.
            (_, Err(batch)) => return drop(batch),
        };
        if let Some(work) = back {
            work();
        }
    }

    fn is_worn(&self, queue: &Queue) -> bool {
        let size = self.settings.batch_size;
        let limit = queue.open().map_or(size.max(1), |open| open.stay(size));
        is_worn(queue.sticky as usize, limit, queue.all_full())
    }

    /// Tells the sender of a partition that holds something.
    fn announce(&self, partition: &Arc<Partition>, due: Tick) {
        self.post(Event::Opened(partition.clone()), due);
        self.mailbox().announced();
    }

    /// Tells the sender of a batch that waits to be drained; rings only if its broker could take it.
    pub(crate) fn post_full(&self, partition: &Arc<Partition>) {
        let idle = || !self.mailbox().is_busy(partition.leader.load(Relaxed));
        if let Err(event) = self.mailbox().post_if(Event::Full(partition.clone()), Tick(0), idle) {
            self.undeliverable(event);
        }
    }

    /// Closes a batch for which a slot was kept, and fills it.
    pub(crate) fn close_into_slot(&self, open: OpenBatch) {
        let partition = open.meta.partition.clone();
        let now = self.env.now();
        let mut encoder = self.encoder();
        let mut closed = open.close(encoder.as_mut());
        closed.story.closed = Some(now);
        partition.fill(closed);
        self.return_encoder(encoder);
    }
}

/// A batch that is closed by whoever has the time. Whatever becomes of the work, its place is not kept for ever.
pub(crate) struct CloseWork {
    acc: Arc<Accumulator>,
    partition: Arc<Partition>,
    batch: Option<OpenBatch>,
    number: u64,
    /// When its time is over.
    over: Tick,
}

impl CloseWork {
    /// The batch comes back where there is no accumulator any more.
    pub(crate) fn of(
        acc: Option<Arc<Accumulator>>,
        batch: OpenBatch,
    ) -> Result<CloseWork, Box<OpenBatch>> {
        let Some(acc) = acc else { return Err(Box::new(batch)) };
        let (partition, number) = (batch.meta.partition.clone(), batch.meta.number);
        let over = batch.meta.created.after(acc.settings.delivery_timeout);
        Ok(CloseWork { acc, partition, batch: Some(batch), number, over })
    }

    pub(crate) fn finish(mut self) {
        if let Some(batch) = self.batch.take() {
            self.acc.close_into_slot(batch);
        }
    }
}

impl Drop for CloseWork {
    fn drop(&mut self) {
        // Nobody came to the end of it, or somebody panicked on the way: its records were told.
        self.partition.queue.lock().forget(self.number);
        if self.over <= self.acc.env.now() {
            // To be failed now, whatever its node can take.
            self.acc.post(Event::Full(self.partition.clone()), Tick(0));
        } else {
            self.acc.post_full(&self.partition);
        }
    }
}
