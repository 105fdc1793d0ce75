//! Handles the responses to transactional requests: `outcome.rs` decides what follows from the
//! error code.

use std::time::Duration;

use ottla_protocol::ErrorCode;

use super::outcome::{Api, Outcome, decide};
use super::parsed_response::{ParsedResponse, PartitionResult, parse};
use super::state::{InitReason, Phase, Readiness, Started, State, TransactionVersion};
use super::{CoordinatorKey, RequestInFlight, TransactionManager, complete, refusal};
use crate::client::in_flight_requests::CompletedRequest;
use crate::error::Error;
use crate::injected_bugs::inject_bug;
use crate::network::io::Io;
use crate::sender::Sender;
use crate::sender::responses::CONCURRENT_TRANSACTIONS_BACKOFF;
use crate::time::Tick;

impl<I: Io> Sender<I> {
    /// Handles a completed transactional request.
    pub(in crate::sender) fn handle_transaction_response(
        &mut self,
        completed: CompletedRequest,
        now: Tick,
    ) {
        let Some(mut manager) = self.producer_state.transactions.take() else { return };
        if let Some(request) = manager.request.in_flight.take()
            // After a fatal error, no response matters.
            && !matches!(manager.state, State::FatalError)
        {
            self.handle_response_to(&mut manager, &request, completed, now);
        }
        self.producer_state.transactions = Some(manager);
        self.mark_changed_transactions();
    }

    fn handle_response_to(
        &mut self,
        manager: &mut TransactionManager,
        request: &RequestInFlight,
        completed: CompletedRequest,
        now: Tick,
    ) {
        let version = completed.request.version;
        let frame = match completed.result {
            Ok(frame) => frame,
            Err(disconnected) => {
                tracing::debug!("{} failed: {}", request.api.key().name(), disconnected.reason);
                let broker = self.client.broker_name(request.node);
                let reason = format!("{broker}: {}", disconnected.reason);
                manager.note_failed_request(request.api, reason, now);
                let fully_sent = completed.request.fully_sent;
                return self.handle_lost_response(manager, request, fully_sent, now);
            }
        };
        let response = match parse(request.api, &frame, version) {
            Ok(response) => response,
            Err(e) => {
                let reason =
                    format!("the {} response cannot be decoded: {e}", request.api.key().name());
                self.client.fail_connection(request.node, &reason, now);
                manager.note_failed_request(request.api, reason, now);
                return self.handle_lost_response(manager, request, true, now);
            }
        };
        // KIP-219: from these versions on, the client has to observe the throttle time.
        let first_throttled = if request.api == Api::FindCoordinator { 2 } else { 1 };
        self.client.throttle(
            request.node,
            response.throttle_time_ms,
            version >= first_throttled,
            now,
        );
        if matches!(request.api, Api::AddPartitions | Api::TxnOffsetCommit) {
            self.apply_partition_outcomes(manager, request, &response, now);
        } else {
            self.apply_outcome(manager, request, &response, now);
        }
    }

    /// No response: the coordinator may have moved. A request whose last byte was sent may still
    /// arrive, now or after the end of the transaction.
    fn handle_lost_response(
        &mut self,
        manager: &mut TransactionManager,
        request: &RequestInFlight,
        fully_sent: bool,
        now: Tick,
    ) {
        let changes_transaction =
            !matches!(request.api, Api::FindCoordinator | Api::InitProducerId);
        if let Some(transaction) = manager.state.transaction_mut()
            && fully_sent
            && changes_transaction
        {
            transaction.started = transaction.started.max(Started::Possibly);
            transaction.must_bump_epoch |=
                inject_bug!(LostResponseForgotten, transaction.version == TransactionVersion::V1);
        }
        self.find_coordinator_again(manager, request.api, now);
    }

    /// Forgets the coordinator, and sends the request again after the backoff.
    fn find_coordinator_again(&mut self, manager: &mut TransactionManager, api: Api, now: Tick) {
        match api {
            Api::FindCoordinator => {}
            Api::TxnOffsetCommit => {
                manager.coordinators.retain(|key, _| *key == CoordinatorKey::Transaction);
            }
            _ => {
                manager.coordinators.remove(&CoordinatorKey::Transaction);
            }
        }
        manager.request.not_before = now.after(self.settings.retry_backoff);
    }

