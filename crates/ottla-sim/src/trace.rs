//! What a run says of itself, line by line with the virtual time, when it is asked to.

use std::cell::Cell;
use std::fmt;

use ottla::sim::SimMachine;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

thread_local! {
    static ENABLED: Cell<bool> = const { Cell::new(false) };
    static NOW_NS: Cell<u64> = const { Cell::new(0) };
}

/// Says everything from here on, in this thread: what the world does, and the producer's own events.
pub fn enable_trace() {
    ENABLED.set(true);
    let events = tracing_subscriber::fmt()
        .with_timer(VirtualTimer)
        .with_target(false)
        .with_ansi(false)
        .with_max_level(tracing::Level::DEBUG);
    let _ = events.try_init();
}

/// Whether anybody listens.
pub(crate) fn is_enabled() -> bool {
    ENABLED.get()
}

/// The time moved.
pub(crate) fn update_time(machine: &SimMachine) {
    if is_enabled() {
        NOW_NS.set(machine.now().0);
    }
}

/// Says a line.
pub(crate) fn trace(machine: &SimMachine, line: impl FnOnce() -> String) {
    if is_enabled() {
        update_time(machine);
        println!("{} world: {}", format_timestamp(), line());
    }
}

fn format_timestamp() -> String {
    // A machine begins at one second.
    let ns = NOW_NS.get().saturating_sub(1_000_000_000);
    format!("{:>6}.{:06} ms", ns / 1_000_000, ns % 1_000_000)
}

struct VirtualTimer;

impl FormatTime for VirtualTimer {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        w.write_str(&format_timestamp())
    }
}
