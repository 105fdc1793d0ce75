//! What a part of the run took of the machine.

use std::time::Instant;

/// The start of what is measured.
pub(crate) struct UsageMeter {
    start: Instant,
    start_cpu: (f64, f64),
}

/// What it took.
pub(crate) struct ResourceUsage {
    pub(crate) wall_s: f64,
    pub(crate) user_s: f64,
    pub(crate) sys_s: f64,
    /// The most memory the process ever had, in KiB; 0 where the system does not tell.
    pub(crate) max_rss_kb: u64,
}

impl UsageMeter {
    pub(crate) fn start() -> UsageMeter {
        UsageMeter { start: Instant::now(), start_cpu: cpu_seconds() }
    }

    pub(crate) fn stop(self) -> ResourceUsage {
        let ((user, sys), wall_s) = (cpu_seconds(), self.start.elapsed().as_secs_f64());
        let (user_s, sys_s) = (user - self.start_cpu.0, sys - self.start_cpu.1);
        ResourceUsage { wall_s, user_s, sys_s, max_rss_kb: max_rss_kb() }
    }
}

#[cfg(unix)]
fn cpu_seconds() -> (f64, f64) {
    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::time::TimeValLike;
    let seconds = |t: nix::sys::time::TimeVal| t.num_microseconds() as f64 / 1e6;
    getrusage(UsageWho::RUSAGE_SELF)
        .map_or((0.0, 0.0), |u| (seconds(u.user_time()), seconds(u.system_time())))
}

#[cfg(not(unix))]
fn cpu() -> (f64, f64) {
    (0.0, 0.0)
}

fn max_rss_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
