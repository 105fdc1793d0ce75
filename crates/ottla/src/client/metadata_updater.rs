//! Which topics are wanted, when to ask again, and the snapshot the answers make.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ottla_protocol::ErrorCode;
use ottla_protocol::messages::{MetadataRequest, MetadataRequestTopic, MetadataResponse};

use crate::cluster::{Cluster, LeaderHint, Node};
use crate::error::Error;
use crate::time::{Tick, backoff};

/// Ages and backoffs of metadata.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MetadataSettings {
    pub(crate) max_age: Duration,
    pub(crate) max_idle: Duration,
    pub(crate) backoff: Duration,
    pub(crate) backoff_max: Duration,
}

/// What an answer brought.
#[derive(Debug, Default)]
pub(crate) struct MetadataUpdate {
    /// A new snapshot is there.
    pub(crate) updated: bool,
    /// The broker that answered last, as people write it.
    pub(crate) responder: String,
    /// Topics with an error.
    pub(crate) topic_errors: Vec<(String, ErrorCode)>,
    /// Nobody can be spoken to, and one has refused us, or we it.
    pub(crate) authentication_error: Option<Error>,
}

/// The state of what is known.
#[derive(Debug)]
pub(crate) struct MetadataUpdater {
    settings: MetadataSettings,
    pub(crate) cluster: Arc<Cluster>,
    /// Topics somebody produces to, and when they last did.
    topics: BTreeMap<Arc<str>, Tick>,
    update_requested: bool,
    /// Somebody asked for news while a request was under way: its answer may be too old.
    requested_during_update: bool,
    in_progress: bool,
    pub(crate) last_success: Option<Tick>,
    /// Since when news was wanted without any coming.
    pub(crate) update_requested_at: Option<Tick>,
    not_before: Tick,
    /// Failures or identical answers in a row.
    attempts: u32,
}

impl MetadataUpdater {
    pub(crate) fn new(settings: MetadataSettings) -> MetadataUpdater {
        MetadataUpdater {
            settings,
            cluster: Arc::default(),
            topics: BTreeMap::new(),
            update_requested: true,
            requested_during_update: false,
            in_progress: false,
            last_success: None,
            update_requested_at: None,
            not_before: Tick(0),
            attempts: 0,
        }
    }

    /// Somebody produces to this topic; a new one is asked for at once.
    pub(crate) fn add_topic(&mut self, topic: &Arc<str>, now: Tick) {
        if self.topics.insert(topic.clone(), now).is_none() {
            self.not_before = now.min(self.not_before);
            self.attempts = 0;
            self.request_update(now);
        } else if !self.cluster.topics.contains_key(topic) {
            self.request_update(now);
        }
    }

    /// Something shows that what is known is out of date.
    pub(crate) fn request_update(&mut self, now: Tick) {
        self.update_requested = true;
        self.requested_during_update = self.in_progress;
        self.update_requested_at.get_or_insert(now);
    }

    /// When the next request is due; never while one is under way.
    pub(crate) fn next_update(&self) -> Tick {
        if self.in_progress {
            return Tick::NEVER;
        }
        let aged = self.last_success.map_or(Tick(0), |at| at.after(self.settings.max_age));
        let due = if self.update_requested { Tick(0) } else { aged };
        due.max(self.not_before)
    }

    /// The request, for the topics that are wanted; idle ones are forgotten first.
    pub(crate) fn begin_request(&mut self, now: Tick) -> MetadataRequest {
        let max_idle = self.settings.max_idle;
        self.topics.retain(|_, used| used.after(max_idle) > now);
        self.in_progress = true;
        self.requested_during_update = false;
        let topics = self.topics.keys().map(|name| MetadataRequestTopic {
            name: Some(name.to_string()),
            ..Default::default()
        });
        MetadataRequest { topics: Some(topics.collect()), ..Default::default() }
    }

    /// No answer, or one that says nothing.
    pub(crate) fn fail_update(&mut self, now: Tick, random: u64) {
        self.in_progress = false;
        self.update_requested = true;
        self.back_off(now, random);
    }

    fn back_off(&mut self, now: Tick, random: u64) {
        let wait = backoff(self.settings.backoff, self.settings.backoff_max, self.attempts, random);
        self.attempts = self.attempts.saturating_add(1);
        self.not_before = now.after(wait);
    }

