//! Counts the partitions that hold batches within some time.

use std::time::Duration;

use crate::time::Tick;

/// The number of different partitions that held batches in the current window of time, or in the
/// one before it.
///
/// The number at one moment says too little: the batches that are in flight also have memory, and
/// their partitions get the next records soon.
#[derive(Debug, Default)]
pub(super) struct ActivePartitions {
    /// The last window in which each partition was counted, by partition id.
    windows: Vec<u32>,
    window: u32,
    window_ends: Tick,
    in_window: usize,
    in_last_window: usize,
}

const WINDOW: Duration = Duration::from_millis(500);

impl ActivePartitions {
    /// Counts a partition that begins to hold batches, once in each window.
    pub(super) fn add(&mut self, partition_id: u32) {
        let index = partition_id as usize;
        if self.windows.len() <= index {
            self.windows.resize(index + 1, u32::MAX);
        }
        if std::mem::replace(&mut self.windows[index], self.window) != self.window {
            self.in_window += 1;
        }
    }

    /// Begins a new window if the last one has ended, and counts the partitions that hold batches
    /// now. Returns the number of active partitions.
    pub(super) fn update(&mut self, now: Tick, ids: impl Iterator<Item = u32>) -> usize {
        if self.window_ends <= now {
            let is_next = now < self.window_ends.after(WINDOW);
            self.in_last_window = if is_next { self.in_window } else { 0 };
            self.in_window = 0;
            self.window = self.window.wrapping_add(1);
            self.window_ends = now.after(WINDOW);
            ids.for_each(|id| self.add(id));
        }
        self.in_window.max(self.in_last_window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Tick {
        Tick(0).after(Duration::from_millis(ms))
    }

    #[test]
    fn each_partition_counts_once_in_a_window() {
        let mut active = ActivePartitions::default();
        assert_eq!(active.update(at(1000), [7, 3].into_iter()), 2);
        active.add(7);
        active.add(4);
        active.add(4);
        assert_eq!(active.update(at(1200), [4].into_iter()), 3);
    }

    #[test]
    fn partitions_of_the_last_window_count() {
        let mut active = ActivePartitions::default();
        active.update(at(1000), [0, 1, 2].into_iter());
        assert_eq!(active.update(at(1500), [1].into_iter()), 3);
        active.add(5);
        assert_eq!(active.update(at(1999), [1, 5].into_iter()), 3);
        assert_eq!(active.update(at(2000), [1].into_iter()), 2);
        assert_eq!(active.update(at(2500), [1].into_iter()), 1);
    }

    #[test]
    fn partitions_before_an_idle_time_do_not_count() {
        let mut active = ActivePartitions::default();
        active.update(at(1000), [0, 1, 2].into_iter());
        assert_eq!(active.update(at(2000), [9].into_iter()), 1);
    }
}
