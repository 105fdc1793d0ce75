//! Chooses and sends the next transactional request (Kafka's `maybeSendAndPollTransactionalRequest`
//! and the builders of its handlers).

use ottla_protocol::messages::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, AddPartitionsToTxnTopic, EndTxnRequest,
    FindCoordinatorRequest, InitProducerIdRequest, TxnOffsetCommitRequest,
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use ottla_protocol::{ApiKey, EncodeError, ErrorCode};

use super::outcome::Api;
use super::state::{InitReason, Phase, Readiness, Started, State, TransactionVersion};
use super::{CoordinatorKey, RequestInFlight, TransactionManager, complete};
use crate::accumulator::RecordAccumulator;
use crate::client::in_flight_requests::RequestKind;
use crate::consumer_offsets::OffsetAndMetadata;
use crate::error::Error;
use crate::injected_bugs::inject_bug;
use crate::network::io::Io;
use crate::sender::Sender;
use crate::sender::producer_state::ProducerIdAndEpoch;
use crate::time::Tick;

/// What the manager does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It waits for a call, a response or a batch.
    Wait,
    /// It sends this request to the coordinator.
    Send(Api, CoordinatorKey),
    /// The transaction ends without a request: nothing was sent.
    Finish,
}

impl Api {
    pub(super) fn key(self) -> ApiKey {
        match self {
            Api::FindCoordinator => ApiKey::FIND_COORDINATOR,
            Api::InitProducerId => ApiKey::INIT_PRODUCER_ID,
            Api::AddPartitions => ApiKey::ADD_PARTITIONS_TO_TXN,
            Api::AddOffsets => ApiKey::ADD_OFFSETS_TO_TXN,
            Api::TxnOffsetCommit => ApiKey::TXN_OFFSET_COMMIT,
            Api::Commit | Api::Abort => ApiKey::END_TXN,
        }
    }

    /// Returns the lowest and the highest version that the client uses.
    ///
    /// - InitProducerId 3 bumps the epoch (KIP-360, Kafka 2.5), and TxnOffsetCommit 3 names the
    ///   group's member (KIP-447, Kafka 2.5).
    /// - The higher versions of EndTxn and TxnOffsetCommit belong to version 2 of the protocol.
    /// - AddPartitionsToTxn from version 4 on is for brokers.
    fn versions(self, is_version_2: bool) -> (i16, i16) {
        match self {
            Api::FindCoordinator => (1, 6),
            Api::InitProducerId => (3, 5),
            Api::AddPartitions => (0, 3),
            Api::AddOffsets => (0, 4),
            Api::TxnOffsetCommit if is_version_2 => (5, 5),
            Api::TxnOffsetCommit => (3, 4),
            Api::Commit | Api::Abort if is_version_2 => (5, 5),
            Api::Commit | Api::Abort => (0, 4),
        }
    }
}

impl TransactionManager {
    /// Returns what to do next (CASES F3.14). `has_incomplete_batches` holds EndTxn back.
    pub(super) fn next_step(&self, has_incomplete_batches: bool) -> Step {
        if self.request.in_flight.is_some() {
            return Step::Wait;
        }
        let to_coordinator = |api| Step::Send(api, CoordinatorKey::Transaction);
        match &self.state {
            State::Initializing(..) => to_coordinator(Api::InitProducerId),
            State::InTransaction(t) | State::Committing(t, _)
                if !t.partitions.requested.is_empty() =>
            {
                to_coordinator(Api::AddPartitions)
            }
            State::InTransaction(t) | State::Committing(t, _) if !t.offsets.is_empty() => {
                let offsets = &t.offsets[0];
                if t.version == TransactionVersion::V1
                    && !inject_bug!(GroupNotAdded, offsets.is_group_added)
                {
                    return to_coordinator(Api::AddOffsets);
                }
                let group = offsets.consumed.group.group_id().to_owned();
                Step::Send(Api::TxnOffsetCommit, CoordinatorKey::Group(group))
            }
            State::Committing(..) | State::Aborting(..) if has_incomplete_batches => Step::Wait,
            State::Committing(t, _) if t.started != Started::No => to_coordinator(Api::Commit),
            State::Aborting(t, _) if t.started != Started::No => to_coordinator(Api::Abort),
            State::Committing(..) | State::Aborting(..) => Step::Finish,
            _ => Step::Wait,
        }
    }

