//! Delayed requests: their completion, and the Produce requests that wait for replicas.
//!
//! The socket server and the simulation call [`Core::try_complete`] after other requests and
//! ticks. A Produce with `acks=all` completes when the high watermark passes all its batches, when
//! a leader has changed, or at its deadline. [`crate::group`] keeps and completes the JoinGroup and
//! SyncGroup requests that wait for other members.

use ottla_protocol::ErrorCode;
use ottla_protocol::Uuid;
use ottla_protocol::messages::{ProduceRequest, ProduceResponse};

use crate::api::send_response;
use crate::core::{ClockReading, Core, HandleResult};

/// An appended batch that waits for its replicas.
#[derive(Debug, Clone)]
pub(crate) struct ProducePartitionStatus {
    pub(crate) topic: String,
    pub(crate) topic_id: Uuid,
    pub(crate) partition: i32,
    /// The leader epoch at the append.
    pub(crate) leader_epoch: i32,
    /// The batch is replicated when the high watermark reaches this offset.
    pub(crate) required_offset: i64,
    pub(crate) response_index: ResponseIndex,
}

/// The position of a partition's part in a Produce response.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ResponseIndex {
    /// The index of the topic in the response.
    pub(crate) topic: usize,
    /// The index of the partition in the topic.
    pub(crate) partition: usize,
}

/// A Produce request that waits for its replicas.
#[derive(Debug)]
pub(crate) struct DelayedProduce {
    pub(crate) node: i32,
    pub(crate) version: i16,
    pub(crate) correlation_id: i32,
    pub(crate) deadline_ms: u64,
    /// The response so far: complete except for the pending partitions.
    pub(crate) response: ProduceResponse,
    pub(crate) pending_partitions: Vec<ProducePartitionStatus>,
}

/// Whether a batch is replicated.
enum AckStatus {
    Pending,
    Acknowledged,
    Failed(ErrorCode),
}

impl Core {
    /// Adds a request to the purgatory and returns its id.
    pub(crate) fn delay_produce(&mut self, request: DelayedProduce) -> u64 {
        self.last_delayed_id += 1;
        self.produce_purgatory.insert(self.last_delayed_id, request);
        self.last_delayed_id
    }

    /// Returns the result of a delayed request, or `None` while it has to wait.
    ///
    /// `id` is from [`HandleResult::Delayed`]. The result closes the connection if the node has
    /// stopped since.
    pub fn try_complete(&mut self, id: u64, now: ClockReading) -> Option<HandleResult> {
        if self.groups.has_request(id) {
            return self.take_group_response(id);
        }
        self.try_complete_produce(id, now)
    }

    fn try_complete_produce(&mut self, id: u64, now: ClockReading) -> Option<HandleResult> {
        let Some(mut request) = self.produce_purgatory.remove(&id) else {
            return Some(HandleResult::CloseConnection("the node has stopped".to_owned()));
        };
        let is_expired = request.deadline_ms <= now.mono_ms;
        for partition in std::mem::take(&mut request.pending_partitions) {
            let code = match self.ack_status(&partition) {
                AckStatus::Pending if !is_expired => {
                    request.pending_partitions.push(partition);
                    continue;
                }
                AckStatus::Pending => ErrorCode::REQUEST_TIMED_OUT,
                AckStatus::Acknowledged => continue,
                AckStatus::Failed(code) => code,
            };
            let index = partition.response_index;
            let topic = &mut request.response.responses[index.topic];
            topic.partition_responses[index.partition].error_code = code.0;
        }
        if request.pending_partitions.is_empty() {
            return Some(request.into_handle_result());
        }
        self.produce_purgatory.insert(id, request);
        None
    }

    /// Removes a delayed request whose connection is closed.
    ///
    /// The batches of a Produce stay in the log, the member of a group in its group.
    pub fn cancel(&mut self, id: u64) {
        self.produce_purgatory.remove(&id);
        self.groups.cancel(id);
    }

    fn ack_status(&self, status: &ProducePartitionStatus) -> AckStatus {
        let topic = self.topics.by_name.get(&status.topic).filter(|t| t.id == status.topic_id);
        let Some(topic) = topic else {
            return AckStatus::Failed(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
        };
        let p = &topic.partitions[status.partition as usize];
        // The new leader may lack the batch. The response keeps the base offset: it shows that the
        // old leader had appended the batch.
        if p.leader_epoch != status.leader_epoch {
            return AckStatus::Failed(ErrorCode::NOT_LEADER_OR_FOLLOWER);
        }
        if p.high_watermark < status.required_offset {
            return AckStatus::Pending;
        }
        // The ISR has shrunk since the append: the batch is in fewer replicas than required.
        if (p.isr.len() as i32) < topic.min_isr() {
            return AckStatus::Failed(ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND);
        }
        AckStatus::Acknowledged
    }

    /// Removes the requests of a stopped node: their connections close without a response.
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
