//! The main thread's part of a session: reads the inputs and sends each record.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use ottla::{ErrorKind, Record};

use super::pending_records::Place;
use super::rejected_file::Unsent;
use super::session::{Session, park_forever};
use super::{OnError, bounded_reason};
use crate::console;
use crate::input::{Input, InputError, InputRecord, InputStream, NextRecord, RecordReader};
use crate::rate::RateLimiter;
use crate::schemas::{SchemaFailure, Schemas};
use crate::{CliError, error_text};

/// Sends the records of all inputs, in their order.
pub(super) struct SendLoop<'a> {
    session: &'a Session,
    reader: &'a mut RecordReader,
    schemas: &'a Schemas,
    /// The topics for which no record can be prepared, and why: they have no usable schema, or a
    /// dry run has found that they take no records.
    unusable_topics: HashMap<String, String>,
    /// The topics to which nothing can be sent. Further records would each wait for
    /// `max.block.ms`.
    failed_topics: HashMap<String, FailedPartitions>,
    /// The index of the current input.
    input: usize,
    /// The name of the current input.
    input_name: String,
    /// The bytes of the current input's text up to the end of the current record.
    end_bytes: u64,
    /// The current input is an archive.
    is_archive: bool,
    rate: Option<RateLimiter>,
}

/// The error of the first record that named this partition of a topic. The key `None` stands for
/// the whole topic.
type FailedPartitions = HashMap<Option<i32>, ottla::Error>;

/// Which further records would fail with the error of a record that the producer did not accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ErrorScope {
    /// No other record, or only records that fail at once.
    Record,
    /// Those that name the same partition of the topic.
    Partition,
    /// Those of the topic.
    Topic,
    /// All of them.
    Load,
}

impl Session {
    /// Reads and sends all inputs.
    pub(super) fn send_all(
        &self,
        inputs: &[Input],
        reader: &mut RecordReader,
        schemas: &Schemas,
    ) -> Result<(), CliError> {
        self.progress.start(inputs);
        let mut send_loop = SendLoop {
            session: self,
            reader,
            schemas,
            unusable_topics: HashMap::new(),
            failed_topics: HashMap::new(),
            input: 0,
            input_name: String::new(),
            end_bytes: 0,
            is_archive: false,
            rate: self.config.rate.map(RateLimiter::new),
        };
        for (i, input) in inputs.iter().enumerate().skip(self.config.start.input) {
            send_loop.input = i;
            self.progress.begin_input(i, inputs);
            if !send_loop.send_input(input)? {
                break;
            }
        }
        Ok(())
    }
}

