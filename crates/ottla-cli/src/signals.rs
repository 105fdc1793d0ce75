//! The signals that end the command in order: it sends what it has read and prints its summary.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use crate::CliError;

/// Exit status after a second signal, as shells report SIGINT.
pub(crate) const INTERRUPTED_STATUS: i32 = 130;

/// Installs the handlers. From here on, the signals do not end the process by themselves.
pub(crate) fn install() -> Result<Signals, CliError> {
    let failed = |e| CliError::failed(format!("cannot install the signal handlers: {e}"));
    // Without a handler, a file that reaches `ulimit -f` ends the process. With one, the write
    // fails, and its error is reported.
    signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).map_err(failed)?;
    // Shell scripts ignore SIGINT and SIGQUIT for their background jobs, where no terminal sends
    // them. A process that sends one of them means this command.
    let mut signals = vec![SIGINT, SIGTERM, SIGQUIT];
    if !is_hangup_ignored() {
        signals.push(SIGHUP);
    }
    Signals::new(signals).map_err(failed)
}

/// Returns whether the parent ignores SIGHUP for this process, as `nohup` does.
fn is_hangup_ignored() -> bool {
    match std::fs::read_to_string("/proc/self/status") {
        Ok(status) => is_in_ignored_signals(&status, SIGHUP),
        Err(_) => is_hangup_ignored_by_children(),
    }
}

/// Returns whether the `SigIgn` line of `/proc/self/status` contains a signal.
fn is_in_ignored_signals(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|l| l.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|m| u64::from_str_radix(m.trim(), 16).ok()).unwrap_or_default();
    mask & (1 << (signal - 1)) != 0
}

/// Returns whether a child survives SIGHUP. Children inherit ignored signals.
///
/// For systems without Linux's `/proc`. Only unsafe functions return this process's own setting.
fn is_hangup_ignored_by_children() -> bool {
    let mut command = std::process::Command::new("/bin/sh");
    command.args(["-c", "kill -HUP $$"]).stdin(std::process::Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_hangup_is_recognised() {
        let status = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\nSigCgt:\t0\n";
        assert!(is_in_ignored_signals(status, SIGHUP));
        assert!(!is_in_ignored_signals(status, SIGINT));
        assert!(!is_in_ignored_signals("", SIGHUP));
        // Both ways see the same process.
        assert_eq!(is_hangup_ignored(), is_hangup_ignored_by_children());
    }
}
