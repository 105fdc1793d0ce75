//! What a report says about the machine.

use std::collections::BTreeMap;
use std::fs::read_to_string;

/// Returns CPU, memory and system, as far as the system reports them.
pub(super) fn machine() -> BTreeMap<String, String> {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let cpu = first_value("/proc/cpuinfo", "model name").unwrap_or(std::env::consts::ARCH.into());
    let memory = first_value("/proc/meminfo", "MemTotal");
    let memory = memory.and_then(|m| m.split_whitespace().next()?.parse::<f64>().ok());
    let kernel = read_to_string("/proc/sys/kernel/osrelease").ok();
    let system = format!(
        "{} {} {}",
        std::env::consts::OS,
        kernel.as_deref().unwrap_or_default().trim(),
        std::env::consts::ARCH
    );
    let entries = [
        ("CPU", Some(format!("{cores} × {cpu}"))),
        ("memory", memory.map(|kb| crate::units::bytes(kb * 1024.0))),
        ("system", Some(system)),
    ];
    entries.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// Returns the value of the first line `name : value` of a file.
fn first_value(path: &str, name: &str) -> Option<String> {
    let text = read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
