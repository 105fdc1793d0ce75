//! The Produce request of one node and its response: encoding, decoding, and finding a batch's
//! partition in the response.
//!
//! `send.rs` encodes the request. The frame references the records of the batches and does not
//! copy them. `responses.rs` parses the response.

use bytes::Bytes;
use ottla_protocol::header::{RequestHeader, decode_response};
use ottla_protocol::messages::{
    PartitionProduceResponse, ProduceNodeEndpoint, ProduceRequest, ProduceResponse,
};
use ottla_protocol::{ApiKey, DecodeError, Uuid, Writer};

use crate::accumulator::batch::StampedBatch;
use crate::cluster::Node;
use crate::injected_bugs::inject_bug;

/// The settings that every Produce request of a producer contains.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestSettings {
    pub(crate) acks: i16,
    pub(crate) timeout_ms: i32,
}

/// Records that are inserted into a frame at an offset of its encoded fields.
#[derive(Debug)]
pub(crate) struct RecordPiece {
    offset: usize,
    records: Bytes,
}

/// The first Produce version that identifies topics by id (KIP-516).
pub(super) const FIRST_VERSION_WITH_TOPIC_ID: i16 = 13;

/// Returns the frame of a Produce request as a list of buffers to write one after the other.
///
/// `batches` are sorted by topic. `pieces` is a scratch buffer, empty before and after.
pub(crate) fn encode_frame(
    version: i16,
    correlation_id: i32,
    client_id: &str,
    settings: RequestSettings,
    transactional_id: Option<&str>,
    batches: &[StampedBatch],
    pieces: &mut Vec<RecordPiece>,
) -> Vec<Bytes> {
    let flexible = ApiKey::PRODUCE.version(version).flexible;
    let mut w = Writer::from_vec(Vec::with_capacity(128 + batches.len() * 96));
    // The frame's length, known at the end.
    w.i32(0);
    RequestHeader::encode_without_tags(
        ApiKey::PRODUCE,
        version,
        correlation_id,
        Some(client_id),
        &mut w,
    );
    w.length(transactional_id.map(str::len), flexible, true);
    w.raw(transactional_id.unwrap_or_default().as_bytes());
    w.i16(settings.acks);
    w.i32(settings.timeout_ms);
    let topics =
        || batches.chunk_by(|a, b| a.closed.meta.partition.topic == b.closed.meta.partition.topic);
    w.count(Some(topics().count()), flexible);
    for topic in topics() {
        let name = &topic[0].closed.meta.partition.topic;
        if version >= FIRST_VERSION_WITH_TOPIC_ID {
            w.raw(&topic[0].stamp.topic_id.0);
        } else {
            w.length(Some(name.len()), flexible, true);
            w.raw(name.as_bytes());
        }
        w.count(Some(topic.len()), flexible);
        for batch in topic {
            let (header, records) = (batch.header(), batch.closed.records());
            w.i32(batch.closed.meta.partition.index);
            w.length(Some(header.len() + records.len()), flexible, false);
            w.raw(header);
            let offset = w.len();
            pieces.extend(records.pieces().map(|records| RecordPiece { offset, records }));
            write_empty_tags(&mut w, flexible);
        }
        write_empty_tags(&mut w, flexible);
    }
    write_empty_tags(&mut w, flexible);
    interleave_records(w, pieces)
}

fn write_empty_tags(w: &mut Writer, flexible: bool) {
    if flexible {
        w.unsigned_varint(0);
    }
}

/// Writes the frame's length, and splits the encoded fields where records are inserted.
fn interleave_records(w: Writer, pieces: &mut Vec<RecordPiece>) -> Vec<Bytes> {
    // This cannot fail: topic names are validated when the topics become known, so no string is
    // longer than its length field allows.
    let mut fields = w.finish().unwrap_or_default();
    let size = fields.len() - 4 + pieces.iter().map(|p| p.records.len()).sum::<usize>();
    fields[..4].copy_from_slice(&(size as i32).to_be_bytes());
    let fields = Bytes::from(fields);
    let (mut frame, mut start) = (Vec::with_capacity(2 * pieces.len() + 1), 0);
    for piece in pieces.drain(..) {
        // A batch with large values has several pieces at one offset.
        if piece.offset > start {
            frame.push(fields.slice(start..piece.offset));
        }
        frame.push(piece.records);
        start = piece.offset;
    }
    frame.push(fields.slice(start..));
    frame
}

