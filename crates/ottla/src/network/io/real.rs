//! The real [`Io`] and [`Env`]: mio sockets, clocks and randomness.
//!
//! Only this file, and `wall_clock.rs` and `worker_threads.rs` for it, read a clock, park or start
//! a thread, so that the simulation can replace all of it. `clippy.toml` bans these functions
//! elsewhere.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::hash::{BuildHasher, Hasher};
use std::io::{self, IoSlice, Read, Write};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::task::{Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use ottla_protocol::random::{GOLDEN_GAMMA, mix64};
use socket2::SockRef;

use super::wall_clock::WallClock;
use super::worker_threads::{JobKind, RealWorkerPool, Task, WorkerThreads};
use super::{ChannelKey, Io, Job, JobResult, PrepareError, Readiness, Stream};
use crate::config::NetworkSettings;
use crate::env::{Env, Wakeup, WorkerPool};
use crate::log_limiter::EventCount;
use crate::time::Tick;

/// The system's clocks and randomness.
#[derive(Debug)]
pub(crate) struct RealEnv {
    start: Instant,
    wall_clock: WallClock,
    /// The state of a SplitMix64 generator that all threads share.
    random_state: AtomicU64,
}

impl RealEnv {
    pub(crate) fn new() -> RealEnv {
        // The standard library seeds its hashers with the system's randomness.
        let seed = std::hash::RandomState::new().build_hasher().finish();
        RealEnv {
            start: Instant::now(),
            wall_clock: WallClock::new(),
            random_state: AtomicU64::new(seed),
        }
    }
}

struct ThreadWaker(Thread);

impl Wake for ThreadWaker {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl Env for RealEnv {
    fn now(&self) -> Tick {
        // Starts at one second: `Tick(0)` means "no time yet" in many fields.
        Tick(self.start.elapsed().as_nanos() as u64 + 1_000_000_000)
    }

    fn wall_clock_ms(&self) -> i64 {
        self.wall_clock.now_ms()
    }

    fn secure_random(&self) -> [u8; 32] {
        let mut out = [0; 32];
        // A guessable secret would be worse than a panic.
        getrandom::fill(&mut out).expect("the operating system provides randomness");
        out
    }

    fn random(&self) -> u64 {
        mix64(self.random_state.fetch_add(GOLDEN_GAMMA, Ordering::Relaxed))
    }

    fn unparker(&self) -> Waker {
        Waker::from(Arc::new(ThreadWaker(thread::current())))
    }

    fn park(&self, deadline: Option<Tick>) {
        match deadline {
            Some(deadline) => thread::park_timeout(deadline.since(self.now())),
            None => thread::park(),
        }
    }
}

/// The token of wakeups. Channel keys never reach it.
const WAKEUP_TOKEN: Token = Token(usize::MAX);

/// Non-blocking sockets on mio, and worker threads.
pub(crate) struct RealIo {
    poll: Poll,
    events: Events,
    wakeup: Arc<RealWakeup>,
    worker_threads: Arc<WorkerThreads>,
    job_result_sender: mpsc::Sender<JobResult>,
    job_result_receiver: mpsc::Receiver<JobResult>,
    settings: NetworkSettings,
}

struct RealWakeup {
    waker: mio::Waker,
    failures: EventCount,
}

impl Wakeup for RealWakeup {
    fn wake(&self) {
        if let Err(e) = self.waker.wake()
            && let Some(count) = self.failures.check()
        {
            tracing::error!(
                name: "ottla.internal_error",
                target: "ottla::producer",
                count,
                "cannot wake the sender thread: {e}"
            );
        }
    }
}

impl RealIo {
    pub(crate) fn new(settings: NetworkSettings) -> io::Result<RealIo> {
        let poll = Poll::new()?;
        let waker = mio::Waker::new(poll.registry(), WAKEUP_TOKEN)?;
        let (job_result_sender, job_result_receiver) = mpsc::channel();
        Ok(RealIo {
            poll,
            events: Events::with_capacity(256),
            wakeup: Arc::new(RealWakeup { waker, failures: EventCount::new() }),
            worker_threads: Arc::new(WorkerThreads::default()),
            job_result_sender,
            job_result_receiver,
            settings,
        })
    }

    /// Runs `job` on a worker thread; a later `poll` returns its result.
    fn start_with_result(&self, kind: JobKind, job: impl FnOnce() -> JobResult + Send + 'static) {
        let (sender, wakeup) = (self.job_result_sender.clone(), self.wakeup.clone());
        let task = move || {
            // The send fails if the producer has ended: no one needs the result.
            let _ = sender.send(job());
            wakeup.wake();
        };
        self.worker_threads.submit(kind, Task { bytes: 0, run: Box::new(task) });
    }
}

fn token(key: ChannelKey) -> Token {
    Token(key as usize)
}

impl Stream for TcpStream {
    fn finish_connect(&mut self) -> io::Result<()> {
        if let Some(e) = self.take_error()? {
            return Err(e);
        }
        match self.peer_addr() {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotConnected => {
                Err(io::ErrorKind::WouldBlock.into())
            }
            Err(e) => Err(e),
        }
    }

    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        Read::read(self, buf)
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        Write::write_vectored(self, bufs)
    }
}

impl Io for RealIo {
    type Stream = TcpStream;

    fn connect(&mut self, key: ChannelKey, address: SocketAddr) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let socket = SockRef::from(&stream);
        socket.set_keepalive(self.settings.keepalive)?;
        if let Some(size) = self.settings.send_buffer {
            socket.set_send_buffer_size(size)?;
        }
        if let Some(size) = self.settings.receive_buffer {
            socket.set_recv_buffer_size(size)?;
        }
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, token(key), both)?;
        Ok(stream)
    }

    fn set_write_interest(
        &mut self,
        key: ChannelKey,
        stream: &mut TcpStream,
        enabled: bool,
    ) -> io::Result<()> {
        let interest =
            if enabled { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        self.poll.registry().reregister(stream, token(key), interest)
    }

    fn close(&mut self, _: ChannelKey, mut stream: TcpStream) {
        // An error is harmless: closing the descriptor deregisters it, too.
        let _ = self.poll.registry().deregister(&mut stream);
    }

    fn poll(
        &mut self,
        ready: &mut Vec<Readiness>,
        job_results: &mut Vec<JobResult>,
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        match self.poll.poll(&mut self.events, timeout) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        for event in self.events.iter().filter(|e| e.token() != WAKEUP_TOKEN) {
            // The next read and write return the error, so both must be tried.
            let closed = event.is_error() || event.is_read_closed() || event.is_write_closed();
            ready.push(Readiness {
                key: event.token().0 as u64,
                readable: event.is_readable() || closed,
                writable: event.is_writable() || closed,
            });
        }
        job_results.extend(self.job_result_receiver.try_iter());
        Ok(())
    }

    fn start_job(&mut self, job: Job) {
        match job {
            Job::Work(run) => self.worker_threads.submit(JobKind::Work, Task { bytes: 0, run }),
            Job::Resolve { key, host, port } => {
                let job = move || JobResult::Resolved { key, result: resolve(&host, port) };
                self.start_with_result(JobKind::Resolve, job);
            }
            Job::LookUpNames { key, addresses } => {
                self.start_with_result(JobKind::Resolve, move || {
                    let names = addresses.iter().map(|a| canonical_name(a.ip())).collect();
                    JobResult::CanonicalNames { key, names }
                });
            }
            Job::Prepare { key, work } => self.start_with_result(JobKind::Prepare, move || {
                // The work may call the application's token provider. Without a result after a
                // panic, the connection would wait until its timeout.
                let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
                let panicked = || PrepareError {
                    reason: "the preparation of the connection panicked".to_owned(),
                    fatal: true,
                };
                JobResult::Prepared { key, result: result.unwrap_or_else(|_| Err(panicked())) }
            }),
        }
    }

    fn wakeup(&self) -> Arc<dyn Wakeup> {
        self.wakeup.clone()
    }

    fn worker_pool(&self) -> Arc<dyn WorkerPool> {
        Arc::new(RealWorkerPool(self.worker_threads.clone()))
    }
}