    fn apply_outcome(
        &mut self,
        manager: &mut TransactionManager,
        request: &RequestInFlight,
        response: &ParsedResponse,
        now: Tick,
    ) {
        let code = inject_bug!(FencedIgnored, response.code);
        let outcome = decide(request.api, code, manager.is_start_in_doubt()).outcome;
        if outcome != Outcome::Done {
            tracing::debug!(api = request.api.key().name(), code = %code, "{outcome:?}");
        }
        if matches!(outcome, Outcome::Retry | Outcome::NotAttempted | Outcome::FindCoordinator) {
            let reason = format!("{code} at {}", self.client.broker_name(request.node));
            manager.note_failed_request(request.api, reason, now);
        } else {
            manager.note_successful_request(request.api);
        }
        match outcome {
            Outcome::Done => self.apply_success(manager, request, response, now),
            Outcome::Retry | Outcome::NotAttempted => {
                if code == ErrorCode::CONCURRENT_TRANSACTIONS && request.api == Api::TxnOffsetCommit
                {
                    manager.on_concurrent_transactions();
                }
                let backoff = self.settings.retry_backoff;
                manager.request.not_before =
                    now.after(manager.retry_backoff(request.api, code, backoff));
            }
            Outcome::FindCoordinator => self.find_coordinator_again(manager, request.api, now),
            Outcome::BumpEpoch => {
                if let Some(transaction) = manager.state.transaction_mut() {
                    transaction.must_bump_epoch = true;
                }
                manager.finish();
            }
            Outcome::Abortable | Outcome::Fatal => {
                let broker = self.client.broker_name(request.node);
                let api = request.api.key().name();
                let error = refusal(api, code, response.message.as_deref(), &broker);
                if outcome == Outcome::Fatal {
                    self.fail_producer_in(manager, &error);
                } else {
                    manager.fail_request(request.api, &error);
                    // What follows may be the same request, for an abort.
                    manager.request.not_before = now.after(self.settings.retry_backoff);
                }
            }
        }
    }

    /// Applies the results of partitions: those that succeeded are done, one error decides for the
    /// others.
    fn apply_partition_outcomes(
        &mut self,
        manager: &mut TransactionManager,
        request: &RequestInFlight,
        response: &ParsedResponse,
        now: Tick,
    ) {
        let is_done = |p: &&PartitionResult| p.code.is_none();
        self.apply_partition_success(manager, request, response);
        // A final error comes before a temporary one.
        let rank = |p: &&PartitionResult| match decide(request.api, p.code, false).outcome {
            Outcome::Fatal => 0,
            Outcome::Abortable => 1,
            Outcome::BumpEpoch | Outcome::FindCoordinator => 2,
            Outcome::Retry | Outcome::Done => 3,
            Outcome::NotAttempted => 4,
        };
        let Some(worst) = response.partitions.iter().filter(|p| !is_done(p)).min_by_key(rank)
        else {
            // A response may lack a partition, which is then sent again.
            if response.partitions.len() < request.partition_count {
                manager.request.not_before = now.after(self.settings.retry_backoff);
            }
            manager.note_successful_request(request.api);
            return;
        };
        let same = response.partitions.iter().filter(|p| p.code == worst.code);
        let names: Vec<String> = same.map(|p| format!("{}-{}", p.topic, p.partition)).collect();
        let code = worst.code;
        let message = format!("{}: {}", names.join(", "), code.description());
        self.apply_outcome(manager, request, &ParsedResponse::of_error(code, message), now);
    }

    fn apply_partition_success(
        &mut self,
        manager: &mut TransactionManager,
        request: &RequestInFlight,
        response: &ParsedResponse,
    ) {
        let succeeded = |topic: &str, partition: i32| {
            response
                .partitions
                .iter()
                .any(|p| p.code.is_none() && p.partition == partition && p.topic == topic)
        };
        let topics = &self.accumulator.topics;
        let Some(transaction) = manager.state.transaction_mut() else { return };
        if request.api == Api::AddPartitions {
            let joined: Vec<u32> = (request.partition_ids.iter().copied())
                .filter(|id| topics.partition(*id).is_some_and(|p| succeeded(&p.topic, p.index)))
                .collect();
            if !joined.is_empty() {
                transaction.started = Started::Yes;
            }
            transaction.partitions.join(joined);
            manager.has_changed = true;
        } else if let Some(offsets) = transaction.offsets.front_mut() {
            offsets.consumed.offsets.retain(|o| !succeeded(&o.topic, o.partition));
            if offsets.consumed.offsets.is_empty()
                && let Some(done) = transaction.offsets.pop_front()
            {
                done.call.complete(Ok(()));
            }
        }
    }

