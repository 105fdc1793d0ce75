//! Writes the checkpoint from time to time, and at the end.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::checkpoint::Checkpoint;
use super::delivery_stats::{DeliveryStats, LoadProgress};

/// The longest time between two checkpoints while records are acknowledged.
const SAVE_INTERVAL: Duration = Duration::from_millis(100);

/// How often the saver looks whether the sending waits for a checkpoint.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Saves how far the input was acknowledged.
pub(super) struct CheckpointSaver {
    state: Mutex<SaverState>,
    stats: Arc<DeliveryStats>,
}

struct SaverState {
    checkpoint: Checkpoint,
    saved: Option<LoadProgress>,
    /// The last checkpoint is written. A later one would say that the load has not ended.
    has_ended: bool,
}

impl CheckpointSaver {
    pub(super) fn new(checkpoint: Checkpoint, stats: Arc<DeliveryStats>) -> CheckpointSaver {
        let state = SaverState { checkpoint, saved: None, has_ended: false };
        CheckpointSaver { state: Mutex::new(state), stats }
    }

    /// Saves again and again until the load has ended. Returns early with the first error.
    pub(super) fn run(&self) -> Result<(), String> {
        let mut since_save = Duration::ZERO;
        loop {
            thread::sleep(POLL_INTERVAL);
            since_save += POLL_INTERVAL;
            if since_save >= SAVE_INTERVAL || self.stats.needs_save() {
                since_save = Duration::ZERO;
                if !self.save()? {
                    return Ok(());
                }
            }
        }
    }

    /// Saves if there is something new. Returns false once the load has ended.
    fn save(&self) -> Result<bool, String> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.has_ended {
            return Ok(false);
        }
        let progress = self.stats.load_progress();
        if state.saved != Some(progress) {
            let ended = self.stats.take_ended_inputs();
            state.checkpoint.save(&ended, progress.completed, progress.last_read, false)?;
            state.saved = Some(progress);
            self.stats.progress_saved(&progress);
        }
        Ok(true)
    }

    /// Saves the last checkpoint, after every record has its result.
    pub(super) fn finish(&self) -> Result<(), String> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.has_ended = true;
        let progress = self.stats.load_progress();
        let (ended, is_all_completed) = (self.stats.take_ended_inputs(), progress.is_all_completed);
        state.checkpoint.save(&ended, progress.completed, progress.last_read, is_all_completed)
    }
}
