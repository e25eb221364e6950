//! Messages of consensus.

use raftmap_proto::peer;
use raftmap_proto::peer::raft_message::Body as Wire;
use raftmap_raft::{
    Append, AppendReply, AppendResult, Body, DamageId, Entry, Heartbeat, HeartbeatReply, LogPosition,
    Message, Payload, ReadIndex, ReadIndexReply, Repair, SnapshotOffer, VoteReply, VoteRequest,
};

use super::{WireError, index, number, term};

/// The bytes of the entries in it.
pub(super) fn content_bytes(message: &Message) -> usize {
    let Body::Append(append) = &message.body else { return 0 };
    append.entries.iter().map(Entry::size_bytes).sum()
}

pub(super) fn into_wire(message: Message) -> peer::RaftMessage {
    let body = match message.body {
        Body::PreVote(request) => Wire::PreVote(vote_into_wire(request)),
        Body::PreVoteReply(VoteReply { granted }) => Wire::PreVoteReply(peer::VoteReply { granted }),
        Body::Vote(request) => Wire::Vote(vote_into_wire(request)),
        Body::VoteReply(VoteReply { granted }) => Wire::VoteReply(peer::VoteReply { granted }),
        Body::Append(append) => Wire::Append(peer::Append {
            prev_index: append.prev.index.0,
            prev_term: append.prev.term.0,
            commit: append.commit.0,
            round: append.round,
            entries: append.entries.into_iter().map(entry_into_wire).collect(),
        }),
        Body::AppendReply(AppendReply { round, damage, result }) => {
            let (damage, result) = (damage.map(|damage| damage.0), Some(result_into_wire(result)));
            Wire::AppendReply(peer::AppendReply { round, damage, result })
        }
        Body::Heartbeat(Heartbeat { commit, round, repair, rank }) => Wire::Heartbeat(peer::Heartbeat {
            round,
            commit_index: commit.index.0,
            commit_term: commit.term.0,
            repair: repair.map(repair_into_wire).into(),
            rank,
        }),
        Body::HeartbeatReply(HeartbeatReply { round, damage }) => {
            Wire::HeartbeatReply(peer::HeartbeatReply { round, damage: damage.map(|damage| damage.0) })
        }
        Body::ReadIndex(ReadIndex { id }) => Wire::ReadIndex(peer::ReadIndex { id }),
        Body::ReadIndexReply(ReadIndexReply { id, index }) => {
            Wire::ReadIndexReply(peer::ReadIndexReply { id, index: index.0 })
        }
        Body::TimeoutNow => Wire::TimeoutNow(peer::TimeoutNow {}),
        Body::SnapshotOffer(SnapshotOffer { base, round }) => Wire::SnapshotOffer(peer::SnapshotOffer {
            base_index: base.index.0,
            base_term: base.term.0,
            round,
        }),
    };
    peer::RaftMessage { term: message.term.0, body: Some(body) }
}

