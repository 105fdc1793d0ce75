//! What the broker logs about connections. Alone in its process: the subscriber is a global one.
#![allow(missing_docs, clippy::disallowed_methods)]

use std::fmt;
use std::io::Write;
use std::net::TcpStream;
use std::sync::mpsc::{self, Sender};

use ottla_broker::EmbeddedBroker;
use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// The level and the message of an event.
type LogLine = (Level, String);

/// Sends each event of the broker to a channel.
struct LineSender(Mutex<Sender<LogLine>>);

struct MessageVisitor(String);

impl Visit for MessageVisitor {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

impl Subscriber for LineSender {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut message = MessageVisitor(String::new());
        event.record(&mut message);
        let _ = self.0.lock().send((*event.metadata().level(), message.0));
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[test]
fn normal_disconnect_is_logged_at_debug_and_a_bad_request_at_info() {
    let (sender, lines) = mpsc::channel();
    tracing::subscriber::set_global_default(LineSender(Mutex::new(sender))).unwrap();
    let broker = EmbeddedBroker::start().unwrap();
    let connect = || TcpStream::connect(broker.bootstrap_servers()).unwrap();
    let next_line = || lines.recv().unwrap();

    drop(connect());
    assert_eq!(next_line(), (Level::DEBUG, "accepted".to_owned()));
    assert_eq!(next_line(), (Level::DEBUG, "closed".to_owned()));

    let mut connection = connect();
    connection.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    assert_eq!(next_line(), (Level::DEBUG, "accepted".to_owned()));
    let (level, message) = next_line();
    assert_eq!(level, Level::INFO);
    assert!(message.starts_with("closed: not a Kafka request: its size is"), "{message}");
}
