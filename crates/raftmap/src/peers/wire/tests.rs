use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use raftmap_raft::{
    Append, AppendReply, AppendResult, Body, DamageId, Entry, Heartbeat, HeartbeatReply, LogPosition,
    Membership, Message, Outcome, Payload, ReadIndex, ReadIndexReply, Repair, SnapshotOffer, VoteReply,
    VoteRequest,
};
use raftmap_replica::{Failure, Forward, ForwardReply, Reason, StateDigest};
use raftmap_state::{
    Answer, DeleteAnswer, Member, OperationResult, PutAnswer, Record, Refusal, SessionId, SessionOpened,
    TxnAnswer,
};

use super::*;

const BYTES_MAX: usize = 8 << 20;

fn round_trip(frame: Frame) -> Result<Frame, WireError> {
    let bytes = frame.encode(BYTES_MAX).unwrap();
    Frame::decode(bytes.slice(HEADER_SIZE..), BYTES_MAX)
}

fn index() -> impl Strategy<Value = LogIndex> {
    (0..NUMBER_END).prop_map(LogIndex)
}

fn term() -> impl Strategy<Value = Term> {
    (0..NUMBER_END).prop_map(Term)
}

fn node_id() -> impl Strategy<Value = NodeId> {
    (1..=u64::MAX).prop_map(NodeId)
}

fn position() -> impl Strategy<Value = LogPosition> {
    (term(), index()).prop_map(|(term, index)| LogPosition { term, index })
}

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..64).prop_map(Bytes::from)
}

fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        Just(Payload::Noop),
        bytes().prop_map(Payload::Command),
        vec(1..9u64, 0..5).prop_map(|ids| Payload::Membership(Box::new(Membership::of_voters(
            ids.into_iter().map(NodeId)
        )))),
    ]
}

/// Entries that follow `prev`, and the term of their sender.
fn append() -> impl Strategy<Value = Message> {
    let entries = vec((0..3u64, payload()), 0..8);
    ((0..1u64 << 40, 0..1u64 << 40), entries, index(), 0..NUMBER_END, 0..5u64).prop_map(
        |((prev_term, prev_index), entries, commit, round, ahead)| {
            let prev = LogPosition { term: Term(prev_term), index: LogIndex(prev_index) };
            let mut last = prev;
            let follow = |(step, payload)| {
                last = LogPosition { term: Term(last.term.0 + step), index: last.index.next() };
                Entry { term: last.term, index: last.index, payload }
            };
            let entries = entries.into_iter().map(follow).collect();
            let term = Term(last.term.0 + ahead);
            Message { term, body: Body::Append(Append { prev, entries, commit, round }) }
        },
    )
}

fn raft_message() -> impl Strategy<Value = Message> {
    let result = prop_oneof![
        index().prop_map(|matched| AppendResult::Accepted { matched }),
        (index(), position()).prop_map(|(prev, hint)| AppendResult::Rejected { prev, hint }),
    ];
    let round = 0..NUMBER_END;
    let damage = || any::<u64>().prop_map(DamageId);
    let repair = (damage(), position()).prop_map(|(damage, to)| Repair { damage, to });
    let body = prop_oneof![
        position().prop_map(|last| Body::PreVote(VoteRequest { last })),
        any::<bool>().prop_map(|granted| Body::PreVoteReply(VoteReply { granted })),
        position().prop_map(|last| Body::Vote(VoteRequest { last })),
        any::<bool>().prop_map(|granted| Body::VoteReply(VoteReply { granted })),
        (round.clone(), option::of(damage()), result)
            .prop_map(|(round, damage, result)| Body::AppendReply(AppendReply { round, damage, result })),
        (position(), round.clone(), option::of(repair), any::<u32>()).prop_map(
            |(commit, round, repair, rank)| Body::Heartbeat(Heartbeat { commit, round, repair, rank })
        ),
        (round.clone(), option::of(damage()))
            .prop_map(|(round, damage)| Body::HeartbeatReply(HeartbeatReply { round, damage })),
        any::<u64>().prop_map(|id| Body::ReadIndex(ReadIndex { id })),
        (any::<u64>(), index()).prop_map(|(id, index)| Body::ReadIndexReply(ReadIndexReply { id, index })),
        Just(Body::TimeoutNow),
        (position(), round).prop_map(|(base, round)| Body::SnapshotOffer(SnapshotOffer { base, round })),
    ];
    let message = |(term, body)| match body {
        // What a leader lets go of is not of a later term than its own.
        Body::SnapshotOffer(offer) => Message { term: offer.base.term.max(term), body },
        body => Message { term, body },
    };
    prop_oneof![append(), (term(), body).prop_map(message)]
}