    /// An answer. One without brokers is a failure (NC18).
    pub(crate) fn update(
        &mut self,
        answer: &MetadataResponse,
        now: Tick,
        random: u64,
    ) -> MetadataUpdate {
        if !answer.brokers.iter().any(Node::is_valid) {
            self.fail_update(now, random);
            return MetadataUpdate::default();
        }
        if let (Some(known), Some(told)) = (&self.cluster.id, &answer.cluster_id)
            && **known != **told
        {
            tracing::warn!(
                known = &**known,
                told,
                "brokers of two clusters answer; do bootstrap.servers name brokers of one alone?"
            );
        }
        let mut errors = Vec::new();
        let wanted = &self.topics;
        let next = self.cluster.merge_with(
            answer,
            |name| wanted.contains_key(name),
            |name, code| errors.push((name.to_owned(), code)),
        );
        self.in_progress = false;
        self.update_requested = self.requested_during_update;
        self.last_success = Some(now);
        // News came, whatever else is still wanted.
        self.update_requested_at = self.update_requested.then_some(now);
        // A second identical answer means that asking again at once is no use (MD3).
        if next.topics != self.cluster.topics || next.nodes != self.cluster.nodes {
            self.attempts = 0;
        }
        self.back_off(now, random);
        self.cluster = Arc::new(next);
        // A topic that is being created is asked for again until it is there, in turn with the backoff.
        if errors.iter().any(|(_, code)| code.is_retriable()) {
            self.update_requested = true;
            self.update_requested_at.get_or_insert(now);
        }
        MetadataUpdate { updated: true, topic_errors: errors, ..MetadataUpdate::default() }
    }

    /// Leaders that a broker told of which leads no more (KIP-951); the full answer is still asked for.
    pub(crate) fn apply_leader_hints(&mut self, hints: &[LeaderHint], nodes: &[Node]) -> bool {
        match self.cluster.with_leader_hints(hints, nodes) {
            Some(next) => {
                self.cluster = Arc::new(next);
                true
            }
            None => false,
        }
    }

    /// Back to the beginning: nothing of the cluster's nodes is believed any more (KIP-899).
    pub(crate) fn forget_nodes(&mut self, now: Tick) {
        self.cluster = Arc::new(self.cluster.without_nodes());
        self.update_requested = true;
        self.in_progress = false;
        self.not_before = Tick(0);
        self.update_requested_at = Some(now);
    }

    /// A topic that cannot be had is not asked for again until somebody wants it anew.
    pub(crate) fn remove_topic(&mut self, topic: &str) {
        self.topics.remove(topic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ottla_protocol::messages::MetadataResponseBroker;

    fn metadata_updater() -> MetadataUpdater {
        MetadataUpdater::new(MetadataSettings {
            max_age: Duration::from_secs(300),
            max_idle: Duration::from_secs(60),
            backoff: Duration::from_millis(100),
            backoff_max: Duration::from_millis(1000),
        })
    }

    fn response() -> MetadataResponse {
        let broker =
            MetadataResponseBroker { node_id: 1, host: "h".into(), port: 1, ..Default::default() };
        MetadataResponse { brokers: vec![broker], ..Default::default() }
    }

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn md1_due_at_once_then_when_aged_or_asked_for_after_the_backoff() {
        let mut m = metadata_updater();
        assert_eq!(m.next_update(), Tick(0));
        m.begin_request(Tick(0));
        assert_eq!(m.next_update(), Tick::NEVER);
        m.update(&response(), Tick(0), 0);
        assert_eq!(m.next_update(), Tick(300 * SECOND));
        m.request_update(Tick(0));
        assert_eq!(m.next_update(), Tick(80_000_000));
    }

    #[test]
    fn md2_md3_failures_and_identical_answers_back_off() {
        let mut m = metadata_updater();
        let mut dues = Vec::new();
        for _ in 0..5 {
            m.begin_request(Tick(0));
            m.update(&response(), Tick(0), 0);
            m.request_update(Tick(0));
            dues.push(m.next_update().0 / 1_000_000);
        }
        assert_eq!(dues, [80, 160, 320, 640, 800]);
    }

    #[test]
    fn md8_a_request_made_meanwhile_is_not_answered_by_the_older_answer() {
        let mut m = metadata_updater();
        m.begin_request(Tick(0));
        m.add_topic(&"t".into(), Tick(0));
        m.update(&response(), Tick(1), 0);
        assert!(m.next_update() < Tick(SECOND));
    }

    #[test]
    fn md14_a_new_topic_overrides_the_backoff_and_md15_an_idle_one_is_forgotten() {
        let mut m = metadata_updater();
        m.begin_request(Tick(0));
        m.fail_update(Tick(0), 0);
        assert!(m.next_update() > Tick(0));
        m.add_topic(&"t".into(), Tick(5));
        assert_eq!(m.next_update(), Tick(5));
        let asked = m.begin_request(Tick(5)).topics.unwrap();
        assert_eq!(asked.len(), 1);
        m.update(&response(), Tick(6), 0);
        assert_eq!(m.begin_request(Tick(70 * SECOND)).topics.unwrap().len(), 0);
    }

    #[test]
    fn nc18_an_answer_without_brokers_is_a_failure() {
        let mut m = metadata_updater();
        m.begin_request(Tick(0));
        assert!(!m.update(&MetadataResponse::default(), Tick(0), 0).updated);
        assert!(m.last_success.is_none());
    }
}
