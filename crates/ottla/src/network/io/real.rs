//! The machine itself: sockets over mio, name resolution and long work on helper threads, the clocks, the
//! bell. The one place in this crate that reads a clock, parks, or begins a thread.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, IoSlice, Read, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::task::{Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use parking_lot::{Condvar, Mutex};
use socket2::SockRef;

use super::{ChannelKey, Io, Job, JobResult, PrepareError, Readiness, Stream};
use crate::time::{Env, Tick, Wakeup, WorkerPool};

/// The real clocks.
#[derive(Debug)]
pub(crate) struct RealEnv {
    start: Instant,
    random: AtomicU64,
}

impl RealEnv {
    pub(crate) fn new() -> RealEnv {
        // The standard library's hasher keys are the machine's randomness.
        let seed = std::hash::RandomState::new().build_hasher().finish();
        RealEnv { start: Instant::now(), random: AtomicU64::new(seed) }
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
        // One second in, so that an earlier moment can be told from none.
        Tick(self.start.elapsed().as_nanos() as u64 + 1_000_000_000)
    }

    fn wall_clock_ms(&self) -> i64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
    }

    fn secure_random(&self) -> [u8; 32] {
        let mut out = [0; 32];
        // Without it nothing that depends on a secret can be done: better none than one that can be guessed.
        getrandom::fill(&mut out).expect("the system has randomness");
        out
    }

    fn random(&self) -> u64 {
        let mut z = self.random.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn unparker(&self) -> Waker {
        Waker::from(Arc::new(ThreadWaker(thread::current())))
    }

    fn park(&self, until: Option<Tick>) {
        match until {
            Some(until) => thread::park_timeout(until.since(self.now())),
            None => thread::park(),
        }
    }
}

const WAKEUP_TOKEN: Token = Token(usize::MAX);

/// Sockets over mio.
pub(crate) struct RealIo {
    poll: Poll,
    events: Events,
    waker: Arc<mio::Waker>,
    worker_threads: Arc<WorkerThreads>,
    job_results: (mpsc::Sender<JobResult>, mpsc::Receiver<JobResult>),
    buffers: SocketBuffers,
}

/// Sizes of a socket's own buffers in bytes; `None` leaves them to the system.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SocketBuffers {
    pub(crate) send: Option<usize>,
    pub(crate) receive: Option<usize>,
}

struct RealWakeup(Arc<mio::Waker>);

impl Wakeup for RealWakeup {
    fn wake(&self) {
        if let Err(e) = self.0.wake() {
            tracing::error!("the sender could not be woken: {e}");
        }
    }
}

impl RealIo {
    pub(crate) fn new(buffers: SocketBuffers) -> io::Result<RealIo> {
        let poll = Poll::new()?;
        let waker = Arc::new(mio::Waker::new(poll.registry(), WAKEUP_TOKEN)?);
        Ok(RealIo {
            poll,
            events: Events::with_capacity(256),
            waker,
            worker_threads: Arc::new(WorkerThreads::default()),
            job_results: mpsc::channel(),
            buffers,
        })
    }
}

impl RealIo {
    /// Has an answer found by a helper.
    fn start_with_result(&self, kind: JobKind, find: impl FnOnce() -> JobResult + Send + 'static) {
        let (sender, waker) = (self.job_results.0.clone(), self.waker.clone());
        let task = move || {
            let _ = sender.send(find());
            RealWakeup(waker).wake();
        };
        self.worker_threads.submit(kind, Box::new(task));
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

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Read::read(self, into)
    }

    fn write_vectored(&mut self, from: &[IoSlice<'_>]) -> io::Result<usize> {
        Write::write_vectored(self, from)
    }
}

impl Io for RealIo {
    type Stream = TcpStream;

    fn connect(&mut self, key: ChannelKey, to: SocketAddr) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(to)?;
        stream.set_nodelay(true)?;
        let socket = SockRef::from(&stream);
        socket.set_keepalive(true)?;
        if let Some(size) = self.buffers.send {
            socket.set_send_buffer_size(size)?;
        }
        if let Some(size) = self.buffers.receive {
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
        on: bool,
    ) -> io::Result<()> {
        let write = if on { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        self.poll.registry().reregister(stream, token(key), write)
    }

    fn close(&mut self, _: ChannelKey, mut stream: TcpStream) {
        // Closing the descriptor removes it as well; an error here changes nothing.
        let _ = self.poll.registry().deregister(&mut stream);
    }

    fn poll(
        &mut self,
        ready: &mut Vec<Readiness>,
        answers: &mut Vec<JobResult>,
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        match self.poll.poll(&mut self.events, timeout) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(()),
            other => other?,
        }
        for event in self.events.iter().filter(|e| e.token() != WAKEUP_TOKEN) {
            let ended = event.is_error() || event.is_read_closed() || event.is_write_closed();
            ready.push(Readiness {
                key: event.token().0 as u64,
                readable: event.is_readable() || ended,
                writable: event.is_writable() || ended,
            });
        }
        answers.extend(self.job_results.1.try_iter());
        Ok(())
    }

