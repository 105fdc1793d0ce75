//! Reading a topic back as decoded records, without a consumer.
//!
//! [`EmbeddedBroker::records`](crate::EmbeddedBroker::records) and its waiting form call it.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use ottla_protocol::Uuid;
use ottla_protocol::record::{BatchView, ControlRecordType, EndTransactionMarker};

use crate::core::Core;
use crate::partition::Partition;

/// The largest size in bytes to which a batch is decompressed.
const MAX_DECOMPRESSED_BYTES: usize = 256 << 20;

/// A record of a topic, as a consumer receives it (Kafka's `ConsumerRecord`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConsumerRecord {
    /// The partition.
    pub partition: i32,
    /// The record's offset in the partition.
    pub offset: i64,
    /// The key; `None` for null.
    pub key: Option<Bytes>,
    /// The value; `None` for null.
    pub value: Option<Bytes>,
    /// The headers: name and value, in the order in which they were sent.
    pub headers: Vec<(String, Option<Bytes>)>,
    /// Milliseconds since the Unix epoch: the producer's time, or with LogAppendTime the broker's.
    pub timestamp: i64,
    /// What has become of the record's transaction.
    pub transaction: TransactionStatus,
}

/// What has become of a record's transaction, as the markers in its partition say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransactionStatus {
    /// The record is not part of a transaction.
    None,
    /// The transaction is open. Only consumers with `isolation.level=read_uncommitted` get the
    /// record.
    Open,
    /// The transaction was committed.
    Committed,
    /// The transaction was aborted. Only consumers with `isolation.level=read_uncommitted` get the
    /// record.
    Aborted,
}

impl ConsumerRecord {
    /// Returns whether the record is committed: it is not part of a transaction, or part of one
    /// that was committed.
    ///
    /// Consumers with `isolation.level=read_committed` get no other records. They get this one only
    /// after the transactions that began before it in the partition have ended.
    pub fn is_committed(&self) -> bool {
        matches!(self.transaction, TransactionStatus::None | TransactionStatus::Committed)
    }
}

impl Core {
    /// Returns the records of a topic up to the high watermark of each partition, by partition and
    /// offset; nothing if there is no such topic.
    ///
    /// Records of open and aborted transactions are among them: see
    /// [`ConsumerRecord::transaction`].
    ///
    /// # Errors
    /// A log file cannot be read, or a batch in it is invalid.
    pub fn records(&self, topic: &str) -> io::Result<Vec<ConsumerRecord>> {
        let mut reader = TopicReader::new(topic);
        reader.read_new(self)?;
        Ok(reader.into_records())
    }
}

/// Reads a topic in several steps, and decodes each batch once.
pub(crate) struct TopicReader<'a> {
    topic: &'a str,
    /// The id of the topic that was read. A topic that is created again has another one.
    topic_id: Option<Uuid>,
    partitions: Vec<PartitionReader>,
}

#[derive(Default)]
struct PartitionReader {
    next_offset: i64,
    open_transactions: OpenTransactions,
    records: Vec<ConsumerRecord>,
    /// Number of records that are not committed.
    uncommitted: usize,
}

impl<'a> TopicReader<'a> {
    pub(crate) fn new(topic: &'a str) -> TopicReader<'a> {
        TopicReader { topic, topic_id: None, partitions: Vec::new() }
    }

    /// Reads what has come since the last call, up to the high watermark of each partition.
    ///
    /// # Errors
    /// A log file cannot be read, or a batch in it is invalid.
    pub(crate) fn read_new(&mut self, core: &Core) -> io::Result<()> {
        let topic = core.topics.by_name.get(self.topic);
        if self.topic_id != topic.map(|t| t.id) {
            (self.topic_id, self.partitions) = (topic.map(|t| t.id), Vec::new());
        }
        let Some(topic) = topic else { return Ok(()) };
        self.partitions.resize_with(topic.partitions.len(), PartitionReader::default);
        for ((number, partition), reader) in (0..).zip(&topic.partitions).zip(&mut self.partitions)
        {
            reader.read_new(partition, number)?;
        }
        Ok(())
    }

    /// Returns the number of records that were read.
    pub(crate) fn record_count(&self) -> usize {
        self.partitions.iter().map(|p| p.records.len()).sum()
    }

    /// Returns the number of committed records that were read.
    pub(crate) fn committed_count(&self) -> usize {
        self.partitions.iter().map(|p| p.records.len() - p.uncommitted).sum()
    }

    /// Returns the records that were read, by partition and offset.
    pub(crate) fn into_records(self) -> Vec<ConsumerRecord> {
        self.partitions.into_iter().flat_map(|p| p.records).collect()
    }
}

impl PartitionReader {
    fn read_new(&mut self, p: &Partition, number: i32) -> io::Result<()> {
        let Some(replica) = p.readable_replica() else { return Ok(()) };
        if p.high_watermark < self.next_offset {
            // The new leader has fewer records: it was not in the ISR.
            *self = PartitionReader::default();
        }
        for batch in replica.log.batches_from(self.next_offset)? {
            if batch.base_offset >= p.high_watermark {
                break;
            }
            self.next_offset = self.decode_batch(&batch.bytes, number).map_err(|e| {
                let text = format!("{} at offset {}: {e}", p.name(), batch.base_offset);
                io::Error::new(io::ErrorKind::InvalidData, text)
            })?;
        }
        Ok(())
    }

    /// Adds the records of a batch, or ends a transaction. Returns the offset after the batch.
    fn decode_batch(
        &mut self,
        bytes: &[u8],
        partition: i32,
    ) -> Result<i64, ottla_protocol::DecodeError> {
        let batch = BatchView::parse(bytes)?;
        let header = batch.header();
        let next_offset = header.base_offset + i64::from(header.last_offset_delta) + 1;
        let producer_id = header.producer_id;
        if batch.is_control() {
            if let Some(marker) = EndTransactionMarker::decode_batch(&batch)? {
                self.end_transaction(producer_id, marker.control_type);
            }
            return Ok(next_offset);
        }
        let copy = |b: Option<&[u8]>| b.map(Bytes::copy_from_slice);
        let (first, is_transactional) = (self.records.len(), batch.is_transactional());
        batch.records(MAX_DECOMPRESSED_BYTES)?.try_for_each(|r| {
            let name = |n: &[u8]| String::from_utf8_lossy(n).into_owned();
            self.records.push(ConsumerRecord {
                partition,
                offset: r.offset,
                key: copy(r.key),
                value: copy(r.value),
                headers: r.headers.iter().map(|(n, v)| (name(n), copy(*v))).collect(),
                timestamp: r.timestamp,
                transaction: if is_transactional {
                    TransactionStatus::Open
                } else {
                    TransactionStatus::None
                },
            });
            Ok(())
        })?;
        if is_transactional {
            let added = first..self.records.len();
            self.uncommitted += added.len();
            self.open_transactions.entry(producer_id).or_default().extend(added);
        }
        Ok(next_offset)
    }

    fn end_transaction(&mut self, producer_id: i64, marker: ControlRecordType) {
        let ended = self.open_transactions.remove(&producer_id).unwrap_or_default();
        let status = match marker {
            ControlRecordType::Commit => {
                self.uncommitted -= ended.len();
                TransactionStatus::Committed
            }
            ControlRecordType::Abort => TransactionStatus::Aborted,
        };
        ended.into_iter().for_each(|index| self.records[index].transaction = status);
    }
}

/// The indexes of the records in each open transaction, by producer id.
type OpenTransactions = BTreeMap<i64, Vec<usize>>;
