//! Tests of a group's rebalances, one member's request at a time.

use std::collections::BTreeMap;

use bytes::Bytes;
use ottla_protocol::ErrorCode;
use ottla_protocol::messages::{JoinGroupRequestProtocol, JoinGroupResponse};

use super::delayed::{CompletedRequests, GroupResponse};
use super::*;

/// A group, the time, and the responses that are not read yet.
#[derive(Default)]
struct GroupFixture {
    group: ClassicGroup,
    out: CompletedRequests,
    responses: BTreeMap<u64, GroupResponse>,
    now_ms: u64,
    last_request: u64,
}

const SESSION_MS: u64 = 10_000;
const REBALANCE_MS: u64 = 30_000;

fn protocol(name: &str, metadata: &'static str) -> JoinGroupRequestProtocol {
    JoinGroupRequestProtocol {
        name: name.into(),
        metadata: Bytes::from_static(metadata.as_bytes()),
        ..Default::default()
    }
}

impl GroupFixture {
    fn request(&mut self, member_id: &str, instance_id: Option<&str>) -> JoinRequest {
        self.last_request += 1;
        JoinRequest {
            request: self.last_request,
            member_id: member_id.into(),
            instance_id: instance_id.map(str::to_owned),
            client_id: "c".into(),
            protocol_type: "consumer".into(),
            protocols: vec![protocol("range", "t")],
            session_timeout_ms: SESSION_MS,
            rebalance_timeout_ms: REBALANCE_MS,
            requires_known_id: true,
            supports_skipping: true,
            new_member_id: format!("m{}", self.last_request),
            initial_delay_ms: 0,
        }
    }

    fn join(&mut self, request: JoinRequest) -> u64 {
        let id = request.request;
        self.group.join(request, self.now_ms, &mut self.out);
        self.responses.extend(self.out.take());
        id
    }

    /// Joins as a new member, in the two steps of KIP-394, and returns its id and request.
    fn join_new(&mut self) -> (String, u64) {
        let request = self.request("", None);
        let first = self.join(request);
        let assigned = self.joined(first).unwrap();
        assert_eq!(ErrorCode(assigned.error_code), ErrorCode::MEMBER_ID_REQUIRED);
        let request = self.request(&assigned.member_id, None);
        (assigned.member_id, self.join(request))
    }

    fn rejoin(&mut self, member_id: &str) -> u64 {
        let request = self.request(member_id, None);
        self.join(request)
    }

    /// Returns the response to a JoinGroup; `None` while it waits.
    fn joined(&mut self, request: u64) -> Option<JoinGroupResponse> {
        match self.responses.remove(&request)? {
            GroupResponse::Join(r) => Some(r),
            GroupResponse::Sync(_) => panic!("not a JoinGroup"),
        }
    }

    fn sync(&mut self, id: &str, generation: i32, assignments: &[(&str, &'static str)]) -> u64 {
        self.sync_as(MemberRef::new(id, None, generation), assignments)
    }

    fn sync_as(&mut self, member: MemberRef<'_>, assignments: &[(&str, &'static str)]) -> u64 {
        self.sync_with_protocol(member, (None, None), assignments)
    }