impl Drop for RealIo {
    fn drop(&mut self) {
        self.worker_threads.shut_down();
    }
}

fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let addresses: Vec<_> = (host, port).to_socket_addrs()?.collect();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(addresses)
}

/// Returns the name of an address, or the address as text, as Java's
/// `InetAddress.getCanonicalHostName`.
///
/// The owner of an address can give it any name in its reverse zone. So the name counts only if
/// it resolves to the address. `std` has no reverse lookup; `dns-lookup` calls the system's
/// `getnameinfo`.
fn canonical_name(address: IpAddr) -> String {
    let is_confirmed = |name: &String| {
        (name.as_str(), 0).to_socket_addrs().is_ok_and(|mut all| all.any(|a| a.ip() == address))
    };
    let name = dns_lookup::lookup_addr(&address).ok().filter(is_confirmed);
    name.unwrap_or_else(|| address.to_string())
}

/// Starts the sender thread.
///
/// # Errors
/// The operating system cannot start a thread.
pub(crate) fn spawn(
    name: String,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name(name).spawn(run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_name_resolves_to_the_address_or_is_the_address() {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        let name = canonical_name(loopback);
        let addresses = resolve(&name, 1).unwrap();
        assert!(addresses.iter().any(|a| a.ip() == loopback), "{name}: {addresses:?}");
        // TEST-NET-1 (RFC 5737) has no names.
        assert_eq!(canonical_name(IpAddr::from([192, 0, 2, 1])), "192.0.2.1");
    }

    /// Connects to a listener with one setting.
    fn connect_with(name: &str, value: &str) -> TcpStream {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut properties = crate::Properties::new();
        properties.set("bootstrap.servers", "h:1").unwrap();
        properties.set(name, value).unwrap();
        let config = crate::ProducerConfig::new(&properties).unwrap();
        let mut io = RealIo::new(*config.network()).unwrap();
        io.connect(1, listener.local_addr().unwrap()).unwrap()
    }

    #[test]
    fn keepalive_of_a_socket_follows_its_setting() {
        for keepalive in [true, false] {
            let stream = connect_with("socket.keepalive.enable", &keepalive.to_string());
            assert_eq!(SockRef::from(&stream).keepalive().unwrap(), keepalive);
        }
    }

    #[test]
    fn send_buffer_of_a_socket_follows_its_setting() {
        let size = |value| {
            let stream = connect_with("send.buffer.bytes", value);
            SockRef::from(&stream).send_buffer_size().unwrap()
        };
        // Linux doubles the number. Its own default is larger (16,384, and it grows).
        let small = size("4608");
        assert!((4608..=9216).contains(&small), "{small}");
        assert!(size("-1") > 9216);
    }
}
