//! How callers and the sender wake each other: the producer's lifecycle, the event queue to the
//! sender, transactional calls, waiters with deadlines, and `block_on`.

pub(crate) mod lifecycle;
pub(crate) mod event_queue;
pub(crate) mod pending_posts;
pub(crate) mod waiters;
pub(crate) mod call_request;
pub(crate) mod caller_context;
pub(crate) mod transaction_call;