    /// Ends the transaction: EndTxn has succeeded, or nothing was sent.
    pub(super) fn finish(&mut self) {
        let (from, transaction, calls) = match self.take_state() {
            State::Committing(transaction, calls) => (Phase::Committing, transaction, calls),
            State::Aborting(transaction, calls) => (Phase::Aborting, transaction, calls),
            other => {
                self.state = other;
                return;
            }
        };
        // Requests that were not needed any more may have failed.
        self.forget_stall();
        let is_version_1 = transaction.version == TransactionVersion::V1;
        // With version 2, EndTxn has bumped the epoch, unless it was not needed.
        let has_lost_sequences = inject_bug!(
            EpochKeptAfterAbort,
            transaction.must_bump_epoch && (is_version_1 || !transaction.has_ended)
        );
        // Before a close, no transaction follows.
        if from == Phase::Aborting && has_lost_sequences && self.lifecycle.is_running() {
            let state = State::Initializing(InitReason::AfterAbort(transaction), calls);
            return self.set_state(from, state);
        }
        let is_upgraded = is_version_1 && self.version == TransactionVersion::V2;
        let must_bump_epoch = has_lost_sequences || is_upgraded;
        self.lifecycle.close_transaction(super::no_transaction());
        // The epoch is bumped now, not when the next transaction begins: until then, a late
        // AddPartitionsToTxn of version 1 would begin a transaction that no client ends. To end it,
        // the coordinator would fence this producer.
        if must_bump_epoch && self.lifecycle.is_running() {
            self.set_state(from, State::Initializing(InitReason::Begin, Vec::new()));
            complete(calls, &Ok(()));
            return self.begin_waiting();
        }
        self.set_state(from, State::Ready(Readiness { must_bump_epoch }));
        complete(calls, &Ok(()));
        self.begin_waiting();
    }
}

impl<I: Io> Sender<I> {
    /// Sends the next transactional request, if one is due. Returns when to try again.
    ///
    /// It runs at the end of a round: then the sender knows which batches are left.
    pub(in crate::sender) fn run_transactions(&mut self, now: Tick) -> Tick {
        let Some(mut manager) = self.producer_state.transactions.take() else { return Tick::NEVER };
        let again = self.run_transaction_manager(&mut manager, now);
        let bug = manager.bug.take();
        self.producer_state.transactions = Some(manager);
        self.mark_changed_transactions();
        if let Some(bug) = bug {
            self.transition_to_fatal_error(&bug.into_fatal());
        }
        again
    }

    fn run_transaction_manager(&mut self, manager: &mut TransactionManager, now: Tick) -> Tick {
        if self.accumulator.lifecycle().is_failed() {
            return Tick::NEVER;
        }
        // A failed batch cannot be sent any more, and a late one is in no transaction.
        if !manager.accepts_batches()
            && !self.ready.is_empty()
            && self.fail_unsent_batches(&manager.unsent_batch_error())
        {
            return now;
        }
        for partition_id in self.ready.take_unjoined() {
            manager.add_partition(partition_id);
        }
        manager.set_version_2(self.client.is_transaction_version_2());
        loop {
            let has_incomplete_batches = inject_bug!(
                CommitBeforeFlush,
                !self.ready.is_empty() || !self.in_flight_batches.is_empty()
            );
            let (mut api, mut key) = match manager.next_step(has_incomplete_batches) {
                Step::Wait => return Tick::NEVER,
                Step::Finish => {
                    manager.finish();
                    continue;
                }
                Step::Send(api, key) => (api, key),
            };
            if manager.request.not_before > now {
                return manager.request.not_before;
            }
            if api == Api::TxnOffsetCommit
                && let Some(hold_until) = manager.hold_until(now)
            {
                return hold_until;
            }
            let node = match manager.coordinators.get(&key).copied() {
                Some(node) if self.client.is_backing_off(node, now) => {
                    // It is gone, or it has moved: another broker knows. That one may not have
                    // noticed yet, so the search has a backoff.
                    manager.coordinators.remove(&key);
                    manager.request.not_before = now.after(self.settings.retry_backoff);
                    continue;
                }
                Some(node) => Some(node),
                None => {
                    api = Api::FindCoordinator;
                    self.client.least_loaded_node(now)
                }
            };
            let Some(node) = node else { return self.client.next_retry(now) };
            if !self.client.ready(node, now) {
                return self.next_ready_time(node, now);
            }
            if api != Api::FindCoordinator {
                key = CoordinatorKey::Transaction;
            }
            self.send_transactional_request(manager, api, key, node, now);
            return Tick::NEVER;
        }
    }

