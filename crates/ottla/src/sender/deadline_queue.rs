//! A queue of deadlines, at most one for each partition.
//!
//! The ready tracker schedules a deadline when it evaluates a partition, and re-evaluates the
//! partition when the deadline expires. The queue does not allocate in steady state.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::collections::HashMap;
use crate::time::Tick;

/// The earliest deadline that was scheduled for each partition.
///
/// A deadline may fire early, never late: it is not withdrawn when the partition's state changes.
/// One that fires early costs one re-evaluation.
#[derive(Debug, Default)]
pub(super) struct DeadlineQueue {
    /// Also holds deadlines that an earlier one has replaced; `pop_due` drops them.
    heap: BinaryHeap<Reverse<(Tick, u32)>>,
    /// The deadline in force, by partition.
    deadlines: HashMap<u32, Tick>,
}

impl DeadlineQueue {
    /// Schedules a deadline, unless the partition has one that is as early.
    pub(super) fn schedule(&mut self, partition_id: u32, due: Tick) {
        if self.deadlines.get(&partition_id).is_none_or(|at| due < *at) {
            self.deadlines.insert(partition_id, due);
            self.heap.push(Reverse((due, partition_id)));
        }
    }

    /// Returns the next deadline, or [`Tick::NEVER`].
    pub(super) fn next_deadline(&self) -> Tick {
        self.heap.peek().map_or(Tick::NEVER, |Reverse((at, _))| *at)
    }

    /// Removes a deadline that has expired, and returns its partition.
    pub(super) fn pop_due(&mut self, now: Tick) -> Option<u32> {
        while self.next_deadline() <= now {
            let Reverse((at, partition_id)) = self.heap.pop()?;
            // Otherwise an earlier deadline replaced it.
            if self.deadlines.get(&partition_id) == Some(&at) {
                self.deadlines.remove(&partition_id);
                return Some(partition_id);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earliest_deadline_of_a_partition_fires_once() {
        let mut queue = DeadlineQueue::default();
        queue.schedule(1, Tick(50));
        queue.schedule(1, Tick(70));
        queue.schedule(2, Tick(60));
        queue.schedule(1, Tick(40));
        assert_eq!((queue.next_deadline(), queue.pop_due(Tick(39))), (Tick(40), None));
        assert_eq!(queue.pop_due(Tick(45)), Some(1));
        assert_eq!(queue.pop_due(Tick(55)), None, "the later deadline was replaced");
        assert_eq!(queue.pop_due(Tick(60)), Some(2));
        assert_eq!((queue.pop_due(Tick(1000)), queue.next_deadline()), (None, Tick::NEVER));
    }
}