    fn start_job(&mut self, job: Job) {
        match job {
            Job::Work(work) => self.worker_threads.submit(JobKind::Work, work),
            Job::Resolve { key, host, port } => {
                let found = move || JobResult::Resolved { key, result: resolve(&host, port) };
                self.start_with_result(JobKind::Resolve, found);
            }
            Job::Prepare { key, work } => self.start_with_result(JobKind::Prepare, move || {
                // Foreign code, perhaps: it is to be answered whatever it does.
                let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
                let panicked = || PrepareError { reason: "it panicked".to_owned(), fatal: true };
                let result = done.unwrap_or_else(|_| Err(panicked()));
                JobResult::Prepared { key, result }
            }),
        }
    }

    fn wakeup(&self) -> Arc<dyn Wakeup> {
        Arc::new(RealWakeup(self.waker.clone()))
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
    let found: Vec<_> = (host, port).to_socket_addrs()?.collect();
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(found)
}

/// Which line a job stands in: a name that takes its time must not hold up compression.
#[derive(Clone, Copy)]
enum JobKind {
    Work = 0,
    Resolve = 1,
    /// Files and tokens, and the application's own code among them: they hold up each other at most.
    Prepare = 2,
}

type Task = Box<dyn FnOnce() + Send>;

/// Threads that begin when there is work and end with the producer.
struct WorkerThreads {
    queues: [JobQueue; 3],
    /// Threads that work at the same time at most.
    max_threads: usize,
}

impl Default for WorkerThreads {
    fn default() -> WorkerThreads {
        let most = thread::available_parallelism().map_or(1, |n| (n.get() - 1).clamp(1, 4));
        WorkerThreads { queues: Default::default(), max_threads: most }
    }
}

#[derive(Default)]
struct JobQueue {
    state: Mutex<JobQueueState>,
    task_available: Condvar,
}

#[derive(Default)]
struct JobQueueState {
    tasks: VecDeque<Task>,
    threads: usize,
    idle_threads: usize,
    shut_down: bool,
}

struct RealWorkerPool(Arc<WorkerThreads>);

impl WorkerPool for RealWorkerPool {
    fn try_spawn(&self, work: Task) -> Option<Task> {
        {
            let state = self.0.queues[JobKind::Work as usize].state.lock();
            let free = state.idle_threads > 0 || state.threads < self.0.max_threads;
            if !free || !state.tasks.is_empty() || state.shut_down {
                return Some(work);
            }
        }
        // Another may be faster: then this one waits behind it, which is as good.
        self.0.submit(JobKind::Work, work);
        None
    }
}

impl WorkerThreads {
    fn submit(self: &Arc<Self>, kind: JobKind, task: Task) {
        let most = match kind {
            JobKind::Work => self.max_threads,
            JobKind::Resolve => 2,
            JobKind::Prepare => 4,
        };
        let line = &self.queues[kind as usize];
        let mut state = line.state.lock();
        if state.shut_down {
            // Nobody is there any more.
            drop(state);
            return task();
        }
        state.tasks.push_back(task);
        // Whoever is idle may have been called by another task already.
        if state.tasks.len() > state.idle_threads && state.threads < most {
            state.threads += 1;
            let this = self.clone();
            let name = ["ottla-helper", "ottla-resolver", "ottla-prepare"][kind as usize];
            let begun = thread::Builder::new()
                .name(name.into())
                .spawn(move || this.queues[kind as usize].run_worker());
            if begun.is_err() {
                state.threads -= 1;
                // Without a thread the work is done here rather than not at all.
                if state.threads == 0
                    && let Some(task) = state.tasks.pop_back()
                {
                    drop(state);
                    task();
                    return;
                }
            }
        }
        drop(state);
        line.task_available.notify_one();
    }

    fn shut_down(&self) {
        for line in &self.queues {
            line.state.lock().shut_down = true;
            line.task_available.notify_all();
        }
    }
}

impl JobQueue {
    fn run_worker(&self) {
        let mut state = self.state.lock();
        loop {
            if let Some(task) = state.tasks.pop_front() {
                drop(state);
                // A task that panics must not take its helper along.
                let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(task));
                state = self.state.lock();
            } else if state.shut_down {
                return;
            } else {
                state.idle_threads += 1;
                self.task_available.wait(&mut state);
                state.idle_threads -= 1;
            }
        }
    }
}

/// The sender's thread: one small function around a value.
pub(crate) fn spawn(
    name: String,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name(name).spawn(run)
}
