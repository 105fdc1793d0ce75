//! Validates a produced batch and appends it to the leader's log, with Kafka's checks in Kafka's
//! order.
//!
//! The Produce handler calls it for each partition. The sequence check comes last: a batch that
//! fails another check must not change or use the producer state.

use std::borrow::Cow;

use ottla_protocol::ErrorCode;
use ottla_protocol::compression::Codec;
use ottla_protocol::record::{
    BATCH_HEADER_LEN, BatchHeader, BatchHeaderView, BatchView, attributes,
};

use crate::core::ClockReading;
use crate::partition::Partition;
use crate::producer_state_manager::SequenceCheck;
use crate::topics::TopicConfig;

/// The reason why a batch was rejected.
#[derive(Debug)]
pub(crate) struct AppendError {
    pub(crate) code: ErrorCode,
    pub(crate) message: Option<String>,
    /// The invalid records (KIP-467).
    pub(crate) record_errors: Vec<RecordError>,
    /// The base offset if the batch was appended nevertheless and the broker reports it; else −1.
    pub(crate) base_offset: i64,
}

/// An invalid record of a batch.
#[derive(Debug)]
pub(crate) struct RecordError {
    /// The record's index in the batch.
    pub(crate) batch_index: i32,
    pub(crate) message: String,
}

/// The position of a batch that is in the log.
#[derive(Debug)]
pub(crate) struct LogAppendInfo {
    pub(crate) base_offset: i64,
    /// The offset after the last record.
    pub(crate) end_offset: i64,
    pub(crate) log_start_offset: i64,
    /// False for a duplicate, which an earlier request appended.
    pub(crate) newly_appended: bool,
    /// The broker's time in ms, if the topic's timestamp type is LogAppendTime.
    pub(crate) log_append_time: Option<i64>,
}

fn reject(code: ErrorCode, message: impl Into<String>) -> AppendError {
    AppendError { code, message: Some(message.into()), record_errors: Vec::new(), base_offset: -1 }
}

/// The largest size in bytes to which a batch may decompress.
const MAX_DECOMPRESSED_BYTES: usize = 256 << 20;
/// How far a timestamp may be ahead of the broker's clock (`message.timestamp.after.max.ms`).
const TIMESTAMP_AFTER_MAX_MS: i64 = 60 * 60 * 1000;

/// Appends the batch of a partition from a Produce request of the given version.
///
/// A duplicate succeeds with the offset of the earlier append.
pub(crate) fn append_records_to_leader(
    partition: &mut Partition,
    config: &TopicConfig,
    records: &[u8],
    version: i16,
    now: ClockReading,
) -> Result<LogAppendInfo, AppendError> {
    let batch = BatchView::parse(records)
        .map_err(|e| reject(ErrorCode::INVALID_RECORD, format!("not a batch of magic 2: {e}")))?;
    if batch.bytes().len() != records.len() {
        let message = "a Produce request has exactly one batch for each partition";
        return Err(reject(ErrorCode::INVALID_RECORD, message));
    }
    validate_batch(&batch, config, version, now)?;
    let header = batch.header();
    if header.producer_id >= 0 {
        let replica = partition.leader_replica().ok_or_else(|| not_leader_error(partition))?;
        match replica.producer_state.check_sequence(header, now.wall_ms) {
            SequenceCheck::Accepted => {
                replica.producer_state.check_transaction(header).map_err(|code| {
                    let id = header.producer_id;
                    reject(code, format!("producer {id} has an open transaction"))
                })?;
            }
            // The client has not received the response to the first append.
            SequenceCheck::Duplicate(base_offset) => {
                let end_offset = base_offset + i64::from(header.last_offset_delta) + 1;
                return Ok(LogAppendInfo {
                    base_offset,
                    end_offset,
                    log_start_offset: replica.log.log_start_offset(),
                    newly_appended: false,
                    log_append_time: None,
                });
            }
            SequenceCheck::Rejected(code) => {
                let message = format!(
                    "producer {} epoch {} sequence {} on {}",
                    header.producer_id,
                    header.producer_epoch,
                    header.base_sequence,
                    partition.name()
                );
                return Err(reject(code, message));
            }
        }
    }
    let (bytes, log_append_time) = apply_log_append_time(&batch, config, now);
    let view = BatchHeaderView::parse(&bytes)
        .map_err(|e| reject(ErrorCode::INVALID_RECORD, e.to_string()))?;
    let epoch = partition.leader_epoch;
    let no_leader = not_leader_error(partition);
    let replica = partition.leader_replica_mut().ok_or(no_leader)?;
    let base_offset = (replica.log.append_as_leader(&bytes, &view, epoch))
        .map_err(|e| reject(ErrorCode::KAFKA_STORAGE_ERROR, e.to_string()))?;
    replica.producer_state.on_batch(&batch, base_offset, now.wall_ms);
    Ok(LogAppendInfo {
        base_offset,
        end_offset: replica.log.log_end_offset(),
        log_start_offset: replica.log.log_start_offset(),
        newly_appended: true,
        log_append_time,
    })
}

