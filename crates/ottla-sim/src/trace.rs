//! The trace of a run: one line for each event, with the virtual time. Off unless enabled.

use std::cell::Cell;
use std::fmt;

use ottla::sim::SimMachine;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

thread_local! {
    static ENABLED: Cell<bool> = const { Cell::new(false) };
    static NOW_NS: Cell<u64> = const { Cell::new(0) };
}

/// Prints the events of simulation and producer from now on, for this thread.
pub fn enable_trace() {
    ENABLED.set(true);
    let subscriber = tracing_subscriber::fmt()
        .with_timer(VirtualTimer)
        .with_target(false)
        .with_ansi(false)
        .with_max_level(tracing::Level::DEBUG);
    let _ = subscriber.try_init();
}

/// Returns whether the trace is on for this thread.
pub(crate) fn is_enabled() -> bool {
    ENABLED.get()
}

/// Updates the time in the trace's lines.
pub(crate) fn update_time(machine: &SimMachine) {
    if is_enabled() {
        NOW_NS.set(machine.now().0);
    }
}

/// Prints a line if the trace is on. It calls `message` only then.
pub(crate) fn trace(machine: &SimMachine, message: impl FnOnce() -> String) {
    if is_enabled() {
        update_time(machine);
        println!("{} sim: {}", format_timestamp(), message());
    }
}

fn format_timestamp() -> String {
    // A machine's clock starts at one second.
    let ns = NOW_NS.get().saturating_sub(1_000_000_000);
    format!("{:>6}.{:06} ms", ns / 1_000_000, ns % 1_000_000)
}

/// Gives the producer's events the virtual time.
struct VirtualTimer;

impl FormatTime for VirtualTimer {
    fn format_time(&self, w: &mut Writer<'_>) -> fmt::Result {
        w.write_str(&format_timestamp())
    }
}
