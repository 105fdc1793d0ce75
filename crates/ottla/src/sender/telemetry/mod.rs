//! Client telemetry (KIP-714): pushes the producer's metrics to brokers that request them.
//!
//! ```text
//! SubscriptionNeeded ──▶ SubscriptionRequested ──▶ PushNeeded ──▶ PushRequested ─┐
//!         ▲  ▲                    │                     ▲                        │
//!         │  └── no metric wanted ┘                     └──── after an interval ─┤
//!         └───────────────────── UNKNOWN_SUBSCRIPTION_ID and other errors ───────┘
//! ```
//!
//! The state machine does no I/O: [`requests`] sends what it wants. Without a broker that offers
//! the API, the sender asks one flag in each round and does nothing else.

mod payload;
mod requests;

use std::time::Duration;

use ottla_protocol::compression::Codec;
use ottla_protocol::messages::GetTelemetrySubscriptionsResponse;
use ottla_protocol::{ErrorCode, Uuid};

use crate::error::Error;
use crate::time::{Tick, random_fraction};
use crate::wakeup::call_request::CallRequest;
use payload::DeltaLedger;

/// The interval without a valid one from a broker, as in Java.
const DEFAULT_PUSH_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// How long a close waits for the response to the last push, if its own deadline is not earlier.
const LAST_PUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the client waits before it requests its first subscription again: a connection that is
/// lost just then says nothing about telemetry.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// After this many requests in a row without a valid response, the client sends no more. A server
/// that advertises the API and closes the connection at its requests would cost a connection each
/// time.
const MAX_LOST_REQUESTS: u32 = 3;

/// What the client does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    SubscriptionNeeded {
        at: Tick,
    },
    SubscriptionRequested,
    PushNeeded {
        at: Tick,
    },
    PushRequested,
    /// The producer closes, and waits for the response to its last push; and to the one before, if
    /// that was in flight.
    LastPushRequested {
        until: Tick,
        in_flight: u8,
    },
    /// Telemetry is off: by its setting, after an error that no retry can solve, or at the end.
    Ended,
}

/// What a broker wants to receive.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Subscription {
    id: i32,
    push_interval: Duration,
    /// The codecs that the broker accepts, in order of preference.
    codecs: Vec<Codec>,
    /// The largest size of a push in bytes, compressed.
    max_bytes: usize,
    delta_temporality: bool,
    /// The prefixes of the requested metrics' names.
    prefixes: Vec<String>,
}

/// The metrics of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// Those of the producer, and of each topic and broker.
    All,
    /// Without those of single topics and brokers: all of them are too large for the broker.
    ProducerOnly,
}

/// The client's part of KIP-714 (Kafka's `ClientTelemetryReporter`).
#[derive(Debug)]
pub(super) struct ClientTelemetry {
    state: State,
    /// The id from the first broker. It stays while the subscriptions change.
    instance_id: Option<Uuid>,
    subscription: Option<Subscription>,
    scope: Scope,
    ledger: DeltaLedger,
    /// The codec of the last push.
    last_codec: Codec,
    /// The codecs that a broker has rejected, although it had listed them.
    rejected_codecs: Vec<Codec>,
    /// The node of the last request. A client stays with one broker while it can, as Java's does:
    /// each broker counts the intervals by itself.
    last_node: Option<i32>,
    /// The requests that got no valid response since the last push that got one. A subscription
    /// alone does not count: a broker may close the connection at each push.
    lost_requests: u32,
    /// Callers that wait for the instance id.
    waiting: Vec<CallRequest<Uuid>>,
}

impl ClientTelemetry {
    pub(super) fn new(enabled: bool) -> ClientTelemetry {
        let state = if enabled { State::SubscriptionNeeded { at: Tick(0) } } else { State::Ended };
        ClientTelemetry {
            state,
            instance_id: None,
            subscription: None,
            scope: Scope::All,
            ledger: DeltaLedger::default(),
            last_codec: Codec::None,
            rejected_codecs: Vec::new(),
            last_node: None,
            lost_requests: 0,
            waiting: Vec::new(),
        }
    }

    /// Returns when the next request is due; `NEVER` while one is in flight.
    #[inline]
    fn next_request_at(&self) -> Tick {
        match self.state {
            State::SubscriptionNeeded { at } | State::PushNeeded { at } => at,
            _ => Tick::NEVER,
        }
    }

    /// Completes a caller's request for the instance id, now or once a broker has assigned it.
    pub(super) fn await_instance_id(&mut self, request: CallRequest<Uuid>) {
        match self.instance_id {
            Some(id) => request.complete(Ok(id)),
            None => {
                // Calls that have timed out leave their requests.
                self.waiting.retain(|waiting| !waiting.is_abandoned());
                self.waiting.push(request);
            }
        }
    }

    /// Ends telemetry with the producer.
    pub(super) fn end(&mut self, error: &Error) {
        self.state = State::Ended;
        for request in self.waiting.drain(..) {
            request.complete(Err(error.clone()));
        }
    }

