//! The order in which the addresses of a host name are tried.

use std::io;
use std::net::SocketAddr;

use crate::config::AddressFamily;

/// Returns the addresses of a lookup that `broker.address.family` allows.
///
/// # Errors
/// The lookup failed, or the name has no such address.
pub(super) fn allowed_addresses(
    resolved: io::Result<Vec<SocketAddr>>,
    family: AddressFamily,
) -> Result<Vec<SocketAddr>, String> {
    let mut addresses = resolved.map_err(|e| e.to_string())?;
    if addresses.is_empty() {
        return Err("it has no address".to_owned());
    }
    match family {
        AddressFamily::Any => {}
        AddressFamily::V4 => addresses.retain(SocketAddr::is_ipv4),
        AddressFamily::V6 => addresses.retain(SocketAddr::is_ipv6),
    }
    if addresses.is_empty() {
        return Err(format!("it has no address that broker.address.family={family} allows"));
    }
    Ok(addresses)
}

/// The addresses of the last lookup.
///
/// The families alternate, as in RFC 8305, section 4, but one attempt follows the other, without
/// that RFC's delays. Its second attempt would open a second connection to the same broker, which
/// counts against the broker's limits (`max.connections.per.ip`,
/// `max.connection.creation.rate`). A producer keeps its connections for days, so the delay of one
/// `socket.connection.setup.timeout.ms` for a family without a route is paid once.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    /// The untried ones, the next one last.
    untried: Vec<SocketAddr>,
    last_used: Option<SocketAddr>,
}

impl Addresses {
    /// Stores the result of a lookup.
    pub(crate) fn set(&mut self, resolved: Vec<SocketAddr>) {
        let first_is_v6 = resolved.first().is_some_and(SocketAddr::is_ipv6);
        let (first, second): (Vec<_>, Vec<_>) =
            resolved.into_iter().partition(|a| a.is_ipv6() == first_is_v6);
        let (mut first, mut second) = (first.into_iter(), second.into_iter());
        self.untried.clear();
        loop {
            let (a, b) = (first.next(), second.next());
            if a.is_none() && b.is_none() {
                break;
            }
            self.untried.extend(a.into_iter().chain(b));
        }
        // The connection to this address was lost, or the attempt failed: another one first.
        if let Some(i) = self.untried.iter().position(|a| Some(*a) == self.last_used) {
            let last_used = self.untried.remove(i);
            self.untried.push(last_used);
        }
        // `next` pops from the back.
        self.untried.reverse();
    }

    /// Removes and returns the next address to try; `None` means that a lookup is needed.
    pub(crate) fn next(&mut self) -> Option<SocketAddr> {
        let next = self.untried.pop();
        self.last_used = next.or(self.last_used);
        next
    }

    /// Returns whether [`Addresses::next`] has another one.
    pub(crate) fn has_untried(&self) -> bool {
        !self.untried.is_empty()
    }

    /// Forgets the untried addresses: the next attempt begins with a lookup.
    pub(crate) fn clear(&mut self) {
        self.untried.clear();
    }
}
