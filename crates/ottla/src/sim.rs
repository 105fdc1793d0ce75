//! The seam for simulations: a producer over a virtual machine, its sender driven by hand. No promise of any
//! kind is made about this module.

use std::sync::Arc;

#[cfg(ottla_injected_bugs)]
pub use crate::injected_bugs::inject;
pub use crate::injected_bugs::{INJECTED_BUGS, InjectedBug};
pub use crate::network::io::simulated::{ClientInput, Faults, Link, SimMachine, SimStream};
pub use crate::network::io::{ChannelKey, Io, Job, JobResult, Readiness, Stream};
pub use crate::time::{Env, Tick, Wakeup};

use crate::error::Error;
use crate::producer::{Producer, ProducerBuilder};
use crate::sender::Sender;

/// What the types of batches forbid, shown where it does not compile.
///
/// Records of a closed batch can be read by as many as like:
/// ```
/// fn read(batch: &ottla::sim::types::ClosedBatch) -> bytes::Bytes { batch.records().clone() }
/// ```
/// and written by nobody, whatever has become of the batch (KAFKA-19012 was a buffer written again while a socket
/// still read it):
/// ```compile_fail,E0594
/// fn write(batch: &mut ottla::sim::types::ClosedBatch) { batch.records()[0] = 1; }
/// ```
/// A batch that was closed takes no record any more; closing has consumed it:
/// ```compile_fail,E0382
/// fn close_twice(batch: ottla::sim::types::OpenBatch) {
///     let first = batch.close(None);
///     let second = batch.close(None);
/// }
/// ```
/// Memory is given back by the one owner of a buffer, once; there is no second:
/// ```compile_fail,E0382
/// fn twice(buffer: ottla::sim::types::PooledBuf) { drop(buffer); drop(buffer); }
/// ```
pub mod types {
    pub use crate::accumulator::batch::{ClosedBatch, OpenBatch};
    pub use crate::accumulator::buffer_pool::PooledBuf;
}

/// A sender that somebody else drives.
pub struct SimSender(Sender<SimMachine>);

impl std::fmt::Debug for SimSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimSender")
    }
}

/// A producer on a virtual machine, and its sender.
///
/// # Errors
/// Those of [`ProducerBuilder::build`].
pub fn build(
    mut builder: ProducerBuilder,
    machine: &SimMachine,
) -> Result<(Producer, SimSender), Error> {
    let config = builder.config()?;
    let (handle, sender) = builder.assemble(config, Arc::new(machine.clone()), machine.clone())?;
    Ok((Producer::from_inner(handle), SimSender(sender)))
}

/// What is left of `buffer.memory`, below zero while a debt is open.
pub fn memory_balance(producer: &Producer) -> i64 {
    producer.memory_balance()
}

impl SimSender {
    /// Everything up to the wait; until when that may take.
    pub fn send_producer_data(&mut self) -> Tick {
        let until = self.0.send_producer_data();
        self.0.check_invariants();
        until.min(self.0.poll_deadline())
    }

    /// Ends everything at once, as the end of the process would.
    pub fn abort(&mut self) {
        self.0.shut_down(&Error::closed());
    }

    /// Sees to what has happened since. False once everything is over.
    pub fn poll_and_handle(&mut self) -> bool {
        self.0.poll_and_handle(Tick(0))
    }
}
