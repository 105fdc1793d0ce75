//! Decides when the client requests metadata and for which topics, and keeps the latest cluster
//! snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ottla_protocol::ErrorCode;
use ottla_protocol::messages::{MetadataRequest, MetadataRequestTopic, MetadataResponse};

use crate::cluster::{Cluster, ClusterChanges, LeaderHint, Node};
use crate::config::MetadataSettings;
use crate::error::Error;
use crate::time::{Tick, backoff};

/// The changes since the sender last took them.
#[derive(Debug, Default)]
pub(crate) struct MetadataUpdate {
    /// Whether a response came or the cluster snapshot changed.
    pub(crate) updated: bool,
    pub(crate) changes: ClusterChanges,
    /// The name of the broker that sent the latest response.
    pub(crate) responder: String,
    /// The topics that the response reports an error for.
    pub(crate) topic_errors: Vec<(String, ErrorCode)>,
    /// Set if no bootstrap server can be a broker with these settings.
    pub(crate) bootstrap_error: Option<Error>,
    /// Set if authentication failed and no broker is ready.
    pub(crate) authentication_error: Option<Error>,
}

/// The metadata request in flight.
#[derive(Debug)]
struct RequestInFlight {
    /// Whether it requests new topics alone.
    is_partial: bool,
    new_topics: BTreeSet<Arc<str>>,
}