fn record() -> impl Strategy<Value = Option<Record>> {
    let record = (bytes(), bytes(), any::<u64>(), any::<u64>()).prop_map(|(key, value, revision, expiry)| {
        let expires_at_ms = std::num::NonZeroU64::new(expiry);
        Record { key, value, revision: LogIndex(revision), expires_at_ms }
    });
    option::of(record)
}

fn answer() -> impl Strategy<Value = Answer> {
    let revision = || any::<u64>().prop_map(LogIndex);
    let operation = prop_oneof![
        record().prop_map(OperationResult::Got),
        record().prop_map(|previous| OperationResult::Put { previous }),
        record().prop_map(|previous| OperationResult::Deleted { previous }),
    ];
    prop_oneof![
        Just(Answer::Done),
        (revision(), vec(record(), 0..4))
            .prop_map(|(revision, previous)| Answer::Put(PutAnswer { revision, previous })),
        (revision(), any::<u64>(), vec(record(), 0..4)).prop_map(|(revision, deleted, previous)| {
            Answer::Delete(DeleteAnswer { revision, deleted, previous })
        }),
        (revision(), any::<bool>(), vec(operation, 0..4)).prop_map(|(revision, succeeded, results)| {
            Answer::Txn(TxnAnswer { revision, succeeded, results })
        }),
        (any::<u64>(), any::<u64>(), any::<u32>()).prop_map(|(id, idle_expiry_ms, in_flight_max)| {
            Answer::SessionOpened(SessionOpened { session_id: SessionId(id), idle_expiry_ms, in_flight_max })
        }),
    ]
}

fn refusal() -> impl Strategy<Value = Refusal> {
    prop_oneof![
        any::<u64>().prop_map(|id| Refusal::SessionUnknown { session_id: SessionId(id) }),
        (any::<u64>(), any::<u64>()).prop_map(|(sequence, acknowledged_below)| {
            Refusal::SequenceForgotten { sequence, acknowledged_below }
        }),
        any::<u64>().prop_map(|sequence| Refusal::SequenceReused { sequence }),
        any::<u32>().prop_map(|limit| Refusal::TooManyInFlight { limit }),
        any::<u64>().prop_map(|limit| Refusal::KeptAnswersFull { limit }),
        any::<u64>().prop_map(|limit| Refusal::AnswerTooLarge { limit }),
        node_id().prop_map(|node_id| Refusal::MemberMismatch { node_id }),
    ]
}

fn reason() -> impl Strategy<Value = Reason> {
    let count = || 0..100usize;
    prop_oneof![
        Just(Reason::NoLeader),
        (count(), count(), count()).prop_map(|(connected, voters, needed)| Reason::NoQuorum {
            connected,
            voters,
            needed
        }),
        Just(Reason::LeadershipLost),
        any::<u64>().prop_map(|limit| Reason::Overloaded { limit }),
        any::<u64>().prop_map(|limit| Reason::TooLarge { limit }),
        Just(Reason::Deadline),
        Just(Reason::StateLost),
        Just(Reason::Quarantined),
        Just(Reason::StatesDiffer),
        index().prop_map(|applied| Reason::Behind { applied }),
        (any::<u64>(), any::<u64>())
            .prop_map(|(free_bytes, reserve_bytes)| Reason::DiskFull { free_bytes, reserve_bytes }),
        Just(Reason::ShuttingDown),
        Just(Reason::Unsupported),
        refusal().prop_map(Reason::Refused),
    ]
}

