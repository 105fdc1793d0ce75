//! Checks that a transactional batch belongs to the open transaction of its producer, before a
//! leader appends it.
//!
//! With transactions V2 the first batch adds its partition to the transaction. With V1 the leader
//! asks the coordinator whether the partition was added (KIP-890 part 1), so that a late batch
//! cannot begin a transaction that no producer ends.

use ottla_protocol::ErrorCode;
use ottla_protocol::messages::PartitionProduceData;
use ottla_protocol::record::BatchView;

use crate::api::RequestContext;
use crate::coordinators::CoordinatorType;
use crate::core::Core;
use crate::transaction::{ProducerIdAndEpoch, TRANSACTIONS_V2, TopicPartition};

/// The first version of Produce whose clients know TRANSACTION_ABORTABLE.
const ABORTABLE_VERSION: i16 = 11;
/// The first version of Produce that adds partitions to the transaction.
const ADD_PARTITION_VERSION: i16 = 12;

impl Core {
    /// Adds the partition of a batch to its producer's transaction, or verifies that it is there.
    ///
    /// # Errors
    /// The error code for the partition in the Produce response.
    pub(crate) fn join_transaction(
        &mut self,
        ctx: &RequestContext<'_>,
        transactional_id: Option<&str>,
        topic: &str,
        data: &PartitionProduceData,
    ) -> Result<(), ErrorCode> {
        // The append reports what is wrong with a batch that is not valid.
        let records = data.records.as_deref().unwrap_or_default();
        let Some(batch) = BatchView::parse(records).ok().filter(BatchView::is_transactional) else {
            return Ok(());
        };
        let Some(id) = transactional_id.filter(|id| !id.is_empty()) else {
            return Err(ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED);
        };
        let (id_of_batch, epoch) = (batch.header().producer_id, batch.header().producer_epoch);
        let leader = self.leader_partition(ctx.node, topic, data.index)?.leader_replica();
        if leader.is_some_and(|l| l.producer_state.has_ongoing_txn(id_of_batch, epoch)) {
            return Ok(());
        }
        let producer = ProducerIdAndEpoch { id: id_of_batch, epoch };
        let partition = TopicPartition { topic: topic.to_owned(), partition: data.index };
        let version = ctx.header.api_version;
        let adds_partition = version >= ADD_PARTITION_VERSION;
        if !adds_partition && !self.config.verifies_transactions {
            return Ok(());
        }
        let joined = self.coordinators.node(CoordinatorType::Transaction, id).and_then(|node| {
            if adds_partition {
                let partitions = [partition].into();
                let version = TRANSACTIONS_V2;
                self.add_partitions_to_txn(node, id, producer, &partitions, version, ctx.now)
            } else {
                self.verify_partition_in_txn(node, id, producer, &partition, ctx.now)
            }
        });
        joined.map_err(|code| to_produce_error(code, version))
    }
}

/// Returns the error code of a Produce response for an error code of the coordinator.
fn to_produce_error(code: ErrorCode, version: i16) -> ErrorCode {
    match code {
        ErrorCode::PRODUCER_FENCED => ErrorCode::INVALID_PRODUCER_EPOCH,
        ErrorCode::TRANSACTION_ABORTABLE if version < ABORTABLE_VERSION => {
            ErrorCode::INVALID_TXN_STATE
        }
        ErrorCode::CONCURRENT_TRANSACTIONS if version >= ADD_PARTITION_VERSION => code,
        // Clients before transactions V2 expect no error of a coordinator in a Produce response.
        ErrorCode::CONCURRENT_TRANSACTIONS
        | ErrorCode::NOT_COORDINATOR
        | ErrorCode::COORDINATOR_NOT_AVAILABLE
        | ErrorCode::COORDINATOR_LOAD_IN_PROGRESS => ErrorCode::NOT_ENOUGH_REPLICAS,
        other => other,
    }
}
