//! Interceptors: they see every record before it is encoded, and every record's end (KIP-42).

use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::record::{Header, Record};
use crate::accumulator::completion::RecordMetadata;
use crate::error::Error;
use crate::metrics::{Counters, add};

/// A failure of an interceptor or a serializer.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A header that interceptors may change: a name, and bytes or null.
pub type MutableHeader<'a> = (Cow<'a, str>, Option<Cow<'a, [u8]>>);

/// A record that interceptors may change.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MutableRecord<'a> {
    /// The topic.
    pub topic: Cow<'a, str>,
    /// The partition, if one was asked for.
    pub partition: Option<i32>,
    /// The key.
    pub key: Option<Cow<'a, [u8]>>,
    /// The value.
    pub value: Option<Cow<'a, [u8]>>,
    /// The headers, in order.
    pub headers: Vec<MutableHeader<'a>>,
    /// Milliseconds since the epoch, if they were given.
    pub timestamp: Option<i64>,
}

/// Sees records before they are sent and when they end. Called in the order they were given; one that fails
/// or panics is skipped and counted, and the record goes on as the one before left it.
pub trait Interceptor: Send + Sync {
    /// On the caller's thread, before the record is encoded.
    ///
    /// # Errors
    /// Anything: the changes made so far by this interceptor are dropped.
    fn on_send(&self, record: &mut MutableRecord<'_>) -> Result<(), BoxError> {
        let _ = record;
        Ok(())
    }

    /// Once a record, on the producer's thread (or on the caller's, when `send` fails). `partition` is `None`
    /// when none was chosen yet.
    fn on_acknowledgement(
        &self,
        topic: &str,
        partition: Option<i32>,
        result: &Result<RecordMetadata, Error>,
    ) {
        let _ = (topic, partition, result);
    }
}

/// All of a producer's.
#[derive(Default)]
pub(crate) struct Interceptors(Vec<Box<dyn Interceptor>>);

impl Interceptors {
    pub(crate) fn new(all: Vec<Box<dyn Interceptor>>) -> Interceptors {
        Interceptors(all)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn on_send<'a>(
        &self,
        record: &Record<'a>,
        counters: &Counters,
    ) -> MutableRecord<'a> {
        let mut draft = MutableRecord {
            topic: record.topic.into(),
            partition: record.partition,
            key: record.key.map(Cow::Borrowed),
            value: record.value.map(Cow::Borrowed),
            headers: (record.headers.iter())
                .map(|h| (h.key.into(), h.value.map(Cow::Borrowed)))
                .collect(),
            timestamp: record.timestamp,
        };
        for i in &self.0 {
            let mut copy = draft.clone();
            match catch_unwind(AssertUnwindSafe(|| i.on_send(&mut copy))) {
                Ok(Ok(())) => draft = copy,
                Ok(Err(e)) => count_failure(counters, &e.to_string()),
                Err(_) => count_failure(counters, "it panicked"),
            }
        }
        draft
    }

    pub(crate) fn on_acknowledgement(
        &self,
        topic: &str,
        partition: Option<i32>,
        result: &Result<RecordMetadata, Error>,
        counters: &Counters,
    ) {
        for i in &self.0 {
            let call = || i.on_acknowledgement(topic, partition, result);
            if catch_unwind(AssertUnwindSafe(call)).is_err() {
                count_failure(counters, "it panicked");
            }
        }
    }
}

fn count_failure(counters: &Counters, why: &str) {
    add(&counters.interceptor_error_total, 1);
    tracing::warn!("an interceptor failed and was skipped: {why}");
}

impl MutableRecord<'_> {
    /// Headers as a record borrows them.
    pub(crate) fn borrowed_headers(&self) -> Vec<Header<'_>> {
        self.headers.iter().map(|(key, value)| Header { key, value: value.as_deref() }).collect()
    }

    pub(crate) fn as_record<'b>(&'b self, headers: &'b [Header<'b>], token: u64) -> Record<'b> {
        Record {
            topic: &self.topic,
            partition: self.partition,
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers,
            timestamp: self.timestamp,
            token,
        }
    }
}
