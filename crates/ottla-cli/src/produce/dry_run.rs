//! `--dry-run`: the load as it would be sent, to a broker in this process that keeps nothing.
//!
//! The producer is the real one, so partitions, batches and compression are those of the load
//! itself. The broker's topics have the partitions and settings of the cluster's topics.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ottla::{BatchReport, Origin, Producer, Properties};
use ottla_broker::{EmbeddedBroker, NewTopic};

use crate::CliError;
use crate::args::ProduceArgs;
use crate::doctor::{FoundTopic, TopicLookup, counted};

/// Partitions of a topic whose records are listed. Of more, only the extremes are.
const MAX_LISTED_PARTITIONS: usize = 24;
/// Topics that are listed.
const MAX_LISTED_TOPICS: usize = 50;

/// A load that is not sent.
pub(super) struct DryRun {
    broker: EmbeddedBroker,
    /// The cluster whose topics are copied; `None` without one.
    lookup: Option<Mutex<TopicLookup>>,
    topics: Mutex<BTreeMap<String, TopicCounts>>,
}

/// A topic, and what would be sent to it.
struct TopicCounts {
    /// How its partitions are known.
    description: String,
    partitions: i32,
    /// Records and batches by partition.
    counts: HashMap<i32, (u64, u64)>,
}

impl DryRun {
    /// Starts the broker, connects to the cluster if one is given, and has the settings name the
    /// broker.
    pub(super) fn start(
        args: &ProduceArgs,
        properties: &mut Properties,
    ) -> Result<DryRun, CliError> {
        let usage = |e: ottla::Error| CliError::usage(e.to_string());
        let has_cluster = !args.embedded && properties.get("bootstrap.servers").is_some();
        let lookup = has_cluster.then(|| connect(properties)).transpose()?;
        let broker = EmbeddedBroker::builder().auto_create_topics(false).start();
        let broker = broker
            .map_err(|e| CliError::failed(format!("the embedded broker did not start: {e}")))?;
        for (name, value) in [
            ("bootstrap.servers", &*broker.bootstrap_servers()),
            ("security.protocol", "PLAINTEXT"),
        ] {
            properties.set_from(name, value, &Origin::CommandLine).map_err(usage)?;
        }
        Ok(DryRun { broker, lookup: lookup.map(Mutex::new), topics: Mutex::default() })
    }

    fn topics(&self) -> MutexGuard<'_, BTreeMap<String, TopicCounts>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates a topic on the broker as it is in the cluster. The error says why it cannot take
    /// records.
    pub(super) fn prepare_topic(&self, name: &str) -> Result<(), String> {
        if self.topics().contains_key(name) {
            return Ok(());
        }
        let found = match &self.lookup {
            Some(lookup) => {
                let mut lookup = lookup.lock().unwrap_or_else(PoisonError::into_inner);
                Some(lookup.find(name)?)
            }
            None => None,
        };
        let partitions = found.as_ref().map_or(1, |f| f.partitions);
        // Segments are small: the broker keeps two of each partition in memory.
        let mut topic = NewTopic::new(name, partitions)
            .config("segment.bytes", "65536")
            .config("retention.bytes", "0");
        for (key, value) in found.iter().flat_map(|f| &f.settings) {
            topic = topic.config(key, value);
        }
        self.broker.create_topic(topic).map_err(|e| format!("topic {name}: {e}"))?;
        let description = describe(found.as_ref());
        let counts = TopicCounts { description, partitions, counts: HashMap::new() };
        self.topics().insert(name.to_owned(), counts);
        Ok(())
    }

    /// Counts a batch.
    pub(super) fn on_delivery(&self, report: &BatchReport<'_>) {
        let mut topics = self.topics();
        let Some(topic) = topics.get_mut(report.topic).filter(|_| report.result.is_ok()) else {
            return;
        };
        let (records, batches) = topic.counts.entry(report.partition).or_default();
        *records += report.tokens.len() as u64;
        *batches += 1;
    }

    /// Returns what would be sent where, one or more lines for each topic.
    pub(super) fn summary(&self, producer: &Producer) -> String {
        let topics = self.topics();
        let mut out = String::new();
        for (name, topic) in topics.iter().take(MAX_LISTED_TOPICS) {
            topic.write(name, &mut out);
        }
        if let Some(more) = topics.len().checked_sub(MAX_LISTED_TOPICS).filter(|n| *n > 0) {
            let _ = writeln!(out, "and {more} more topics");
        }
        let totals = producer.totals();
        let (bytes, batches) = (totals.byte_total, totals.batch_total);
        let batch_size = producer.config().accumulator().batch_size as u64;
        if batches == 0 {
            return out;
        }
        let _ = writeln!(
            out,
            "batches: {bytes} bytes with headers ({}); on average {} bytes, {:.0} % of batch.size \
             ({})",
            producer.config().get("compression.type").unwrap_or_default(),
            bytes / batches,
            (bytes / batches) as f64 * 100.0 / batch_size.max(1) as f64,
            batch_size
        );
        out
    }
}

fn connect(properties: &Properties) -> Result<TopicLookup, CliError> {
    let builder = Producer::builder().properties(properties.clone());
    let config = builder.build_config().map_err(|e| CliError::build(&e))?;
    TopicLookup::connect(&config).map_err(|reason| {
        CliError::failed(format!(
            "--dry-run cannot ask the cluster for its topics: {reason}; without a broker it works \
             with --embedded"
        ))
    })
}

fn describe(found: Option<&FoundTopic>) -> String {
    match found {
        None => "no cluster is given".to_owned(),
        Some(topic) if topic.is_missing => "does not exist; the first record creates it".to_owned(),
        Some(topic) if topic.settings.is_empty() => "its settings are not known".to_owned(),
        Some(topic) => {
            let settings = topic.settings.iter().map(|(name, value)| format!("{name}={value}"));
            settings.collect::<Vec<_>>().join(", ")
        }
    }
}

impl TopicCounts {
    fn write(&self, name: &str, out: &mut String) {
        let sum = |of: fn(&(u64, u64)) -> u64| self.counts.values().map(of).sum::<u64>();
        let (records, batches) = (sum(|c| c.0), sum(|c| c.1));
        let _ = writeln!(
            out,
            "topic {name}: {} ({}); {} in {}, {:.1} records each",
            counted(self.partitions as usize, "partition"),
            self.description,
            counted(records as usize, "record"),
            counted(batches as usize, "batch"),
            records as f64 / batches.max(1) as f64
        );
        let records_of = |p: i32| self.counts.get(&p).map_or(0, |c| c.0);
        let mut by_records: Vec<i32> = (0..self.partitions).collect();
        if by_records.len() <= MAX_LISTED_PARTITIONS {
            let list = by_records.iter().map(|p| format!("{p}: {}", records_of(*p)));
            let list = list.collect::<Vec<_>>().join(", ");
            let _ = writeln!(out, "  records by partition: {list}");
            return;
        }
        by_records.sort_by_key(|p| records_of(*p));
        let at = |index: usize| by_records.get(index).map_or(0, |p| records_of(*p));
        let last = by_records.len() - 1;
        let empty = by_records.iter().filter(|p| records_of(**p) == 0).count();
        let _ = writeln!(
            out,
            "  records by partition: {} at least, {} in the median, {} at most (partition {}); {} \
             partitions get none",
            at(0),
            at(last / 2),
            at(last),
            by_records[last],
            empty
        );
    }
}
