//! The batches of the Produce requests that have no response yet (Kafka's `inFlightBatches`).
//!
//! `send.rs` inserts the batches of a request, and `responses.rs` removes them when the request
//! completes. `expiry.rs` fails those that get too old meanwhile.

use std::time::Duration;

use crate::accumulator::batch::{ClosedBatch, StampedBatch};
use crate::collections::HashMap;
use crate::time::Tick;

/// The batches of one Produce request.
#[derive(Debug)]
pub(super) struct RequestBatches {
    pub(super) node: i32,
    pub(super) batches: Vec<StampedBatch>,
}

/// The batches in flight, by the correlation id of their request.
#[derive(Debug)]
pub(super) struct InFlightBatches {
    requests: HashMap<i32, RequestBatches>,
    /// A lower bound of the time at which the next batch expires.
    next_expiry: Tick,
}

impl Default for InFlightBatches {
    fn default() -> InFlightBatches {
        InFlightBatches { requests: HashMap::default(), next_expiry: Tick::NEVER }
    }
}

impl InFlightBatches {
    pub(super) fn insert(&mut self, correlation_id: i32, node: i32, batches: Vec<StampedBatch>) {
        self.requests.insert(correlation_id, RequestBatches { node, batches });
    }

    /// Removes the batches of a request that is complete.
    pub(super) fn remove(&mut self, correlation_id: i32) -> Option<RequestBatches> {
        self.requests.remove(&correlation_id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Removes and returns all requests, by correlation id.
    pub(super) fn take_all(&mut self) -> Vec<(i32, RequestBatches)> {
        self.next_expiry = Tick::NEVER;
        let mut requests: Vec<_> = self.requests.drain().collect();
        requests.sort_unstable_by_key(|(correlation_id, _)| *correlation_id);
        requests
    }

    /// Returns all batches in no particular order, also those whose records are completed.
    pub(super) fn iter(&self) -> impl Iterator<Item = &ClosedBatch> {
        self.requests.values().flat_map(|request| &request.batches).map(|b| &b.closed)
    }

    /// Returns the batches whose records are not completed yet, in no particular order.
    fn incomplete(&self) -> impl Iterator<Item = &ClosedBatch> {
        self.iter().filter(|b| !b.is_completed())
    }

    /// Returns the numbers of the batches whose records are not completed yet.
    pub(super) fn incomplete_numbers(&self) -> impl Iterator<Item = u64> {
        self.incomplete().map(|b| b.meta.number)
    }

    /// Returns the matching batches whose records are not completed yet, in no particular order.
    pub(super) fn incomplete_mut(
        &mut self,
        matches: impl Fn(&ClosedBatch) -> bool,
    ) -> Vec<&mut ClosedBatch> {
        let batches = self.requests.values_mut().flat_map(|request| &mut request.batches);
        let incomplete = batches.map(|b| &mut b.closed).filter(|b| !b.is_completed());
        incomplete.filter(|b| matches(b)).collect()
    }

    /// Returns a lower bound of the time at which the next batch expires.
    pub(super) fn next_expiry(&self) -> Tick {
        self.next_expiry
    }

    /// Notes that a batch that is about to be inserted expires at this time.
    pub(super) fn add_expiry(&mut self, expiry: Tick) {
        self.next_expiry = self.next_expiry.min(expiry);
    }

    /// Computes the next expiry after the batches that had expired were failed.
    pub(super) fn update_next_expiry(&mut self, timeout: Duration, now: Tick) {
        let expiries = self.incomplete().map(|b| b.meta.created.after(timeout));
        self.next_expiry = expiries.filter(|at| *at > now).min().unwrap_or(Tick::NEVER);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::accumulator::batch::Stamp;
    use crate::accumulator::partition::Partition;
    use crate::delivery::result::Outcome;
    use crate::error::Error;
    use crate::sender::producer_state::tests::closed_batch;

    fn batch(p: &Arc<Partition>, number: u64, created: u64) -> StampedBatch {
        let mut closed = closed_batch(p, number, 1);
        closed.meta.created = Tick(created);
        closed.stamp(Stamp::NONE)
    }

    #[test]
    fn next_expiry_is_that_of_the_oldest_incomplete_batch() {
        let p = Arc::new(Partition::new("t".into(), 0, 7, Default::default()));
        let timeout = Duration::from_nanos(100);
        let mut in_flight = InFlightBatches::default();
        assert_eq!((in_flight.next_expiry(), in_flight.is_empty()), (Tick::NEVER, true));
        for (id, created) in [(5, 10), (6, 20), (7, 30)] {
            in_flight.add_expiry(Tick(created).after(timeout));
            in_flight.insert(id, 1, vec![batch(&p, id as u64, created)]);
        }
        assert_eq!(in_flight.next_expiry(), Tick(110));
        let now = Tick(110);
        for expired in in_flight.incomplete_mut(|b| b.meta.created.after(timeout) <= now) {
            assert_eq!(expired.meta.number, 5);
            expired.complete(Outcome::Failed(Error::closed()));
        }
        in_flight.update_next_expiry(timeout, now);
        assert_eq!(in_flight.next_expiry(), Tick(120));
        let mut numbers: Vec<u64> = in_flight.incomplete_numbers().collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [6, 7]);
        // A completed batch stays in flight: the socket may still read its buffer.
        assert_eq!(in_flight.remove(5).map(|r| (r.node, r.batches.len())), Some((1, 1)));
        let rest: Vec<i32> = in_flight.take_all().into_iter().map(|(id, _)| id).collect();
        assert_eq!((rest, in_flight.is_empty()), (vec![6, 7], true));
        assert_eq!(in_flight.next_expiry(), Tick::NEVER);
    }
}
