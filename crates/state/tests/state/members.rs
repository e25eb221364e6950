//! What the state machine knows of members.

use std::collections::BTreeSet;

use raftmap_raft::{LogIndex, Membership, NodeId, Payload};
use raftmap_state::{Answer, Body, Introduction, Member, Refusal};

use crate::common::{Server, introduction, timeless};

#[test]
fn members_are_recorded_once_and_contradictions_are_refused() {
    let mut server = Server::in_memory();
    let member = |id, incarnation, founding_hash| Member { node_id: NodeId(id), incarnation, founding_hash };
    let mut record = |member| server.run(&timeless(Body::RecordMember(member)));
    assert_eq!(record(member(2, 20, 7)), Ok(Answer::Done));
    assert_eq!(record(member(1, 10, 7)), Ok(Answer::Done));
    assert_eq!(record(member(2, 20, 7)), Ok(Answer::Done), "again");
    let refused = |id| Err(Refusal::MemberMismatch { node_id: NodeId(id) });
    assert_eq!(record(member(2, 21, 7)), refused(2), "a wiped disk under a known id");
    assert_eq!(record(member(2, 20, 8)), refused(2), "another founding");
    assert_eq!(record(member(3, 30, 8)), refused(3), "a stranger of another cluster");
    let reader = server.machine.reader();
    assert_eq!(reader.members().unwrap(), [member(1, 10, 7), member(2, 20, 7)]);
    assert_eq!(reader.member(NodeId(2)).unwrap(), Some(member(2, 20, 7)));
    assert_eq!(reader.member(NodeId(3)).unwrap(), None);
}

fn introduce(server: &mut Server<impl raftmap_state::Engine>, introduction: Introduction) {
    let answer = server.run(&timeless(Body::IntroduceMember(introduction)));
    assert_eq!(answer, Ok(Answer::Done));
}

#[test]
fn of_what_was_said_of_a_member_the_latest_holds() {
    let mut server = Server::in_memory();
    introduce(&mut server, introduction(4, Some(2)));
    introduce(&mut server, introduction(3, None));
    let moved = Introduction { client_address: "b:2".to_owned(), ..introduction(4, None) };
    introduce(&mut server, moved.clone());
    let reader = server.machine.reader();
    assert_eq!(reader.introductions().unwrap(), (LogIndex(3), vec![introduction(3, None), moved]));
}

/// Scenario 38: the id of a server that was removed is never used again.
#[test]
fn who_goes_is_remembered_and_where_it_was_is_not() {
    let ids = |ids: &[u64]| ids.iter().copied().map(NodeId).collect::<BTreeSet<_>>();
    let change = |server: &mut Server<_>, voters: &[u64], outgoing: &[u64], learners: &[u64]| {
        let (voters, voters_outgoing, learners) = (ids(voters), ids(outgoing), ids(learners));
        server.append(Payload::Membership(Box::new(Membership { voters, voters_outgoing, learners })));
        server.catch_up(1);
    };
    let mut server = Server::in_memory();
    introduce(&mut server, introduction(4, Some(2)));
    change(&mut server, &[1, 2, 3], &[], &[4]);
    change(&mut server, &[1, 3, 4], &[1, 2, 3], &[]);
    assert_eq!(server.machine.reader().removed().unwrap(), [], "both sets of voters are in force");
    change(&mut server, &[1, 3, 4], &[], &[]);
    assert_eq!(server.machine.reader().removed().unwrap(), [NodeId(2)]);
    assert_eq!(
        server.machine.reader().introductions().unwrap(),
        (LogIndex(1), vec![introduction(4, Some(2))])
    );

    change(&mut server, &[1, 3], &[1, 3, 4], &[]);
    change(&mut server, &[1, 3], &[], &[]);
    introduce(&mut server, introduction(4, None));
    assert_eq!(server.machine.reader().removed().unwrap(), [NodeId(2), NodeId(4)]);
    assert_eq!(
        server.machine.reader().introductions().unwrap(),
        (LogIndex(0), vec![]),
        "it does not come back"
    );
}
