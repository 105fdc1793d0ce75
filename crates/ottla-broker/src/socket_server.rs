//! Serves Kafka's protocol over TCP: one thread accepts for each node, one thread serves each
//! connection.
//!
//! [`crate::embedded`] starts the acceptor threads. A connection handles one request at a time. All
//! connections call the same [`Core`], under its lock.
#![allow(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use ottla_protocol::header::RequestHeader;
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::core::{ClockReading, Core, HandleResult, LocalAddress};
use crate::response_interceptor::{InterceptedResponse, ResponseAction, ResponseInterceptors};

/// The largest request in bytes (Kafka's `socket.request.max.bytes`).
const MAX_REQUEST_BYTES: usize = 100 << 20;

/// How long coalesced responses wait when no further request arrives.
const COALESCE_TIMEOUT: Duration = Duration::from_millis(20);

/// What the broker's threads share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) core: Mutex<Core>,
    /// Notified when a batch was appended, replicas may have advanced, or the broker stops.
    pub(crate) state_changed: Condvar,
    pub(crate) started_at: Instant,
    pub(crate) shutting_down: AtomicBool,
    connections: Mutex<BTreeMap<u64, Connection>>,
    next_connection_id: AtomicU64,
    pub(crate) interceptors: Arc<ResponseInterceptors>,
}

#[derive(Debug)]
struct Connection {
    node: i32,
    /// Shared with the connection's thread. A handle of its own would be one more open file, and
    /// at the limit on open files a connection would be closed after it was accepted: the client
    /// could not see why.
    stream: Arc<TcpStream>,
    thread: JoinHandle<()>,
}

/// Reads both clocks; the monotonic one counts from `started_at`.
pub(crate) fn read_clock(started_at: Instant) -> ClockReading {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
    ClockReading { mono_ms: started_at.elapsed().as_millis() as u64, wall_ms: wall }
}

impl Shared {
    pub(crate) fn new(core: Core, started_at: Instant) -> Shared {
        Shared {
            core: Mutex::new(core),
            state_changed: Condvar::new(),
            started_at,
            shutting_down: AtomicBool::new(false),
            connections: Mutex::default(),
            next_connection_id: AtomicU64::new(0),
            interceptors: Arc::default(),
        }
    }

    /// Closes the connections of the nodes that `is_selected` returns true for.
    pub(crate) fn close_connections_where(&self, is_selected: impl Fn(i32) -> bool) {
        for c in self.connections.lock().values().filter(|c| is_selected(c.node)) {
            let _ = c.stream.shutdown(Shutdown::Both);
        }
    }

    /// Calls [`Core::tick`] if it is due.
    pub(crate) fn tick_if_due(&self, core: &mut Core) {
        let now = read_clock(self.started_at);
        if core.next_deadline().is_some_and(|at| at <= now.mono_ms) {
            core.tick(now);
            self.state_changed.notify_all();
        }
    }

    /// Waits until something has changed, or the deadline.
    ///
    /// No thread of its own replicates: a thread that waits wakes at the cluster's next deadline
    /// and calls `tick`, which may be the change that it waits for.
    pub(crate) fn wait_for_change(&self, core: &mut MutexGuard<'_, Core>, deadline: Instant) {
        let next_deadline = core.next_deadline();
        let cluster_deadline = next_deadline.map(|ms| self.started_at + Duration::from_millis(ms));
        let wake_at = cluster_deadline.map_or(deadline, |at| at.min(deadline));
        let wait = wake_at.saturating_duration_since(Instant::now());
        self.state_changed.wait_for(core, wait.max(Duration::from_millis(1)));
        self.tick_if_due(core);
    }

    /// Closes every connection and joins its thread; the acceptors have ended before.
    pub(crate) fn stop_connections(&self) {
        let connections = std::mem::take(&mut *self.connections.lock());
        // A connection's thread checks `shutting_down` under the core's lock and then waits. With
        // the lock held here, no thread is between its check and its wait, so none misses this.
        let core = self.core.lock();
        self.state_changed.notify_all();
        drop(core);
        for c in connections.into_values() {
            let _ = c.stream.shutdown(Shutdown::Both);
            let _ = c.thread.join();
        }
    }
}

