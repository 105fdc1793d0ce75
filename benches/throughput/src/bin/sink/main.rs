//! A broker that only acknowledges: it reads Produce requests down to the headers of their batches,
//! and acknowledges each. It keeps no record.
//!
//! It has one topic, of which it leads all partitions. The supported APIs are those that an
//! idempotent producer needs, at the versions of Kafka 4. With `--tls-ca` it generates a
//! certificate authority and a certificate, and accepts TLS 1.3 only.
//!
//! It writes its address to standard output, and its counts at SIGTERM.

mod certificate;
mod connection;
mod transport;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::thread;

use clap::Parser;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::time::TimeValLike;
use rustls::{ServerConfig, ServerConnection};
use serde_json::json;

use connection::Connection;
use transport::{PlainTransport, TlsTransport};

#[derive(Parser)]
struct Options {
    /// The address of the listener; with port 0 the system chooses one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// The name of the topic.
    #[arg(long, default_value = "bench")]
    topic: String,
    /// The number of partitions.
    #[arg(long, default_value_t = 12)]
    partitions: usize,
    /// Accept TLS 1.3, and write the PEM of the certificate authority to this file.
    #[arg(long)]
    tls_ca: Option<PathBuf>,
}

/// What all connections share.
struct Broker {
    address: SocketAddr,
    topic: String,
    /// The end of each partition.
    end_offsets: Vec<AtomicI64>,
    next_producer_id: AtomicI64,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    connections: AtomicU64,
    requests: AtomicU64,
    batches: AtomicU64,
    records: AtomicU64,
    /// Bytes of the batches.
    bytes: AtomicU64,
}

fn main() {
    let options = Options::parse();
    // All threads inherit the mask, and only this one waits for the signal.
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    signals.thread_block().expect("block the signals");
    let listener = TcpListener::bind(options.listen).expect("bind the listener");
    let broker = Arc::new(Broker {
        address: listener.local_addr().expect("get the address of the listener"),
        topic: options.topic,
        end_offsets: (0..options.partitions).map(|_| AtomicI64::new(0)).collect(),
        next_producer_id: AtomicI64::new(1),
        counts: Counts::default(),
    });
    let tls = options.tls_ca.map(|path| certificate::server_config(&path));
    println!("{}", broker.address);
    let acceptor = broker.clone();
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let (broker, tls) = (acceptor.clone(), tls.clone());
            thread::spawn(move || serve(socket, tls, broker));
        }
    });
    signals.wait().expect("wait for a signal");
    println!("{}", broker.to_json());
}

fn serve(socket: TcpStream, tls: Option<Arc<ServerConfig>>, broker: Arc<Broker>) {
    broker.counts.connections.fetch_add(1, Relaxed);
    let peer = socket.peer_addr();
    socket.set_nodelay(true).expect("set TCP_NODELAY");
    let result = match tls {
        None => Connection::new(PlainTransport::new(socket), broker).serve(),
        Some(config) => {
            let session = ServerConnection::new(config).expect("start a TLS session");
            Connection::new(TlsTransport::new(socket, session), broker).serve()
        }
    };
    match result {
        Err(e) if e.kind() == std::io::ErrorKind::InvalidData => {
            eprintln!("sink: connection from {peer:?} ended: {e}");
        }
        _ => {}
    }
}

impl Broker {
    fn to_json(&self) -> serde_json::Value {
        let count = |n: &AtomicU64| n.load(Relaxed);
        let usage = getrusage(UsageWho::RUSAGE_SELF).expect("get the CPU time");
        let cpu_us = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
        json!({
            "connections": count(&self.counts.connections),
            "requests": count(&self.counts.requests),
            "batches": count(&self.counts.batches),
            "records": count(&self.counts.records),
            "bytes": count(&self.counts.bytes),
            "partitions": self.end_offsets.iter().filter(|o| o.load(Relaxed) > 0).count(),
            "cpu_s": cpu_us as f64 / 1e6,
        })
    }
}
