//! Decides when the client requests metadata and for which topics, and keeps the latest cluster
//! snapshot.

use std::collections::BTreeMap;
use std::sync::Arc;

use ottla_protocol::ErrorCode;
use ottla_protocol::messages::{MetadataRequest, MetadataRequestTopic, MetadataResponse};

use crate::cluster::{Cluster, LeaderHint, Node};
use crate::config::MetadataSettings;
use crate::error::Error;
use crate::time::{Tick, backoff};

/// The changes since the sender last took them.
#[derive(Debug, Default)]
pub(crate) struct MetadataUpdate {
    /// Whether the cluster snapshot changed.
    pub(crate) updated: bool,
    /// The name of the broker that sent the latest response.
    pub(crate) responder: String,
    /// The topics that the response reports an error for.
    pub(crate) topic_errors: Vec<(String, ErrorCode)>,
    /// Set if authentication failed and no broker is ready.
    pub(crate) authentication_error: Option<Error>,
}

/// The cluster snapshot and the state of its next update.
#[derive(Debug)]
pub(crate) struct MetadataUpdater {
    settings: MetadataSettings,
    pub(crate) cluster: Arc<Cluster>,
    /// The topics to request, each with its last use.
    topics: BTreeMap<Arc<str>, Tick>,
    update_requested: bool,
    /// An update was requested while a request was in flight: its response may be too old.
    requested_during_update: bool,
    in_progress: bool,
    pub(crate) last_success: Option<Tick>,
    /// The time of the first update request that no response has satisfied.
    pub(crate) update_requested_at: Option<Tick>,
    not_before: Tick,
    /// The number of failures or identical responses in a row.
    attempts: u32,
    /// The changes that the sender has not taken yet.
    pub(crate) pending: MetadataUpdate,
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
            pending: MetadataUpdate::default(),
        }
    }

    /// Records a use of the topic. A new topic is requested at once, without a backoff.
    pub(crate) fn add_topic(&mut self, topic: &Arc<str>, now: Tick) {
        if self.topics.insert(topic.clone(), now).is_none() {
            self.not_before = now.min(self.not_before);
            self.attempts = 0;
            self.request_update(now);
        } else if !self.cluster.topics.contains_key(topic) {
            self.request_update(now);
        }
    }

    /// Requests an update because the snapshot is out of date.
    pub(crate) fn request_update(&mut self, now: Tick) {
        self.update_requested = true;
        self.requested_during_update = self.in_progress;
        self.update_requested_at.get_or_insert(now);
    }

    /// Returns when the next request is due; [`Tick::NEVER`] while one is in flight.
    pub(crate) fn next_update(&self) -> Tick {
        if self.in_progress {
            return Tick::NEVER;
        }
        let expiry = self.last_success.map_or(Tick(0), |at| at.after(self.settings.max_age));
        let due = if self.update_requested { Tick(0) } else { expiry };
        due.max(self.not_before)
    }

    /// Removes idle topics and returns a request for the others.
    pub(crate) fn begin_request(&mut self, now: Tick) -> MetadataRequest {
        let max_idle = self.settings.max_idle;
        self.topics.retain(|_, last_used| last_used.after(max_idle) > now);
        self.in_progress = true;
        self.requested_during_update = false;
        let topics = self.topics.keys().map(|name| MetadataRequestTopic {
            name: Some(name.to_string()),
            ..Default::default()
        });
        MetadataRequest { topics: Some(topics.collect()), ..Default::default() }
    }

    /// Handles a request that got no usable response: the next one waits for the backoff.
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

    /// Merges a response into the snapshot. Returns false if it is a failure.
    ///
    /// A response without a broker that the client could connect to is a failure (CASES NC18): a
    /// broker that starts up sends it, and the client would forget every address it knows.
    pub(crate) fn update(&mut self, response: &MetadataResponse, now: Tick, random: u64) -> bool {
        if !response.brokers.iter().any(Node::is_valid) {
            self.fail_update(now, random);
            return false;
        }
        self.check_cluster_id(response);
        let mut topic_errors = Vec::new();
        let topics = &self.topics;
        let next = self.cluster.merge_with(
            response,
            |name| topics.contains_key(name),
            |name, code| topic_errors.push((name.to_owned(), code)),
        );
        self.in_progress = false;
        // A request made while this one was in flight is still open. Its reason, for example a
        // NOT_LEADER_OR_FOLLOWER error, may be newer than the broker's view in this response.
        self.update_requested = self.requested_during_update;
        self.last_success = Some(now);
        self.update_requested_at = self.update_requested.then_some(now);
        // The backoff grows only while responses are identical (CASES MD3).
        if next.topics != self.cluster.topics || next.nodes != self.cluster.nodes {
            self.attempts = 0;
        }
        self.back_off(now, random);
        self.cluster = Arc::new(next);
        // For example LEADER_NOT_AVAILABLE while the broker creates the topic: request again.
        if topic_errors.iter().any(|(_, code)| code.is_retriable()) {
            self.update_requested = true;
            self.update_requested_at.get_or_insert(now);
        }
        self.pending.updated = true;
        self.pending.topic_errors.append(&mut topic_errors);
        true
    }

    fn check_cluster_id(&self, response: &MetadataResponse) {
        if let (Some(known), Some(received)) = (&self.cluster.id, &response.cluster_id)
            && **known != **received
        {
            tracing::warn!(
                known = &**known,
                received,
                "metadata came from two clusters; bootstrap.servers must name one cluster's brokers"
            );
        }
    }

    /// Applies the new leaders of a produce response (KIP-951). Returns whether the snapshot
    /// changed.
    ///
    /// A requested update stays requested: the hints cover only the partitions of one response.
    pub(crate) fn apply_leader_hints(&mut self, hints: &[LeaderHint], nodes: &[Node]) -> bool {
        match self.cluster.with_leader_hints(hints, nodes) {
            Some(next) => {
                self.cluster = Arc::new(next);
                self.pending.updated = true;
                true
            }
            None => false,
        }
    }

    /// Removes all nodes from the snapshot, before the client bootstraps again (KIP-899).
    pub(crate) fn forget_nodes(&mut self, now: Tick) {
        self.cluster = Arc::new(self.cluster.without_nodes());
        self.update_requested = true;
        self.in_progress = false;
        self.not_before = Tick(0);
        self.update_requested_at = Some(now);
        self.pending.updated = true;
    }

    /// Takes the changes since the last call.
    pub(crate) fn take_update(&mut self) -> MetadataUpdate {
        std::mem::take(&mut self.pending)
    }

    /// Stops requesting a topic until `add_topic` adds it again.
    pub(crate) fn remove_topic(&mut self, topic: &str) {
        self.topics.remove(topic);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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

    // CASES: MD1.
    #[test]
    fn update_is_due_at_once_then_after_max_age_or_on_request_after_the_backoff() {
        let mut m = metadata_updater();
        assert_eq!(m.next_update(), Tick(0));
        m.begin_request(Tick(0));
        assert_eq!(m.next_update(), Tick::NEVER);
        m.update(&response(), Tick(0), 0);
        assert_eq!(m.next_update(), Tick(300 * SECOND));
        m.request_update(Tick(0));
        assert_eq!(m.next_update(), Tick(80_000_000));
    }

    // CASES: MD2, MD3.
    #[test]
    fn backoff_grows_while_responses_are_identical() {
        let mut m = metadata_updater();
        let mut due_ms = Vec::new();
        for _ in 0..5 {
            m.begin_request(Tick(0));
            m.update(&response(), Tick(0), 0);
            m.request_update(Tick(0));
            due_ms.push(m.next_update().0 / 1_000_000);
        }
        assert_eq!(due_ms, [80, 160, 320, 640, 800]);
    }

    // CASES: MD8.
    #[test]
    fn update_requested_during_a_request_outlives_its_response() {
        let mut m = metadata_updater();
        m.begin_request(Tick(0));
        m.add_topic(&"t".into(), Tick(0));
        m.update(&response(), Tick(1), 0);
        assert!(m.next_update() < Tick(SECOND));
    }

    // CASES: MD14, MD15.
    #[test]
    fn new_topic_skips_the_backoff_and_idle_topic_is_removed() {
        let mut m = metadata_updater();
        m.begin_request(Tick(0));
        m.fail_update(Tick(0), 0);
        assert!(m.next_update() > Tick(0));
        m.add_topic(&"t".into(), Tick(5));
        assert_eq!(m.next_update(), Tick(5));
        let topics = m.begin_request(Tick(5)).topics.unwrap();
        assert_eq!(topics.len(), 1);
        m.update(&response(), Tick(6), 0);
        assert_eq!(m.begin_request(Tick(70 * SECOND)).topics.unwrap().len(), 0);
    }

    // CASES: NC18.
    #[test]
    fn response_without_brokers_is_a_failure() {
        let mut m = metadata_updater();
        m.begin_request(Tick(0));
        assert!(!m.update(&MetadataResponse::default(), Tick(0), 0));
        assert!(m.last_success.is_none());
    }
}