/// Accepts a node's connections until the first one after `stop` is set. Takes `stop` back when it
/// ends.
pub(crate) fn run_acceptor(
    node: i32,
    listener: &TcpListener,
    shared: &Arc<Shared>,
    stop: &AtomicBool,
) {
    let mut accept_failed = false;
    for stream in listener.incoming() {
        if stop.swap(false, Ordering::SeqCst) {
            return;
        }
        let stream = match stream {
            Ok(stream) => stream,
            Err(e) => {
                // The usual cause is the limit on open files. The pause avoids a busy loop until
                // other connections close.
                if !std::mem::replace(&mut accept_failed, true) {
                    tracing::error!("accept failed: {e}; retrying until it succeeds");
                }
                thread::sleep(Duration::from_millis(50));
                continue;
            }
        };
        accept_failed = false;
        if !shared.core.lock().is_up(node) {
            continue;
        }
        if let Err(e) = start_connection(node, stream, shared) {
            tracing::error!("connection closed: it needs a thread: {e}");
        }
    }
}

fn start_connection(node: i32, stream: TcpStream, shared: &Arc<Shared>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let id = shared.next_connection_id.fetch_add(1, Ordering::Relaxed);
    tracing::debug!(connection = id, node, peer = ?stream.peer_addr().ok(), "accepted");
    let stream = Arc::new(stream);
    let (stream_for_close, shared_by_thread) = (stream.clone(), shared.clone());
    // The lock is held until the entry is inserted: the guard of a thread that ends at once must
    // find the entry. The guard is created in the thread: after a failed spawn, its drop would
    // wait here for the lock.
    let mut connections = shared.connections.lock();
    let thread = thread::Builder::new().name(format!("broker-{node}-{id}")).spawn(move || {
        let guard = ConnectionGuard { shared: shared_by_thread, connection_id: id };
        match serve_connection(node, id, &stream, &guard.shared) {
            Ok(()) => tracing::debug!(connection = id, "closed"),
            Err(e) => tracing::info!(connection = id, "closed: {e}"),
        }
    })?;
    connections.insert(id, Connection { node, stream: stream_for_close, thread });
    Ok(())
}

/// Removes a connection from the map when its thread ends, also after a panic.
///
/// The map must not keep the socket open: the client would not see the connection close.
struct ConnectionGuard {
    shared: Arc<Shared>,
    connection_id: u64,
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        // During shutdown, `stop_connections` takes the map and joins this thread.
        if !self.shared.shutting_down.load(Ordering::SeqCst) {
            self.shared.connections.lock().remove(&self.connection_id);
        }
    }
}

/// Serves a connection until the client closes it.
fn serve_connection(
    node: i32,
    connection_id: u64,
    stream: &TcpStream,
    shared: &Shared,
) -> io::Result<()> {
    let address = stream.local_addr()?;
    let local = LocalAddress { host: address.ip().to_string(), port: address.port() };
    let mut reader = io::BufReader::with_capacity(64 * 1024, stream);
    let mut writer = ResponseWriter { stream, buffered: Vec::new(), buffered_responses: 0 };
    loop {
        writer.flush_if_idle(&mut reader)?;
        let Some(request) = read_request(&mut reader)? else { return Ok(()) };
        let Some(frame) = handle_request(node, &request, &local, shared)? else { continue };
        let action = match RequestHeader::decode(&mut ottla_protocol::Reader::new(&request)) {
            Ok(header) => {
                let response = InterceptedResponse {
                    node,
                    connection_id,
                    api: header.api_key,
                    version: header.api_version,
                    correlation_id: header.correlation_id,
                    request: &request,
                };
                shared.interceptors.apply(response, frame)
            }
            Err(_) => ResponseAction::Send(frame),
        };
        writer.send(action)?;
    }
}

/// Reads one request frame, without its length. Returns `None` if the client has closed the
/// connection after its last request.
fn read_request(reader: &mut io::BufReader<&TcpStream>) -> io::Result<Option<Bytes>> {
    if io::BufRead::fill_buf(reader)?.is_empty() {
        return Ok(None);
    }
    let mut size = [0; 4];
    reader.read_exact(&mut size)?;
    let size = i32::from_be_bytes(size);
    let Some(len) = usize::try_from(size).ok().filter(|n| *n <= MAX_REQUEST_BYTES) else {
        return Err(io::Error::other(format!(
            "not a Kafka request: its size is {size} bytes; the limit is {MAX_REQUEST_BYTES}"
        )));
    };
    // The buffer grows with the bytes that arrive: a false size alone takes no memory.
    let mut frame = Vec::new();
    io::Read::by_ref(reader).take(len as u64).read_to_end(&mut frame)?;
    if frame.len() < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(Bytes::from(frame)))
}

