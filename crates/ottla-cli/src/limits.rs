//! Limits of the system: address space, open files, threads.
//!
//! An allocation that fails ends a Rust program without an error of ours. So the command checks a
//! limit on address space before it starts.

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use crate::CliError;

/// Address space for thread stacks, codecs, requests and input, besides `buffer.memory`.
const WORKING_MEMORY_BYTES: u64 = 64 << 20;
/// glibc's number of heaps.
const MALLOC_ARENA_MAX: &str = "MALLOC_ARENA_MAX";

/// Returns the limit on address space (`ulimit -v`) in bytes.
fn address_space_limit() -> Option<u64> {
    let (limit, _) = getrlimit(Resource::RLIMIT_AS).ok()?;
    (limit != RLIM_INFINITY).then_some(limit)
}

/// Restarts the command with one heap for all threads if its address space is limited.
///
/// glibc reserves 64 MiB of address space for each thread that allocates. With a limit, these
/// reservations take what other allocations need. It reads the variable before `main`.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn use_one_heap_if_limited() {
    use std::os::unix::process::CommandExt;
    if address_space_limit().is_none() || std::env::var_os(MALLOC_ARENA_MAX).is_some() {
        return;
    }
    if let Ok(program) = std::env::current_exe() {
        // Returns only after an error. The command then runs with several heaps.
        let _ = std::process::Command::new(program)
            .args(std::env::args_os().skip(1))
            .env(MALLOC_ARENA_MAX, "1")
            .exec();
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn use_one_heap_if_limited() {}

/// Refuses to start if the address space is too small for the producer's memory.
pub(crate) fn check_address_space(properties: &ottla::Properties) -> Result<(), CliError> {
    let Some(limit) = address_space_limit() else { return Ok(()) };
    let buffer_memory = properties.get("buffer.memory").and_then(|v| v.trim().parse().ok());
    // The producer's default.
    let buffer_memory: u64 = buffer_memory.unwrap_or(32 << 20);
    let needed =
        used_address_space().saturating_add(buffer_memory).saturating_add(WORKING_MEMORY_BYTES);
    if limit >= needed {
        return Ok(());
    }
    Err(CliError::failed(format!(
        "the limit on address space is too low: {} KiB are allowed (ulimit -v), and {} KiB are \
         needed with buffer.memory={buffer_memory}; raise the limit or lower buffer.memory",
        limit / 1024,
        needed / 1024
    )))
}

/// Returns the address space that the process uses; 0 on systems without Linux's `/proc`.
fn used_address_space() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let size = status.lines().find_map(|l| l.strip_prefix("VmSize:"));
    let kib = size.and_then(|s| s.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or_default() * 1024
}

/// Returns how to raise the limit that an error message is about; empty for other errors.
///
/// The message is all that is left of an error that has passed through the library.
pub(crate) fn advice(message: &str) -> &'static str {
    if message.contains("ulimit") {
        ""
    } else if message.contains("Too many open files") {
        "; raise the limit on open files (ulimit -n)"
    } else if message.contains("start") && message.contains("Resource temporarily unavailable") {
        "; raise the limits on processes (ulimit -u) and address space (ulimit -v)"
    } else {
        ""
    }
}
