//! The results of records: the [`Delivery`](result::Delivery) that the application holds, and what
//! is notified when a batch completes: deliveries, callbacks, the delivery handler, interceptors.
//!
//! The sender completes a batch; nothing here knows batches, partitions or brokers.

pub(crate) mod result;
pub(crate) mod batch_completions;
pub(crate) mod interceptor;