/// Writes responses to a connection's socket.
struct ResponseWriter<'a> {
    stream: &'a TcpStream,
    /// Responses that [`ResponseAction::Coalesce`] keeps back.
    buffered: Vec<u8>,
    buffered_responses: usize,
}

impl ResponseWriter<'_> {
    /// Sends the buffered responses if no request arrives within [`COALESCE_TIMEOUT`].
    ///
    /// A client that waits for these responses sends no further request, so a read without a
    /// timeout would block both sides.
    fn flush_if_idle(&mut self, reader: &mut io::BufReader<&TcpStream>) -> io::Result<()> {
        if self.buffered.is_empty() || !reader.buffer().is_empty() {
            return Ok(());
        }
        self.stream.set_read_timeout(Some(COALESCE_TIMEOUT))?;
        let read = io::BufRead::fill_buf(reader).map(|_| ());
        self.stream.set_read_timeout(None)?;
        match read {
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                self.flush()
            }
            read => read,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.buffered_responses = 0;
        self.stream.write_all(&std::mem::take(&mut self.buffered))
    }

    fn send(&mut self, action: ResponseAction) -> io::Result<()> {
        match action {
            ResponseAction::Send(bytes) => {
                self.buffered.extend(bytes);
                self.flush()
            }
            ResponseAction::SendByteByByte(bytes) => {
                self.flush()?;
                bytes.chunks(1).try_for_each(|byte| self.stream.write_all(byte))
            }
            ResponseAction::Coalesce { frame, max_responses } => {
                self.buffered.extend(frame);
                self.buffered_responses += 1;
                if self.buffered_responses >= max_responses { self.flush() } else { Ok(()) }
            }
            ResponseAction::SendAndClose(bytes) => {
                self.buffered.extend(bytes);
                self.flush()?;
                self.stream.shutdown(Shutdown::Both)?;
                Err(io::Error::other("an interceptor closed the connection"))
            }
            ResponseAction::Stall => {
                // Reads and drops requests until the client or the broker closes the connection.
                let mut discarded = [0; 1024];
                while self.stream.read(&mut discarded)? > 0 {}
                Err(io::Error::other("an interceptor stalled the connection"))
            }
        }
    }
}

/// A request that waits in the core.
#[derive(Clone, Copy)]
struct DelayedRequest {
    id: u64,
    deadline_ms: u64,
}

/// Passes a request to the core and waits until its response is complete.
///
/// Returns `None` for a request without a response (`acks=0`).
fn handle_request(
    node: i32,
    frame: &Bytes,
    local: &LocalAddress,
    shared: &Shared,
) -> io::Result<Option<Vec<u8>>> {
    let arrived_ms = read_clock(shared.started_at).mono_ms;
    let mut core = shared.core.lock();
    let mut delayed: Option<DelayedRequest> = None;
    loop {
        shared.tick_if_due(&mut core);
        let now = read_clock(shared.started_at);
        let result = match delayed {
            Some(d) => core
                .try_complete(d.id, now)
                .unwrap_or(HandleResult::Delayed { id: d.id, deadline_ms: d.deadline_ms }),
            None => core.handle_at_node(node, frame, local, arrived_ms, now),
        };
        let deadline_ms = match result {
            HandleResult::SendResponse(response) => {
                shared.state_changed.notify_all();
                return Ok(Some(response));
            }
            HandleResult::NoResponse => {
                shared.state_changed.notify_all();
                return Ok(None);
            }
            HandleResult::CloseConnection(reason) => return Err(io::Error::other(reason)),
            HandleResult::DelayedFetch { deadline_ms } => deadline_ms,
            HandleResult::Delayed { id, deadline_ms } => {
                delayed = Some(DelayedRequest { id, deadline_ms });
                deadline_ms
            }
        };
        if shared.shutting_down.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        shared.wait_for_change(&mut core, shared.started_at + Duration::from_millis(deadline_ms));
    }
}
