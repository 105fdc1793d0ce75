//! JoinGroup and SyncGroup requests that wait for other members.
//!
//! The handler adds a request and asks [`Core::try_complete`] at once. The group completes it by
//! its id.

use ottla_protocol::messages::{
    JoinGroupRequest, JoinGroupResponse, SyncGroupRequest, SyncGroupResponse,
};

use crate::api::send_response;
use crate::core::{Core, HandleResult};

/// The response to a request that could wait.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum GroupResponse {
    Join(JoinGroupResponse),
    Sync(SyncGroupResponse),
}

/// A request that waits, or whose response is there.
#[derive(Debug)]
pub(crate) struct DelayedGroupRequest {
    pub(crate) group: String,
    pub(crate) node: i32,
    pub(crate) version: i16,
    pub(crate) correlation_id: i32,
    pub(crate) response: Option<GroupResponse>,
}

/// The responses that a group has produced, by the id of their request.
#[derive(Debug, Default)]
pub(crate) struct CompletedRequests {
    responses: Vec<(u64, GroupResponse)>,
}

impl CompletedRequests {
    pub(super) fn push(&mut self, request: u64, response: GroupResponse) {
        self.responses.push((request, response));
    }

    #[cfg(test)]
    pub(super) fn take(&mut self) -> Vec<(u64, GroupResponse)> {
        std::mem::take(&mut self.responses)
    }
}

impl Core {
    /// Adds a JoinGroup or SyncGroup request and returns its id.
    pub(crate) fn delay_group_request(&mut self, request: DelayedGroupRequest) -> u64 {
        self.last_delayed_id += 1;
        self.groups.delayed.insert(self.last_delayed_id, request);
        self.last_delayed_id
    }

    /// Notes the responses that a group has produced.
    pub(super) fn complete_group_requests(&mut self, completed: CompletedRequests) {
        for (id, response) in completed.responses {
            // A request whose connection has closed is no longer there.
            if let Some(request) = self.groups.delayed.get_mut(&id) {
                request.response = Some(response);
            }
        }
    }

    /// Returns the response to a request that a group has completed.
    pub(crate) fn take_group_response(&mut self, id: u64) -> Option<HandleResult> {
        let request = self.groups.delayed.get_mut(&id)?;
        let response = request.response.take()?;
        let request = self.groups.delayed.remove(&id)?;
        let (version, correlation_id) = (request.version, request.correlation_id);
        Some(match response {
            GroupResponse::Join(mut body) => {
                if version < 7 {
                    // Null is allowed from version 7 on.
                    body.protocol_name.get_or_insert_default();
                }
                send_response::<JoinGroupRequest>(version, correlation_id, &body)
            }
            GroupResponse::Sync(body) => {
                send_response::<SyncGroupRequest>(version, correlation_id, &body)
            }
        })
    }
}