/// The message, checked by [`Message::validate`].
pub(super) fn from_wire(message: peer::RaftMessage) -> Result<Message, WireError> {
    let body = match message.body.ok_or(WireError::Variant("a message of consensus"))? {
        Wire::PreVote(request) => Body::PreVote(vote_from_wire(&request)?),
        Wire::PreVoteReply(peer::VoteReply { granted }) => Body::PreVoteReply(VoteReply { granted }),
        Wire::Vote(request) => Body::Vote(vote_from_wire(&request)?),
        Wire::VoteReply(peer::VoteReply { granted }) => Body::VoteReply(VoteReply { granted }),
        Wire::Append(append) => Body::Append(Append {
            prev: position(append.prev_term, append.prev_index)?,
            commit: index("a commit index", append.commit)?,
            round: number("a round", append.round)?,
            entries: append.entries.into_iter().map(entry_from_wire).collect::<Result<_, _>>()?,
        }),
        Wire::AppendReply(peer::AppendReply { round, damage, result }) => {
            let result = result.ok_or(WireError::Variant("the result of an append"))?;
            let (round, damage) = (number("a round", round)?, damage.map(DamageId));
            Body::AppendReply(AppendReply { round, damage, result: result_from_wire(&result)? })
        }
        Wire::Heartbeat(heartbeat) => Body::Heartbeat(Heartbeat {
            commit: position(heartbeat.commit_term, heartbeat.commit_index)?,
            round: number("a round", heartbeat.round)?,
            repair: heartbeat.repair.as_option().map(repair_from_wire).transpose()?,
            rank: heartbeat.rank,
        }),
        Wire::HeartbeatReply(peer::HeartbeatReply { round, damage }) => {
            let damage = damage.map(DamageId);
            Body::HeartbeatReply(HeartbeatReply { round: number("a round", round)?, damage })
        }
        Wire::ReadIndex(peer::ReadIndex { id }) => Body::ReadIndex(ReadIndex { id }),
        Wire::ReadIndexReply(peer::ReadIndexReply { id, index: read }) => {
            Body::ReadIndexReply(ReadIndexReply { id, index: index("a read index", read)? })
        }
        Wire::TimeoutNow(peer::TimeoutNow {}) => Body::TimeoutNow,
        Wire::SnapshotOffer(offer) => Body::SnapshotOffer(SnapshotOffer {
            base: position(offer.base_term, offer.base_index)?,
            round: number("a round", offer.round)?,
        }),
    };
    let message = Message { term: term("a term", message.term)?, body };
    message.validate()?;
    Ok(message)
}

fn vote_into_wire(request: VoteRequest) -> peer::VoteRequest {
    peer::VoteRequest { last_index: request.last.index.0, last_term: request.last.term.0 }
}

fn vote_from_wire(request: &peer::VoteRequest) -> Result<VoteRequest, WireError> {
    Ok(VoteRequest { last: position(request.last_term, request.last_index)? })
}

fn repair_into_wire(repair: Repair) -> peer::Repair {
    let Repair { damage, to } = repair;
    peer::Repair { damage: damage.0, to_index: to.index.0, to_term: to.term.0 }
}

fn repair_from_wire(repair: &peer::Repair) -> Result<Repair, WireError> {
    Ok(Repair { damage: DamageId(repair.damage), to: position(repair.to_term, repair.to_index)? })
}

fn result_into_wire(result: AppendResult) -> peer::append_reply::Result {
    match result {
        AppendResult::Accepted { matched } => peer::append_reply::Result::Matched(matched.0),
        AppendResult::Rejected { prev, hint } => peer::append_reply::Result::Conflict(peer::Conflict {
            prev_index: prev.0,
            hint_index: hint.index.0,
            hint_term: hint.term.0,
        }),
    }
}

fn result_from_wire(result: &peer::append_reply::Result) -> Result<AppendResult, WireError> {
    Ok(match result {
        peer::append_reply::Result::Matched(matched) => {
            AppendResult::Accepted { matched: index("a matched index", *matched)? }
        }
        peer::append_reply::Result::Conflict(conflict) => AppendResult::Rejected {
            prev: index("a refused index", conflict.prev_index)?,
            hint: position(conflict.hint_term, conflict.hint_index)?,
        },
    })
}

fn entry_into_wire(entry: Entry) -> peer::LogEntry {
    peer::LogEntry {
        term: entry.term.0,
        index: entry.index.0,
        kind: u32::from(entry.payload.kind()),
        data: entry.payload.to_bytes(),
    }
}

fn entry_from_wire(entry: peer::LogEntry) -> Result<Entry, WireError> {
    let index = index("the index of an entry", entry.index)?;
    let kind = u8::try_from(entry.kind)
        .map_err(|_| WireError::Number { what: "the kind of an entry", value: entry.kind.into() })?;
    let payload = Payload::decode(kind, entry.data).map_err(|error| WireError::Payload { index, error })?;
    Ok(Entry { term: term("the term of an entry", entry.term)?, index, payload })
}

fn position(term_: u64, index_: u64) -> Result<LogPosition, WireError> {
    Ok(LogPosition { term: term("the term of a log position", term_)?, index: index("a log index", index_)? })
}
