//! The figures of a run.

use std::collections::BTreeMap;

/// The figures of one run, or the sums over several.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunReport {
    /// Records that `send` accepted.
    pub accepted: u64,
    /// Accepted records that were acknowledged.
    pub acknowledged: u64,
    /// Accepted records that failed.
    pub failed: u64,
    /// Records that `send` rejected.
    pub rejected: u64,
    /// Connections that the network dropped at random.
    pub disconnects: u64,
    /// Transactions whose commit succeeded.
    pub committed: u64,
    /// Transactions that were not committed: aborted, dropped or failed.
    pub aborted: u64,
    /// Transactions of which the application does not know whether they were committed.
    pub undecided: u64,
    /// Transactional calls that failed because another producer had taken over.
    pub fenced: u64,
    /// Pushes of client metrics that the brokers received and decoded (KIP-714).
    pub metrics_pushes: u64,
    /// Every other fault, by name.
    pub faults: BTreeMap<String, u64>,
    /// Loops of the sender.
    pub rounds: u64,
    /// Virtual milliseconds from the start to the end of recovery.
    pub virtual_ms: u64,
    /// A hash of the times and results of every record: the same seed gives the same one.
    pub fingerprint: u64,
}

impl RunReport {
    /// Adds another run's figures, except for its fingerprint.
    pub fn add(&mut self, other: RunReport) {
        self.accepted += other.accepted;
        self.acknowledged += other.acknowledged;
        self.failed += other.failed;
        self.rejected += other.rejected;
        self.disconnects += other.disconnects;
        self.committed += other.committed;
        self.aborted += other.aborted;
        self.undecided += other.undecided;
        self.fenced += other.fenced;
        self.metrics_pushes += other.metrics_pushes;
        self.rounds += other.rounds;
        self.virtual_ms += other.virtual_ms;
        for (name, n) in other.faults {
            *self.faults.entry(name).or_default() += n;
        }
    }
}
