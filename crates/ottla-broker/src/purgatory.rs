//! Produce requests that wait for replicas (`acks=all`): they hold what is known so far, and are answered once
//! every replica in sync has the batches, or the leader has gone, or their time is over.

use ottla_protocol::ErrorCode;
use ottla_protocol::Uuid;
use ottla_protocol::messages::{ProduceRequest, ProduceResponse};

use crate::core::{ClockReading, Core, HandleResult, send_response};

/// A batch that was appended and has to be copied.
#[derive(Debug, Clone)]
pub(crate) struct ProducePartitionStatus {
    pub(crate) topic: String,
    pub(crate) topic_id: Uuid,
    pub(crate) partition: i32,
    pub(crate) leader_epoch: i32,
    /// The offset behind it.
    pub(crate) required_offset: i64,
    /// Where its answer stands in the response.
    pub(crate) response_index: (usize, usize),
}

/// A request that waits.
#[derive(Debug)]
pub(crate) struct DelayedProduce {
    pub(crate) node: i32,
    pub(crate) version: i16,
    pub(crate) correlation_id: i32,
    pub(crate) deadline_ms: u64,
    pub(crate) response: ProduceResponse,
    pub(crate) pending_partitions: Vec<ProducePartitionStatus>,
}

/// What has become of a batch that waits.
enum AckStatus {
    Pending,
    Acknowledged,
    Failed(ErrorCode),
}

impl Core {
    /// Puts a request aside; the ticket to ask with.
    pub(crate) fn delay_produce(&mut self, pending: DelayedProduce) -> u64 {
        self.last_delayed_id += 1;
        self.produce_purgatory.insert(self.last_delayed_id, pending);
        self.last_delayed_id
    }

    /// The answer to a request that was put aside ([`Reply::Later`]), if it can be given by now.
    pub fn try_complete_produce(&mut self, ticket: u64, now: ClockReading) -> Option<HandleResult> {
        let Some(mut pending) = self.produce_purgatory.remove(&ticket) else {
            return Some(HandleResult::CloseConnection("the node ended".to_owned()));
        };
        let over = pending.deadline_ms <= now.mono_ms;
        let waiting = std::mem::take(&mut pending.pending_partitions);
        for w in waiting {
            let code = match self.ack_status(&w) {
                AckStatus::Pending if !over => {
                    pending.pending_partitions.push(w);
                    continue;
                }
                AckStatus::Pending => ErrorCode::REQUEST_TIMED_OUT,
                AckStatus::Acknowledged => continue,
                AckStatus::Failed(code) => code,
            };
            let (t, p) = w.response_index;
            pending.response.responses[t].partition_responses[p].error_code = code.0;
        }
        if pending.pending_partitions.is_empty() {
            return Some(pending.into_handle_result());
        }
        self.produce_purgatory.insert(ticket, pending);
        None
    }

    /// Nobody asks for this answer any more.
    pub fn cancel_produce(&mut self, ticket: u64) {
        self.produce_purgatory.remove(&ticket);
    }

    fn ack_status(&self, w: &ProducePartitionStatus) -> AckStatus {
        let topic = self.topics.by_name.get(&w.topic).filter(|t| t.id == w.topic_id);
        let Some(topic) = topic else {
            return AckStatus::Failed(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
        };
        let p = &topic.partitions[w.partition as usize];
        if p.leader_epoch != w.leader_epoch {
            return AckStatus::Failed(ErrorCode::NOT_LEADER_OR_FOLLOWER);
        }
        if p.high_watermark < w.required_offset {
            return AckStatus::Pending;
        }
        if (p.isr.len() as i32) < topic.config.min_insync_replicas.min(topic.replication_factor()) {
            return AckStatus::Failed(ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND);
        }
        AckStatus::Acknowledged
    }

    /// Requests to a node that ended are never answered.
    pub(crate) fn cancel_node_produces(&mut self, node: i32) {
        self.produce_purgatory.retain(|_, p| p.node != node);
    }

    pub(crate) fn next_produce_deadline(&self) -> Option<u64> {
        self.produce_purgatory.values().map(|p| p.deadline_ms).min()
    }
}

impl DelayedProduce {
    fn into_handle_result(self) -> HandleResult {
        send_response::<ProduceRequest>(self.version, self.correlation_id, &self.response)
    }
}