    fn sync_with_protocol(
        &mut self,
        member: MemberRef<'_>,
        (protocol_type, protocol): (Option<&str>, Option<&str>),
        assignments: &[(&str, &'static str)],
    ) -> u64 {
        self.last_request += 1;
        let assignments = assignments
            .iter()
            .map(|(id, a)| ((*id).to_owned(), Bytes::from_static(a.as_bytes())))
            .collect();
        let request = self.last_request;
        let sync = SyncRequest { request, member, protocol_type, protocol, assignments };
        self.group.sync(sync, self.now_ms, &mut self.out);
        self.responses.extend(self.out.take());
        self.last_request
    }

    /// Returns the assignment or error of a SyncGroup; `None` while it waits.
    fn synced(&mut self, request: u64) -> Option<Result<Bytes, ErrorCode>> {
        match self.responses.remove(&request)? {
            GroupResponse::Sync(r) if r.error_code == 0 => Some(Ok(r.assignment)),
            GroupResponse::Sync(r) => Some(Err(ErrorCode(r.error_code))),
            GroupResponse::Join(_) => panic!("not a SyncGroup"),
        }
    }

    fn heartbeat(&mut self, id: &str, generation: i32) -> Result<(), ErrorCode> {
        self.group.heartbeat(MemberRef::new(id, None, generation), self.now_ms)
    }

    fn advance(&mut self, ms: u64) {
        self.now_ms += ms;
        self.group.tick(self.now_ms, &mut self.out);
        self.responses.extend(self.out.take());
        assert!(
            self.group.next_deadline().is_none_or(|at| at > self.now_ms),
            "a deadline that has passed would keep the broker busy"
        );
    }

    /// Brings two members into generation 2 and returns their ids.
    fn with_two_members() -> (GroupFixture, String, String) {
        let mut g = GroupFixture::default();
        let (a, _) = g.join_new();
        let (b, joined_b) = g.join_new();
        let joined_a = g.rejoin(&a);
        assert_eq!(g.joined(joined_a).unwrap().generation_id, 2);
        assert_eq!(g.joined(joined_b).unwrap().generation_id, 2);
        g.sync(&b, 2, &[]);
        g.sync(&a, 2, &[(&a, "p0"), (&b, "p1")]);
        assert_eq!(g.group.state, GroupState::Stable);
        g.responses.clear();
        (g, a, b)
    }
}

#[test]
fn first_member_leads_and_followers_wait_for_its_assignment() {
    let mut g = GroupFixture::default();
    let (a, joined) = g.join_new();
    let first = g.joined(joined).unwrap();
    assert_eq!((first.generation_id, first.leader == a, first.members.len()), (1, true, 1));
    let (b, joined_b) = g.join_new();
    assert!(g.joined(joined_b).is_none(), "a has to join again");
    assert_eq!(g.heartbeat(&a, 1), Err(ErrorCode::REBALANCE_IN_PROGRESS));
    let joined_a = g.rejoin(&a);
    let (of_a, of_b) = (g.joined(joined_a).unwrap(), g.joined(joined_b).unwrap());
    assert_eq!((of_a.members.len(), of_b.members.len()), (2, 0), "only the leader gets members");
    assert_eq!((of_b.leader, of_b.protocol_name), (a.clone(), Some("range".to_owned())));
    let sync_b = g.sync(&b, 2, &[]);
    assert!(g.synced(sync_b).is_none());
    let sync_a = g.sync(&a, 2, &[(&a, "p0"), (&b, "p1")]);
    assert_eq!(g.synced(sync_a), Some(Ok("p0".into())));
    assert_eq!(g.synced(sync_b), Some(Ok("p1".into())));
    let again = g.sync(&b, 2, &[]);
    assert_eq!(g.synced(again), Some(Ok("p1".into())), "a repeated request gets it again");
    assert_eq!(g.heartbeat(&b, 2), Ok(()));
}

#[test]
fn member_without_heartbeats_is_removed_and_the_others_rebalance() {
    let (mut g, a, b) = GroupFixture::with_two_members();
    g.advance(SESSION_MS - 1);
    assert_eq!(g.heartbeat(&a, 2), Ok(()));
    g.advance(1);
    assert_eq!(g.heartbeat(&b, 2), Err(ErrorCode::UNKNOWN_MEMBER_ID));
    assert_eq!(g.heartbeat(&a, 2), Err(ErrorCode::REBALANCE_IN_PROGRESS));
    let joined = g.rejoin(&a);
    assert_eq!(g.joined(joined).unwrap().generation_id, 3);
}

#[test]
fn rebalance_ends_without_members_that_do_not_join_in_time() {
    let (mut g, a, b) = GroupFixture::with_two_members();
    let (c, joined_c) = g.join_new();
    let joined_b = g.rejoin(&b);
    for _ in 0..5 {
        // Heartbeats keep the session of a, but it does not join.
        g.advance(REBALANCE_MS / 5 - 1);
        assert_eq!(g.heartbeat(&a, 2), Err(ErrorCode::REBALANCE_IN_PROGRESS));
    }
    assert!(g.joined(joined_b).is_none());
    g.advance(5);
    let of_b = g.joined(joined_b).unwrap();
    assert_eq!((of_b.generation_id, of_b.leader), (3, c), "c joined first without the old leader");
    assert!(g.joined(joined_c).is_some() && g.group.members.len() == 2);
    assert_eq!(g.heartbeat(&a, 2), Err(ErrorCode::UNKNOWN_MEMBER_ID));
}

#[test]
fn member_that_leaves_starts_a_rebalance_and_the_last_one_empties_the_group() {
    let (mut g, a, b) = GroupFixture::with_two_members();
    let now_ms = g.now_ms;
    assert_eq!(g.group.leave(&a, None, now_ms, &mut g.out), Ok(()));
    assert_eq!(g.group.leave(&a, None, now_ms, &mut g.out), Err(ErrorCode::UNKNOWN_MEMBER_ID));
    assert_eq!(g.heartbeat(&b, 2), Err(ErrorCode::REBALANCE_IN_PROGRESS));
    assert_eq!(g.group.leave(&b, None, now_ms, &mut g.out), Ok(()));
    assert_eq!((g.group.state, g.group.next_deadline()), (GroupState::Empty, None));
}

#[test]
fn waiting_sync_fails_when_a_member_joins() {
    let (mut g, a, b) = GroupFixture::with_two_members();
    let (_, joined_c) = g.join_new();
    let (joined_a, joined_b) = (g.rejoin(&a), g.rejoin(&b));
    assert!([joined_a, joined_b, joined_c].into_iter().all(|r| g.joined(r).is_some()));
    let waiting = g.sync(&b, 3, &[]);
    g.join_new();
    assert_eq!(g.synced(waiting), Some(Err(ErrorCode::REBALANCE_IN_PROGRESS)));
    let late = g.sync(&a, 3, &[]);
    assert_eq!(g.synced(late), Some(Err(ErrorCode::REBALANCE_IN_PROGRESS)));
}

#[test]
fn requests_of_other_members_and_generations_are_rejected() {
    let (mut g, a, _) = GroupFixture::with_two_members();
    assert_eq!(g.heartbeat(&a, 1), Err(ErrorCode::ILLEGAL_GENERATION));
    assert_eq!(g.heartbeat("x", 2), Err(ErrorCode::UNKNOWN_MEMBER_ID));
    let request = g.sync(&a, 1, &[]);
    assert_eq!(g.synced(request), Some(Err(ErrorCode::ILLEGAL_GENERATION)));
    let joined = g.rejoin("x");
    assert_eq!(ErrorCode(g.joined(joined).unwrap().error_code), ErrorCode::UNKNOWN_MEMBER_ID);
    let inconsistent = ErrorCode::INCONSISTENT_GROUP_PROTOCOL;
    for (protocol_type, protocols) in [
        ("consumer", vec![protocol("other", "t")]),
        ("connect", vec![protocol("range", "t")]),
        ("consumer", vec![]),
        ("", vec![protocol("range", "t")]),
    ] {
        let mut request = g.request("", None);
        (request.protocol_type, request.protocols) = (protocol_type.to_owned(), protocols);
        let joined = g.join(request);
        assert_eq!(ErrorCode(g.joined(joined).unwrap().error_code), inconsistent);
    }
}

// KIP-559.
#[test]
fn sync_of_an_old_generation_is_that_even_if_it_names_another_assignor() {
    let (mut g, a, _) = GroupFixture::with_two_members();
    let cases = [
        (2, (Some("consumer"), Some("range")), Ok("p0".into())),
        (2, (None, Some("other")), Err(ErrorCode::INCONSISTENT_GROUP_PROTOCOL)),
        (2, (Some("connect"), None), Err(ErrorCode::INCONSISTENT_GROUP_PROTOCOL)),
        (1, (Some("consumer"), Some("other")), Err(ErrorCode::ILLEGAL_GENERATION)),
    ];
    for (generation, protocol, expected) in cases {
        let member = MemberRef::new(&a, None, generation);
        let request = g.sync_with_protocol(member, protocol, &[]);
        assert_eq!(g.synced(request), Some(expected));
    }
}

#[test]
fn common_assignor_with_the_most_votes_is_selected() {
    let mut g = GroupFixture::default();
    for protocols in [["x", "y"], ["y", "x"], ["y", "x"]] {
        let mut request = g.request("", None);
        request.requires_known_id = false;
        request.initial_delay_ms = 100;
        request.protocols = protocols.iter().map(|p| protocol(p, "t")).collect();
        g.join(request);
    }
    assert!(g.responses.is_empty(), "the first rebalance waits for more members");
    g.advance(100);
    let names = g.responses.values().map(|r| match r {
        GroupResponse::Join(r) => r.protocol_name.clone().unwrap(),
        GroupResponse::Sync(_) => panic!("not a JoinGroup"),
    });
    assert_eq!(names.collect::<Vec<_>>(), ["y", "y", "y"]);
}

// KIP-345.
#[test]
fn static_member_that_restarts_keeps_its_assignment_and_fences_its_old_id() {
    let mut g = GroupFixture::default();
    let request = g.request("", Some("i1"));
    let joined = g.join(request);
    let old = g.joined(joined).unwrap().member_id;
    let member = MemberRef::new(&old, Some("i1"), 1);
    g.sync_as(member, &[(&old, "p0")]);
    let request = g.request("", Some("i1"));
    let joined = g.join(request);
    let response = g.joined(joined).unwrap();
    assert_eq!((response.error_code, response.generation_id), (0, 1), "there is no rebalance");
    assert!(response.skip_assignment && response.member_id != old);
    assert_eq!(response.leader, response.member_id);
    let fenced = Err(ErrorCode::FENCED_INSTANCE_ID);
    assert_eq!(g.group.check_member(&old, Some("i1")), fenced);
    assert_eq!(g.group.check_member("x", Some("i2")), Err(ErrorCode::UNKNOWN_MEMBER_ID));
    let now_ms = g.now_ms;
    assert_eq!(g.group.leave("", Some("i1"), now_ms, &mut g.out), Ok(()));
    assert!(g.group.members.is_empty());
}

#[test]
fn first_rebalance_waits_for_more_members_and_later_ones_do_not() {
    let mut g = GroupFixture::default();
    let join = |g: &mut GroupFixture, id: &str| {
        let request = JoinRequest { initial_delay_ms: 3_000, ..g.request(id, None) };
        g.join(JoinRequest { requires_known_id: false, ..request })
    };
    let first = join(&mut g, "");
    assert_eq!(g.joined(first), None);
    g.advance(1_000);
    let second = join(&mut g, "");
    assert_eq!(g.joined(second), None);
    assert_eq!(g.group.next_deadline(), Some(3_000));
    g.advance(2_000);
    let members: Vec<String> = [first, second]
        .map(|request| g.joined(request).unwrap())
        .map(|joined| (joined.generation_id == 1).then_some(joined.member_id).unwrap())
        .to_vec();
    let again = members.iter().map(|id| join(&mut g, id)).collect::<Vec<_>>();
    assert!(again.iter().all(|request| g.joined(*request).is_some()));
}

#[test]
fn pending_member_expires_and_does_not_hold_up_the_rebalance() {
    let mut g = GroupFixture::default();
    let request = g.request("", None);
    let first = g.join(request);
    let pending = g.joined(first).unwrap().member_id;
    let request = g.request("", None);
    let second = g.join(request);
    let id = g.joined(second).unwrap().member_id;
    g.now_ms += 1;
    let joined = g.rejoin(&id);
    assert!(g.joined(joined).is_none(), "the other member may still join");
    g.advance(SESSION_MS);
    assert_eq!(g.joined(joined).unwrap().generation_id, 1);
    let late = g.rejoin(&pending);
    assert_eq!(ErrorCode(g.joined(late).unwrap().error_code), ErrorCode::UNKNOWN_MEMBER_ID);
}

// KIP-345.
#[test]
fn static_member_that_restarts_gets_its_new_settings() {
    let mut g = GroupFixture::default();
    let request = g.request("", Some("i1"));
    let joined = g.join(request);
    let old = g.joined(joined).unwrap().member_id;
    g.sync_as(MemberRef::new(&old, Some("i1"), 1), &[]);
    let request = JoinRequest {
        client_id: "new".into(),
        session_timeout_ms: 2 * SESSION_MS,
        rebalance_timeout_ms: 2 * REBALANCE_MS,
        ..g.request("", Some("i1"))
    };
    let joined = g.join(request);
    let response = g.joined(joined).unwrap();
    assert_eq!(response.generation_id, 1, "there is no rebalance");
    let member = &g.group.members[&response.member_id];
    assert_eq!((&*member.client_id, member.rebalance_timeout_ms), ("new", 2 * REBALANCE_MS));
    assert_eq!(g.group.heartbeat(MemberRef::new(&response.member_id, None, 1), 0), Ok(()));
    g.advance(2 * SESSION_MS - 1);
    assert_eq!(g.heartbeat(&response.member_id, 1), Ok(()));
    g.advance(2 * SESSION_MS);
    assert!(g.group.members.is_empty());
}

// KIP-345.
#[test]
fn static_leader_that_does_not_join_again_is_replaced() {
    let mut g = GroupFixture::default();
    let long_session = |r: JoinRequest| JoinRequest { session_timeout_ms: 10 * REBALANCE_MS, ..r };
    let request = long_session(g.request("", Some("i1")));
    let joined = g.join(request);
    let old = g.joined(joined).unwrap().member_id;
    let request = long_session(g.request("", Some("i2")));
    let joined = g.join(request);
    assert!(g.joined(joined).is_none(), "the leader may still join");
    g.advance(REBALANCE_MS);
    let response = g.joined(joined).unwrap();
    assert_eq!((response.generation_id, response.members.len()), (2, 2), "i1 is still a member");
    let new = response.member_id;
    assert_eq!(response.leader, new);
    let member = MemberRef::new(&new, Some("i2"), 2);
    let synced = g.sync_as(member, &[(&old, "p0"), (&new, "p1")]);
    assert_eq!(g.synced(synced), Some(Ok("p1".into())));
}

/// Brings two members into generation 3, in which neither has sent SyncGroup.
fn before_sync() -> (GroupFixture, String, String) {
    let (mut g, a, b) = GroupFixture::with_two_members();
    let (joined_a, joined_b) = (g.rejoin(&a), g.rejoin(&b));
    assert!(g.joined(joined_a).is_some() && g.joined(joined_b).is_some());
    (g, a, b)
}

/// Lets the rebalance timeout pass while both members send heartbeats.
fn advance_with_heartbeats(g: &mut GroupFixture, members: [&str; 2]) {
    for _ in 0..5 {
        assert_eq!(members.map(|id| g.heartbeat(id, 3)), [Ok(()); 2]);
        g.advance(REBALANCE_MS / 5);
    }
}

#[test]
fn leader_that_does_not_send_sync_in_time_is_removed() {
    let (mut g, a, b) = before_sync();
    let waiting = g.sync(&b, 3, &[]);
    advance_with_heartbeats(&mut g, [&a, &b]);
    assert_eq!(g.synced(waiting), Some(Err(ErrorCode::REBALANCE_IN_PROGRESS)));
    assert_eq!(g.heartbeat(&a, 3), Err(ErrorCode::UNKNOWN_MEMBER_ID));
    let joined = g.rejoin(&b);
    let response = g.joined(joined).unwrap();
    assert_eq!((response.generation_id, response.leader), (4, b));
}

#[test]
fn follower_that_does_not_send_sync_in_time_is_removed_from_a_stable_group() {
    let (mut g, a, b) = before_sync();
    g.sync(&a, 3, &[(&a, "p0"), (&b, "p1")]);
    assert_eq!(g.group.state, GroupState::Stable);
    advance_with_heartbeats(&mut g, [&a, &b]);
    assert_eq!(g.heartbeat(&b, 3), Err(ErrorCode::UNKNOWN_MEMBER_ID));
    assert_eq!(g.heartbeat(&a, 3), Err(ErrorCode::REBALANCE_IN_PROGRESS));
}

#[test]
fn members_that_have_sent_sync_have_no_further_deadline_but_their_session() {
    let (mut g, a, b) = before_sync();
    g.sync(&a, 3, &[(&a, "p0"), (&b, "p1")]);
    g.sync(&b, 3, &[]);
    advance_with_heartbeats(&mut g, [&a, &b]);
    assert_eq!([&a, &b].map(|id| g.heartbeat(id, 3)), [Ok(()); 2]);
    assert_eq!(g.group.state, GroupState::Stable);
}

#[test]
fn generations_count_from_1_again_after_the_highest_one() {
    let (mut g, a, b) = GroupFixture::with_two_members();
    g.group.generation = i32::MAX - 2;
    for expected in [i32::MAX - 1, 1] {
        let (joined_a, joined_b) = (g.rejoin(&a), g.rejoin(&b));
        assert_eq!(g.joined(joined_a).unwrap().generation_id, expected);
        assert_eq!(g.joined(joined_b).unwrap().generation_id, expected);
        g.sync(&a, expected, &[]);
    }
}
