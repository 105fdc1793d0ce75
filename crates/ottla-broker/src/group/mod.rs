//! Classic consumer groups and their offsets.
//!
//! [`crate::api`] handles the requests. `classic_group` has a group's state and rebalances, `join`
//! and `membership` what requests of members change, `offsets` the committed offsets. JoinGroup and
//! SyncGroup may have to wait: `delayed` has these requests. With a data directory, `log` keeps
//! groups and offsets over a restart.

mod classic_group;
mod coordinator;
mod delayed;
mod join;
mod log;
mod membership;
mod offsets;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod coordinator_tests;

pub(crate) use classic_group::{ClassicGroup, GroupState};
pub(crate) use coordinator::GroupCoordinator;
pub(crate) use delayed::{CompletedRequests, DelayedGroupRequest};
pub(crate) use join::JoinRequest;
pub(crate) use membership::{MemberRef, SyncRequest};
pub(crate) use offsets::{CommittedOffset, GroupOffsets};