/// The cluster snapshot and the state of its next update.
#[derive(Debug)]
pub(crate) struct MetadataUpdater {
    settings: MetadataSettings,
    /// The sender holds it during a round. A change in that time copies it.
    cluster: Arc<Cluster>,
    /// How often it was copied.
    copies: u64,
    /// The topics to request, each with its last use.
    topics: BTreeMap<Arc<str>, Tick>,
    /// The topics of `topics` that no response has described since they were wanted. They are
    /// requested alone (KIP-526), and they are never idle.
    new_topics: BTreeSet<Arc<str>>,
    /// Whether to request all topics.
    update_requested: bool,
    /// An update was requested while a request was in flight: its response may be too old.
    requested_during_update: bool,
    in_progress: Option<RequestInFlight>,
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
            copies: 0,
            topics: BTreeMap::new(),
            new_topics: BTreeSet::new(),
            update_requested: true,
            requested_during_update: false,
            in_progress: None,
            last_success: None,
            update_requested_at: None,
            not_before: Tick(0),
            attempts: 0,
            pending: MetadataUpdate::default(),
        }
    }

    /// Returns the latest snapshot.
    pub(crate) fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    fn cluster_mut(&mut self) -> &mut Cluster {
        self.copies += u64::from(Arc::strong_count(&self.cluster) > 1);
        Arc::make_mut(&mut self.cluster)
    }

    /// Returns how often the snapshot was copied: only while a round of the sender held it.
    #[cfg(any(test, feature = "unstable-sim"))]
    pub(crate) fn copies(&self) -> u64 {
        self.copies
    }

    /// Records a use of the topic. A new topic is requested at once, without a backoff.
    pub(crate) fn add_topic(&mut self, topic: &Arc<str>, now: Tick) {
        if self.topics.insert(topic.clone(), now).is_none() {
            self.not_before = now.min(self.not_before);
            self.attempts = 0;
            self.request_topic(topic, now);
        } else if !self.cluster.topics.contains_key(topic) {
            self.request_topic(topic, now);
        }
    }

    /// Requests the metadata of one topic that was added.
    pub(crate) fn request_topic(&mut self, topic: &Arc<str>, now: Tick) {
        self.new_topics.insert(topic.clone());
        self.update_requested_at.get_or_insert(now);
    }

    /// Requests an update because the snapshot is out of date.
    pub(crate) fn request_update(&mut self, now: Tick) {
        self.update_requested = true;
        self.requested_during_update = self.in_progress.is_some();
        self.update_requested_at.get_or_insert(now);
    }

    /// Returns when the next request is due; [`Tick::NEVER`] while one is in flight.
    pub(crate) fn next_update(&self) -> Tick {
        if self.in_progress.is_some() {
            return Tick::NEVER;
        }
        let is_requested = self.update_requested || !self.new_topics.is_empty();
        let due = if is_requested { Tick(0) } else { self.expiry() };
        due.max(self.not_before)
    }

    /// Returns when the snapshot is too old.
    fn expiry(&self) -> Tick {
        self.last_success.map_or(Tick(0), |at| at.after(self.settings.max_age))
    }

    /// Returns a request: for the new topics alone if the snapshot is not out of date, else for
    /// all topics but the idle ones, which are removed.
    pub(crate) fn begin_request(&mut self, now: Tick) -> MetadataRequest {
        self.requested_during_update = false;
        let is_partial =
            !self.update_requested && !self.new_topics.is_empty() && self.expiry() > now;
        let requested = |name: &Arc<str>| MetadataRequestTopic {
            name: Some(name.to_string()),
            ..Default::default()
        };
        let topics = if is_partial {
            self.new_topics.iter().map(requested).collect()
        } else {
            let (max_idle, new_topics) = (self.settings.max_idle, &self.new_topics);
            self.topics.retain(|name, last_used| {
                last_used.after(max_idle) > now || new_topics.contains(name)
            });
            self.topics.keys().map(requested).collect()
        };
        let new_topics = self.new_topics.clone();
        self.in_progress = Some(RequestInFlight { is_partial, new_topics });
        MetadataRequest { topics: Some(topics), ..Default::default() }
    }

    /// Handles a request that got no usable response: the next one waits for the backoff.
    pub(crate) fn fail_update(&mut self, now: Tick, random: u64) {
        // The topics of a partial request are still new, and are requested again.
        if !self.in_progress.take().is_some_and(|request| request.is_partial) {
            self.update_requested = true;
        }
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
        let request = self.in_progress.take();
        let is_partial = request.as_ref().is_some_and(|request| request.is_partial);
        let mut topic_errors = Vec::new();
        let topics = std::mem::take(&mut self.topics);
        let cluster = self.cluster_mut();
        let is_wanted = |name: &str| topics.contains_key(name);
        let add_error = |name: &str, code| topic_errors.push((name.to_owned(), code));
        let mut changes = cluster.merge(response, is_wanted, add_error);
        // A request for all topics has dropped the idle ones.
        if !is_partial {
            changes.topics.append(&mut cluster.retain_topics(is_wanted));
        }
        self.topics = topics;
        for topic in request.iter().flat_map(|request| &request.new_topics) {
            self.new_topics.remove(topic);
        }
        if !is_partial {
            self.last_success = Some(now);
            self.update_requested = false;
        }
        // A request made while this one was in flight is still open. Its reason, for example a
        // NOT_LEADER_OR_FOLLOWER error, may be newer than the broker's view in this response.
        self.update_requested |= self.requested_during_update;
        // The backoff grows only while responses are identical (CASES MD3).
        if !changes.is_empty() {
            self.attempts = 0;
        }
        self.back_off(now, random);
        self.pending.changes.append(changes);
        // For example LEADER_NOT_AVAILABLE while the broker creates the topic: request it again.
        for (name, _) in topic_errors.iter().filter(|(_, code)| code.is_retriable()) {
            if let Some((name, _)) = self.topics.get_key_value(name.as_str()) {
                self.new_topics.insert(name.clone());
            }
        }
        let is_requested = self.update_requested || !self.new_topics.is_empty();
        self.update_requested_at = is_requested.then_some(now);
        self.pending.updated = true;
        self.pending.topic_errors.append(&mut topic_errors);
        true
    }

    /// Returns the known cluster id and that of the response if they differ.
    pub(crate) fn other_cluster<'a>(
        &'a self,
        response: &'a MetadataResponse,
    ) -> Option<(&'a str, &'a str)> {
        let (known, received) = (self.cluster.id.as_deref()?, response.cluster_id.as_deref()?);
        (known != received).then_some((known, received))
    }

    /// Applies the new leaders of a produce response (KIP-951). Returns whether the snapshot
    /// changed.
    ///
    /// A requested update stays requested: the hints cover only the partitions of one response.
    pub(crate) fn apply_leader_hints(&mut self, hints: &[LeaderHint], nodes: &[Node]) -> bool {
        if !hints.iter().any(|hint| self.cluster.is_newer_leader(hint, nodes)) {
            return false;
        }
        let changes = self.cluster_mut().apply_leader_hints(hints, nodes);
        self.pending.changes.append(changes);
        self.pending.updated = true;
        true
    }

    /// Removes all nodes from the snapshot, before the client bootstraps again (KIP-899).
    pub(crate) fn forget_nodes(&mut self, now: Tick) {
        let changes = self.cluster_mut().forget_nodes();
        self.pending.changes.append(changes);
        self.update_requested = true;
        self.in_progress = None;
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
        self.new_topics.remove(topic);
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

    fn described(names: &[&str]) -> MetadataResponse {
        use ottla_protocol::messages::{MetadataResponsePartition, MetadataResponseTopic};
        let topic = |name: &&str| MetadataResponseTopic {
            name: Some((*name).to_owned()),
            partitions: vec![MetadataResponsePartition { leader_id: 1, ..Default::default() }],
            ..Default::default()
        };
        MetadataResponse { topics: names.iter().map(topic).collect(), ..response() }
    }

    fn requested(m: &mut MetadataUpdater, now: Tick) -> Vec<String> {
        let topics = m.begin_request(now).topics.unwrap();
        topics.into_iter().filter_map(|t| t.name).collect()
    }

    #[test]
    fn wanted_topic_is_not_idle_before_a_response_has_described_it() {
        let mut m = metadata_updater();
        m.add_topic(&"t".into(), Tick(0));
        assert_eq!(requested(&mut m, Tick(0)), ["t"]);
        // The cluster is away for longer than metadata.max.idle.ms.
        m.fail_update(Tick(100 * SECOND), 0);
        assert_eq!(requested(&mut m, Tick(101 * SECOND)), ["t"]);
        m.update(&described(&["t"]), Tick(102 * SECOND), 0);
        assert!(m.cluster().topics.contains_key("t"));
    }

    // KIP-526.
    #[test]
    fn new_topic_is_requested_alone_and_the_others_at_their_age() {
        let mut m = metadata_updater();
        m.add_topic(&"a".into(), Tick(0));
        assert_eq!(requested(&mut m, Tick(0)), ["a"]);
        m.update(&described(&["a"]), Tick(0), 0);
        m.add_topic(&"b".into(), Tick(SECOND));
        assert!(m.next_update() <= Tick(SECOND));
        assert_eq!(requested(&mut m, Tick(SECOND)), ["b"]);
        m.update(&described(&["b"]), Tick(SECOND), 0);
        assert!(m.cluster().topics.contains_key("a") && m.cluster().topics.contains_key("b"));
        m.add_topic(&"a".into(), Tick(299 * SECOND));
        m.add_topic(&"b".into(), Tick(299 * SECOND));
        assert_eq!(m.next_update(), Tick(300 * SECOND), "a partial response renews no other topic");
        assert_eq!(requested(&mut m, Tick(300 * SECOND)), ["a", "b"]);
    }

    // KIP-526.
    #[test]
    fn outdated_snapshot_is_requested_whole_also_with_a_new_topic() {
        let mut m = metadata_updater();
        m.add_topic(&"a".into(), Tick(0));
        m.begin_request(Tick(0));
        m.update(&described(&["a"]), Tick(0), 0);
        m.add_topic(&"b".into(), Tick(SECOND));
        m.request_update(Tick(SECOND));
        assert_eq!(requested(&mut m, Tick(SECOND)), ["a", "b"]);
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
