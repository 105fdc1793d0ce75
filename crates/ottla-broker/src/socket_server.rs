//! The TCP front: a thread a connection, one request at a time each, all over one core.
#![allow(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use ottla_protocol::header::RequestHeader;
use parking_lot::{Condvar, Mutex};

use crate::core::{BrokerConfig, ClockReading, Core, HandleResult, LocalAddress};
use crate::response_interceptor::{
    InterceptedResponse, InterceptorGuard, ResponseAction, ResponseInterceptors,
};

/// The largest request that is read (Kafka's `socket.request.max.bytes`).
const MAX_REQUEST_BYTES: usize = 100 << 20;

/// Says how an [`EmbeddedBroker`] is to be.
#[derive(Debug, Clone)]
#[must_use]
pub struct EmbeddedBrokerBuilder {
    config: BrokerConfig,
    listen: String,
    topics: Vec<(String, i32)>,
}

impl EmbeddedBrokerBuilder {
    /// The address to listen on; `127.0.0.1` and a port the system picks by default.
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.listen = address.into();
        self
    }

    /// The address clients are told; by default the one they came in by.
    pub fn advertised_listener(mut self, host: impl Into<String>, port: u16) -> Self {
        self.config.advertised_listener = Some((host.into(), port));
        self
    }

    /// So many nodes, each on a port of its own: the one given and those behind it, or what the system picks.
    pub fn node_count(mut self, nodes: i32) -> Self {
        self.config.node_count = nodes;
        self
    }

    /// Keeps logs in this directory, in Kafka's format; in memory by default.
    pub fn data_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.config.data_dir = Some(dir.into());
        self
    }

    /// A topic to have from the start (kept as it is where the directory has it already).
    pub fn topic(mut self, name: impl Into<String>, partitions: i32) -> Self {
        self.topics.push((name.into(), partitions));
        self
    }

    /// Partitions of topics that are made because somebody asks for them.
    pub fn default_partitions(mut self, partitions: i32) -> Self {
        self.config.default_partitions = partitions;
        self
    }

    /// Whether asking for a topic makes it.
    pub fn auto_create_topics(mut self, on: bool) -> Self {
        self.config.auto_create_topics = on;
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// When the address cannot be listened on, the directory cannot be used, or a topic cannot be made.
    pub fn start(mut self) -> io::Result<EmbeddedBroker> {
        let start = Instant::now();
        let now = read_clock(start);
        self.config.seed = now.wall_ms as u64 ^ (u64::from(std::process::id()) << 40);
        let mut core = Core::new(self.config, now)?;
        for (name, partitions) in self.topics {
            match core.create_topic(&name, partitions, now) {
                Ok(()) => {}
                Err((code, _)) if code == ottla_protocol::ErrorCode::TOPIC_ALREADY_EXISTS => {}
                Err((code, message)) => return Err(io::Error::other(format!("{code}: {message}"))),
            }
        }
        let listeners = bind_listeners(&self.listen, core.node_count())?;
        let mut addresses = Vec::new();
        for (node, listener) in (1..).zip(&listeners) {
            let address = listener.local_addr()?;
            if listeners.len() > 1 {
                core.set_advertised_address(node, "", address.port());
            }
            addresses.push(address);
        }
        let shared = Arc::new(Shared {
            core: Mutex::new(core),
            state_changed: Condvar::new(),
            started_at: start,
            shutting_down: AtomicBool::new(false),
            connections: Mutex::default(),
            next_connection_id: AtomicU64::new(0),
            interceptors: Arc::default(),
        });
        // From here on, what has begun is ended by the drop of this.
        let mut broker = EmbeddedBroker { shared, addresses, threads: Vec::new() };
        for (node, listener) in (1..).zip(listeners) {
            let accepting = broker.shared.clone();
            let thread = thread::Builder::new().name(format!("broker-{node}"));
            broker.threads.push(thread.spawn(move || run_acceptor(node, &listener, &accepting))?);
        }
        Ok(broker)
    }
}

