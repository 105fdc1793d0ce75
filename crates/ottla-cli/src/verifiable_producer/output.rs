//! The lines that `ottla verifiable-producer` prints: one JSON object each.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ottla::{Error, RecordMetadata};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::java_exception::java_exception;
use super::throttler::StopSignal;
use crate::clock::wall_clock_us;
use crate::console::print_line;
use crate::error_text;

/// A line without its timestamp. The names are those of Kafka's tool.
#[derive(Debug)]
pub(super) enum Event<'a> {
    StartupComplete,
    SendSuccess {
        key: Option<&'a str>,
        value: &'a str,
        topic: &'a str,
        partition: i32,
        offset: i64,
    },
    SendError {
        key: Option<&'a str>,
        value: &'a str,
        topic: &'a str,
        exception: String,
        message: String,
    },
    ShutdownComplete,
    ToolData {
        sent: u64,
        acked: u64,
        target_throughput: i64,
        avg_throughput: f64,
    },
}

impl Event<'_> {
    fn name(&self) -> &'static str {
        match self {
            Event::StartupComplete => "startup_complete",
            Event::SendSuccess { .. } => "producer_send_success",
            Event::SendError { .. } => "producer_send_error",
            Event::ShutdownComplete => "shutdown_complete",
            Event::ToolData { .. } => "tool_data",
        }
    }

    fn fields(&self) -> Vec<(&'static str, Value)> {
        match self {
            Event::StartupComplete | Event::ShutdownComplete => vec![],
            Event::SendSuccess { key, value, topic, partition, offset } => vec![
                ("key", json!(key)),
                ("value", json!(value)),
                ("topic", json!(topic)),
                ("partition", json!(partition)),
                ("offset", json!(offset)),
            ],
            Event::SendError { key, value, topic, exception, message } => vec![
                ("key", json!(key)),
                ("value", json!(value)),
                ("topic", json!(topic)),
                ("exception", json!(exception)),
                ("message", json!(message)),
            ],
            Event::ToolData { sent, acked, target_throughput, avg_throughput } => vec![
                ("sent", json!(sent)),
                ("acked", json!(acked)),
                ("target_throughput", json!(target_throughput)),
                ("avg_throughput", json!(avg_throughput)),
            ],
        }
    }
}

#[derive(Debug)]
struct Line<'a> {
    timestamp: i64,
    event: &'a Event<'a>,
}

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let first = [("timestamp", json!(self.timestamp)), ("name", json!(self.event.name()))];
        serializer.collect_map(first.into_iter().chain(self.event.fields()))
    }
}

/// Returns the wall clock's time in milliseconds since 1970.
pub(super) fn wall_ms() -> i64 {
    wall_clock_us() / 1000
}

/// Standard output, and what was printed there. The sending thread and the producer's thread use
/// it at the same time.
#[derive(Debug)]
pub(super) struct Output {
    /// An output that cannot be written ends the run.
    stop: Arc<StopSignal>,
    state: Mutex<OutputState>,
}

#[derive(Debug, Default)]
struct OutputState {
    /// Records that were acknowledged.
    acked: u64,
    error: Option<io::Error>,
}

impl Output {
    pub(super) fn new(stop: Arc<StopSignal>) -> Output {
        Output { stop, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, OutputState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn print(&self, event: &Event<'_>) {
        self.print_locked(&mut self.state(), event);
    }

    fn print_locked(&self, state: &mut OutputState, event: &Event<'_>) {
        if state.error.is_some() {
            return;
        }
        let line = Line { timestamp: wall_ms(), event };
        let text = serde_json::to_string(&line).map_err(io::Error::from);
        if let Err(e) = text.and_then(|text| print_line!("{text}")) {
            state.error = Some(e);
            self.stop.set();
        }
    }

    /// Prints what has become of a record.
    pub(super) fn print_result(
        &self,
        topic: &str,
        key: Option<&str>,
        value: &str,
        result: Result<RecordMetadata, Error>,
    ) {
        let mut state = self.state();
        let event = match result {
            Ok(metadata) => {
                state.acked += 1;
                // With acks=0 there is no offset, and Kafka's tool prints -1.
                let (partition, offset) = (metadata.partition(), metadata.offset().unwrap_or(-1));
                Event::SendSuccess { key, value, topic, partition, offset }
            }
            Err(e) => {
                let (exception, message) =
                    (format!("class {}", java_exception(&e)), error_text(&e));
                Event::SendError { key, value, topic, exception, message }
            }
        };
        self.print_locked(&mut state, &event);
    }

    /// Returns how many records were acknowledged.
    pub(super) fn acked(&self) -> u64 {
        self.state().acked
    }

    /// Returns the error that ended the output.
    pub(super) fn result(&self) -> io::Result<()> {
        self.state().error.take().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_the_names_of_kafkas_tool() {
        let json = |event: Event<'_>, expected: &str| {
            let line = serde_json::to_string(&Line { timestamp: 7, event: &event }).unwrap();
            assert_eq!(line, format!(r#"{{"timestamp":7,"name":"{expected}}}"#));
        };
        json(Event::StartupComplete, r#"startup_complete""#);
        json(
            Event::SendSuccess { key: None, value: "1", topic: "t", partition: 2, offset: 3 },
            r#"producer_send_success","key":null,"value":"1","topic":"t","partition":2,"offset":3"#,
        );
        let (exception, message) = ("class E".to_owned(), "m".to_owned());
        json(
            Event::SendError { key: Some("0"), value: "1", topic: "t", exception, message },
            concat!(
                r#"producer_send_error","key":"0","value":"1","topic":"t","#,
                r#""exception":"class E","message":"m""#
            ),
        );
        json(Event::ShutdownComplete, r#"shutdown_complete""#);
        json(
            Event::ToolData { sent: 2, acked: 1, target_throughput: -1, avg_throughput: 0.5 },
            r#"tool_data","sent":2,"acked":1,"target_throughput":-1,"avg_throughput":0.5"#,
        );
    }
}
