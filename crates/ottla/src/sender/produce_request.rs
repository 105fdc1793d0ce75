//! One ProduceRequest a node: its frame, in which the batches' bytes are referenced and not copied, and its
//! answer, matched to what was asked.

use bytes::Bytes;
use ottla_protocol::header::{RequestHeader, decode_response};
use ottla_protocol::messages::{
    PartitionProduceResponse, ProduceNodeEndpoint, ProduceRequest, ProduceResponse,
};
use ottla_protocol::{ApiKey, DecodeError, Uuid, Writer};

use crate::accumulator::batch::StampedBatch;
use crate::cluster::Node;
use crate::injected_bugs::inject_bug;

/// What every request of a producer says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestSettings {
    pub(crate) acks: i16,
    pub(crate) timeout_ms: i32,
}

/// The first version that names topics by id.
pub(super) const FIRST_VERSION_WITH_TOPIC_ID: i16 = 13;

/// The request's frame (of this version, correlation and client) as pieces: heads that are made here, records that are only referenced.
pub(crate) fn encode_frame(
    (version, correlation, client_id): (i16, i32, &str),
    settings: RequestSettings,
    batches: &[StampedBatch],
    cuts: &mut Vec<(usize, Bytes)>,
) -> Vec<Bytes> {
    let flexible = ApiKey::PRODUCE.version(version).flexible;
    let mut w = Writer::from_vec(Vec::with_capacity(128 + batches.len() * 96));
    w.i32(0);
    RequestHeader::encode_without_tags(
        ApiKey::PRODUCE,
        version,
        correlation,
        Some(client_id),
        &mut w,
    );
    w.length(None, flexible, true);
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
            let (header, records) = batch.header_and_records();
            w.i32(batch.closed.meta.partition.index);
            w.length(Some(header.len() + records.len()), flexible, false);
            w.raw(header);
            cuts.push((w.len(), records));
            if flexible {
                w.unsigned_varint(0);
            }
        }
        if flexible {
            w.unsigned_varint(0);
        }
    }
    if flexible {
        w.unsigned_varint(0);
    }
    interleave_records(w, cuts)
}

fn interleave_records(w: Writer, cuts: &mut Vec<(usize, Bytes)>) -> Vec<Bytes> {
    // Names were checked when the topics became known: nothing here is too long for its length.
    let mut heads = w.finish().unwrap_or_default();
    let size = heads.len() - 4 + cuts.iter().map(|c| c.1.len()).sum::<usize>();
    heads[..4].copy_from_slice(&(size as i32).to_be_bytes());
    let heads = Bytes::from(heads);
    let (mut out, mut from) = (Vec::with_capacity(2 * cuts.len() + 1), 0);
    for (at, records) in cuts.drain(..) {
        out.push(heads.slice(from..at));
        out.push(records);
        from = at;
    }
    out.push(heads.slice(from..));
    out
}

/// An answer, read.
pub(crate) struct ParsedProduceResponse(ProduceResponse);

impl ParsedProduceResponse {
    pub(crate) fn parse(frame: &Bytes, version: i16) -> Result<ParsedProduceResponse, DecodeError> {
        decode_response::<ProduceRequest>(frame, version).map(ParsedProduceResponse)
    }

    pub(crate) fn throttle_time_ms(&self) -> i32 {
        self.0.throttle_time_ms
    }

    /// Where the leaders are that it names (KIP-951).
    pub(crate) fn node_endpoints(&self) -> Vec<Node> {
        let node = |n: &ProduceNodeEndpoint| {
            let port = u16::try_from(n.port).ok().filter(|p| *p > 0)?;
            if n.node_id < 0 || n.host.is_empty() {
                return None;
            }
            let (host, rack) = (n.host.as_str().into(), n.rack.as_deref().map(Into::into));
            Some(Node { id: n.node_id, host, port, rack })
        };
        self.0.node_endpoints.iter().filter_map(node).collect()
    }

    /// Partitions it speaks of. One that is no batch's is never taken for an answer to another (SN44).
    pub(crate) fn partition_count(&self) -> usize {
        self.0.responses.iter().map(|t| t.partition_responses.len()).sum()
    }

    /// What it says of a batch; a second entry for the same partition is ignored.
    pub(crate) fn partition_response(
        &self,
        batch: &StampedBatch,
        version: i16,
    ) -> Option<&PartitionProduceResponse> {
        let partition = &batch.closed.meta.partition;
        let named = |name: &str, id: Uuid| {
            if inject_bug!(TopicIgnoredInResponse) {
                true
            } else if version >= FIRST_VERSION_WITH_TOPIC_ID {
                id == batch.stamp.topic_id
            } else {
                name == &*partition.topic
            }
        };
        self.0
            .responses
            .iter()
            .filter(|t| named(&t.name, t.topic_id))
            .flat_map(|t| &t.partition_responses)
            .find(|p| p.index == partition.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accumulator::batch::Stamp;
    use ottla_protocol::messages::TopicProduceResponse;

    #[test]
    fn sn44_fg2_only_the_first_entry_of_the_batchs_own_topic_and_partition_counts() {
        let p = std::sync::Arc::new(crate::accumulator::partition::Partition::new(
            "t".into(),
            1,
            7,
            Default::default(),
        ));
        let closed = crate::sender::producer_state::tests::closed_batch(&p, 1, 1);
        let id = Uuid([7; 16]);
        let batch = closed.stamp(Stamp { topic_id: id, ..Stamp::NONE });
        let entry = |index, base_offset| PartitionProduceResponse {
            index,
            base_offset,
            ..Default::default()
        };
        let topic = |name: &str, topic_id, partition_responses| TopicProduceResponse {
            name: name.into(),
            topic_id,
            partition_responses,
            ..Default::default()
        };
        let answer = ParsedProduceResponse(ProduceResponse {
            responses: vec![
                topic("other", Uuid([8; 16]), vec![entry(1, 50)]),
                topic("t", id, vec![entry(0, 60), entry(1, 70), entry(1, 80)]),
            ],
            ..Default::default()
        });
        for version in [FIRST_VERSION_WITH_TOPIC_ID, FIRST_VERSION_WITH_TOPIC_ID - 1] {
            assert_eq!(answer.partition_response(&batch, version).map(|r| r.base_offset), Some(70));
        }
        assert_eq!(answer.partition_count(), 4, "one of them is its own");
        let elsewhere = crate::sender::producer_state::tests::closed_batch(&p, 2, 1)
            .stamp(Stamp { topic_id: Uuid([9; 16]), ..Stamp::NONE });
        assert!(
            answer.partition_response(&elsewhere, FIRST_VERSION_WITH_TOPIC_ID).is_none(),
            "a topic of another id"
        );
    }
}