fn failure() -> impl Strategy<Value = Failure> {
    let outcome = prop_oneof![Just(Outcome::NotApplied), Just(Outcome::Unknown)];
    (reason(), outcome, option::of(node_id())).prop_map(|(reason, outcome, leader)| Failure {
        reason,
        outcome,
        leader,
    })
}

fn message() -> impl Strategy<Value = PeerMessage> {
    let result = prop_oneof![answer().prop_map(Ok), failure().prop_map(Err)];
    prop_oneof![
        4 => raft_message().prop_map(PeerMessage::Raft),
        1 => (any::<u64>(), any::<u64>(), bytes()).prop_map(|(sequence, timeout_ms, command)| {
            PeerMessage::Forward(Forward { sequence, timeout_ms, command })
        }),
        2 => (any::<u64>(), result).prop_map(|(sequence, result)| {
            PeerMessage::ForwardReply(ForwardReply { sequence, result })
        }),
    ]
}

fn batch() -> impl Strategy<Value = PeerBatch> {
    let state =
        || option::of((index(), any::<u128>()).prop_map(|(index, digest)| StateDigest { index, digest }));
    (any::<u64>(), index(), any::<u128>(), state(), state(), vec(message(), 0..6)).prop_map(
        |(clock_ms, applied, digest, milestone, scan, messages)| PeerBatch {
            clock_ms,
            applied,
            digest,
            milestone,
            scan,
            messages,
        },
    )
}

fn hello() -> impl Strategy<Value = Hello> {
    let member = (node_id(), any::<u128>(), any::<u128>())
        .prop_map(|(node_id, incarnation, founding_hash)| Member { node_id, incarnation, founding_hash });
    let program = ("[0-9.]{0,20}", 1..=u8::MAX);
    (any::<u32>(), program, any::<u128>(), member, node_id(), "[a-z0-9:.]{0,50}", any::<bool>()).prop_map(
        |(protocol, (version, level), cluster_id, member, peer_id, client_address, damaged)| Hello {
            protocol,
            version,
            level,
            cluster_id,
            member,
            peer_id,
            // Another one: they must not be mixed up.
            peer_address: format!("p{client_address}"),
            client_address,
            damaged,
        },
    )
}

fn snapshot_frame() -> impl Strategy<Value = SnapshotFrame> {
    let bytes = || vec(any::<u8>(), 0..100).prop_map(Bytes::from);
    let denied = prop_oneof![
        Just(Denied::Unconnected),
        any::<u64>().prop_map(Denied::Busy),
        Just(Denied::NoState),
        index().prop_map(Denied::Behind),
    ];
    prop_oneof![
        (index(), option::of(bytes())).prop_map(|(at_least, token)| {
            SnapshotFrame::Request(SnapshotRequest { group: GroupId::DEFAULT, at_least, token })
        }),
        any::<bool>().prop_map(|resumed| SnapshotFrame::Begin { resumed }),
        denied.prop_map(SnapshotFrame::Denied),
        bytes().prop_map(SnapshotFrame::Chunk),
    ]
}

