//! The server side of the simulated network: the driver of the simulation calls it.

use std::net::SocketAddr;
use std::time::Duration;

use super::SimMachine;
use super::connections::{HELD, Link, disconnect};
use crate::time::Tick;

/// The input of a connection, as the server sees it.
#[derive(Debug)]
pub enum ClientInput {
    /// The client sent these bytes.
    Bytes(Vec<u8>),
    /// The connection ended.
    Closed,
}

impl SimMachine {
    /// Starts a listener at this address.
    pub fn listen(&self, at: SocketAddr) {
        self.state().listening.push(at);
    }

    /// Stops the listener at this address; connections stay.
    pub fn stop_listening(&self, at: SocketAddr) {
        self.state().listening.retain(|a| *a != at);
    }

    /// Replaces the link to a server, for existing and new connections.
    pub fn set_link(&self, to: SocketAddr, link: Link) {
        let mut s = self.state();
        let (now, release_at) = (s.now, s.random_arrival());
        let old = s.links.insert(to, link).unwrap_or_default();
        for c in s.connections.values_mut().filter(|c| c.server == to) {
            for (queue, held, was_held) in [
                (&mut c.up, link.up_held, old.up_held),
                (&mut c.down, link.down_held, old.down_held),
            ] {
                if held {
                    queue.hold(now);
                } else if was_held {
                    queue.release(release_at);
                }
            }
            // A TCP handshake needs both directions.
            let connect_held = link.up_held || link.down_held;
            if !c.connect_reported && c.connected_at > now {
                c.connected_at = if connect_held { HELD } else { c.connected_at };
            }
            if !connect_held && c.connected_at == HELD {
                c.connected_at = release_at;
            }
        }
    }

    /// Stops the listener at this address and ends all its connections, as a crash does.
    pub fn reset_server(&self, to: SocketAddr) {
        let mut s = self.state();
        s.listening.retain(|a| *a != to);
        let is_held = s.links.get(&to).is_some_and(|l| l.down_held);
        let now = s.now;
        for c in s.connections.values_mut().filter(|c| c.server == to) {
            if c.connected_at > now {
                c.refused = true;
                c.connected_at = if is_held { HELD } else { now };
                continue;
            }
            c.up.segments.clear();
            c.down.segments.clear();
            c.up.ends_at = Some(now);
            c.down.ends_at = Some(if is_held { HELD } else { now });
        }
    }

    /// Ends all connections from the client's side, as the end of its process does.
    pub fn drop_client(&self) {
        self.run_due_work(Tick::NEVER);
        let mut s = self.state();
        let at = s.random_arrival();
        for c in s.connections.values_mut().filter(|c| !c.closed_by_client) {
            c.close_by_client(at);
        }
        s.job_results.clear();
    }

    /// Takes what has arrived at the servers: the connection's number, the server, and the input.
    pub fn take_client_input(&self) -> Vec<(u64, SocketAddr, ClientInput)> {
        let mut s = self.state();
        let now = s.now;
        let mut out = Vec::new();
        let mut closed = Vec::new();
        let (links, window) = (s.links.clone(), s.faults.window_bytes);
        for (id, c) in &mut s.connections {
            if links.get(&c.server).is_some_and(|l| l.reads_paused) {
                continue;
            }
            while let Some((at, _)) = c.up.segments.front() {
                if *at > now {
                    break;
                }
                if let Some((_, bytes)) = c.up.segments.pop_front() {
                    out.push((*id, c.server, ClientInput::Bytes(bytes)));
                }
            }
            let has_room = window == 0 || c.up.queued_bytes() < window;
            if c.full && has_room && !c.closed_by_client {
                c.full = false;
                c.writable_edge = true;
            }
            let has_ended = c.up.has_ended(now);
            if has_ended && c.closed_by_client {
                closed.push(*id);
            }
            if has_ended && !std::mem::replace(&mut c.end_reported, true) {
                out.push((*id, c.server, ClientInput::Closed));
            }
        }
        for id in closed {
            s.connections.remove(&id);
        }
        out
    }

    /// Sends bytes to the client, after this time and a random delay.
    pub fn send_to_client(&self, connection: u64, bytes: Vec<u8>, after: Duration) {
        let mut s = self.state();
        let at = s.random_arrival().after(after);
        let disconnect_one_in = s.faults.disconnect_one_in;
        let is_lost = s.one_in(disconnect_one_in);
        let kept = if is_lost { s.next_random() as usize % (bytes.len() + 1) } else { bytes.len() };
        let at = if s.link_of(connection).down_held { HELD } else { at };
        let Some(c) = s.connections.get_mut(&connection) else {
            return;
        };
        if c.down.ends_at.is_some() || c.closed_by_client {
            return;
        }
        if kept > 0 {
            c.down.push(at, bytes[..kept].to_vec());
        }
        if is_lost {
            disconnect(c, at);
            s.lost_connections += 1;
        }
    }

    /// Closes a connection from the server's side. Bytes on the way to the server are lost.
    pub fn close_connection(&self, connection: u64) {
        let mut s = self.state();
        let now = s.now;
        if let Some(c) = s.connections.get_mut(&connection) {
            c.up.segments.clear();
            disconnect(c, now);
        }
    }
}
