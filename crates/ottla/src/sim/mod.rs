//! Access to the sender and its machine for simulations (`ottla-sim`): a producer on a virtual
//! machine, whose sender the caller drives step by step.
//!
//! This module is unstable: it may change in any release.

mod machine;

use std::sync::Arc;

pub use crate::env::{Env, Wakeup};
#[cfg(ottla_injected_bugs)]
pub use crate::injected_bugs::inject;
pub use crate::injected_bugs::{INJECTED_BUGS, InjectedBug};
pub use crate::network::io::{ChannelKey, Io, Job, JobResult, Readiness, Stream};
pub use crate::time::Tick;
pub use machine::{ClientInput, Faults, Link, SimMachine, SimStream};

use crate::delivery::result::{Delivery, RecordMetadata};
use crate::error::Error;
use crate::producer::{Producer, ProducerBuilder};
use crate::record::Record;
use crate::sender::Sender;

/// Shows mistakes that the types of batches turn into compile errors.
///
/// Any number of readers may share the records of a closed batch:
/// ```
/// fn read(batch: &ottla::sim::types::ClosedBatch) -> ottla::sim::types::BatchRecords {
///     batch.records().clone()
/// }
/// ```
/// No code can write to them, in any state of the batch. (In KAFKA-19012, Java's producer reused a
/// buffer while a socket still read it.)
/// ```compile_fail,E0594
/// fn write(batch: &mut ottla::sim::types::ClosedBatch) {
///     batch.records().pieces().for_each(|piece| piece[0] = 1);
/// }
/// ```
/// A closed batch takes no more records, since closing consumes the open batch:
/// ```compile_fail,E0382
/// fn close_twice(batch: ottla::sim::types::OpenBatch) {
///     let first = batch.close(None);
///     let second = batch.close(None);
/// }
/// ```
/// A buffer has one owner, which returns it to the pool once:
/// ```compile_fail,E0382
/// fn twice(buffer: ottla::sim::types::PooledBuf) { drop(buffer); drop(buffer); }
/// ```
pub mod types {
    pub use crate::accumulator::batch::{ClosedBatch, OpenBatch};
    pub use crate::accumulator::batch_records::BatchRecords;
    pub use crate::accumulator::buffer_pool::PooledBuf;
}

/// The sender of a simulated producer, without a thread: the simulation drives it.
pub struct SimSender(Sender<SimMachine>);

impl std::fmt::Debug for SimSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimSender")
    }
}

/// Builds a producer on a virtual machine, and its sender.
///
/// # Errors
/// The errors of [`ProducerBuilder::build`].
pub fn build(
    builder: ProducerBuilder,
    machine: &SimMachine,
) -> Result<(Producer, SimSender), Error> {
    let config = builder.config_with_client_id()?;
    let (inner, sender) = builder.assemble(config, Arc::new(machine.clone()), machine.clone())?;
    Ok((Producer::from_inner(inner), SimSender(sender)))
}

/// Sets a value of any length that the producer does not copy.
pub fn with_shared_value<'a>(record: Record<'a>, value: &'a bytes::Bytes) -> Record<'a> {
    record.shared_value_of_any_length(value)
}

/// Returns the free bytes of `buffer.memory`; negative while the parts of a split batch exceed it.
pub fn memory_balance(producer: &Producer) -> i64 {
    producer.memory_balance()
}

/// Sends a record with a callback and a delivery, to compare the two.
///
/// # Errors
/// The errors of [`Producer::send_async`].
pub async fn send_with_callback_and_delivery(
    producer: &Producer,
    record: Record<'_>,
    callback: impl FnOnce(Result<RecordMetadata, Error>) + Send + 'static,
) -> Result<Delivery, Error> {
    producer.send_with_callback_and_delivery(record, callback).await
}

impl SimSender {
    /// Runs one round of the sender up to its poll. Returns the deadline of that poll.
    ///
    /// This step and [`poll_and_handle`](Self::poll_and_handle) are separate, because between them
    /// the event queue treats the sender as asleep. A wakeup that the sender would miss in real
    /// time is then missed in virtual time, too.
    pub fn send_producer_data(&mut self) -> Tick {
        let deadline = self.0.send_producer_data();
        self.0.check_invariants();
        deadline.min(self.0.poll_deadline())
    }

    /// Returns how often the client has copied its metadata, and the number of topics that all
    /// metadata updates together have published to callers.
    pub fn metadata_work(&self) -> (u64, u64) {
        self.0.metadata_work()
    }

    /// Shuts the sender down at once and fails all records.
    pub fn abort(&mut self) {
        self.0.shut_down(&Error::closed());
    }

    /// Polls without waiting and handles the result. Returns false after the shutdown.
    pub fn poll_and_handle(&mut self) -> bool {
        self.0.poll_and_handle(Tick(0))
    }
}
