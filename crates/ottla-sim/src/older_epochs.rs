//! Until when the client may ignore the leaders of a restored topic, because their epochs are older
//! than those that it knew.
//!
//! The simulated cluster shows it each metadata response. The oracle asks it about the records that
//! timed out.

use std::collections::BTreeMap;

use ottla::sim::Tick;
use ottla_protocol::Uuid;
use ottla_protocol::messages::MetadataResponse;

/// The client believes an older leader epoch after this number of responses in a row with it.
const OLDER_EPOCH_RESPONSES: u32 = 5;

/// What the responses have shown of a partition's leader.
#[derive(Debug, Default)]
struct ShownLeader {
    topic_id: Uuid,
    /// The newest epoch, which the client knows.
    known_epoch: i32,
    /// The last leader with an older epoch, and the number of responses in a row with it.
    older: Option<((i32, i32), u32)>,
    /// When the client believed an older epoch.
    believed_at: Option<Tick>,
}

/// The leaders that metadata responses have shown to the client.
#[derive(Debug, Default)]
pub(crate) struct OlderEpochs {
    partitions: BTreeMap<(String, i32), ShownLeader>,
    /// Whether the faults have ended.
    is_healed: bool,
}

impl OlderEpochs {
    /// Ends the faults: from now on the client gets every response.
    pub(crate) fn heal(&mut self) {
        self.is_healed = true;
    }

    /// Adds a response that is sent now.
    ///
    /// The client may not get it while the cluster has faults. So it counts for a newer epoch then,
    /// and not for the belief in an older one.
    pub(crate) fn add_response(&mut self, response: &MetadataResponse, now: Tick) {
        for topic in response.topics.iter().filter(|t| t.error_code == 0) {
            let Some(name) = &topic.name else { continue };
            for p in &topic.partitions {
                let key = (name.to_string(), p.partition_index);
                let shown = self.partitions.entry(key).or_default();
                // A topic that was deleted and created again is another one.
                if shown.topic_id != topic.topic_id {
                    *shown = ShownLeader { topic_id: topic.topic_id, ..Default::default() };
                }
                shown.add((p.leader_id, p.leader_epoch), self.is_healed, now);
            }
        }
    }

    /// Returns when the client believed the older epoch of a partition's leader; `Tick::NEVER` if
    /// it had no reason to, and `None` if there was no older epoch after the faults.
    pub(crate) fn ignored_until(&self, topic: &str, partition: i32) -> Option<Tick> {
        let shown = self.partitions.get(&(topic.to_owned(), partition))?;
        shown.believed_at.or(shown.older.map(|_| Tick::NEVER))
    }
}

impl ShownLeader {
    fn add(&mut self, leader: (i32, i32), is_healed: bool, now: Tick) {
        let (node, epoch) = leader;
        if epoch >= self.known_epoch {
            (self.known_epoch, self.older) = (epoch, None);
        } else if is_healed && node >= 0 {
            let responses = match self.older {
                Some((last, responses)) if last == leader => responses + 1,
                _ => 1,
            };
            self.older = Some((leader, responses));
            if responses == OLDER_EPOCH_RESPONSES {
                (self.known_epoch, self.older, self.believed_at) = (epoch, None, Some(now));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ottla_protocol::messages::{MetadataResponsePartition, MetadataResponseTopic};

    fn response(topic_id: u8, leader_id: i32, leader_epoch: i32) -> MetadataResponse {
        let partition = MetadataResponsePartition { leader_id, leader_epoch, ..Default::default() };
        let topic = MetadataResponseTopic {
            name: Some("t".into()),
            topic_id: Uuid([topic_id; 16]),
            partitions: vec![partition],
            ..Default::default()
        };
        MetadataResponse { topics: vec![topic], ..Default::default() }
    }

    #[test]
    fn older_epoch_is_ignored_until_the_fifth_response_after_the_faults() {
        let mut epochs = OlderEpochs::default();
        let add = |epochs: &mut OlderEpochs, leader, epoch, at| {
            epochs.add_response(&response(1, leader, epoch), Tick(at));
            epochs.ignored_until("t", 0)
        };
        assert_eq!(add(&mut epochs, 1, 10, 1), None);
        // The client may not have got these.
        for at in 2..9 {
            assert_eq!(add(&mut epochs, 2, 0, at), None);
        }
        epochs.heal();
        for at in 10..13 {
            assert_eq!(add(&mut epochs, 2, 0, at), Some(Tick::NEVER));
        }
        // Another leader: five responses in a row must agree.
        for at in 20..24 {
            assert_eq!(add(&mut epochs, 1, 1, at), Some(Tick::NEVER));
        }
        assert_eq!(add(&mut epochs, 1, 1, 24), Some(Tick(24)));
        assert_eq!(add(&mut epochs, 2, 2, 30), Some(Tick(24)));
        epochs.add_response(&response(2, 1, 0), Tick(31));
        assert_eq!(epochs.ignored_until("t", 0), None);
    }
}