    fn apply_success(
        &mut self,
        manager: &mut TransactionManager,
        request: &RequestInFlight,
        response: &ParsedResponse,
        now: Tick,
    ) {
        match request.api {
            Api::FindCoordinator => {
                if let (Some(key), Some(node)) = (&request.coordinator, &response.coordinator) {
                    self.client.add_node(node);
                    manager.coordinators.insert(key.clone(), node.id);
                }
            }
            Api::InitProducerId => {
                if let Some(id) = response.producer_id {
                    self.handle_assigned_id(id, now);
                    manager.initialized();
                }
            }
            Api::AddOffsets => {
                if let Some(transaction) = manager.state.transaction_mut() {
                    transaction.started = Started::Yes;
                    if let Some(offsets) = transaction.offsets.front_mut() {
                        offsets.is_group_added = true;
                    }
                }
            }
            Api::Commit | Api::Abort => {
                if let Some(id) = response.producer_id
                    && inject_bug!(EpochOfEndTxnIgnored, true)
                {
                    self.producer_state.set_producer_id(id);
                }
                if let Some(transaction) = manager.state.transaction_mut() {
                    transaction.has_ended = true;
                }
                if manager.is_version_2() {
                    manager.pacing.ended(now);
                }
                manager.finish();
            }
            // Their results are those of the partitions.
            Api::AddPartitions => {}
            Api::TxnOffsetCommit => manager.pacing.offsets_added(),
        }
    }

    /// Fails the producer with a fatal error.
    pub(super) fn fail_producer_in(&mut self, manager: &mut TransactionManager, error: &Error) {
        let error = error.clone().into_fatal();
        manager.fail_all(&error);
        self.transition_to_fatal_error(&error);
    }
}

impl TransactionManager {
    /// Returns the time before a request is sent again.
    ///
    /// It is short for the first request of a transaction: the coordinator completes the last
    /// transaction, which takes a few milliseconds (CASES TM4). With version 2, TxnOffsetCommit may
    /// be that request, also behind a Produce request that waits for the same. Kafka's producer
    /// waits for the whole backoff then, which was most of the time of a short transaction.
    pub(super) fn retry_backoff(&self, api: Api, code: ErrorCode, backoff: Duration) -> Duration {
        let is_first = self.state.transaction().is_some_and(|t| t.started == Started::No);
        let is_short = match api {
            Api::AddPartitions | Api::AddOffsets => is_first,
            Api::TxnOffsetCommit => true,
            _ => false,
        };
        if is_short && code == ErrorCode::CONCURRENT_TRANSACTIONS {
            backoff.min(CONCURRENT_TRANSACTIONS_BACKOFF)
        } else {
            backoff
        }
    }

    /// Returns whether a request that starts the transaction was sent, and whether it arrived is
    /// not known.
    fn is_start_in_doubt(&self) -> bool {
        self.state.transaction().is_some_and(|t| t.started == Started::Possibly)
    }

    /// A coordinator has assigned the producer id and epoch.
    pub(super) fn initialized(&mut self) {
        match self.take_state() {
            State::Initializing(InitReason::Begin, mut calls) if !calls.is_empty() => {
                let call = calls.remove(0);
                self.open_transaction(Phase::Initializing, call);
            }
            State::Initializing(_, calls) => {
                let ready = State::Ready(Readiness { must_bump_epoch: false });
                self.set_state(Phase::Initializing, ready);
                self.lifecycle.close_transaction(super::no_transaction());
                complete(calls, &Ok(()));
                self.begin_waiting();
            }
            other => self.state = other,
        }
    }

    /// Fails what a refused request was for: the call, or the transaction.
    pub(super) fn fail_request(&mut self, api: Api, error: &Error) {
        match self.take_state() {
            State::Initializing(InitReason::First, calls) => {
                self.set_state(Phase::Initializing, State::Uninitialized);
                complete(calls, &Err(error.clone()));
            }
            State::Initializing(InitReason::Begin, calls) => {
                let ready = State::Ready(Readiness { must_bump_epoch: true });
                self.set_state(Phase::Initializing, ready);
                complete(calls, &Err(error.clone()));
                // If no call has waited for the epoch, the next one requests it again.
                self.begin_waiting();
            }
            // The application has dropped the transaction, and EndTxn has aborted it. No caller
            // can repeat the abort, so the next `begin_transaction` requests the epoch again.
            State::Initializing(InitReason::AfterAbort(transaction), calls)
                if transaction.is_abandoned =>
            {
                let ready = State::Ready(Readiness { must_bump_epoch: true });
                self.set_state(Phase::Initializing, ready);
                self.lifecycle.close_transaction(super::no_transaction());
                complete(calls, &Err(error.clone()));
                self.begin_waiting();
            }
            State::Initializing(InitReason::AfterAbort(mut transaction), calls) => {
                // EndTxn has succeeded, so a repeated abort only bumps the epoch.
                transaction.started = Started::No;
                self.enter_abortable_error(Phase::Initializing, transaction, error, calls);
            }
            State::Committing(mut transaction, calls) => {
                transaction.must_bump_epoch = true;
                self.enter_abortable_error(Phase::Committing, transaction, error, calls);
            }
            other => {
                self.state = other;
                // An abort is in progress: partitions or offsets that were not added do not matter.
                if api != Api::Abort {
                    self.fail_transaction(error);
                }
            }
        }
    }
}