    fn send_transactional_request(
        &mut self,
        manager: &mut TransactionManager,
        api: Api,
        key: CoordinatorKey,
        node: i32,
        now: Tick,
    ) {
        let (min, max) = api.versions(manager.is_version_2());
        let Some(version) = self.client.latest_usable_version(node, api.key(), min, max) else {
            let name = self.client.broker_name(node);
            let reason = format!(
                "UNSUPPORTED_VERSION: {name} does not support {} version {min} or above, which \
                 transactions need; use Kafka 2.5 or newer",
                api.key().name()
            );
            let error = Error::with_code(ErrorCode::UNSUPPORTED_VERSION, reason);
            return self.fail_producer_in(manager, &error);
        };
        let (mut partition_ids, mut partition_count) = (Vec::new(), 0);
        if let Some(t) = manager.state.transaction() {
            match api {
                Api::AddPartitions => {
                    partition_ids.extend(&t.partitions.requested);
                    partition_count = partition_ids.len();
                }
                Api::TxnOffsetCommit => {
                    partition_count = t.offsets.front().map_or(0, |o| o.consumed.offsets.len());
                }
                _ => {}
            }
        }
        let coordinator = (api == Api::FindCoordinator).then(|| key.clone());
        let sent = self.encode_and_send(manager, api, &key, &partition_ids, node, version, now);
        if let Err(e) = sent {
            let reason = format!("a {} request cannot be encoded: {e}", api.key().name());
            return self.fail_producer_in(manager, &Error::config(reason));
        }
        manager.request.in_flight =
            Some(RequestInFlight { node, api, coordinator, partition_ids, partition_count });
        let is_version_2 = manager.is_version_2();
        if let Some(transaction) = manager.state.transaction_mut() {
            transaction.is_ending |= matches!(api, Api::Commit | Api::Abort);
            // With version 2, the first offsets start the transaction.
            if is_version_2 && api == Api::TxnOffsetCommit {
                transaction.started = Started::Yes;
            }
        }
        if matches!(api, Api::Commit | Api::Abort) {
            manager.pacing.end_txn_sent(now);
            manager.has_changed = true;
        }
    }