/// A decoded Produce response.
pub(crate) struct ParsedProduceResponse {
    response: ProduceResponse,
}

impl ParsedProduceResponse {
    pub(crate) fn parse(frame: &Bytes, version: i16) -> Result<ParsedProduceResponse, DecodeError> {
        let response = decode_response::<ProduceRequest>(frame, version)?;
        Ok(ParsedProduceResponse { response })
    }

    pub(crate) fn throttle_time_ms(&self) -> i32 {
        self.response.throttle_time_ms
    }

    /// Returns the addresses of new leaders (KIP-951), without entries that cannot be valid.
    pub(crate) fn node_endpoints(&self) -> Vec<Node> {
        let node = |n: &ProduceNodeEndpoint| {
            let port = u16::try_from(n.port).ok().filter(|p| *p > 0)?;
            if n.node_id < 0 || n.host.is_empty() {
                return None;
            }
            let (host, rack) = (n.host.as_str().into(), n.rack.as_deref().map(Into::into));
            Some(Node { id: n.node_id, host, port, rack })
        };
        self.response.node_endpoints.iter().filter_map(node).collect()
    }

    /// Returns the number of partitions in the response.
    pub(crate) fn partition_count(&self) -> usize {
        self.response.responses.iter().map(|t| t.partition_responses.len()).sum()
    }

    /// Returns the entry for the batch's topic and partition. A second entry is ignored.
    ///
    /// The topic has to match: an entry of a different topic must never acknowledge the batch
    /// (CASES SN44).
    pub(crate) fn partition_response(
        &self,
        batch: &StampedBatch,
        version: i16,
    ) -> Option<&PartitionProduceResponse> {
        let partition = &batch.closed.meta.partition;
        let is_topic = |name: &str, id: Uuid| {
            let is_same_topic = if version >= FIRST_VERSION_WITH_TOPIC_ID {
                id == batch.stamp.topic_id
            } else {
                name == &*partition.topic
            };
            inject_bug!(TopicIgnoredInResponse, is_same_topic)
        };
        self.response
            .responses
            .iter()
            .filter(|t| is_topic(&t.name, t.topic_id))
            .flat_map(|t| &t.partition_responses)
            .find(|p| p.index == partition.index)
    }
}

#[cfg(test)]
mod tests {
    use ottla_protocol::messages::TopicProduceResponse;

    use super::*;
    use crate::accumulator::batch::Stamp;
    use crate::accumulator::partition::Partition;
    use crate::sender::producer_state::tests::closed_batch;

    fn partition_entry(index: i32, base_offset: i64) -> PartitionProduceResponse {
        PartitionProduceResponse { index, base_offset, ..Default::default() }
    }

    fn topic_entry(
        name: &str,
        topic_id: Uuid,
        partition_responses: Vec<PartitionProduceResponse>,
    ) -> TopicProduceResponse {
        let name = name.into();
        TopicProduceResponse { name, topic_id, partition_responses, ..Default::default() }
    }

    // CASES: SN44, FG2.
    #[test]
    fn only_the_first_entry_of_the_batchs_topic_and_partition_counts() {
        let p = std::sync::Arc::new(Partition::new("t".into(), 1, 7, Default::default()));
        let id = Uuid([7; 16]);
        let batch = closed_batch(&p, 1, 1).stamp(Stamp { topic_id: id, ..Stamp::NONE });
        let parsed = ParsedProduceResponse {
            response: ProduceResponse {
                responses: vec![
                    topic_entry("other", Uuid([8; 16]), vec![partition_entry(1, 50)]),
                    topic_entry(
                        "t",
                        id,
                        vec![
                            partition_entry(0, 60),
                            partition_entry(1, 70),
                            partition_entry(1, 80),
                        ],
                    ),
                ],
                ..Default::default()
            },
        };
        for version in [FIRST_VERSION_WITH_TOPIC_ID, FIRST_VERSION_WITH_TOPIC_ID - 1] {
            let entry = parsed.partition_response(&batch, version);
            assert_eq!(entry.map(|r| r.base_offset), Some(70));
        }
        assert_eq!(parsed.partition_count(), 4, "all entries count, also those without a batch");
        let other_id = Stamp { topic_id: Uuid([9; 16]), ..Stamp::NONE };
        let other = closed_batch(&p, 2, 1).stamp(other_id);
        assert!(
            parsed.partition_response(&other, FIRST_VERSION_WITH_TOPIC_ID).is_none(),
            "a topic with a different id"
        );
    }
}
