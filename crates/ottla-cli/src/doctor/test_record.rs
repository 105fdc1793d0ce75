//! Sends one record, with the library's producer, as the application would.

use std::time::{Duration, Instant};

use ottla::{Error, Producer, Record, RecordMetadata};

use super::Doctor;
use super::report::{Failed, Passed};
use crate::error_text;

/// The key and the value of the record.
const CONTENT: &str = "ottla-doctor";
/// The longest time to wait for the acknowledgement.
const MAX_WAIT_MS: u64 = 10_000;

impl Doctor<'_> {
    pub(super) fn check_test_record(&mut self) {
        let topic = self.args.topic.as_deref().unwrap_or_default();
        if self.report.has_failed() {
            return self.report.not_checked("test record", "a check before it failed");
        }
        let config = self.config;
        // Its first request would fence the application that uses the id now.
        if config.get("transactional.id").is_some_and(|id| !id.is_empty()) {
            let reason = "it would fence the producer that uses transactional.id; remove the \
                          setting to send one";
            return self.report.not_checked("test record", reason);
        }
        self.report.check_last("test record", || {
            let start = Instant::now();
            let metadata = send(config, topic).map_err(|e| {
                let reference = ottla::tools::error_reference(&e);
                // The text may contain one of the broker, so no part of it is taken for advice.
                Failed::new(error_text(&e), format!("see {reference}"))
            })?;
            let offset =
                metadata.offset().map_or_else(|| "unknown".to_owned(), |offset| offset.to_string());
            Ok(Passed::new(format!(
                "partition {}, offset {offset}, acknowledged after {} ms",
                metadata.partition(),
                start.elapsed().as_millis()
            )))
        });
    }
}

fn send(config: &ottla::ProducerConfig, topic: &str) -> Result<RecordMetadata, Error> {
    let mut builder = Producer::builder().config(config.clone());
    for name in ["delivery.timeout.ms", "max.block.ms", "request.timeout.ms"] {
        let limit = config.get(name).and_then(|v| v.parse::<f64>().ok());
        // A sum of the other two must not exceed the first one.
        let wanted = if name == "request.timeout.ms" { MAX_WAIT_MS / 2 } else { MAX_WAIT_MS };
        if limit.is_none_or(|ms| ms > wanted as f64) {
            builder = builder.set(name, wanted.to_string());
        }
    }
    let producer = builder.set("linger.ms", "0").build()?;
    let sent = producer
        .send(Record::to(topic).key(CONTENT).value(CONTENT))
        .and_then(|delivery| delivery.wait());
    let closed = producer.close(Duration::from_secs(1));
    let metadata = sent?;
    closed?;
    Ok(metadata)
}