    #[allow(clippy::too_many_arguments, reason = "one call, which sends any of the requests")]
    fn encode_and_send(
        &mut self,
        manager: &TransactionManager,
        api: Api,
        key: &CoordinatorKey,
        partition_ids: &[u32],
        node: i32,
        version: i16,
        now: Tick,
    ) -> Result<(), EncodeError> {
        let kind = RequestKind::Transaction;
        let transactional_id = manager.transactional_id().to_owned();
        let id = self.producer_state.producer_id_and_epoch().unwrap_or(ProducerIdAndEpoch::NONE);
        let (producer_id, producer_epoch) = (id.producer_id, id.epoch);
        let offsets = manager.state.transaction().and_then(|t| t.offsets.front());
        match (api, offsets) {
            (Api::FindCoordinator, _) => {
                let request = find_coordinator(key, transactional_id, version);
                self.client.send_request(node, &request, version, kind, now)
            }
            (Api::InitProducerId, _) => {
                let timeout = manager.settings.timeout.as_millis();
                let request = InitProducerIdRequest {
                    transactional_id: Some(transactional_id),
                    transaction_timeout_ms: i32::try_from(timeout).unwrap_or(i32::MAX),
                    producer_id,
                    producer_epoch,
                    ..Default::default()
                };
                self.client.send_request(node, &request, version, kind, now)
            }
            (Api::AddPartitions, _) => {
                let topics = topics_of(&self.accumulator, partition_ids);
                let request = AddPartitionsToTxnRequest {
                    transactional_id,
                    producer_id,
                    producer_epoch,
                    topics,
                    ..Default::default()
                };
                self.client.send_request(node, &request, version, kind, now)
            }
            (Api::AddOffsets, Some(offsets)) => {
                let group_id = offsets.consumed.group.group_id().to_owned();
                let request = AddOffsetsToTxnRequest {
                    transactional_id,
                    producer_id,
                    producer_epoch,
                    group_id,
                    ..Default::default()
                };
                self.client.send_request(node, &request, version, kind, now)
            }
            (Api::TxnOffsetCommit, Some(offsets)) => {
                let group = &offsets.consumed.group;
                let request = TxnOffsetCommitRequest {
                    transactional_id,
                    producer_id,
                    producer_epoch,
                    group_id: group.group_id().to_owned(),
                    generation_id: group.generation_id(),
                    member_id: group.member_id().to_owned(),
                    group_instance_id: group.group_instance_id().map(str::to_owned),
                    topics: offset_topics(&offsets.consumed.offsets),
                    ..Default::default()
                };
                self.client.send_request(node, &request, version, kind, now)
            }
            (Api::Commit | Api::Abort, _) => {
                let request = EndTxnRequest {
                    transactional_id,
                    producer_id,
                    producer_epoch,
                    committed: api == Api::Commit,
                    ..Default::default()
                };
                self.client.send_request(node, &request, version, kind, now)
            }
            // The offsets have failed meanwhile: nothing is left to send.
            (Api::AddOffsets | Api::TxnOffsetCommit, None) => Ok(()),
        }
    }
}

/// Returns the request for a coordinator. Up to version 3 it names one key, later a list.
fn find_coordinator(
    key: &CoordinatorKey,
    transactional_id: String,
    version: i16,
) -> FindCoordinatorRequest {
    let (key, key_type) = match key {
        CoordinatorKey::Transaction => (transactional_id, 1),
        CoordinatorKey::Group(group_id) => (group_id.clone(), 0),
    };
    if version >= 4 {
        FindCoordinatorRequest { key_type, coordinator_keys: vec![key], ..Default::default() }
    } else {
        FindCoordinatorRequest { key, key_type, ..Default::default() }
    }
}

/// Groups partitions by topic.
fn topics_of(
    accumulator: &RecordAccumulator,
    partition_ids: &[u32],
) -> Vec<AddPartitionsToTxnTopic> {
    let mut topics: Vec<AddPartitionsToTxnTopic> = Vec::new();
    for p in partition_ids.iter().filter_map(|id| accumulator.topics.partition(*id)) {
        match topics.iter_mut().find(|t| *t.name == *p.topic) {
            Some(topic) => topic.partitions.push(p.index),
            None => topics.push(AddPartitionsToTxnTopic {
                name: p.topic.to_string(),
                partitions: vec![p.index],
                ..Default::default()
            }),
        }
    }
    topics
}

/// Groups offsets by topic.
fn offset_topics(offsets: &[OffsetAndMetadata]) -> Vec<TxnOffsetCommitRequestTopic> {
    let mut topics: Vec<TxnOffsetCommitRequestTopic> = Vec::new();
    for o in offsets {
        let partition = TxnOffsetCommitRequestPartition {
            partition_index: o.partition,
            committed_offset: o.offset,
            committed_leader_epoch: o.leader_epoch.unwrap_or(-1),
            committed_metadata: Some(o.metadata.clone()),
            ..Default::default()
        };
        match topics.iter_mut().find(|t| t.name == o.topic) {
            Some(topic) => topic.partitions.push(partition),
            None => topics.push(TxnOffsetCommitRequestTopic {
                name: o.topic.clone(),
                partitions: vec![partition],
                ..Default::default()
            }),
        }
    }
    topics
}
