//! Ports for servers that a test starts later, or never.

use std::fs::{self, File};
use std::net::TcpListener;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// The ports to choose from, if the system's own range begins above them.
const PORTS: Range<u16> = 12_000..32_000;

/// The locks of this process's ports. They are released when the process ends.
static RESERVED: Mutex<Vec<(u16, File)>> = Mutex::new(Vec::new());

/// Reserves `N` free ports for this process.
///
/// A server that is started later can listen on them: until the process ends, no other call returns
/// them, in any process of these tests. They are not in the range from which the system takes ports
/// for connections and for listeners on port 0. A port that the system has picked, and that was
/// closed again, may belong to a connection of another test when the server starts.
///
/// # Panics
/// No port is free.
pub fn reserve_ports<const N: usize>() -> [u16; N] {
    let dir = std::env::temp_dir().join("ottla-test-ports");
    fs::create_dir_all(&dir).expect("the directory of locks is created");
    let mut reserved = RESERVED.lock().unwrap_or_else(PoisonError::into_inner);
    let mut candidates = candidates(first_system_port(), std::process::id());
    std::array::from_fn(|_| {
        let (port, lock) = candidates
            .by_ref()
            .filter(|port| reserved.iter().all(|(taken, _)| taken != port))
            .find_map(|port| {
                let lock = File::create(dir.join(port.to_string())).ok()?;
                lock.try_lock().ok()?;
                TcpListener::bind(("127.0.0.1", port)).is_ok().then_some((port, lock))
            })
            .expect("a port is free");
        reserved.push((port, lock));
        port
    })
}

/// The first port that the system may give to a connection.
fn first_system_port() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    // Without that file it is not Linux, and other systems begin at 32,768 or above.
    range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(PORTS.end)
}

/// All ports to try. Processes begin at different ones, so that they seldom try the same.
fn candidates(first_system_port: u16, pid: u32) -> impl Iterator<Item = u16> {
    // If the system's range includes all of these ports, they are as good as any.
    let end = if first_system_port > PORTS.start + 1_000 {
        PORTS.end.min(first_system_port)
    } else {
        PORTS.end
    };
    let count = end - PORTS.start;
    let first = (pid.wrapping_mul(97) % u32::from(count)) as u16;
    (0..count).map(move |n| PORTS.start + (first + n) % count)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn reserved_ports_differ_and_stay_free() {
        let ports = [reserve_ports::<3>(), reserve_ports::<3>()].concat();
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), 6);
        for port in ports {
            assert!(TcpListener::bind(("127.0.0.1", port)).is_ok(), "{port}");
            let lock = std::env::temp_dir().join("ottla-test-ports").join(port.to_string());
            assert!(File::open(lock).unwrap().try_lock().is_err(), "{port} can be reserved again");
            assert!(port < first_system_port().max(PORTS.start + 1_000), "{port}");
        }
    }

    #[test]
    fn all_ports_below_the_systems_range_are_tried_once() {
        let tried = |first_system_port, pid| {
            let ports: Vec<u16> = candidates(first_system_port, pid).collect();
            let set: BTreeSet<u16> = ports.iter().copied().collect();
            assert_eq!(set.len(), ports.len());
            (*set.first().unwrap(), *set.last().unwrap())
        };
        assert_eq!(tried(32_768, 1), (12_000, 31_999));
        assert_eq!(tried(20_000, u32::MAX), (12_000, 19_999));
        assert_eq!(tried(1_024, 7), (12_000, 31_999), "the system's range includes all of them");
    }
}
