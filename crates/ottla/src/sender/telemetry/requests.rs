//! Sends the requests of [`ClientTelemetry`](super::ClientTelemetry) and handles their responses.

use bytes::Bytes;
use ottla_protocol::header::decode_response;
use ottla_protocol::messages::{GetTelemetrySubscriptionsRequest, PushTelemetryRequest};
use ottla_protocol::{ApiKey, ErrorCode, Request, Uuid};

use super::payload::{Source, create_payload};
use super::{DEFAULT_PUSH_INTERVAL, LAST_PUSH_TIMEOUT, State};
use crate::client::in_flight_requests::{CompletedRequest, RequestKind};
use crate::network::io::Io;
use crate::sender::Sender;
use crate::time::Tick;

/// The only version of both APIs.
const VERSION: i16 = 0;

impl<I: Io> Sender<I> {
    /// Sends the next telemetry request if one is due. Returns when to call again.
    #[inline]
    pub(in crate::sender) fn maybe_send_telemetry(&mut self, now: Tick) -> Tick {
        if !self.client.offers_telemetry() {
            return Tick::NEVER;
        }
        let at = self.telemetry.next_request_at();
        if at > now { at } else { self.send_telemetry(now) }
    }

    #[cold]
    fn send_telemetry(&mut self, now: Tick) -> Tick {
        if self.accumulator.lifecycle().is_failed() {
            return Tick::NEVER;
        }
        let api = match self.telemetry.state {
            State::SubscriptionNeeded { .. } => ApiKey::GET_TELEMETRY_SUBSCRIPTIONS,
            _ => ApiKey::PUSH_TELEMETRY,
        };
        let node = match self.telemetry_node(now) {
            Ok(node) => node,
            Err(retry_at) => return retry_at,
        };
        if api == ApiKey::GET_TELEMETRY_SUBSCRIPTIONS {
            let client_instance_id = self.telemetry.instance_id.unwrap_or(Uuid::ZERO);
            let request =
                GetTelemetrySubscriptionsRequest { client_instance_id, ..Default::default() };
            self.telemetry.state = State::SubscriptionRequested;
            self.send_telemetry_request(node, &request, now);
        } else {
            self.telemetry.state = State::PushRequested;
            if !self.push(node, false, now) {
                let at = now.after(self.telemetry.push_interval());
                self.telemetry.state = State::PushNeeded { at };
                return at;
            }
        }
        Tick::NEVER
    }

    /// Returns the node for a request, the last one if possible; else when to look again.
    fn telemetry_node(&mut self, now: Tick) -> Result<i32, Tick> {
        if let Some(node) = self.client.telemetry_node(self.telemetry.last_node, now) {
            return Ok(node);
        }
        let Some(node) = self.client.least_loaded_node(now) else {
            return Err(self.client.next_retry(now));
        };
        if self.client.ready(node, now) {
            // No connected broker offers the API any more.
            let at = now.after(DEFAULT_PUSH_INTERVAL);
            self.telemetry.state = State::SubscriptionNeeded { at };
            return Err(at);
        }
        Err(self.client.next_retry(now))
    }

    /// Sends the metrics. Returns false if they cannot be sent.
    fn push(&mut self, node: i32, terminating: bool, now: Tick) -> bool {
        let metrics = self.accumulator.metrics(&self.counters, self.client.client_id());
        let mut attributes = Vec::new();
        if !self.settings.client_rack.is_empty() {
            attributes.push(("client_rack", self.settings.client_rack.as_str()));
        }
        if let Some(transactions) = &self.settings.transactions {
            attributes.push(("transactional_id", transactions.transactional_id.as_str()));
        }
        let source = Source {
            metrics: &metrics,
            attributes: &attributes,
            started_ms: self.counters.started_ms,
            now_ms: self.env.wall_clock_ms(),
        };
        let telemetry = &mut self.telemetry;
        let (Some(subscription), Some(client_instance_id)) =
            (&telemetry.subscription, telemetry.instance_id)
        else {
            return false;
        };
        let (scope, ledger) = (&mut telemetry.scope, &mut telemetry.ledger);
        let Some(payload) = create_payload(source, subscription, scope, ledger) else {
            tracing::debug!("client metrics exceed telemetry.max.bytes of the broker");
            return false;
        };
        telemetry.last_codec = payload.codec;
        let request = PushTelemetryRequest {
            client_instance_id,
            subscription_id: subscription.id,
            terminating,
            compression_type: payload.codec as i8,
            metrics: Bytes::from(payload.bytes),
            ..Default::default()
        };
        self.send_telemetry_request(node, &request, now);
        true
    }