/// A listener a node: on the port given and those behind it, or on any.
fn bind_listeners(listen: &str, nodes: i32) -> io::Result<Vec<TcpListener>> {
    let first = TcpListener::bind(listen)?;
    let (mut next, any) = (first.local_addr()?, listen.ends_with(":0"));
    let mut out = vec![first];
    for _ in 1..nodes {
        let port = if any { Some(0) } else { next.port().checked_add(1) };
        next.set_port(port.ok_or_else(|| io::Error::other("there is no port behind 65535"))?);
        out.push(
            TcpListener::bind(next)
                .map_err(|e| io::Error::new(e.kind(), format!("{next}: {e}")))?,
        );
    }
    Ok(out)
}

/// A broker in this process. Dropping it ends it: connections close, threads are joined.
#[derive(Debug)]
pub struct EmbeddedBroker {
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    core: Mutex<Core>,
    /// Something was appended, or everything ends.
    state_changed: Condvar,
    started_at: Instant,
    shutting_down: AtomicBool,
    connections: Mutex<BTreeMap<u64, Connection>>,
    next_connection_id: AtomicU64,
    interceptors: Arc<ResponseInterceptors>,
}

#[derive(Debug)]
struct Connection {
    node: i32,
    stream: TcpStream,
    thread: JoinHandle<()>,
}

fn read_clock(start: Instant) -> ClockReading {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
    ClockReading { mono_ms: start.elapsed().as_millis() as u64, wall_ms: wall }
}

impl EmbeddedBroker {
    /// A broker in memory, on a port the system picks.
    ///
    /// # Errors
    /// When there is no port to be had.
    pub fn start() -> io::Result<EmbeddedBroker> {
        EmbeddedBroker::builder().start()
    }

    /// Says how it is to be.
    pub fn builder() -> EmbeddedBrokerBuilder {
        let config = BrokerConfig::default();
        EmbeddedBrokerBuilder { config, listen: "127.0.0.1:0".into(), topics: Vec::new() }
    }

    /// Where clients begin.
    pub fn bootstrap_servers(&self) -> String {
        let all: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        all.join(",")
    }

    /// Looks at the core, or changes it: topics, faults, logs.
    pub fn with_core<T>(&self, f: impl FnOnce(&mut Core, ClockReading) -> T) -> T {
        let out = f(&mut self.shared.core.lock(), read_clock(self.shared.started_at));
        // Whoever waits may have what it waits for.
        self.shared.state_changed.notify_all();
        out
    }

    /// Has answers go out as this says, while the guard lives: a broker that misbehaves on the wire.
    pub fn intercept_responses(
        &self,
        act: impl FnMut(&InterceptedResponse<'_>, Vec<u8>) -> ResponseAction + Send + 'static,
    ) -> InterceptorGuard {
        self.shared.interceptors.install(act)
    }

    /// Closes every connection; clients may come again.
    pub fn close_connections(&self) {
        self.close_connections_where(|_| true);
    }

    fn close_connections_where(&self, which: impl Fn(i32) -> bool) {
        for c in self.shared.connections.lock().values().filter(|c| which(c.node)) {
            let _ = c.stream.shutdown(Shutdown::Both);
        }
    }

    /// Ends a node: its connections close, others lead what it led, clients are hung up on.
    pub fn stop_node(&self, node: i32) {
        self.with_core(|core, now| core.stop_node(node, now));
        self.close_connections_where(|n| n == node);
    }

    /// A node comes back with the log it had.
    pub fn start_node(&self, node: i32) {
        self.with_core(|core, now| core.start_node(node, now));
    }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        self.shared.shutting_down.store(true, Ordering::SeqCst);
        // Wakes the accepts.
        for mut to in self.addresses.iter().copied() {
            if to.ip().is_unspecified() {
                to.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
            }
            let _ = TcpStream::connect_timeout(&to, Duration::from_secs(1));
        }
        for thread in std::mem::take(&mut self.threads) {
            let _ = thread.join();
        }
        let connections = std::mem::take(&mut *self.shared.connections.lock());
        // Under the core's lock, so that no waiter is between its look and its wait.
        let core = self.shared.core.lock();
        self.shared.state_changed.notify_all();
        drop(core);
        for c in connections.into_values() {
            let _ = c.stream.shutdown(Shutdown::Both);
            let _ = c.thread.join();
        }
    }
}

