//! Finds the partitions that can be drained to a node, and those without a leader.
//!
//! The ready tracker evaluates a partition and moves it here from its old state to the new one. A
//! drain visits the partitions of a node in ascending order.

use std::collections::BTreeMap;

use super::bit_set::BitSet;

/// Whether a partition can be drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PartitionState {
    /// Waits for an event or for its timer.
    Waiting,
    /// Can be drained to the node with this id.
    Ready(i32),
    /// Could be drained to the node with this id, but its only batch lingers.
    Lingering(i32),
    Leaderless,
}

/// The partitions of each state except [`PartitionState::Waiting`].
#[derive(Debug, Default)]
pub(super) struct PartitionIndex {
    /// By the node id of their leader.
    ready_by_node: BTreeMap<i32, BitSet>,
    /// By the node id of their leader. A drain may include them.
    lingering_by_node: BTreeMap<i32, BitSet>,
    leaderless: BitSet,
}

impl PartitionIndex {
    /// Moves a partition from its old state to the new one.
    pub(super) fn update(&mut self, partition_id: u32, old: PartitionState, new: PartitionState) {
        if old == new {
            return;
        }
        match old {
            PartitionState::Ready(node) => {
                if let Some(partition_ids) = self.ready_by_node.get_mut(&node) {
                    partition_ids.remove(partition_id);
                }
            }
            PartitionState::Lingering(node) => {
                if let Some(partition_ids) = self.lingering_by_node.get_mut(&node) {
                    partition_ids.remove(partition_id);
                }
            }
            PartitionState::Leaderless => self.leaderless.remove(partition_id),
            PartitionState::Waiting => {}
        }
        match new {
            PartitionState::Ready(node) => {
                self.ready_by_node.entry(node).or_default().insert(partition_id);
            }
            PartitionState::Lingering(node) => {
                self.lingering_by_node.entry(node).or_default().insert(partition_id);
            }
            PartitionState::Leaderless => self.leaderless.insert(partition_id),
            PartitionState::Waiting => {}
        }
    }

    /// Returns the ids of the nodes that have a ready batch.
    pub(super) fn ready_nodes(&self) -> impl Iterator<Item = i32> {
        self.ready_by_node
            .iter()
            .filter(|(_, partition_ids)| !partition_ids.is_empty())
            .map(|(node, _)| *node)
    }

    /// Returns the number of ready partitions of a node.
    pub(super) fn ready_count(&self, node: i32) -> usize {
        self.ready_by_node.get(&node).map_or(0, BitSet::len)
    }

    /// Returns the partitions without a leader.
    pub(super) fn leaderless(&self) -> impl Iterator<Item = u32> {
        self.leaderless.iter()
    }

    /// Returns the smallest ready partition of a node that is not below `from`. With
    /// `include_lingering`, lingering partitions count as ready.
    pub(super) fn next(&self, node: i32, from: u32, include_lingering: bool) -> Option<u32> {
        let next_of = |ids_by_node: &BTreeMap<i32, BitSet>| {
            ids_by_node.get(&node).and_then(|partition_ids| partition_ids.next_set_bit(from))
        };
        let lingering = if include_lingering { next_of(&self.lingering_by_node) } else { None };
        [next_of(&self.ready_by_node), lingering].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::PartitionState::{Leaderless, Lingering, Ready, Waiting};
    use super::*;

    #[test]
    fn partition_is_found_in_its_newest_state_only() {
        let mut index = PartitionIndex::default();
        index.update(3, Waiting, Ready(1));
        index.update(5, Waiting, Lingering(1));
        index.update(4, Waiting, Ready(2));
        assert_eq!(index.ready_nodes().collect::<Vec<_>>(), [1, 2]);
        assert_eq!((index.next(1, 0, false), index.next(1, 4, false)), (Some(3), None));
        assert_eq!(index.next(1, 4, true), Some(5));
        index.update(3, Ready(1), Leaderless);
        assert_eq!((index.ready_count(1), index.ready_count(2)), (0, 1));
        assert_eq!(index.ready_nodes().collect::<Vec<_>>(), [2], "node 1 only has a lingering one");
        assert_eq!(index.leaderless().collect::<Vec<_>>(), [3]);
        index.update(3, Leaderless, Ready(2));
        assert_eq!((index.next(2, 0, false), index.leaderless().count()), (Some(3), 0));
        index.update(3, Ready(2), Waiting);
        assert_eq!(index.next(2, 0, true), Some(4));
    }
}
