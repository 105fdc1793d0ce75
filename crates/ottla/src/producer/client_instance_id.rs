//! Asks the sender for the client instance id (KIP-714).

use std::time::Duration;

use ottla_protocol::Uuid;

use super::Producer;
use crate::error::Error;
use crate::time::Tick;
use crate::wakeup::call_request::{CallFuture, call_request};
use crate::wakeup::event_queue::Event;

/// Client metrics.
impl Producer {
    /// Returns the id under which brokers know this producer's metrics (KIP-714), and waits for it
    /// for at most `timeout`.
    ///
    /// The first broker that receives client metrics assigns the id, and the producer keeps it
    /// until it is closed. Returns `None` if there is none in time: no broker is connected, or none
    /// receives client metrics. Kafka's brokers do with a plug-in that implements
    /// `ClientTelemetry`. Inside an async executor this blocks the executor's thread: use
    /// [`client_instance_id_async`](Self::client_instance_id_async).
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # fn main() -> Result<(), ottla::Error> {
    /// let producer = ottla::Producer::builder().bootstrap_servers("localhost:9092").build()?;
    /// if let Some(id) = producer.client_instance_id(Duration::from_secs(10))? {
    ///     println!("brokers have the metrics of this producer as {id}");
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// - [`ErrorKind::Config`](crate::ErrorKind::Config) with `enable.metrics.push=false`.
    /// - [`ErrorKind::Closed`](crate::ErrorKind::Closed), or the error that ended the producer.
    /// - [`ErrorKind::WouldDeadlock`](crate::ErrorKind::WouldDeadlock) inside a callback.
    /// - [`ErrorKind::Forked`](crate::ErrorKind::Forked).
    pub fn client_instance_id(&self, timeout: Duration) -> Result<Option<Uuid>, Error> {
        let future = self.request_client_instance_id("Producer::client_instance_id")?;
        let context = &self.inner.accumulator.caller_context;
        let deadline = context.env.now().after(timeout);
        context.block_on(future, Some(deadline)).ok().transpose()
    }

    /// Like [`client_instance_id`](Self::client_instance_id), without blocking and without a
    /// timeout: the future waits until a broker assigns the id or the producer is closed.
    ///
    /// # Errors
    /// The errors of [`client_instance_id`](Self::client_instance_id).
    pub async fn client_instance_id_async(&self) -> Result<Uuid, Error> {
        self.request_client_instance_id("Producer::client_instance_id_async")?.await
    }

    fn request_client_instance_id(&self, operation: &str) -> Result<CallFuture<Uuid>, Error> {
        self.inner.check_fork()?;
        self.inner.accumulator.caller_context.check_can_block(operation)?;
        if !self.inner.config.sender.metrics_push {
            return Err(Error::config(
                "client_instance_id failed: enable.metrics.push is false, so no broker assigns an \
                 id; set it to true",
            ));
        }
        let (request, future) = call_request();
        self.inner.accumulator.post(Event::ClientInstanceId(request), Tick(0));
        Ok(future)
    }
}
