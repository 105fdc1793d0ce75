//! The I/O seam: everything that the sender needs from the operating system goes through [`Io`].
//!
//! `real` has the sockets, and `worker_threads` the worker threads. `sim/machine.rs` has virtual
//! ones, for tests and `ottla-sim`.
//! Readiness is edge-triggered in both: it is reported once, and the receiver must read or write
//! until `WouldBlock`.
#![cfg_attr(not(any(test, feature = "unstable-sim")), allow(unreachable_pub))]

pub(crate) mod real;
mod wall_clock;
mod worker_threads;

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::env::{Wakeup, WorkerPool};

/// The id of a connection. No id is used twice.
pub type ChannelKey = u64;

/// A readiness event of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness {
    /// The connection.
    pub key: ChannelKey,
    /// A read will not block: there are bytes, the end of the stream, or an error.
    pub readable: bool,
    /// A write will not block, or the connect has succeeded or failed.
    pub writable: bool,
}

/// Work that would block the sender thread.
pub enum Job {
    /// Resolve a host name.
    Resolve {
        /// Returned in [`JobResult::Resolved`].
        key: u64,
        /// The host.
        host: String,
        /// The port.
        port: u16,
    },
    /// Look up the canonical names of addresses (reverse lookup).
    LookUpNames {
        /// Returned in [`JobResult::CanonicalNames`].
        key: u64,
        /// The addresses.
        addresses: Vec<SocketAddr>,
    },
    /// CPU work such as compression. It reports its result itself.
    Work(Box<dyn FnOnce() + Send>),
    /// Prepare a connection: read certificate files or fetch a token.
    Prepare {
        /// Returned in [`JobResult::Prepared`].
        key: u64,
        /// The function to run.
        work: Box<dyn FnOnce() -> Result<(), PrepareError> + Send>,
    },
}

/// The error of a connection's preparation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrepareError {
    /// The cause, for logs and messages.
    pub reason: String,
    /// Whether the credentials were rejected: a retry cannot succeed before they change.
    pub fatal: bool,
}

/// The result of a job.
#[derive(Debug)]
pub enum JobResult {
    /// A host name was resolved.
    Resolved {
        /// The job's key.
        key: u64,
        /// The host's addresses, at least one.
        result: io::Result<Vec<SocketAddr>>,
    },
    /// The canonical names of addresses were looked up.
    CanonicalNames {
        /// The job's key.
        key: u64,
        /// The name of each address, or the address as text if it has no name.
        names: Vec<String>,
    },
    /// A preparation ended.
    Prepared {
        /// The job's key.
        key: u64,
        /// The preparation's result.
        result: Result<(), PrepareError>,
    },
}

/// A non-blocking byte stream.
pub trait Stream: Send {
    /// Returns `Ok` once connected.
    ///
    /// # Errors
    /// `WouldBlock` while connecting; the cause if the connect failed.
    fn finish_connect(&mut self) -> io::Result<()>;
    /// Reads into the buffer and returns the number of bytes; 0 at the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` if there is nothing to read.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize>;
    /// Writes from the buffers and returns the number of bytes.
    ///
    /// # Errors
    /// `WouldBlock` if the socket's buffer is full.
    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize>;
}

/// The sender's access to the operating system.
pub trait Io: Send {
    /// The type of a connection.
    type Stream: Stream;
    /// Starts to connect. A writable event reports the end of the attempt.
    ///
    /// # Errors
    /// The socket could not be opened.
    fn connect(&mut self, key: ChannelKey, address: SocketAddr) -> io::Result<Self::Stream>;
    /// Enables or disables writable events. They are enabled only while bytes wait to be written:
    /// the sender would otherwise wake for each acknowledgement that frees socket buffer.
    ///
    /// # Errors
    /// The operating system refused the change.
    fn set_write_interest(
        &mut self,
        key: ChannelKey,
        stream: &mut Self::Stream,
        enabled: bool,
    ) -> io::Result<()>;
    /// Closes a connection.
    fn close(&mut self, key: ChannelKey, stream: Self::Stream);
    /// Waits for readiness, a job result, a wakeup, or the timeout.
    ///
    /// # Errors
    /// The operating system's poll failed.
    fn poll(
        &mut self,
        ready: &mut Vec<Readiness>,
        job_results: &mut Vec<JobResult>,
        timeout: Option<Duration>,
    ) -> io::Result<()>;
    /// Starts a job on a worker thread. `poll` returns its result.
    fn start_job(&mut self, job: Job);
    /// Returns a handle that ends a poll from any thread.
    fn wakeup(&self) -> Arc<dyn Wakeup>;
    /// Returns the worker threads of [`Job::Work`], for callers on other threads.
    fn worker_pool(&self) -> Arc<dyn WorkerPool>;
}
