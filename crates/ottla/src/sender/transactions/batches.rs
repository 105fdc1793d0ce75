//! The batches of a transaction: those that fail it, and those that it leaves behind.

use crate::error::{Error, ErrorKind};
use crate::injected_bugs::inject_bug;
use crate::network::io::Io;
use crate::sender::Sender;
use crate::wakeup::transaction_call::TransactionCall;

/// The last Produce version of brokers that know no version 2 of transactions, and the first with
/// it: a broker takes a higher version as the client's promise to use version 2 (KIP-890).
const LAST_PRODUCE_VERSION_BEFORE_V2: i16 = 11;

impl<I: Io> Sender<I> {
    /// Handles a transactional call.
    pub(in crate::sender) fn handle_transaction_call(&mut self, call: TransactionCall) {
        let Some(manager) = &self.producer_state.transactions else {
            let message = "the producer is not transactional: set transactional.id";
            return call.fail(&Error::new(ErrorKind::InvalidTransactionState, message));
        };
        // Records that were sent while another thread ended the last transaction must not become
        // part of the next one.
        if matches!(call, TransactionCall::Begin(_)) && !manager.accepts_batches() {
            let error = manager.unsent_batch_error();
            self.fail_unsent_batches(&error);
        }
        let is_version_2 = self.client.is_transaction_version_2();
        if let Some(manager) = &mut self.producer_state.transactions {
            manager.set_version_2(is_version_2);
            manager.handle_call(call);
        }
        self.mark_changed_transactions();
    }

    /// Fails the transaction because of a record that was not delivered. Does nothing if the
    /// producer is not transactional.
    pub(in crate::sender) fn fail_transaction(&mut self, error: &Error) {
        if let Some(manager) = &mut self.producer_state.transactions
            && inject_bug!(LostRecordIgnored, true)
        {
            manager.fail_transaction(error);
        }
        self.mark_changed_transactions();
    }

    /// Fails the transaction because partitions have lost sequences.
    pub(in crate::sender) fn lose_transaction_sequences(&mut self) {
        if !self.producer_state.take_lost_sequences() {
            return;
        }
        let message = "sequences of the transaction are lost: a batch failed, or its topic was \
                       created again";
        if let Some(manager) = &mut self.producer_state.transactions {
            manager.lose_sequences(&Error::new(ErrorKind::TransactionFailed, message));
        }
        self.mark_changed_transactions();
    }

    /// Aborts an open transaction, because the producer closes. Returns whether another round is
    /// needed for it.
    pub(in crate::sender) fn abandon_transaction(&mut self) -> bool {
        let Some(manager) = &mut self.producer_state.transactions else { return false };
        manager.abandon();
        self.mark_changed_transactions()
    }

    /// Fails the batches that were never sent. Returns whether there were any.
    pub(super) fn fail_unsent_batches(&mut self, error: &Error) -> bool {
        let removed = self.ready.remove_unsent();
        let had_unsent = !removed.is_empty();
        self.fail_batches(removed, |_| false, |_, _| error.clone());
        had_unsent
    }

    /// Lets the ready tracker evaluate all partitions again after a change of the transaction.
    /// Returns whether there was one.
    pub(super) fn mark_changed_transactions(&mut self) -> bool {
        let transactions = &mut self.producer_state.transactions;
        let has_changed = transactions.as_mut().is_some_and(|t| t.take_changed());
        if has_changed {
            self.ready.mark_all_dirty();
        }
        has_changed
    }

    /// Limits the versions of a Produce request to those of the transaction's version.
    pub(in crate::sender) fn transaction_produce_versions(&self, min: i16, max: i16) -> (i16, i16) {
        match &self.producer_state.transactions {
            None => (min, max),
            Some(t) if t.is_version_2() => (LAST_PRODUCE_VERSION_BEFORE_V2 + 1, max),
            Some(_) => (min, max.min(LAST_PRODUCE_VERSION_BEFORE_V2)),
        }
    }
}