    fn send_telemetry_request<R: Request>(&mut self, node: i32, request: &R, now: Tick) {
        let kind = RequestKind::Telemetry;
        self.telemetry.last_node = Some(node);
        if let Err(e) = self.client.send_request(node, request, VERSION, kind, now) {
            self.telemetry.give_up(&format!("a request cannot be encoded: {e}"));
        }
    }

    /// Sends the last push of a closing producer whose records are all complete, if a broker has
    /// subscribed to its metrics and can take a request now. Returns until when the close has to
    /// wait; `None` if it need not.
    pub(in crate::sender) fn finish_telemetry(&mut self, now: Tick) -> Option<Tick> {
        let in_flight = match self.telemetry.state {
            State::LastPushRequested { until, .. } => return (until > now).then_some(until),
            State::PushNeeded { .. } => 1,
            State::PushRequested => {
                // It probably arrives, and then the last push must not repeat its differences.
                self.telemetry.ledger.commit();
                2
            }
            _ => return None,
        };
        let node = self.client.telemetry_node(self.telemetry.last_node, now)?;
        let until = now.after(LAST_PUSH_TIMEOUT.min(self.settings.request_timeout));
        self.telemetry.state = State::LastPushRequested { until, in_flight };
        self.push(node, true, now).then_some(until)
    }

    pub(in crate::sender) fn handle_telemetry_response(
        &mut self,
        completed: &CompletedRequest,
        now: Tick,
    ) {
        let CompletedRequest { node, request, result } = completed;
        let frame = match result {
            Ok(frame) => frame,
            Err(disconnected) => {
                tracing::debug!("client telemetry failed: {}", disconnected.reason);
                return self.telemetry.handle_lost_request(now);
            }
        };
        let is_push = request.api == ApiKey::PUSH_TELEMETRY;
        let decoded = if is_push {
            self.handle_push_telemetry(*node, frame, now)
        } else {
            self.handle_subscriptions(*node, frame, now)
        };
        // The frame had the right correlation id, so the connection stays open: records in flight
        // on it must not be sent again because of metrics.
        if let Err(e) = decoded {
            tracing::debug!("the response to a telemetry request cannot be decoded: {e}");
            self.telemetry.handle_lost_request(now);
        }
    }

    fn handle_subscriptions(
        &mut self,
        node: i32,
        frame: &Bytes,
        now: Tick,
    ) -> Result<(), ottla_protocol::DecodeError> {
        let response = decode_response::<GetTelemetrySubscriptionsRequest>(frame, VERSION)?;
        self.client.throttle(node, response.throttle_time_ms, true, now);
        // A close may have begun meanwhile, and then this response is too late.
        if self.telemetry.state == State::SubscriptionRequested {
            let random = self.env.random();
            self.telemetry.handle_subscription(&response, random, now);
        }
        Ok(())
    }

    fn handle_push_telemetry(
        &mut self,
        node: i32,
        frame: &Bytes,
        now: Tick,
    ) -> Result<(), ottla_protocol::DecodeError> {
        let response = decode_response::<PushTelemetryRequest>(frame, VERSION)?;
        self.client.throttle(node, response.throttle_time_ms, true, now);
        self.telemetry.handle_push_response(ErrorCode(response.error_code), now);
        Ok(())
    }
}
