//! The requests and responses, one file for each API.

/// Connects a request type with its API key and response type.
macro_rules! impl_request {
    ($req:ident => $resp:ident, $key:ident) => {
        impl crate::api::Request for $req {
            const KEY: crate::api::ApiKey = crate::api::ApiKey::$key;
            type Response = $resp;
        }
    };
}

mod produce;
mod fetch;
mod list_offsets;
mod metadata;
mod offset_commit;
mod offset_fetch;
mod find_coordinator;
mod join_group;
mod heartbeat;
mod leave_group;
mod sync_group;
mod describe_groups;
mod list_groups;
mod sasl_handshake;
mod api_versions;
mod create_topics;
mod delete_topics;
mod init_producer_id;
mod offset_for_leader_epoch;
mod add_partitions_to_txn;
mod add_offsets_to_txn;
mod end_txn;
mod write_txn_markers;
mod txn_offset_commit;
mod describe_configs;
mod sasl_authenticate;
mod create_partitions;
mod describe_quorum;
mod describe_cluster;
mod telemetry;

pub use add_offsets_to_txn::*;
pub use add_partitions_to_txn::*;
pub use api_versions::*;
pub use create_partitions::*;
pub use create_topics::*;
pub use delete_topics::*;
pub use describe_cluster::*;
pub use describe_configs::*;
pub use describe_groups::*;
pub use describe_quorum::*;
pub use end_txn::*;
pub use fetch::*;
pub use find_coordinator::*;
pub use heartbeat::*;
pub use init_producer_id::*;
pub use join_group::*;
pub use leave_group::*;
pub use list_groups::*;
pub use list_offsets::*;
pub use metadata::*;
pub use offset_commit::*;
pub use offset_fetch::*;
pub use offset_for_leader_epoch::*;
pub use produce::*;
pub use sasl_authenticate::*;
pub use sasl_handshake::*;
pub use sync_group::*;
pub use telemetry::*;
pub use txn_offset_commit::*;
pub use write_txn_markers::*;
