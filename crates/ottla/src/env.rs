//! The traits through which callers and the sender use the machine: clocks, randomness, parking,
//! wakeups and worker threads.
//!
//! `network::io::real` implements them for the operating system, `network::io::simulated` for a
//! simulation. No other module reads a clock, parks a thread or generates random numbers.

#![cfg_attr(not(any(test, feature = "unstable-sim")), allow(unreachable_pub))]

use std::task::Waker;

use crate::time::Tick;

/// The machine as callers and the sender use it: clocks, randomness, and a way to wait.
pub trait Env: Send + Sync {
    /// Returns the time of the monotonic clock.
    fn now(&self) -> Tick;
    /// Returns the wall clock's time in milliseconds since the Unix epoch. It may jump.
    fn wall_clock_ms(&self) -> i64;
    /// Returns a random number.
    fn random(&self) -> u64;
    /// Returns random bytes that an attacker cannot guess, for secrets such as a SCRAM nonce.
    fn secure_random(&self) -> [u8; 32];
    /// Returns a waker that ends a [`park`](Env::park) of the calling thread.
    fn unparker(&self) -> Waker;
    /// Blocks the calling thread until its unparker wakes it or the deadline passes. May return
    /// early, so the caller checks its condition in a loop.
    fn park(&self, deadline: Option<Tick>);
}

/// Ends the sender's poll from any thread.
pub trait Wakeup: Send + Sync {
    /// Makes the current poll return, or the next one if none is in progress.
    fn wake(&self);
}

/// Worker threads that take jobs from any thread.
pub trait WorkerPool: Send + Sync {
    /// Gives the job, which reads `bytes`, to a worker thread. Returns the job if enough other jobs
    /// wait for a thread, or the pool is shut down; the caller then runs it.
    fn try_spawn(
        &self,
        bytes: usize,
        job: Box<dyn FnOnce() + Send>,
    ) -> Option<Box<dyn FnOnce() + Send>>;
}