proptest! {
    #[test]
    fn every_batch_survives_its_encoding(batch in batch()) {
        prop_assert_eq!(round_trip(Frame::Batch(batch.clone())), Ok(Frame::Batch(batch)));
    }

    #[test]
    fn every_word_about_a_snapshot_survives_its_encoding(frame in snapshot_frame()) {
        prop_assert_eq!(round_trip(Frame::Snapshot(frame.clone())), Ok(Frame::Snapshot(frame)));
    }

    #[test]
    fn every_hello_survives_its_encoding(hello in hello()) {
        prop_assert_eq!(round_trip(Frame::Hello(hello.clone())), Ok(Frame::Hello(hello)));
    }

    /// Scenarios 25 and 26 at the connection, and everything else that may come: an error, never a panic.
    #[test]
    fn bytes_that_were_changed_decode_or_are_refused(
        batch in batch(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = Frame::Batch(batch).encode(BYTES_MAX).unwrap().slice(HEADER_SIZE..).to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = Frame::decode(bytes.into(), BYTES_MAX);
    }

    #[test]
    fn what_a_message_counts_is_not_less_than_it_takes(message in message()) {
        let counted = message_bytes(&message);
        let encoded = message_into_wire(message).encode_to_vec().len();
        prop_assert!(encoded <= counted + 8, "counted {counted}, encoded {encoded}");
    }
}

fn batch_of(messages: Vec<PeerMessage>) -> PeerBatch {
    PeerBatch { messages, ..PeerBatch::default() }
}

fn append_of(entries: Vec<Entry>) -> PeerBatch {
    let prev = LogPosition::default();
    let append = Append { prev, entries, commit: LogIndex(0), round: 0 };
    batch_of(vec![PeerMessage::Raft(Message { term: Term(5), body: Body::Append(append) })])
}

fn entry(index: u64, payload: Payload) -> Entry {
    Entry { term: Term(5), index: LogIndex(index), payload }
}

#[test]
fn payloads_are_slices_of_their_frame() {
    let command = Bytes::from(vec![7; 1000]);
    let forward = Forward { sequence: 1, timeout_ms: 2, command: command.clone() };
    let mut batch = append_of(vec![entry(1, Payload::Command(command))]);
    batch.messages.push(PeerMessage::Forward(forward));
    let bytes = Frame::Batch(batch).encode(BYTES_MAX).unwrap().slice(HEADER_SIZE..);
    let Frame::Batch(decoded) = Frame::decode(bytes.clone(), BYTES_MAX).unwrap() else { panic!() };
    let [PeerMessage::Raft(message), PeerMessage::Forward(forward)] = &decoded.messages[..] else { panic!() };
    let Body::Append(append) = &message.body else { panic!() };
    let Payload::Command(command) = &append.entries[0].payload else { panic!() };
    for payload in [command, &forward.command] {
        assert!(bytes.as_ptr_range().contains(&payload.as_ptr()), "a payload was copied");
    }
}

/// Scenarios 25 and 26: a message of consensus that no correct member sends does not reach consensus.
#[test]
fn an_append_with_a_gap_or_from_the_future_is_refused() {
    let gap = append_of(vec![entry(1, Payload::Noop), entry(3, Payload::Noop)]);
    let expected = MessageError::Gap { expected: LogIndex(2), found: LogIndex(3) };
    assert_eq!(round_trip(Frame::Batch(gap)), Err(expected.into()));
    let future = append_of(vec![Entry { term: Term(6), ..entry(1, Payload::Noop) }]);
    let expected = MessageError::Term { index: LogIndex(1), term: Term(6) };
    assert_eq!(round_trip(Frame::Batch(future)), Err(expected.into()));
}

#[test]
fn numbers_that_cannot_be_are_refused() {
    let round = NUMBER_END;
    let heartbeat = Heartbeat { commit: LogPosition::default(), round, repair: None, rank: 0 };
    let message = Message { term: Term(1), body: Body::Heartbeat(heartbeat) };
    let refused = round_trip(Frame::Batch(batch_of(vec![PeerMessage::Raft(message)])));
    assert_eq!(refused, Err(WireError::Number { what: "a round", value: round }));
    let vote = VoteRequest { last: LogPosition { term: Term(1), index: LogIndex(u64::MAX) } };
    let message = Message { term: Term(1), body: Body::Vote(vote) };
    let refused = round_trip(Frame::Batch(batch_of(vec![PeerMessage::Raft(message)])));
    assert_eq!(refused, Err(WireError::Number { what: "a log index", value: u64::MAX }));
}

#[test]
fn what_is_unset_is_refused() {
    let decode = |frame: Option<peer::peer_frame::Frame>| {
        Frame::decode(peer::PeerFrame { frame }.encode_to_bytes(), BYTES_MAX)
    };
    assert_eq!(decode(None), Err(WireError::Variant("the frame")));
    let mut batch = batch_into_wire(batch_of(Vec::new()));
    batch.messages.push(peer::PeerMessage { message: None });
    let refused = decode(Some(peer::peer_frame::Frame::Batch(batch.clone())));
    assert_eq!(refused, Err(WireError::Variant("a message")));
    batch.messages.clear();
    batch.group_id = 2;
    let refused = decode(Some(peer::peer_frame::Frame::Batch(batch)));
    assert_eq!(refused, Err(WireError::Group(GroupId(2))));
}

#[test]
fn an_answer_and_a_refusal_are_not_mistaken_for_each_other() {
    use peer::forward_reply::Result as Wire;
    let refusal = raftmap_state::encode_result(&Err(Refusal::SequenceReused { sequence: 1 }));
    let reply = peer::ForwardReply { sequence: 1, result: Some(Wire::Answer(refusal)) };
    assert_eq!(forward::reply_from_wire(reply), Err(WireError::Kind("an answer")));
    let failure = peer::ForwardFailure {
        outcome: peer::forward_failure::Outcome::NotApplied.into(),
        leader: None,
        reason: Some(peer::forward_failure::Reason::Refused(raftmap_state::encode_result(&Ok(Answer::Done)))),
    };
    let reply = peer::ForwardReply { sequence: 1, result: Some(Wire::Failure(failure)) };
    assert_eq!(forward::reply_from_wire(reply), Err(WireError::Kind("a refusal")));
}

#[test]
fn a_frame_takes_no_more_memory_than_its_limit() {
    let messages = vec![peer::PeerMessage { message: None }; 20_000];
    let batch = peer::Batch { messages, ..batch_into_wire(batch_of(Vec::new())) };
    let frame = peer::PeerFrame { frame: Some(peer::peer_frame::Frame::Batch(batch)) };
    let bytes = frame.encode_to_bytes();
    assert!(bytes.len() < 1 << 16, "empty messages are short");
    let refused = Frame::decode(bytes.clone(), 1 << 16);
    assert!(matches!(refused, Err(WireError::Protobuf(_))), "{refused:?}");
    let refused = Frame::decode(bytes, 1 << 10);
    assert!(matches!(refused, Err(WireError::Protobuf(_))), "{refused:?}");
}

/// What the budget for unread frames is computed from.
#[test]
fn no_frame_is_shorter_than_the_shortest() {
    let batch = PeerBatch { clock_ms: 1, ..batch_of(Vec::new()) };
    let bytes = Frame::Batch(batch).encode(BYTES_MAX).unwrap();
    assert!(bytes.len() >= crate::peers::connection::FRAME_BYTES_MIN, "{} bytes", bytes.len());
}

#[test]
fn a_frame_that_is_too_large_is_not_made() {
    let command = Payload::Command(vec![0; 2000].into());
    let refused = Frame::Batch(append_of(vec![entry(1, command)])).encode(1000).unwrap_err();
    assert_eq!(refused.limit, 1000);
    assert!(refused.bytes > 2000);
}

#[test]
fn a_reason_is_cut_and_cannot_forge_a_line() {
    let reason = format!("no\n\u{1b}[2J{}", "ü".repeat(REASON_BYTES_MAX));
    let Ok(Frame::Refusal(refusal)) = round_trip(Frame::Refusal(reason.into())) else { panic!() };
    let reason = refusal.reason;
    assert!(reason.len() <= REASON_BYTES_MAX);
    assert!(reason.starts_with("no  [2Jü"), "{reason:?}");
}
