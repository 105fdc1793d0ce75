//! The seam: everything the machine does for the sender comes through [`Io`]. Real sockets are in `real`,
//! virtual ones, for `ottla-sim`, in `simulated`.
//!
//! Readiness is edge-triggered on both sides: it is reported once, and whoever gets it goes on until
//! `WouldBlock`.
#![cfg_attr(not(any(test, feature = "unstable-sim")), allow(unreachable_pub))]

pub(crate) mod real;
#[cfg(any(test, feature = "unstable-sim"))]
pub(crate) mod simulated;

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::time::{Wakeup, WorkerPool};

/// Names a connection; never used twice.
pub type ChannelKey = u64;

/// What a connection can do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness {
    /// Which.
    pub key: ChannelKey,
    /// Reading will not block, if only to say that it ended.
    pub readable: bool,
    /// Writing will not block; the connection is made, or has failed.
    pub writable: bool,
}

/// Work the sender must not do itself.
pub enum Job {
    /// Look a host name up.
    Resolve {
        /// Comes back with the answer.
        key: u64,
        /// The host.
        host: String,
        /// The port.
        port: u16,
    },
    /// Anything that takes long, like compressing; it reports by itself.
    Work(Box<dyn FnOnce() + Send>),
    /// What has to be done before a connection is made: files are read, a token is fetched.
    Prepare {
        /// Comes back with the answer.
        key: u64,
        /// It.
        work: Box<dyn FnOnce() -> Result<(), PrepareError> + Send>,
    },
}

/// Why a connection cannot be made yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrepareError {
    /// In words.
    pub reason: String,
    /// Whether somebody said no, so that trying again is of no use until something is changed.
    pub fatal: bool,
}

/// What came of a job.
#[derive(Debug)]
pub enum JobResult {
    /// A host's addresses, at least one.
    Resolved {
        /// From the job.
        key: u64,
        /// The addresses.
        result: io::Result<Vec<SocketAddr>>,
    },
    /// A preparation is over.
    Prepared {
        /// From the job.
        key: u64,
        /// Or why it failed.
        result: Result<(), PrepareError>,
    },
}

/// One connection's bytes, non-blocking.
pub trait Stream: Send {
    /// Ok once the connection is made; `WouldBlock` while it is being made; else why it failed.
    fn finish_connect(&mut self) -> io::Result<()>;
    /// Reads some bytes; 0 is the end.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize>;
    /// Writes some bytes of these pieces.
    fn write_vectored(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize>;
}

/// The machine, as far as the sender needs it.
pub trait Io: Send {
    /// Its connections.
    type Stream: Stream;
    /// Begins to connect; readiness tells when that is done.
    fn connect(&mut self, key: ChannelKey, to: SocketAddr) -> io::Result<Self::Stream>;
    /// Whether writability is of interest; only while bytes wait.
    fn set_write_interest(
        &mut self,
        key: ChannelKey,
        stream: &mut Self::Stream,
        on: bool,
    ) -> io::Result<()>;
    /// Closes a connection.
    fn close(&mut self, key: ChannelKey, stream: Self::Stream);
    /// Waits for something to happen: readiness, answers, the bell, or the time-out.
    fn poll(
        &mut self,
        ready: &mut Vec<Readiness>,
        answers: &mut Vec<JobResult>,
        timeout: Option<Duration>,
    ) -> io::Result<()>;
    /// Hands work out; `poll` brings the answer.
    fn start_job(&mut self, job: Job);
    /// Ends a poll from any thread.
    fn wakeup(&self) -> Arc<dyn Wakeup>;
    /// Those who do [`Job::Work`], for work that comes from other threads.
    fn worker_pool(&self) -> Arc<dyn WorkerPool>;
}
