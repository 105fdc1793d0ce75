//! The listening socket of one node: opened at start, closed while the node is stopped.
//!
//! [`crate::embedded`] owns one for each node. Its thread runs [`crate::socket_server`]'s acceptor.
#![allow(clippy::disallowed_methods)]

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;
use socket2::{Domain, Socket, Type};

use crate::socket_server::{Shared, run_acceptor};

/// The connections that wait for `accept` at most.
const BACKLOG: i32 = 128;

/// A node's listening socket and the thread that accepts its connections.
#[derive(Debug)]
pub(crate) struct NodeListener {
    node: i32,
    address: SocketAddr,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Listening {
        thread: JoinHandle<()>,
        /// Makes the thread end at the next connection.
        stop: Arc<AtomicBool>,
    },
    /// A socket that is bound and does not listen: the system refuses connections and gives the
    /// port to no other program. Or the reason why the port could not be kept.
    Closed(io::Result<Socket>),
}

/// Binds one listener for each node: on the given port and the ports after it, or on free ports.
pub(crate) fn bind_listeners(listen: &str, nodes: i32) -> io::Result<Vec<TcpListener>> {
    let first = TcpListener::bind(listen)?;
    let mut address = first.local_addr()?;
    let any_port = listen.ends_with(":0");
    let mut listeners = vec![first];
    for _ in 1..nodes {
        let port = if any_port { Some(0) } else { address.port().checked_add(1) };
        address.set_port(port.ok_or_else(|| {
            io::Error::other("not enough ports: each node takes one, and 65535 is the last")
        })?);
        let listener = TcpListener::bind(address)
            .map_err(|e| io::Error::new(e.kind(), format!("cannot listen on {address}: {e}")))?;
        listeners.push(listener);
    }
    Ok(listeners)
}

impl NodeListener {
    /// Starts the thread that accepts connections.
    pub(crate) fn start(
        node: i32,
        listener: TcpListener,
        shared: &Arc<Shared>,
    ) -> io::Result<NodeListener> {
        let address = listener.local_addr()?;
        let state = Mutex::new(State::listening(node, listener, shared)?);
        Ok(NodeListener { node, address, state })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes the socket: the system refuses connections until [`Self::reopen`].
    ///
    /// When this returns, each connection that was accepted is registered. Without a free file
    /// descriptor the socket stays open, and the acceptor closes each new connection at once.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        *state = match std::mem::replace(&mut *state, State::Closed(Err(port_not_kept()))) {
            State::Listening { thread, stop } => match stop_acceptor(self.address, thread, &stop) {
                Ok(()) => State::Closed(keep_port(self.address)),
                Err(thread) => State::Listening { thread, stop },
            },
            closed @ State::Closed(_) => closed,
        };
    }

    /// Listens again on the same port, if the socket is closed.
    pub(crate) fn reopen(&self, shared: &Arc<Shared>) -> io::Result<()> {
        let mut state = self.state.lock();
        let State::Closed(port) = &mut *state else { return Ok(()) };
        // Taken out, so that a failure below leaves no socket that listens without an acceptor.
        let socket = std::mem::replace(port, Err(port_not_kept()));
        let socket = socket.and_then(|socket| socket.listen(BACKLOG).map(|()| socket));
        let socket = socket.map_err(|e| {
            io::Error::new(e.kind(), format!("cannot listen on {} again: {e}", self.address))
        })?;
        *state = State::listening(self.node, socket.into(), shared)?;
        Ok(())
    }
}

impl State {
    fn listening(node: i32, listener: TcpListener, shared: &Arc<Shared>) -> io::Result<State> {
        let stop = Arc::<AtomicBool>::default();
        let (shared, stop_acceptor) = (shared.clone(), stop.clone());
        let thread = thread::Builder::new().name(format!("broker-{node}"));
        let run = move || run_acceptor(node, &listener, &shared, &stop_acceptor);
        Ok(State::Listening { thread: thread.spawn(run)?, stop })
    }
}

fn port_not_kept() -> io::Error {
    io::Error::other("its port was not kept")
}

/// Ends an acceptor's thread, which closes its socket. Returns the thread if that fails.
fn stop_acceptor(
    mut address: SocketAddr,
    thread: JoinHandle<()>,
    stop: &AtomicBool,
) -> Result<(), JoinHandle<()>> {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    stop.store(true, Ordering::SeqCst);
    // `accept` has no timeout: a connection wakes the thread. Without a free descriptor there is no
    // connection, and the thread would not end here.
    let connected = TcpStream::connect_timeout(&address, Duration::from_secs(1));
    // This connection fails, too, if a client's has ended the thread just before. The thread has
    // taken `stop` back then.
    if connected.is_err() && stop.swap(false, Ordering::SeqCst) {
        return Err(thread);
    }
    let _ = thread.join();
    Ok(())
}

/// Binds a port without listening on it.
fn keep_port(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // The connections of the closed listener still use the port. On Windows, the option would let
    // other programs take the port.
    #[cfg(not(windows))]
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}