impl SendLoop<'_> {
    /// Sends one input. Returns whether further inputs are to be sent.
    fn send_input(&mut self, input: &Input) -> Result<bool, CliError> {
        let session = self.session;
        self.input_name = input.name();
        let cannot_read = |e: io::Error| {
            CliError::failed(format!("cannot read {}: {e}; reading stopped", input.name()))
        };
        let mut stream = input.open(session.config.decompresses)?;
        self.reader.start_input(&mut stream).map_err(cannot_read)?;
        let start = session.config.start;
        if start.input == self.input && start.bytes > 0 {
            stream = input.resume(stream, start.bytes)?;
            self.reader.resume_after(start.lines);
        }
        self.is_archive = stream.is_archive();
        let is_terminal = input.is_terminal();
        loop {
            session.stats.wait_for_room();
            wait_for_rate(&mut self.rate, session);
            if session.is_stopping.load(Ordering::SeqCst) {
                park_forever();
            }
            if session.records_read.load(Ordering::Relaxed) >= session.config.max_records {
                return Ok(false);
            }
            if is_terminal {
                console::write_stderr(format_args!(">"));
            }
            let next = self.read(&mut stream).map_err(cannot_read)?;
            if next == NextRecord::Eof {
                session.stats.input_ended(Place { is_end: true, ..self.place() });
                if is_terminal {
                    // The next line of output must not follow the prompt.
                    console::write_stderr(format_args!("\n"));
                }
                return Ok(true);
            }
            session.records_read.fetch_add(1, Ordering::Relaxed);
            if let NextRecord::Error(e) = next {
                // The reader does not keep the text of what is too long.
                let text = matches!(e, InputError::Invalid(_)).then(|| self.reader.text());
                let text = text.filter(|text| !text.is_empty());
                self.reject(session.config.topic.as_deref(), &e, text)?;
                continue;
            }
            session.is_sending.store(true, Ordering::SeqCst);
            // The thread that stops the session looks at the flags in the other order.
            if session.is_stopping.load(Ordering::SeqCst) {
                session.is_sending.store(false, Ordering::SeqCst);
                park_forever();
            }
            // After an error, this thread ends the process: the flag stays set.
            self.parse_and_send()?;
            session.is_sending.store(false, Ordering::SeqCst);
        }
    }

    fn read(&mut self, stream: &mut InputStream) -> io::Result<NextRecord> {
        let next = self.reader.read(stream)?;
        self.end_bytes = stream.position();
        self.session.progress.update(stream.file_position());
        if next != NextRecord::Eof
            && let Some(rate) = &mut self.rate
        {
            rate.add_record(self.reader.text().len());
        }
        Ok(next)
    }

    /// Counts a text that cannot be sent. An error ends the reading.
    fn reject(
        &self,
        topic: Option<&str>,
        e: &InputError,
        text: Option<&[u8]>,
    ) -> Result<(), CliError> {
        let reason = bounded_reason(e.reason());
        let reason = format!("{}: {reason}", self.input_name);
        let stats = &self.session.stats;
        stats.record_unsent(&Unsent { topic, reason: &reason, text, place: self.place() });
        let ends_reading = match self.session.config.on_error {
            OnError::Stop => true,
            OnError::Unset => matches!(e, InputError::Invalid(_)),
            OnError::Skip | OnError::File => false,
        };
        if ends_reading {
            return Err(CliError::failed(format!("{reason}; reading stopped at this record")));
        }
        self.check_results()
    }

    /// Returns an error if the results of the records end the reading.
    fn check_results(&self) -> Result<(), CliError> {
        match self.session.stats.stop_reason() {
            None => Ok(()),
            Some(reason) => Err(self.stopped(&reason)),
        }
    }

    fn stopped(&self, reason: &str) -> CliError {
        let (name, unit, number) = (&self.input_name, self.reader.unit(), self.reader.number());
        let reason = bounded_reason(reason);
        CliError::failed(format!("{reason}; reading stopped at {unit} {number} of {name}"))
    }

    fn place(&self) -> Place {
        Place {
            input: self.input,
            number: self.reader.number(),
            end_bytes: self.end_bytes,
            end_lines: self.reader.lines_read(),
            is_archive: self.is_archive,
            is_end: false,
        }
    }

    /// Sends the current record. An error ends the reading; a record that fails alone is only
    /// counted.
    fn parse_and_send(&mut self) -> Result<(), CliError> {
        let text = Some(self.reader.text());
        let topic = self.session.config.topic.as_deref();
        let mut record = match self.reader.parse() {
            Ok(record) => record,
            Err(e) => return self.reject(topic, &e, text),
        };
        if let (Some(rate), Some(timestamp)) = (&mut self.rate, record.timestamp) {
            rate.add_timestamp(timestamp, self.session.stats.elapsed());
            wait_for_rate(&mut self.rate, self.session);
        }
        let named_topic = record.topic.clone();
        let Some(topic) = topic.or(named_topic.as_deref()) else {
            let number = self.reader.number();
            let reason =
                format!("line {number}: no topic: expected the field topic, or the option --topic");
            return self.reject(None, &InputError::Invalid(reason), text);
        };
        if let Some(reason) = self.unusable_topics.get(topic) {
            return self.reject(Some(topic), &InputError::Invalid(reason.clone()), text);
        }
        if let Some(dry_run) = &self.session.dry_run
            && let Err(reason) = dry_run.prepare_topic(topic)
        {
            self.unusable_topics.insert(topic.to_owned(), reason.clone());
            return self.reject(Some(topic), &InputError::Invalid(reason), text);
        }
        let place = || format!("{} {}", self.reader.unit(), self.reader.number());
        match self.schemas.serialize(topic, &mut record, place) {
            Ok(()) => {}
            Err(SchemaFailure::Record(e)) => return self.reject(Some(topic), &e, text),
            Err(SchemaFailure::Load(reason)) => return Err(self.stopped(&reason)),
            Err(SchemaFailure::Topic(reason)) => {
                self.unusable_topics.insert(topic.to_owned(), reason.clone());
                return self.reject(Some(topic), &InputError::Invalid(reason), text);
            }
        }
        let partition = record.partition.filter(|_| self.session.config.partition.is_none());
        let failed = self.failed_topics.get(topic);
        if let Some(e) = failed.and_then(|f| f.get(&None).or_else(|| f.get(&partition))) {
            self.session.stats.record_of_failed_topic(topic, (&record, self.place()), e);
            return self.check_results();
        }
        let Err(e) = self.send(topic, &record) else { return Ok(()) };
        let scope = self.error_scope(&e, topic, partition);
        if self.session.config.on_error == OnError::Stop || scope == ErrorScope::Load {
            return Err(self.stopped(&error_text(&e)));
        }
        if matches!(scope, ErrorScope::Partition | ErrorScope::Topic) {
            let partition = partition.filter(|_| scope == ErrorScope::Partition);
            self.failed_topics.entry(topic.to_owned()).or_default().insert(partition, e);
        }
        self.check_results()
    }

    fn send(&self, topic: &str, record: &InputRecord<'_>) -> Result<(), ottla::Error> {
        let session = self.session;
        let ticket = session.stats.begin_send(record, self.place());
        let mut to_send = Record::to(topic)
            .maybe_key(record.key.as_deref())
            .maybe_value(record.value.as_deref())
            .headers(&record.headers)
            .timestamp(ticket.timestamp)
            .token(ticket.token);
        let partition = session.config.partition.or(record.partition);
        if let Some(partition) = partition.filter(|p| *p >= 0) {
            to_send = to_send.partition(partition);
        }
        let sent = if session.config.sync {
            // The delivery handler counts the result, also that of a failed record.
            session.producer.send(to_send).map(|delivery| drop(delivery.wait()))
        } else {
            session.producer.enqueue(to_send)
        };
        match &sent {
            Ok(()) => session.stats.add_bytes(self.reader.text().len()),
            Err(e) => session.stats.record_rejected(topic, ticket, e),
        }
        sent
    }

    /// Returns which records the error concerns. `partition` is the one that the record names.
    fn error_scope(&self, e: &ottla::Error, topic: &str, partition: Option<i32>) -> ErrorScope {
        use ErrorKind as K;
        let names_topic = self.session.config.topic.is_none();
        match e.kind() {
            K::RecordTooLarge | K::InvalidRecord | K::Serialization | K::BufferExhausted => {
                ErrorScope::Record
            }
            // The producer refuses such a name without a request. Kept names would take memory.
            K::InvalidTopic if ottla::tools::validate_topic_name(topic).is_err() => {
                ErrorScope::Record
            }
            K::MetadataTimeout if self.session.producer.health().connected.is_empty() => {
                ErrorScope::Load
            }
            // No broker reported an error of the topic, so only the partition is missing.
            K::MetadataTimeout if partition.is_some() && e.last_broker_error().is_none() => {
                ErrorScope::Partition
            }
            K::InvalidTopic | K::Authorization | K::MetadataTimeout if names_topic => {
                ErrorScope::Topic
            }
            _ => ErrorScope::Load,
        }
    }
}

/// Waits until the rate allows another record. A stop ends the wait.
fn wait_for_rate(rate: &mut Option<RateLimiter>, session: &Session) {
    /// The longest sleep before the next look at `is_stopping`.
    const MAX_SLEEP: Duration = Duration::from_millis(20);
    /// Shorter delays add up, so that a high rate does not cost a system call a record.
    const MIN_SLEEP: Duration = Duration::from_millis(1);
    let Some(rate) = rate else { return };
    loop {
        let delay = rate.delay(session.stats.elapsed());
        if delay < MIN_SLEEP || session.is_stopping.load(Ordering::SeqCst) {
            return;
        }
        thread::sleep(delay.min(MAX_SLEEP));
    }
}
