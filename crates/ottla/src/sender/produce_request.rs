//! The Produce request of one node and its response: encoding, decoding, and finding a batch's
//! partition in the response.
//!
//! `send.rs` encodes the request. The frame references the records of the batches and does not
//! copy them. `responses.rs` parses the response.

use bytes::Bytes;
use ottla_protocol::header::{RequestHeader, decode_response};
use ottla_protocol::messages::{
    PartitionProduceResponse, ProduceNodeEndpoint, ProduceRequest, ProduceResponse,
    TopicProduceResponse,
};
use ottla_protocol::{ApiKey, DecodeError, Writer};

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
///
/// Its topics and partitions are sorted, because a request may contain thousands: to search each
/// batch's entry from the beginning would take quadratic time.
pub(crate) struct ParsedProduceResponse {
    response: ProduceResponse,
    version: i16,
}

impl ParsedProduceResponse {
    pub(crate) fn parse(frame: &Bytes, version: i16) -> Result<ParsedProduceResponse, DecodeError> {
        let response = decode_response::<ProduceRequest>(frame, version)?;
        Ok(ParsedProduceResponse::new(response, version))
    }

    /// Sorts the entries. The order of equal ones does not change.
    fn new(mut response: ProduceResponse, version: i16) -> ParsedProduceResponse {
        if version >= FIRST_VERSION_WITH_TOPIC_ID {
            response.responses.sort_by_key(|t| t.topic_id);
        } else {
            response.responses.sort_by(|a, b| a.name.cmp(&b.name));
        }
        for topic in &mut response.responses {
            topic.partition_responses.sort_by_key(|p| p.index);
        }
        ParsedProduceResponse { response, version }
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
    ) -> Option<&PartitionProduceResponse> {
        let partition = &batch.closed.meta.partition;
        let compare = |t: &TopicProduceResponse| {
            let order = if self.version >= FIRST_VERSION_WITH_TOPIC_ID {
                t.topic_id.cmp(&batch.stamp.topic_id)
            } else {
                (*t.name).cmp(&*partition.topic)
            };
            inject_bug!(TopicIgnoredInResponse, order)
        };
        let topics = &self.response.responses;
        let first = topics.partition_point(|t| compare(t).is_lt());
        topics[first..].iter().take_while(|t| compare(t).is_eq()).find_map(|t| {
            let entries = &t.partition_responses;
            let first = entries.partition_point(|p| p.index < partition.index);
            entries.get(first).filter(|p| p.index == partition.index)
        })
    }
}

#[cfg(test)]
mod tests {
    use ottla_protocol::Uuid;

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
        let response = ProduceResponse {
            responses: vec![
                topic_entry("u", Uuid([8; 16]), vec![partition_entry(1, 50)]),
                topic_entry(
                    "t",
                    id,
                    vec![
                        partition_entry(2, 60),
                        partition_entry(1, 70),
                        partition_entry(1, 80),
                        partition_entry(0, 90),
                    ],
                ),
                topic_entry("s", Uuid([6; 16]), vec![partition_entry(1, 100)]),
                topic_entry("t", id, vec![partition_entry(1, 110), partition_entry(3, 120)]),
            ],
            ..Default::default()
        };
        let later = std::sync::Arc::new(Partition::new("t".into(), 3, 9, Default::default()));
        let later = closed_batch(&later, 1, 1).stamp(Stamp { topic_id: id, ..Stamp::NONE });
        for version in [FIRST_VERSION_WITH_TOPIC_ID, FIRST_VERSION_WITH_TOPIC_ID - 1] {
            let parsed = ParsedProduceResponse::new(response.clone(), version);
            let offset = |batch| parsed.partition_response(batch).map(|r| r.base_offset);
            assert_eq!(offset(&batch), Some(70));
            assert_eq!(
                offset(&later),
                Some(120),
                "only the topic's second entry has the partition"
            );
            assert_eq!(
                parsed.partition_count(),
                8,
                "all entries count, also those without a batch"
            );
        }
        let parsed = ParsedProduceResponse::new(response, FIRST_VERSION_WITH_TOPIC_ID);
        let other_id = Stamp { topic_id: Uuid([9; 16]), ..Stamp::NONE };
        let other = closed_batch(&p, 2, 1).stamp(other_id);
        assert!(parsed.partition_response(&other).is_none(), "a topic with a different id");
    }
}
