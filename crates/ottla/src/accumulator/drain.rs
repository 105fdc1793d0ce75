//! Takes batches out of their lines: one a partition, round a node's partitions from where the last drain
//! ended, up to `max.request.size`; and those whose time is over.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Accumulator;
use super::append::take_open;
use super::batch::{ClosedBatch, OpenBatch, StampedBatch};
use super::partition::{Partition, Slot};
use super::ready::{Active, Head, Order, Urge, head};
use crate::cluster::Cluster;
use crate::plants::plant;
use crate::time::Tick;
use ottla_protocol::compression::Codec;

/// What a drain took.
#[derive(Debug, Default)]
pub(crate) struct Drained {
    /// Ready for one request.
    pub(crate) batches: Vec<StampedBatch>,
    /// To be closed off this thread; they announce themselves when done.
    pub(crate) to_close: Vec<OpenBatch>,
}

/// One batch on its way out of the line.
#[allow(clippy::large_enum_variant, reason = "lives for a moment, on the stack")]
enum Out {
    Closed(ClosedBatch),
    Retry(Box<StampedBatch>),
    Open(Box<OpenBatch>),
}

/// A batch that ran out of time.
#[allow(clippy::large_enum_variant, reason = "lives for a moment, on its way to its end")]
#[derive(Debug)]
pub(crate) enum Expired {
    /// Never sent, or its last attempt settled that it was not written.
    Unsent(ClosedBatch),
    /// Sent, and put back.
    Sent(Box<StampedBatch>),
}

impl Active {
    /// Takes what `node` may be sent now.
    pub(crate) fn drain(
        &mut self,
        acc: &Accumulator,
        cluster: &Cluster,
        order: &mut impl Order,
        (urge, max_size): (Urge, usize),
        node: i32,
        now: Tick,
    ) -> Drained {
        let mut out = Drained::default();
        let from = self.drained.get(&node).map_or(0, |last| last.wrapping_add(1));
        let mut size = 0;
        let round: Vec<Arc<Partition>> = (self.partitions.range(from..))
            .chain(self.partitions.range(..from))
            .map(|(_, p)| p)
            .filter(|p| cluster.leader(&p.topic, p.index).node == node)
            .cloned()
            .collect();
        for p in round {
            let taken = {
                let mut queue = p.queue.lock();
                match head(&queue, acc, urge, now) {
                    Head::Sendable(retry) if order.may_drain(&p, retry) => {}
                    _ => continue,
                }
                let len = match queue.line.front() {
                    Some(Slot::Closed(b)) => b.wire_len(),
                    Some(Slot::Retry(b, _)) => b.closed.wire_len(),
                    _ => queue.open.as_ref().map_or(0, |b| b.wire_len()),
                };
                // A first batch larger than the limit still goes, alone.
                if size + len > max_size && !out.batches.is_empty() {
                    break;
                }
                size += len;
                match queue.line.pop_front() {
                    Some(Slot::Closed(b)) => Out::Closed(b),
                    Some(Slot::Retry(b, _)) => Out::Retry(b),
                    Some(Slot::Closing(..)) => continue,
                    None if acc.settings.codec == Codec::None => match queue.open.take() {
                        Some(open) => Out::Open(open),
                        None => continue,
                    },
                    // Compression is not for this thread: keep the place, hand it out.
                    None => {
                        let open = take_open(&mut queue);
                        drop(queue);
                        out.to_close.extend(open.map(|b| *b));
                        continue;
                    }
                }
            };
            self.drained.insert(node, p.key);
            out.batches.push(match taken {
                Out::Closed(b) => order.stamp(b),
                Out::Retry(b) if plant!(BufferReused) => b.overwritten(),
                Out::Retry(b) => *b,
                Out::Open(open) => order.stamp(open.close(None)),
            });
        }
        out
    }

    /// Takes batches created `delivery.timeout.ms` ago or earlier; when the next will be, too.
    pub(crate) fn expire(&self, acc: &Accumulator, now: Tick) -> (Vec<Expired>, Option<Tick>) {
        let (mut expired, mut next) = (Vec::new(), None::<Tick>);
        let timeout = acc.settings.delivery_timeout;
        for p in self.iter() {
            loop {
                let mut queue = p.queue.lock();
                let due = match queue.line.front() {
                    // Whoever closes it is about to be done.
                    Some(Slot::Closing(..)) => break,
                    Some(slot) => slot.created().after(timeout),
                    None => match &queue.open {
                        Some(open) => open.meta.created.after(timeout),
                        None => break,
                    },
                };
                if due > now {
                    next = Some(next.map_or(due, |n| n.min(due)));
                    break;
                }
                let taken = queue.line.pop_front();
                let open = if taken.is_none() { queue.open.take() } else { None };
                drop(queue);
                match (taken, open) {
                    (Some(Slot::Closed(b)), _) => expired.push(Expired::Unsent(b)),
                    (Some(Slot::Retry(b, _)), _) => expired.push(Expired::Sent(b)),
                    (_, Some(open)) => expired.push(Expired::Unsent(open.close(None))),
                    _ => break,
                }
            }
        }
        (expired, next)
    }

    /// Takes everything of some partitions, whatever its time.
    pub(crate) fn take(&mut self, which: impl Fn(&Partition) -> bool) -> Vec<Expired> {
        let mut out = Vec::new();
        let (taken, rest) =
            std::mem::take(&mut self.partitions).into_iter().partition(|(_, p)| which(p));
        self.partitions = rest;
        let taken: BTreeMap<u32, Arc<Partition>> = taken;
        for p in taken.into_values() {
            let (line, open) = {
                let mut queue = p.queue.lock();
                queue.announced = false;
                // A slot that is being closed stays: its closer fills it, and it is taken next time.
                let (closing, line): (Vec<_>, Vec<_>) =
                    queue.line.drain(..).partition(|s| matches!(s, Slot::Closing(..)));
                queue.line.extend(closing);
                (line, queue.open.take())
            };
            for slot in line {
                match slot {
                    Slot::Closed(b) => out.push(Expired::Unsent(b)),
                    Slot::Retry(b, _) => out.push(Expired::Sent(b)),
                    Slot::Closing(..) => {}
                }
            }
            out.extend(open.map(|b| Expired::Unsent(b.close(None))));
        }
        out
    }
}
