//! The progress bars on standard error: bytes and time left of the current file and of all files.

use std::io::{self, IsTerminal};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::input::Input;
use crate::{console, live};

const BAR: &str = "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
/// Pipes and devices have no length.
const SPINNER: &str = "{spinner} {bytes} {bytes_per_sec}";
/// How often the bars are drawn in a second.
const DRAWS_PER_SECOND: u8 = 10;

/// The progress bars. They are hidden unless standard error is a terminal.
pub(super) struct Progress {
    bars: MultiProgress,
    /// Of the current file, if there are several.
    file: ProgressBar,
    total: ProgressBar,
    /// There are bars, unless the live view hides them.
    has_bars: AtomicBool,
    /// The bytes of the inputs before the current one.
    bytes_before: AtomicU64,
}

impl Progress {
    pub(super) fn hidden() -> Progress {
        let hidden = || ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        let bars = MultiProgress::with_draw_target(ProgressDrawTarget::hidden());
        Progress {
            bars,
            file: hidden(),
            total: hidden(),
            has_bars: AtomicBool::new(false),
            bytes_before: AtomicU64::new(0),
        }
    }

    /// Prepares the bars, unless a person types the input: they would wipe out what is typed.
    pub(super) fn start(&self, inputs: &[Input]) {
        if !io::stderr().is_terminal() || inputs.iter().any(Input::is_terminal) {
            return;
        }
        if inputs.len() > 1 {
            self.bars.add(self.file.clone());
            self.total.set_prefix("total ");
        }
        self.bars.add(self.total.clone());
        show_length(&self.total, inputs.iter().map(|i| i.len).sum());
        console::show_progress_bar(&self.total);
        self.has_bars.store(true, Ordering::SeqCst);
        if !live::is_active() {
            self.show();
        }
    }

    /// Shows the bars, if there are any. The live view calls this when it leaves.
    pub(super) fn show(&self) {
        if self.has_bars.load(Ordering::SeqCst) {
            self.bars.set_draw_target(ProgressDrawTarget::stderr_with_hz(DRAWS_PER_SECOND));
        }
    }

    /// Shows that the reading of an input begins.
    pub(super) fn begin_input(&self, index: usize, inputs: &[Input]) {
        let input = &inputs[index];
        self.file.reset();
        self.file.set_prefix(format!("{}/{} {} ", index + 1, inputs.len(), input.name()));
        show_length(&self.file, input.len);
        let before = inputs[..index].iter().filter_map(|i| i.len).sum();
        self.bytes_before.store(before, Ordering::Relaxed);
        self.update(0);
    }

    /// Shows how many bytes of the current file were read.
    pub(super) fn update(&self, file_position: u64) {
        if !self.has_bars.load(Ordering::Relaxed) {
            return;
        }
        self.file.set_position(file_position);
        self.total.set_position(self.bytes_before.load(Ordering::Relaxed) + file_position);
    }

    pub(super) fn finish(&self) {
        self.file.finish_and_clear();
        self.total.finish_and_clear();
    }
}

fn show_length(bar: &ProgressBar, len: Option<u64>) {
    let bytes = match len {
        Some(len) => {
            bar.set_length(len);
            BAR
        }
        None => {
            bar.unset_length();
            SPINNER
        }
    };
    if let Ok(style) = ProgressStyle::with_template(&format!("{{prefix}}{bytes}")) {
        bar.set_style(style);
    }
}
