//! Requests a producer id for an idempotent producer (KIP-98), and handles the response.

use ottla_protocol::header::decode_response;
use ottla_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse};
use ottla_protocol::{ApiKey, ErrorCode};

use super::Sender;
use super::producer_state::{ProducerIdAndEpoch, ProducerIdState};
use crate::client::in_flight_requests::{CompletedRequest, RequestKind};
use crate::error::Error;
use crate::log_limiter::{LogEvent, NO_NODE};
use crate::network::io::Io;
use crate::time::Tick;

/// The last InitProducerId version that this client uses.
const MAX_VERSION: i16 = 5;

impl<I: Io> Sender<I> {
    /// Requests a producer id if one is needed. Returns when to try again.
    pub(super) fn maybe_request_producer_id(&mut self, now: Tick) -> Tick {
        if self.accumulator.lifecycle().is_failed() {
            return Tick::NEVER;
        }
        match self.producer_state.producer_id {
            ProducerIdState::Needed { not_before } if not_before > now => return not_before,
            ProducerIdState::Needed { .. } => {}
            _ => return Tick::NEVER,
        }
        let Some(node) = self.client.least_loaded_node(now) else {
            return self.client.next_retry(now);
        };
        if !self.client.ready(node, now) {
            return self.client.next_retry(now);
        }
        let api = ApiKey::INIT_PRODUCER_ID;
        let Some(version) = self.client.latest_usable_version(node, api, 0, MAX_VERSION) else {
            let name = self.client.broker_name(node);
            let reason = format!(
                "UNSUPPORTED_VERSION: {name} does not support InitProducerId, which idempotence \
                 needs; use a newer broker or set enable.idempotence=false"
            );
            let error = Error::with_code(ErrorCode::UNSUPPORTED_VERSION, reason);
            self.transition_to_fatal_error(&error.into_fatal());
            return now;
        };
        let request =
            InitProducerIdRequest { transaction_timeout_ms: i32::MAX, ..Default::default() };
        self.producer_state.producer_id = ProducerIdState::Requested;
        if let Err(e) =
            self.client.send_request(node, &request, version, RequestKind::InitProducerId, now)
        {
            tracing::error!(
                name: "ottla.internal_error",
                target: "ottla::producer",
                "InitProducerId request failed: it cannot be encoded: {e}"
            );
            self.retry_producer_id_at(now.after(self.settings.retry_backoff));
        }
        Tick::NEVER
    }

    fn retry_producer_id_at(&mut self, not_before: Tick) {
        self.producer_state.producer_id = ProducerIdState::Needed { not_before };
    }

    pub(super) fn handle_init_producer_id_response(
        &mut self,
        completed: CompletedRequest,
        now: Tick,
    ) {
        // After a fatal error the producer never continues, even if an id arrives late.
        if self.accumulator.lifecycle().is_failed() {
            return;
        }
        let CompletedRequest { node, request, result } = completed;
        let retry_at = now.after(self.settings.retry_backoff);
        let frame = match result {
            Ok(frame) => frame,
            Err(disconnected) => {
                tracing::debug!("InitProducerId failed: {}", disconnected.reason);
                self.retry_producer_id_at(retry_at);
                return;
            }
        };
        let response = match decode_response::<InitProducerIdRequest>(&frame, request.version) {
            Ok(response) => response,
            Err(e) => {
                let reason = format!("the InitProducerId response cannot be decoded: {e}");
                self.client.fail_connection(node, &reason, now);
                self.retry_producer_id_at(retry_at);
                return;
            }
        };
        // From version 1 on, the client has to observe the throttle time (KIP-219).
        self.client.throttle(node, response.throttle_time_ms, request.version >= 1, now);
        match assigned_id(&response) {
            Ok(assigned) => self.handle_assigned_id(assigned, now),
            Err((code, message)) => {
                self.handle_init_producer_id_error(node, code, message.as_deref(), now);
            }
        }
    }

    pub(in crate::sender) fn handle_assigned_id(
        &mut self,
        assigned: ProducerIdAndEpoch,
        now: Tick,
    ) {
        let ProducerIdAndEpoch { producer_id: id, epoch } = assigned;
        if let Some(suppressed) =
            self.client.log_events().check(LogEvent::EpochBumped, NO_NODE, now)
        {
            tracing::info!(
                name: "ottla.producer_id",
                target: "ottla::delivery",
                id,
                epoch,
                suppressed,
                "producer id assigned"
            );
        }
        self.producer_state.set_producer_id(assigned);
        // Every partition was blocked without an id.
        self.ready.mark_all_dirty();
    }

    fn handle_init_producer_id_error(
        &mut self,
        node: i32,
        code: ErrorCode,
        message: Option<&str>,
        now: Tick,
    ) {
        let location = format!("InitProducerId failed at {}", self.client.broker_name(node));
        if code.is_retriable() {
            tracing::debug!("{location}: {code}");
            self.retry_producer_id_at(now.after(self.settings.retry_backoff));
        } else if code == ErrorCode::UNSUPPORTED_VERSION {
            self.transition_to_fatal_error(&Error::broker(code, None, &location).into_fatal());
        } else {
            // The batches that wait fail, but the producer does not: an administrator may grant
            // the permission later (CASES SN26).
            let advice = message.or(producer_id_advice(code));
            self.abort_undrained_batches(&Error::broker(code, advice, &location));
            self.retry_producer_id_at(now.after(self.settings.retry_backoff_max));
        }
    }
}

/// Returns the producer id of a response, or its error code and a message.
///
/// A response without an error and without an id, −1, comes from a broker with a bug. No later
/// request would be valid with that id: brokers take it for a producer without idempotence.
pub(in crate::sender) fn assigned_id(
    response: &InitProducerIdResponse,
) -> Result<ProducerIdAndEpoch, (ErrorCode, Option<String>)> {
    let code = ErrorCode(response.error_code);
    let (producer_id, epoch) = (response.producer_id, response.producer_epoch);
    if !code.is_none() {
        return Err((code, None));
    }
    if producer_id >= 0 && epoch >= 0 {
        return Ok(ProducerIdAndEpoch { producer_id, epoch });
    }
    let message = format!(
        "the response has no error, and still the invalid producer id {producer_id} with epoch \
         {epoch}; look for a bug of the broker"
    );
    Err((ErrorCode::UNKNOWN_SERVER_ERROR, Some(message)))
}

/// Returns what to do if a broker does not give this principal a producer id.
fn producer_id_advice(code: ErrorCode) -> Option<&'static str> {
    // Without a transactional id, brokers before 2.8 want the grant on the cluster, later ones
    // also take a grant to write to any topic (KIP-679).
    matches!(
        code,
        ErrorCode::CLUSTER_AUTHORIZATION_FAILED | ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    )
    .then_some(
        "the principal may not use an idempotent producer; grant it IDEMPOTENT_WRITE on the \
         cluster (or WRITE on the topic, from Kafka 2.8 on), or set enable.idempotence=false",
    )
}
