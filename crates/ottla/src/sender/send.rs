//! Step 7 of the sender's round: one Produce request for the batches that were drained for a node.

use ottla_protocol::compression::Codec;
use ottla_protocol::{ApiKey, ErrorCode};

use super::Sender;
use super::produce_request::{self, FIRST_VERSION_WITH_TOPIC_ID, RequestSettings};
use crate::accumulator::batch::StampedBatch;
use crate::client::in_flight_requests::RequestKind;
use crate::client::requests::ClientRequest;
use crate::cluster::Cluster;
use crate::config::Acks;
use crate::error::{Error, RecordStatus};
use crate::metrics::{Sensor, TopicSensor, add};
use crate::network::io::Io;
use crate::time::Tick;

/// The first Produce version with record batches of format 2 (KIP-98).
const MIN_VERSION: i16 = 3;
/// The first Produce version with Zstandard (KIP-110).
const MIN_VERSION_WITH_ZSTD: i16 = 7;

impl<I: Io> Sender<I> {
    /// Sends all `batches` to `node` in one Produce request.
    #[inline(never)]
    pub(super) fn send_produce_request(
        &mut self,
        node: i32,
        cluster: &Cluster,
        mut batches: Vec<StampedBatch>,
        now: Tick,
    ) {
        if batches.is_empty() {
            return;
        }
        // The request lists each topic once.
        batches.sort_by(|a, b| a.closed.meta.partition.topic.cmp(&b.closed.meta.partition.topic));
        let max_version = if batches.iter().all(|b| has_current_topic_id(b, cluster)) {
            FIRST_VERSION_WITH_TOPIC_ID
        } else {
            FIRST_VERSION_WITH_TOPIC_ID - 1
        };
        let is_zstd = self.accumulator.settings.compression.codec() == Codec::Zstd;
        let min_version = if is_zstd { MIN_VERSION_WITH_ZSTD } else { MIN_VERSION };
        let (min_version, max_version) =
            self.transaction_produce_versions(min_version, max_version);
        let Some(version) =
            self.client.latest_usable_version(node, ApiKey::PRODUCE, min_version, max_version)
        else {
            self.fail_unsupported(node, min_version, batches);
            return;
        };
        for batch in &mut batches {
            self.begin_attempt(batch, node, cluster, now);
        }
        self.update_produce_request_metrics(&batches, now);
        let settings = RequestSettings {
            acks: self.settings.acks.to_wire(),
            timeout_ms: i32::try_from(self.settings.request_timeout.as_millis())
                .unwrap_or(i32::MAX),
        };
        let correlation_id = self.client.next_correlation_id();
        let frame = produce_request::encode_frame(
            version,
            correlation_id,
            self.client.client_id(),
            settings,
            self.settings.transactions.as_ref().map(|t| &*t.transactional_id),
            &batches,
            &mut self.record_pieces,
        );
        let request = ClientRequest {
            correlation_id,
            api: ApiKey::PRODUCE,
            version,
            kind: RequestKind::Produce,
            expects_response: self.settings.acks != Acks::None,
            frame,
        };
        self.client.send(node, request, now);
        if let Some(transactions) = &mut self.producer_state.transactions {
            transactions.on_produce(now);
        }
        self.in_flight_batches.insert(correlation_id, node, batches);
    }

    /// Counts an attempt of the batch and marks it as in flight.
    fn begin_attempt(&mut self, batch: &mut StampedBatch, node: i32, cluster: &Cluster, now: Tick) {
        let closed = &mut batch.closed;
        closed.attempts += 1;
        let partition = &closed.meta.partition;
        let leader = cluster.leader(&partition.topic, partition.index);
        let timings = &mut closed.timings;
        // A newer leader epoch ends the backoff early (KAFKA-15415): only the elapsed part counts.
        timings.backoff_total = timings.backed_off(now);
        timings.backoff_until = Tick(0);
        timings.sent_at = Some(now);
        timings.broker = node;
        timings.leader_epoch = leader.epoch;
        let expiry = closed.meta.created.after(self.settings.delivery_timeout);
        self.in_flight_batches.add_expiry(expiry);
        // A batch that may be in the log counts as a retry at every attempt.
        let is_retry = closed.attempts > 1 || closed.status == RecordStatus::PossiblyPersisted;
        self.producer_state.add_in_flight_batch(partition.id, node, is_retry);
        self.client.add_topic(&partition.topic, now);
    }

    /// Fails batches whose leader is too old for their record format or codec. Like the broker's
    /// own UNSUPPORTED_VERSION, the error is not retriable.
    fn fail_unsupported(&mut self, node: i32, min_version: i16, batches: Vec<StampedBatch>) {
        let name = self.client.broker_name(node);
        let reason = format!(
            "UNSUPPORTED_VERSION: {name} does not support Produce version {min_version} or above; \
             use a newer broker{}",
            if min_version > MIN_VERSION { " or a different compression.type" } else { "" }
        );
        for batch in batches {
            self.producer_state.mark_unresolved(&batch);
            self.ready.mark_dirty(batch.closed.meta.partition.id);
            let error = Error::with_code(ErrorCode::UNSUPPORTED_VERSION, reason.clone());
            self.fail_records(batch.unstamp(), &error);
        }
    }

    /// Records the batches of a request in the metrics.
    fn update_produce_request_metrics(&self, batches: &[StampedBatch], now: Tick) {
        let (mut records, mut bytes) = (0, 0);
        let sensors = &self.counters.sensors;
        for batch in batches.iter().map(|b| &b.closed) {
            let (count, size) = (f64::from(batch.meta.record_count), batch.wire_len());
            records += batch.meta.record_count as u64;
            bytes += size as u64;
            let ratio = batch.records().len() as f64 / batch.uncompressed_len.max(1) as f64;
            let queue_ms = now.since(batch.meta.created).as_secs_f64() * 1e3;
            sensors.record(
                &[
                    (Sensor::BatchSize, size as f64),
                    (Sensor::QueueTime, queue_ms),
                    (Sensor::Compression, ratio),
                    (Sensor::RecordSize, f64::from(batch.meta.max_record_bytes)),
                ],
                now,
            );
            use TopicSensor::{Byte, Compression, RecordSend};
            let values = [(RecordSend, count), (Byte, size as f64), (Compression, ratio)];
            sensors.record_topic(&batch.meta.partition.topic, &values, now);
        }
        let sent = records as f64;
        sensors.record(&[(Sensor::RecordSend, sent), (Sensor::RecordsPerRequest, sent)], now);
        add(&self.counters.record_send_total, records);
        add(&self.counters.batch_total, batches.len() as u64);
        add(&self.counters.byte_total, bytes);
        add(&self.counters.request_total, 1);
    }
}

/// Returns whether the batch was stamped with the topic's current id, and not with zero.
fn has_current_topic_id(batch: &StampedBatch, cluster: &Cluster) -> bool {
    let current = cluster.topics.get(&batch.closed.meta.partition.topic).map(|t| t.id);
    !batch.stamp.topic_id.is_zero() && current == Some(batch.stamp.topic_id)
}
