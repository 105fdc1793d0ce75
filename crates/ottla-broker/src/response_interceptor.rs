//! A broker that misbehaves on the wire: one rule a fault, between what the core answers and what the socket is
//! given. A rule is in force while its guard lives.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use ottla_protocol::ApiKey;
use parking_lot::Mutex;

/// A request and its answer, as a rule sees them.
#[derive(Debug)]
#[non_exhaustive]
pub struct InterceptedResponse<'c> {
    /// The node that answers.
    pub node: i32,
    /// The connection, numbered as they came.
    pub connection_id: u64,
    /// What was asked.
    pub api: ApiKey,
    /// At which version.
    pub version: i16,
    /// The correlation id of the request.
    pub correlation_id: i32,
    /// The request, without its length.
    pub request: &'c Bytes,
    /// How often this rule was asked before.
    pub call_index: u64,
}

/// What goes out in place of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResponseAction {
    /// These bytes, at once.
    Send(Vec<u8>),
    /// These bytes, each in a segment of its own.
    SendByteByByte(Vec<u8>),
    /// Kept back until so many answers are there (or no further request comes), then all in one segment.
    Coalesce(Vec<u8>, usize),
    /// These bytes, and the connection ends.
    SendAndClose(Vec<u8>),
    /// Nothing; the connection stays as it is, and nothing is ever said on it again.
    Stall,
}

type ResponseInterceptor = dyn FnMut(&InterceptedResponse<'_>, Vec<u8>) -> ResponseAction + Send;

struct InstalledInterceptor {
    id: u64,
    call_count: u64,
    interceptor: Box<ResponseInterceptor>,
}

/// All rules of a broker.
#[derive(Default)]
pub(crate) struct ResponseInterceptors {
    next_id: AtomicU64,
    interceptors: Mutex<Vec<InstalledInterceptor>>,
}

impl std::fmt::Debug for ResponseInterceptors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} rules", self.interceptors.lock().len())
    }
}

/// A rule in force; dropping it takes it out of force.
#[derive(Debug)]
#[must_use = "the rule ends with its guard"]
pub struct InterceptorGuard {
    id: u64,
    interceptors: Weak<ResponseInterceptors>,
}

impl Drop for InterceptorGuard {
    fn drop(&mut self) {
        if let Some(rules) = self.interceptors.upgrade() {
            rules.interceptors.lock().retain(|r| r.id != self.id);
        }
    }
}

impl ResponseInterceptors {
    pub(crate) fn install(
        self: &Arc<Self>,
        act: impl FnMut(&InterceptedResponse<'_>, Vec<u8>) -> ResponseAction + Send + 'static,
    ) -> InterceptorGuard {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.interceptors.lock().push(InstalledInterceptor {
            id,
            call_count: 0,
            interceptor: Box::new(act),
        });
        InterceptorGuard { id, interceptors: Arc::downgrade(self) }
    }

    /// What goes out: what the first rule makes of an answer, the next one of that, while it is bytes.
    pub(crate) fn apply(
        &self,
        mut call: InterceptedResponse<'_>,
        frame: Vec<u8>,
    ) -> ResponseAction {
        let mut sent = ResponseAction::Send(frame);
        for rule in self.interceptors.lock().iter_mut() {
            let ResponseAction::Send(bytes) = sent else { return sent };
            call.call_index = rule.call_count;
            rule.call_count += 1;
            sent = (rule.interceptor)(&call, bytes);
        }
        sent
    }
}