    fn handle_subscription(
        &mut self,
        response: &GetTelemetrySubscriptionsResponse,
        random: u64,
        now: Tick,
    ) {
        let code = ErrorCode(response.error_code);
        if !code.is_none() {
            return self.handle_error(code, now);
        }
        // By the protocol, zero stands for the id of the request. Kafka's brokers repeat the id.
        let assigned = Some(response.client_instance_id).filter(|id| !id.is_zero());
        let Some(instance_id) = assigned.or(self.instance_id) else {
            return self.give_up("the broker assigned no client instance id");
        };
        self.instance_id = Some(instance_id);
        for request in self.waiting.drain(..) {
            request.complete(Ok(instance_id));
        }
        let mut new = Subscription::new(response);
        new.codecs.retain(|codec| !self.rejected_codecs.contains(codec));
        if self.subscription.as_ref().is_some_and(|old| old.delta_temporality)
            != new.delta_temporality
        {
            self.ledger.clear();
        }
        if self.subscription.as_ref().is_none_or(|old| old.id != new.id) {
            self.scope = Scope::All;
        }
        let interval = new.push_interval;
        // Many clients get a new subscription at the same time: each waits 0.5 to 1.5 intervals
        // before its first push, so that not all push together.
        self.state = if new.prefixes.is_empty() {
            self.lost_requests = 0;
            State::SubscriptionNeeded { at: now.after(interval) }
        } else {
            State::PushNeeded { at: now.after(interval.mul_f64(0.5 + random_fraction(random))) }
        };
        self.subscription = Some(new);
    }

    fn handle_push_response(&mut self, code: ErrorCode, now: Tick) {
        self.lost_requests = 0;
        if self.is_last_push_requested() {
            self.complete_last_push();
        } else if code.is_none() {
            self.ledger.commit();
            self.state = State::PushNeeded { at: now.after(self.push_interval()) };
        } else {
            self.handle_error(code, now);
        }
    }

    /// Handles a request that got no response, or one that cannot be decoded.
    fn handle_lost_request(&mut self, now: Tick) {
        if self.is_last_push_requested() {
            self.complete_last_push();
        } else if self.state != State::Ended {
            self.lost_requests += 1;
            if self.lost_requests >= MAX_LOST_REQUESTS {
                return self.give_up("brokers send no valid response to requests for telemetry");
            }
            let is_first = self.subscription.is_none() && self.lost_requests == 1;
            let wait = if is_first { FIRST_RETRY } else { self.push_interval() };
            self.state = State::SubscriptionNeeded { at: now.after(wait) };
        }
    }

    fn is_last_push_requested(&self) -> bool {
        matches!(self.state, State::LastPushRequested { .. })
    }

    fn complete_last_push(&mut self) {
        if let State::LastPushRequested { in_flight, .. } = &mut self.state
            && *in_flight > 1
        {
            *in_flight -= 1;
        } else {
            self.state = State::Ended;
        }
    }

    fn handle_error(&mut self, code: ErrorCode, now: Tick) {
        let is_push = self.state == State::PushRequested;
        let later = now.after(self.push_interval());
        if is_push && code == ErrorCode::UNSUPPORTED_COMPRESSION_TYPE {
            if self.last_codec == Codec::None {
                return self.give_up("the broker rejects uncompressed metrics, too");
            }
            self.rejected_codecs.push(self.last_codec);
        }
        let at = match code {
            // The administrator has changed the subscription. The next push waits for its
            // interval, so that this is no loop without a pause.
            ErrorCode::UNKNOWN_SUBSCRIPTION_ID | ErrorCode::UNSUPPORTED_COMPRESSION_TYPE
                if is_push =>
            {
                now
            }
            ErrorCode::TELEMETRY_TOO_LARGE => {
                self.scope = Scope::ProducerOnly;
                later
            }
            ErrorCode::THROTTLING_QUOTA_EXCEEDED
            | ErrorCode::UNKNOWN_SUBSCRIPTION_ID
            | ErrorCode::UNSUPPORTED_COMPRESSION_TYPE => later,
            code if code.is_retriable() => later,
            // INVALID_RECORD, INVALID_REQUEST and others: the same request fails again.
            code => return self.give_up(&code.to_string()),
        };
        tracing::debug!("client telemetry: {code}");
        self.state = State::SubscriptionNeeded { at };
    }

    fn give_up(&mut self, reason: &str) {
        tracing::info!(
            name: "ottla.telemetry_ended",
            target: "ottla::producer",
            "no more client metrics are pushed to brokers: {reason}"
        );
        self.state = State::Ended;
    }

    fn push_interval(&self) -> Duration {
        self.subscription.as_ref().map_or(DEFAULT_PUSH_INTERVAL, |s| s.push_interval)
    }
}

impl Subscription {
    fn new(response: &GetTelemetrySubscriptionsResponse) -> Subscription {
        let codecs = response.accepted_compression_types.iter();
        let push_interval = match u64::try_from(response.push_interval_ms) {
            Ok(ms @ 1..) => Duration::from_millis(ms),
            _ => DEFAULT_PUSH_INTERVAL,
        };
        Subscription {
            id: response.subscription_id,
            push_interval,
            codecs: codecs
                .filter_map(|n| Codec::ALL.get(usize::try_from(*n).ok()?).copied())
                .collect(),
            // Zero stands for no limit.
            max_bytes: match usize::try_from(response.telemetry_max_bytes) {
                Ok(bytes @ 1..) => bytes,
                _ => usize::MAX,
            },
            delta_temporality: response.delta_temporality,
            prefixes: response.requested_metrics.clone(),
        }
    }

    /// Returns whether the broker wants this metric. An empty prefix and `*` stand for all metrics.
    fn requests(&self, name: &str) -> bool {
        self.prefixes.iter().any(|prefix| prefix == "*" || name.starts_with(prefix.as_str()))
    }
}

#[cfg(all(test, not(ottla_loom)))]
mod tests;