fn not_leader_error(partition: &Partition) -> AppendError {
    reject(ErrorCode::NOT_LEADER_OR_FOLLOWER, format!("{} has no leader", partition.name()))
}

fn validate_batch(
    batch: &BatchView<'_>,
    config: &TopicConfig,
    version: i16,
    now: ClockReading,
) -> Result<(), AppendError> {
    let header = batch.header();
    let codec = batch.codec().map_err(|e| reject(ErrorCode::INVALID_RECORD, e.to_string()))?;
    if codec == Codec::Zstd && version < 7 {
        let message = "zstd needs Produce version 7";
        return Err(reject(ErrorCode::UNSUPPORTED_COMPRESSION_TYPE, message));
    }
    if header.base_offset != 0 {
        return Err(reject(ErrorCode::INVALID_RECORD, "the base offset is not 0"));
    }
    if batch.bytes().len() > config.max_message_bytes {
        return Err(AppendError {
            code: ErrorCode::MESSAGE_TOO_LARGE,
            message: None,
            record_errors: Vec::new(),
            base_offset: -1,
        });
    }
    batch.verify().map_err(|e| reject(ErrorCode::CORRUPT_MESSAGE, e.to_string()))?;
    if batch.is_control() {
        return Err(reject(ErrorCode::INVALID_RECORD, "clients may not write control batches"));
    }
    if header.attributes & attributes::TIMESTAMP_TYPE_MASK != 0 {
        return Err(reject(ErrorCode::INVALID_TIMESTAMP, "only the broker may set LogAppendTime"));
    }
    if header.last_offset_delta.checked_add(1) != Some(header.record_count) {
        return Err(reject(
            ErrorCode::INVALID_RECORD,
            "the last offset delta does not match the record count",
        ));
    }
    if header.producer_id >= 0 && header.base_sequence < 0 {
        return Err(reject(
            ErrorCode::INVALID_RECORD,
            "the batch has a producer id but no sequence",
        ));
    }
    validate_records(batch, header, config, now)
}

fn validate_records(
    batch: &BatchView<'_>,
    header: &BatchHeader,
    config: &TopicConfig,
    now: ClockReading,
) -> Result<(), AppendError> {
    let invalid = |e: ottla_protocol::DecodeError| reject(ErrorCode::INVALID_RECORD, e.to_string());
    let records = batch.records(MAX_DECOMPRESSED_BYTES).map_err(invalid)?;
    let mut record_errors = Vec::new();
    let mut code = ErrorCode::INVALID_RECORD;
    let mut has_wrong_delta = false;
    let mut index = 0;
    records
        .try_for_each(|r| {
            has_wrong_delta |= r.offset != header.base_offset + i64::from(index);
            let ahead_ms = r.timestamp.saturating_sub(now.wall_ms);
            if ahead_ms > TIMESTAMP_AFTER_MAX_MS && !config.log_append_time {
                code = ErrorCode::INVALID_TIMESTAMP;
                let message = format!("the timestamp {} is too far in the future", r.timestamp);
                record_errors.push(RecordError { batch_index: index, message });
            }
            if config.compacted && r.key.is_none() {
                let message = "a compacted topic requires a key".to_owned();
                record_errors.push(RecordError { batch_index: index, message });
            }
            index += 1;
            Ok(())
        })
        .map_err(invalid)?;
    if has_wrong_delta {
        return Err(reject(ErrorCode::INVALID_RECORD, "offset deltas are not 0, 1, 2, ..."));
    }
    if record_errors.is_empty() {
        return Ok(());
    }
    let message = Some("one or more records are invalid".to_owned());
    Err(AppendError { code, message, record_errors, base_offset: -1 })
}

/// Returns the bytes for the log and, if the topic uses LogAppendTime, the broker's time.
///
/// LogAppendTime changes the attributes and the maximum timestamp, which the checksum covers.
fn apply_log_append_time<'b>(
    batch: &BatchView<'b>,
    config: &TopicConfig,
    now: ClockReading,
) -> (Cow<'b, [u8]>, Option<i64>) {
    if !config.log_append_time {
        return (Cow::Borrowed(batch.bytes()), None);
    }
    let mut header = *batch.header();
    header.attributes |= attributes::TIMESTAMP_TYPE_MASK;
    header.max_timestamp = now.wall_ms;
    let records = &batch.bytes()[BATCH_HEADER_LEN..];
    let mut out = header.encode(records).to_vec();
    out.extend_from_slice(records);
    (Cow::Owned(out), Some(now.wall_ms))
}