fn run_acceptor(node: i32, listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.shutting_down.load(Ordering::SeqCst) {
            return;
        }
        let stream = match stream {
            Ok(stream) => stream,
            Err(e) => {
                // Out of descriptors, most likely: others may close in the meantime.
                tracing::warn!("accept failed: {e}");
                thread::sleep(Duration::from_millis(50));
                continue;
            }
        };
        if !shared.core.lock().is_up(node) {
            continue;
        }
        if let Err(e) = start_connection(node, stream, shared) {
            tracing::warn!("a connection was not served: {e}");
        }
    }
}

fn start_connection(node: i32, stream: TcpStream, shared: &Arc<Shared>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let id = shared.next_connection_id.fetch_add(1, Ordering::Relaxed);
    tracing::info!(connection = id, node, peer = ?stream.peer_addr().ok(), "accepted");
    let (kept, mine) = (stream.try_clone()?, shared.clone());
    let mut connections = shared.connections.lock();
    let thread = thread::Builder::new().name(format!("broker-{node}-{id}")).spawn(move || {
        let leave = ConnectionGuard(mine, id);
        if let Err(e) = serve_connection((node, id), stream, &leave.0) {
            tracing::info!(connection = id, "closed: {e}");
        }
    })?;
    connections.insert(id, Connection { node, stream: kept, thread });
    Ok(())
}

/// Takes a connection out of the list when its thread ends, also by a panic: its peer must not wait for ever.
struct ConnectionGuard(Arc<Shared>, u64);

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        // While ending, whoever ends joins this thread and wants to find it there.
        if !self.0.shutting_down.load(Ordering::SeqCst) {
            self.0.connections.lock().remove(&self.1);
        }
    }
}

fn serve_connection(at: (i32, u64), stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let address = stream.local_addr()?;
    let local = LocalAddress { host: address.ip().to_string(), port: address.port() };
    let mut reader = io::BufReader::with_capacity(64 * 1024, stream.try_clone()?);
    let mut writer = ResponseWriter { stream, buffered: Vec::new(), buffered_responses: 0 };
    loop {
        writer.flush_if_idle(&mut reader)?;
        let mut size = [0; 4];
        reader.read_exact(&mut size)?;
        let size = i32::from_be_bytes(size);
        let size = usize::try_from(size).ok().filter(|n| *n <= MAX_REQUEST_BYTES);
        let size =
            size.ok_or_else(|| io::Error::other("not a Kafka request: its size is nonsense"))?;
        // Read as it comes, so that a claim alone takes no memory.
        let mut frame = Vec::new();
        io::Read::by_ref(&mut reader).take(size as u64).read_to_end(&mut frame)?;
        if frame.len() < size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let request = Bytes::from(frame);
        let Some(frame) = handle_request(at.0, &request, &local, shared)? else { continue };
        let sent = match RequestHeader::decode(&mut ottla_protocol::Reader::new(&request)) {
            Ok(h) => {
                let (node, connection) = at;
                let (api, version, correlation) = (h.api_key, h.api_version, h.correlation_id);
                let request = &request;
                let nth = 0;
                let call = InterceptedResponse {
                    node,
                    connection_id: connection,
                    api,
                    version,
                    correlation_id: correlation,
                    request,
                    call_index: nth,
                };
                shared.interceptors.apply(call, frame)
            }
            Err(_) => ResponseAction::Send(frame),
        };
        writer.send(sent)?;
    }
}

