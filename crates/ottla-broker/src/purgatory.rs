//! Produce requests that wait for replicas (`acks=all`): they hold what is known so far, and are answered once
//! every replica in sync has the batches, or the leader has gone, or their time is over.

use ottla_protocol::ErrorCode;
use ottla_protocol::Uuid;
use ottla_protocol::messages::{ProduceRequest, ProduceResponse};

use crate::core::{Core, Now, Reply, reply};

/// A batch that was appended and has to be copied.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    pub(crate) topic: String,
    pub(crate) id: Uuid,
    pub(crate) partition: i32,
    pub(crate) epoch: i32,
    /// The offset behind it.
    pub(crate) end: i64,
    /// Where its answer stands in the response.
    pub(crate) place: (usize, usize),
}

/// A request that waits.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) node: i32,
    pub(crate) version: i16,
    pub(crate) correlation_id: i32,
    pub(crate) until_ms: u64,
    pub(crate) response: ProduceResponse,
    pub(crate) waiting: Vec<Waiting>,
}

/// What has become of a batch that waits.
enum State {
    Waits,
    Done,
    Refused(ErrorCode),
}

impl Core {
    /// Puts a request aside; the ticket to ask with.
    pub(crate) fn put_aside(&mut self, pending: Pending) -> u64 {
        self.tickets += 1;
        self.pending.insert(self.tickets, pending);
        self.tickets
    }

    /// The answer to a request that was put aside ([`Reply::Later`]), if it can be given by now.
    pub fn later(&mut self, ticket: u64, now: Now) -> Option<Reply> {
        let Some(mut pending) = self.pending.remove(&ticket) else {
            return Some(Reply::Close("the node ended".to_owned()));
        };
        let over = pending.until_ms <= now.mono_ms;
        let waiting = std::mem::take(&mut pending.waiting);
        for w in waiting {
            let code = match self.state(&w) {
                State::Waits if !over => {
                    pending.waiting.push(w);
                    continue;
                }
                State::Waits => ErrorCode::REQUEST_TIMED_OUT,
                State::Done => continue,
                State::Refused(code) => code,
            };
            let (t, p) = w.place;
            pending.response.responses[t].partition_responses[p].error_code = code.0;
        }
        if pending.waiting.is_empty() {
            return Some(pending.answer());
        }
        self.pending.insert(ticket, pending);
        None
    }

    /// Nobody asks for this answer any more.
    pub fn abandon(&mut self, ticket: u64) {
        self.pending.remove(&ticket);
    }

    fn state(&self, w: &Waiting) -> State {
        let topic = self.topics.all.get(&w.topic).filter(|t| t.id == w.id);
        let Some(topic) = topic else {
            return State::Refused(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
        };
        let p = &topic.partitions[w.partition as usize];
        if p.leader_epoch != w.epoch {
            return State::Refused(ErrorCode::NOT_LEADER_OR_FOLLOWER);
        }
        if p.high_watermark < w.end {
            return State::Waits;
        }
        if (p.isr.len() as i32) < topic.config.min_insync.min(topic.replication()) {
            return State::Refused(ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND);
        }
        State::Done
    }

    /// Requests to a node that ended are never answered.
    pub(crate) fn forget_waiting(&mut self, node: i32) {
        self.pending.retain(|_, p| p.node != node);
    }

    pub(crate) fn waiting_until(&self) -> Option<u64> {
        self.pending.values().map(|p| p.until_ms).min()
    }
}

impl Pending {
    fn answer(self) -> Reply {
        reply::<ProduceRequest>(self.version, self.correlation_id, &self.response)
    }
}
