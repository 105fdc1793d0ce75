//! Time, memory and threads of this process.

use std::fs;
use std::ops::Sub;
use std::time::Instant;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

/// What the process used since its start, or between two times.
#[derive(Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) wall_s: f64,
    pub(crate) cpu_s: f64,
    /// Voluntary context switches of all threads.
    pub(crate) switches: i64,
}

impl Usage {
    pub(crate) fn now() -> Usage {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        let usage = getrusage(UsageWho::RUSAGE_SELF).expect("get the resource usage");
        let cpu_us = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
        Usage {
            wall_s: START.get_or_init(Instant::now).elapsed().as_secs_f64(),
            cpu_s: cpu_us as f64 / 1e6,
            switches: usage.voluntary_context_switches(),
        }
    }
}

impl Sub for Usage {
    type Output = Usage;

    fn sub(self, start: Usage) -> Usage {
        Usage {
            wall_s: self.wall_s - start.wall_s,
            cpu_s: self.cpu_s - start.cpu_s,
            switches: self.switches - start.switches,
        }
    }
}

pub(crate) fn process_threads() -> u64 {
    status_number("Threads:")
}

/// The peak of the resident memory.
pub(crate) fn max_rss_kb() -> u64 {
    status_number("VmHWM:")
}

fn status_number(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
}
