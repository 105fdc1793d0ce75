//! Interceptors that change or withhold responses, so that tests can use a broker with faults.
//!
//! The socket server calls them with each response of the core before it writes to the socket. An
//! interceptor stays installed while its [`InterceptorGuard`] lives.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use ottla_protocol::ApiKey;
use parking_lot::Mutex;

/// A response that is about to be sent, described by its request.
#[derive(Debug)]
#[non_exhaustive]
pub struct InterceptedResponse<'c> {
    /// The id of the node that sends the response.
    pub node: i32,
    /// The connection's number: 0 for the first connection that the broker accepted.
    pub connection_id: u64,
    /// The API of the request.
    pub api: ApiKey,
    /// The version of the request.
    pub version: i16,
    /// The correlation id of the request.
    pub correlation_id: i32,
    /// The request frame, without its length.
    pub request: &'c Bytes,
}

/// What the broker does in place of sending a response. The bytes include the frame's length.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResponseAction {
    /// Sends these bytes at once.
    Send(Vec<u8>),
    /// Sends these bytes in one write for each byte.
    SendByteByByte(Vec<u8>),
    /// Keeps these bytes back and sends them in one write with the responses that follow.
    ///
    /// The write happens when `max_responses` are there, or when no further request has arrived
    /// for 20 ms.
    Coalesce {
        /// The response frame.
        frame: Vec<u8>,
        /// The number of responses in one write.
        max_responses: usize,
    },
    /// Sends these bytes and closes the connection.
    SendAndClose(Vec<u8>),
    /// Sends nothing, now or later, and keeps the connection open: the broker seems to hang.
    ///
    /// The core has handled the request: a batch is appended. If a later response of the same
    /// connection is sent, its correlation id is not the one that the client waits for, and most
    /// clients then close the connection.
    Stall,
}

type ResponseInterceptor = dyn FnMut(&InterceptedResponse<'_>, Vec<u8>) -> ResponseAction + Send;

struct InstalledInterceptor {
    id: u64,
    interceptor: Box<ResponseInterceptor>,
}

/// All installed interceptors of a broker, in the order of installation.
#[derive(Default)]
pub(crate) struct ResponseInterceptors {
    next_id: AtomicU64,
    interceptors: Mutex<Vec<InstalledInterceptor>>,
}

impl std::fmt::Debug for ResponseInterceptors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} interceptors", self.interceptors.lock().len())
    }
}

/// Keeps an interceptor installed; dropping the guard removes the interceptor.
///
/// [`EmbeddedBroker::intercept_responses`](crate::EmbeddedBroker::intercept_responses) returns it.
#[derive(Debug)]
#[must_use = "the interceptor is removed when its guard is dropped"]
pub struct InterceptorGuard {
    id: u64,
    interceptors: Weak<ResponseInterceptors>,
}

impl Drop for InterceptorGuard {
    fn drop(&mut self) {
        if let Some(registry) = self.interceptors.upgrade() {
            registry.interceptors.lock().retain(|i| i.id != self.id);
        }
    }
}

impl ResponseInterceptors {
    /// Installs an interceptor after those that are installed.
    pub(crate) fn install<F>(self: &Arc<Self>, interceptor: F) -> InterceptorGuard
    where
        F: FnMut(&InterceptedResponse<'_>, Vec<u8>) -> ResponseAction + Send + 'static,
    {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.interceptors
            .lock()
            .push(InstalledInterceptor { id, interceptor: Box::new(interceptor) });
        InterceptorGuard { id, interceptors: Arc::downgrade(self) }
    }

    /// Calls the interceptors one after the other and returns the resulting action.
    ///
    /// Each one gets the bytes that the one before returned as [`ResponseAction::Send`]. Any other
    /// action is final: the interceptors after it are not called.
    pub(crate) fn apply(
        &self,
        response: InterceptedResponse<'_>,
        frame: Vec<u8>,
    ) -> ResponseAction {
        let mut action = ResponseAction::Send(frame);
        for installed in self.interceptors.lock().iter_mut() {
            let ResponseAction::Send(bytes) = action else { return action };
            action = (installed.interceptor)(&response, bytes);
        }
        action
    }
}
