//! The client side of the simulated network: [`Io`] and [`Stream`].

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::SimMachine;
use super::connections::{HELD, SegmentQueue, SimConnection, disconnect};
use crate::env::{Wakeup, WorkerPool};
use crate::network::io::{ChannelKey, Io, Job, JobResult, Readiness, Stream};

/// How long a stalled write blocks.
const STALL: Duration = Duration::from_micros(500);

struct SimWakeup(SimMachine);

impl Wakeup for SimWakeup {
    fn wake(&self) {
        self.0.state().woken = true;
    }
}

/// The client's end of a simulated connection.
#[derive(Debug)]
pub struct SimStream {
    machine: SimMachine,
    connection: u64,
}

impl Stream for SimStream {
    fn finish_connect(&mut self) -> io::Result<()> {
        let s = self.machine.state();
        match s.connections.get(&self.connection) {
            Some(c) if c.refused => Err(io::ErrorKind::ConnectionRefused.into()),
            Some(c) if c.connected_at <= s.now => Ok(()),
            Some(_) => Err(io::ErrorKind::WouldBlock.into()),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut s = self.machine.state();
        let max = s.random_io_len(buf.len());
        let now = s.now;
        s.io_operations += 1;
        let Some(c) = s.connections.get_mut(&self.connection) else {
            return Ok(0);
        };
        match c.down.read(&mut buf[..max], now) {
            Some(n) => Ok(n),
            None if c.down.has_ended(now) => Ok(0),
            None => {
                c.readable_edge = false;
                Err(io::ErrorKind::WouldBlock.into())
            }
        }
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut s = self.machine.state();
        let total: usize = bufs.iter().map(|b| b.len()).sum();
        let (stall_one_in, disconnect_one_in) = (s.faults.stall_one_in, s.faults.disconnect_one_in);
        // Draws the random values before the checks: their outcome must not shift the sequence.
        let stalls = s.one_in(stall_one_in);
        let is_lost = s.one_in(disconnect_one_in);
        let max = s.random_io_len(total);
        let at = s.random_arrival();
        let at = if s.link_of(self.connection).up_held { HELD } else { at };
        let (now, window) = (s.now, s.faults.window_bytes);
        let Some(c) = s.connections.get_mut(&self.connection) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        if c.up.ends_at.is_some_and(|at| at <= now) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if c.stalled_until.is_some() || c.full {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let room =
            if window == 0 { usize::MAX } else { window.saturating_sub(c.up.queued_bytes()) };
        if room == 0 && c.up.ends_at.is_none() {
            c.full = true;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let max = max.min(room.max(1));
        if stalls {
            c.stalled_until = Some(now.after(STALL));
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut bytes = Vec::with_capacity(max.min(total));
        for buf in bufs {
            let room = max - bytes.len();
            bytes.extend_from_slice(&buf[..buf.len().min(room)]);
        }
        let n = bytes.len();
        s.io_operations += 1;
        if is_lost {
            // The socket accepts all bytes, but only some of them arrive.
            let kept = s.next_random() as usize % (n + 1);
            bytes.truncate(kept);
        }
        let Some(c) = s.connections.get_mut(&self.connection) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        // After the loss of a connection the socket still accepts bytes for a while.
        if !bytes.is_empty() && c.up.ends_at.is_none() {
            c.up.push(at, bytes);
        }
        if is_lost {
            let at = c.up.segments.back().map_or(at, |last| last.0);
            disconnect(c, at);
            s.lost_connections += 1;
        }
        Ok(n)
    }
}

impl Io for SimMachine {
    type Stream = SimStream;

    fn connect(&mut self, key: ChannelKey, address: SocketAddr) -> io::Result<SimStream> {
        let mut s = self.state();
        let connected_at = s.random_arrival();
        let link = s.links.get(&address).copied().unwrap_or_default();
        let connected_at = if link.up_held || link.down_held { HELD } else { connected_at };
        let refused = !s.listening.contains(&address);
        s.next_connection += 1;
        let connection = s.next_connection;
        s.connections.insert(
            connection,
            SimConnection {
                server: address,
                key,
                connected_at,
                refused,
                up: SegmentQueue::default(),
                down: SegmentQueue::default(),
                stalled_until: None,
                full: false,
                readable_edge: false,
                writable_edge: false,
                connect_reported: false,
                closed_by_client: false,
                end_reported: false,
            },
        );
        drop(s);
        Ok(SimStream { machine: self.clone(), connection })
    }

    fn set_write_interest(
        &mut self,
        _: ChannelKey,
        stream: &mut SimStream,
        enabled: bool,
    ) -> io::Result<()> {
        let mut s = self.state();
        // As with epoll, a new interest reports the current state again.
        if let Some(c) = s.connections.get_mut(&stream.connection)
            && enabled
            && c.stalled_until.is_none()
            && !c.full
        {
            c.writable_edge = true;
        }
        Ok(())
    }

    fn close(&mut self, _: ChannelKey, stream: SimStream) {
        let mut s = self.state();
        let at = if s.link_of(stream.connection).up_held { HELD } else { s.random_arrival() };
        if let Some(c) = s.connections.get_mut(&stream.connection) {
            c.close_by_client(at);
        }
    }

    fn poll(
        &mut self,
        ready: &mut Vec<Readiness>,
        job_results: &mut Vec<JobResult>,
        _: Option<Duration>,
    ) -> io::Result<()> {
        let mut s = self.state();
        s.woken = false;
        s.collect_edges();
        for c in s.connections.values_mut().filter(|c| !c.closed_by_client) {
            let readable = std::mem::take(&mut c.readable_edge);
            let writable = std::mem::take(&mut c.writable_edge);
            if readable || writable {
                ready.push(Readiness { key: c.key, readable, writable });
            }
        }
        let now = s.now;
        let due = s.job_results.extract_if(.., |r| r.0 <= now);
        job_results.extend(due.map(|(_, job_result)| job_result));
        Ok(())
    }

    fn start_job(&mut self, job: Job) {
        match job {
            Job::Resolve { key, host, port } => {
                let result = match (host.parse(), self.state().hosts.get(&host)) {
                    (Ok(ip), _) => Ok(vec![SocketAddr::new(ip, port)]),
                    (_, Some(addresses)) => Ok(addresses.clone()),
                    _ => Err(io::Error::new(io::ErrorKind::NotFound, "no such name")),
                };
                self.queue_job_result(JobResult::Resolved { key, result });
            }
            Job::LookUpNames { key, addresses } => {
                let names = {
                    let s = self.state();
                    let name = |a: &SocketAddr| s.names.get(&a.ip()).cloned();
                    addresses.iter().map(|a| name(a).unwrap_or(a.ip().to_string())).collect()
                };
                self.queue_job_result(JobResult::CanonicalNames { key, names });
            }
            Job::Work(work) => self.schedule_work(work),
            Job::Prepare { key, work } => {
                let result = work();
                self.queue_job_result(JobResult::Prepared { key, result });
            }
        }
    }

    fn wakeup(&self) -> Arc<dyn Wakeup> {
        Arc::new(SimWakeup(self.clone()))
    }

    fn worker_pool(&self) -> Arc<dyn WorkerPool> {
        Arc::new(self.clone())
    }
}