/// What goes out on a connection.
struct ResponseWriter {
    stream: TcpStream,
    /// Answers that are kept back to go out together.
    buffered: Vec<u8>,
    buffered_responses: usize,
}

/// How long answers are kept back when no further request comes.
const COALESCE_TIMEOUT: Duration = Duration::from_millis(20);

impl ResponseWriter {
    /// With answers kept back, the next request is not waited for without end.
    fn flush_if_idle(&mut self, reader: &mut io::BufReader<TcpStream>) -> io::Result<()> {
        if self.buffered.is_empty() || !reader.buffer().is_empty() {
            return Ok(());
        }
        self.stream.set_read_timeout(Some(COALESCE_TIMEOUT))?;
        let more = io::BufRead::fill_buf(reader).map(|_| ());
        self.stream.set_read_timeout(None)?;
        match more {
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                self.flush()
            }
            more => more,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.buffered_responses = 0;
        self.stream.write_all(&std::mem::take(&mut self.buffered))
    }

    fn send(&mut self, sent: ResponseAction) -> io::Result<()> {
        match sent {
            ResponseAction::Send(bytes) => {
                self.buffered.extend(bytes);
                self.flush()
            }
            ResponseAction::SendByteByByte(bytes) => {
                self.flush()?;
                bytes.chunks(1).try_for_each(|one| self.stream.write_all(one))
            }
            ResponseAction::Coalesce(bytes, most) => {
                self.buffered.extend(bytes);
                self.buffered_responses += 1;
                if self.buffered_responses >= most { self.flush() } else { Ok(()) }
            }
            ResponseAction::SendAndClose(bytes) => {
                self.buffered.extend(bytes);
                self.flush()?;
                self.stream.shutdown(Shutdown::Both)?;
                Err(io::Error::other("cut by a rule"))
            }
            ResponseAction::Stall => {
                // Until the client gives up on it, or everything ends.
                let mut rest = [0; 1024];
                while self.stream.read(&mut rest)? > 0 {}
                Err(io::Error::other("silent by a rule"))
            }
        }
    }
}

/// Hands a request in until there is an answer.
fn handle_request(
    node: i32,
    frame: &Bytes,
    local: &LocalAddress,
    shared: &Shared,
) -> io::Result<Option<Vec<u8>>> {
    let arrived = read_clock(shared.started_at).mono_ms;
    let mut core = shared.core.lock();
    let mut ticket = None;
    loop {
        let now = read_clock(shared.started_at);
        if core.node_count() > 1 && core.next_deadline().is_some_and(|at| at <= now.mono_ms) {
            core.tick(now);
            shared.state_changed.notify_all();
        }
        let reply = match ticket {
            Some((ticket, until)) => core
                .try_complete_produce(ticket, now)
                .unwrap_or(HandleResult::DelayedProduce(ticket, until)),
            None => core.handle_at_node(node, frame, local, arrived, now),
        };
        let until = match reply {
            HandleResult::SendResponse(out) => {
                shared.state_changed.notify_all();
                return Ok(Some(out));
            }
            HandleResult::NoResponse => {
                shared.state_changed.notify_all();
                return Ok(None);
            }
            HandleResult::CloseConnection(why) => return Err(io::Error::other(why)),
            HandleResult::DelayedFetch(until) => until,
            HandleResult::DelayedProduce(number, until) => {
                ticket = Some((number, until));
                until
            }
        };
        // What followers do meanwhile may be what is waited for.
        let due = if core.node_count() > 1 { core.next_deadline() } else { None };
        let until = due.map_or(until, |due| due.min(until));
        if shared.shutting_down.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let wait = Duration::from_millis(until.saturating_sub(now.mono_ms).max(1));
        shared.state_changed.wait_for(&mut core, wait);
    }
}
