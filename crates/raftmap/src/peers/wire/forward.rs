//! Commands that a follower passes on, and what became of them.

use buffa::EnumValue;
use raftmap_proto::peer;
use raftmap_proto::peer::forward_failure::{Outcome as WireOutcome, Reason as Wire};
use raftmap_raft::Outcome;
use raftmap_replica::{Failure, Forward, ForwardReply, Reason};
use raftmap_state::limits::{ANSWER_BASE_BYTES, answer_bytes};
use raftmap_state::{decode_result, encode_result};

use super::{WireError, index, node};

/// The bytes of the answer in it.
pub(super) fn content_bytes(reply: &ForwardReply) -> usize {
    let bytes = reply.result.as_ref().map_or(ANSWER_BASE_BYTES, answer_bytes);
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

pub(super) fn into_wire(forward: Forward) -> peer::Forward {
    let Forward { sequence, timeout_ms, command } = forward;
    peer::Forward { sequence, timeout_ms, command }
}

/// The command; the leader decodes it, and refuses what it does not understand.
pub(super) fn from_wire(forward: peer::Forward) -> Forward {
    let peer::Forward { sequence, timeout_ms, command } = forward;
    Forward { sequence, timeout_ms, command }
}

pub(super) fn reply_into_wire(reply: ForwardReply) -> peer::ForwardReply {
    let result = match reply.result {
        Ok(answer) => peer::forward_reply::Result::Answer(encode_result(&Ok(answer))),
        Err(failure) => peer::forward_reply::Result::Failure(failure_into_wire(&failure)),
    };
    peer::ForwardReply { sequence: reply.sequence, result: Some(result) }
}

pub(super) fn reply_from_wire(reply: peer::ForwardReply) -> Result<ForwardReply, WireError> {
    let result = match reply.result.ok_or(WireError::Variant("the result of a command"))? {
        peer::forward_reply::Result::Answer(bytes) => {
            Ok(decode_result(bytes)?.map_err(|_| WireError::Kind("an answer"))?)
        }
        peer::forward_reply::Result::Failure(failure) => Err(failure_from_wire(failure)?),
    };
    Ok(ForwardReply { sequence: reply.sequence, result })
}

fn failure_into_wire(failure: &Failure) -> peer::ForwardFailure {
    let outcome = match failure.outcome {
        Outcome::NotApplied => WireOutcome::NotApplied,
        Outcome::Unknown => WireOutcome::Unknown,
    };
    peer::ForwardFailure {
        outcome: outcome.into(),
        leader: failure.leader.map(|leader| leader.0),
        reason: Some(reason_into_wire(failure.reason)),
    }
}

fn failure_from_wire(failure: peer::ForwardFailure) -> Result<Failure, WireError> {
    let outcome = match failure.outcome {
        EnumValue::Known(WireOutcome::NOT_APPLIED) => Outcome::NotApplied,
        EnumValue::Known(WireOutcome::UNKNOWN) => Outcome::Unknown,
        _ => return Err(WireError::Variant("the outcome of a failure")),
    };
    let reason = failure.reason.ok_or(WireError::Variant("the reason of a failure"))?;
    Ok(Failure {
        reason: reason_from_wire(reason)?,
        outcome,
        leader: failure.leader.map(|leader| node("the leader's id", leader)).transpose()?,
    })
}

fn reason_into_wire(reason: Reason) -> Wire {
    match reason {
        Reason::NoLeader => Wire::NoLeader(peer::Nothing {}),
        Reason::NoQuorum { connected, voters, needed } => Wire::NoQuorum(peer::NoQuorum {
            connected: connected as u64,
            voters: voters as u64,
            needed: needed as u64,
        }),
        Reason::LeadershipLost => Wire::LeadershipLost(peer::Nothing {}),
        Reason::Overloaded { limit } => Wire::Overloaded(limit),
        Reason::TooLarge { limit } => Wire::TooLarge(limit),
        Reason::Deadline => Wire::Deadline(peer::Nothing {}),
        Reason::Behind { applied } => Wire::Behind(applied.0),
        Reason::StateLost => Wire::StateLost(peer::Nothing {}),
        Reason::Quarantined => Wire::Quarantined(peer::Nothing {}),
        Reason::StatesDiffer => Wire::StatesDiffer(peer::Nothing {}),
        Reason::DiskFull { free_bytes, reserve_bytes } => {
            Wire::DiskFull(peer::DiskFull { free_bytes, reserve_bytes })
        }
        Reason::Members(_)
        | Reason::MemberRemoved { .. }
        | Reason::VotesAlready { .. }
        | Reason::NotAMember { .. } => {
            unreachable!("a change of members is not passed on")
        }
        Reason::ShuttingDown => Wire::ShuttingDown(peer::Nothing {}),
        Reason::Unsupported => Wire::Unsupported(peer::Nothing {}),
        Reason::Refused(refusal) => Wire::Refused(encode_result(&Err(refusal))),
    }
}

fn reason_from_wire(reason: Wire) -> Result<Reason, WireError> {
    Ok(match reason {
        Wire::NoLeader(_) => Reason::NoLeader,
        Wire::NoQuorum(numbers) => Reason::NoQuorum {
            connected: count(numbers.connected)?,
            voters: count(numbers.voters)?,
            needed: count(numbers.needed)?,
        },
        Wire::LeadershipLost(_) => Reason::LeadershipLost,
        Wire::Overloaded(limit) => Reason::Overloaded { limit },
        Wire::TooLarge(limit) => Reason::TooLarge { limit },
        Wire::Deadline(_) => Reason::Deadline,
        Wire::Behind(applied) => Reason::Behind { applied: index("an applied index", applied)? },
        Wire::DiskFull(peer::DiskFull { free_bytes, reserve_bytes }) => {
            Reason::DiskFull { free_bytes, reserve_bytes }
        }
        Wire::StateLost(_) => Reason::StateLost,
        Wire::Quarantined(_) => Reason::Quarantined,
        Wire::StatesDiffer(_) => Reason::StatesDiffer,
        Wire::ShuttingDown(_) => Reason::ShuttingDown,
        Wire::Unsupported(_) => Reason::Unsupported,
        Wire::Refused(bytes) => match decode_result(bytes)? {
            Err(refusal) => Reason::Refused(refusal),
            Ok(_) => return Err(WireError::Kind("a refusal")),
        },
    })
}

fn count(value: u64) -> Result<usize, WireError> {
    usize::try_from(value).map_err(|_| WireError::Number { what: "a number of servers", value })
}
