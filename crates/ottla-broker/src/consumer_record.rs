//! Reading a topic back as decoded records, without a consumer.
//!
//! [`EmbeddedBroker::records`](crate::EmbeddedBroker::records) and its waiting form call it.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
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
        let mut records = Vec::new();
        let Some(topic) = self.topics.by_name.get(topic) else { return Ok(records) };
        for (number, partition) in (0..).zip(&topic.partitions) {
            read_partition(partition, number, &mut records)?;
        }
        Ok(records)
    }

    /// Returns an upper bound for the number of records that [`records`](Self::records) returns:
    /// offsets are also given to what is no record of an application.
    pub(crate) fn offset_count(&self, topic: &str) -> usize {
        let partitions = self.topics.by_name.get(topic).map_or(&[][..], |t| &t.partitions);
        partitions.iter().map(|p| usize::try_from(p.high_watermark).unwrap_or(0)).sum()
    }
}

fn read_partition(p: &Partition, number: i32, out: &mut Vec<ConsumerRecord>) -> io::Result<()> {
    let Some(replica) = p.readable_replica() else { return Ok(()) };
    let mut open_transactions = OpenTransactions::new();
    for batch in replica.log.batches()? {
        if batch.base_offset >= p.high_watermark {
            break;
        }
        decode_batch(&batch.bytes, number, &mut open_transactions, out).map_err(|e| {
            let text = format!("{} at offset {}: {e}", p.name(), batch.base_offset);
            io::Error::new(io::ErrorKind::InvalidData, text)
        })?;
    }
    Ok(())
}

/// The indexes of the records in each open transaction, by producer id.
type OpenTransactions = BTreeMap<i64, Vec<usize>>;

fn decode_batch(
    bytes: &[u8],
    partition: i32,
    open_transactions: &mut OpenTransactions,
    out: &mut Vec<ConsumerRecord>,
) -> Result<(), ottla_protocol::DecodeError> {
    let batch = BatchView::parse(bytes)?;
    let producer_id = batch.header().producer_id;
    if batch.is_control() {
        if let Some(marker) = EndTransactionMarker::decode_batch(&batch)? {
            let status = match marker.control_type {
                ControlRecordType::Commit => TransactionStatus::Committed,
                ControlRecordType::Abort => TransactionStatus::Aborted,
            };
            let ended = open_transactions.remove(&producer_id).unwrap_or_default();
            ended.into_iter().for_each(|index| out[index].transaction = status);
        }
        return Ok(());
    }
    let (copy, first) = (|b: Option<&[u8]>| b.map(Bytes::copy_from_slice), out.len());
    let is_transactional = batch.is_transactional();
    batch.records(MAX_DECOMPRESSED_BYTES)?.try_for_each(|r| {
        let name = |n: &[u8]| String::from_utf8_lossy(n).into_owned();
        out.push(ConsumerRecord {
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
        open_transactions.entry(producer_id).or_default().extend(first..out.len());
    }
    Ok(())
}
