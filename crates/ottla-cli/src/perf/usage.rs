//! Measures the time and memory that a part of the run takes.

use std::time::Instant;

/// A running measurement.
pub(crate) struct UsageMeter {
    start: Instant,
    start_cpu: CpuTime,
}

/// CPU time of the process, in seconds. It is 0 on systems that do not report it.
#[derive(Default)]
struct CpuTime {
    user_s: f64,
    sys_s: f64,
}

/// The result of a measurement.
pub(crate) struct ResourceUsage {
    pub(crate) wall_s: f64,
    pub(crate) user_s: f64,
    pub(crate) sys_s: f64,
    /// The largest resident memory of the process so far, in KiB; 0 where the system does not
    /// report it.
    pub(crate) max_rss_kb: u64,
}

impl UsageMeter {
    pub(crate) fn start() -> UsageMeter {
        UsageMeter { start: Instant::now(), start_cpu: cpu_time() }
    }

    pub(crate) fn stop(self) -> ResourceUsage {
        let (end_cpu, wall_s) = (cpu_time(), self.start.elapsed().as_secs_f64());
        ResourceUsage {
            wall_s,
            user_s: end_cpu.user_s - self.start_cpu.user_s,
            sys_s: end_cpu.sys_s - self.start_cpu.sys_s,
            max_rss_kb: max_rss_kb(),
        }
    }
}

/// Returns the CPU time of the process so far, in seconds.
pub(crate) fn cpu_time_s() -> f64 {
    let CpuTime { user_s, sys_s } = cpu_time();
    user_s + sys_s
}

/// Returns the resident memory in KiB, which only Linux reports.
pub(crate) fn rss_kb() -> Option<u64> {
    memory_kb("VmRSS:")
}

#[cfg(unix)]
fn cpu_time() -> CpuTime {
    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::time::TimeValLike;
    let seconds = |t: nix::sys::time::TimeVal| t.num_microseconds() as f64 / 1e6;
    getrusage(UsageWho::RUSAGE_SELF).map_or_else(
        |_| CpuTime::default(),
        |u| CpuTime { user_s: seconds(u.user_time()), sys_s: seconds(u.system_time()) },
    )
}

#[cfg(not(unix))]
fn cpu_time() -> CpuTime {
    CpuTime::default()
}

/// Returns the peak of the resident memory in KiB; 0 where the system does not report it.
fn max_rss_kb() -> u64 {
    memory_kb("VmHWM:").unwrap_or(0)
}

/// Reads a line of `/proc/self/status`.
fn memory_kb(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}
