//! How what happens is written down. `4@2` is the place in the log with index 4 and term 2.

use std::collections::BTreeSet;

use raftmap_raft::{
    Action, Append, AppendReply, AppendResult, Base, Body, ChangeRefusal, DamageId, Entry, Event, FailReason,
    FetchPurpose, HardState, LogIndex, LogPosition, Membership, Message, NodeId, Outcome, Payload, Status,
    StepDownReason, TransferFailure, Write,
};

/// Lines that are kept only if somebody wants to see them.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    pub(crate) on: bool,
    lines: Vec<String>,
}

impl Trace {
    pub(crate) fn line(&mut self, line: impl FnOnce() -> String) {
        if self.on {
            self.lines.push(line());
        }
    }

    pub(crate) fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }
}

pub(crate) fn position(position: LogPosition) -> String {
    format!("{}@{}", position.index, position.term)
}

pub(crate) fn payload(payload: &Payload) -> String {
    match payload {
        Payload::Noop => "-".into(),
        Payload::Command(bytes) if bytes.len() > 20 => format!("({} bytes)", bytes.len()),
        Payload::Command(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Payload::Membership(membership) => members(membership),
    }
}

fn members(Membership { voters, voters_outgoing, learners }: &Membership) -> String {
    let ids = |ids: &BTreeSet<NodeId>| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let mut drawn = format!("voters {}", ids(voters));
    if !voters_outgoing.is_empty() {
        drawn += &format!(" before {}", ids(voters_outgoing));
    }
    if !learners.is_empty() {
        drawn += &format!(" learners {}", ids(learners));
    }
    drawn
}

pub(crate) fn entries(entries: &[Entry]) -> String {
    let drawn: Vec<_> = entries
        .iter()
        .map(|entry| format!("{} {}", position(entry.position()), payload(&entry.payload)))
        .collect();
    format!("[{}]", drawn.join(", "))
}

pub(crate) fn hard_state(HardState { term, vote, damaged }: HardState) -> String {
    let vote = vote.map_or("nobody".into(), |vote| format!("n{vote}"));
    format!("t{term} vote {vote}{}", if damaged { " DAMAGED" } else { "" })
}

pub(crate) fn write(Write { id, hard_state: state, truncate_to, base, entries: added }: &Write) -> String {
    let state = state.map(hard_state);
    let cut = truncate_to.map(|to| format!("cut to {to}"));
    let base = base.as_deref().map(|Base { position: begins, membership: _, durable, state }| {
        format!("begins behind {}, state {state} durable to {durable}", position(*begins))
    });
    let added = (!added.is_empty()).then(|| entries(added));
    let parts: Vec<_> = [state, cut, base, added].into_iter().flatten().collect();
    format!("write {id}: {}", parts.join("; "))
}

/// The name of a message, for the one who receives it.
pub(crate) fn name(body: &Body) -> &'static str {
    match body {
        Body::PreVote(_) => "pre-vote",
        Body::PreVoteReply(_) => "pre-vote reply",
        Body::Vote(_) => "vote",
        Body::VoteReply(_) => "vote reply",
        Body::Append(_) => "append",
        Body::SnapshotOffer(_) => "snapshot offer",
        Body::AppendReply(_) => "append reply",
        Body::Heartbeat(_) => "heartbeat",
        Body::HeartbeatReply(_) => "heartbeat reply",
        Body::ReadIndex(_) => "read index",
        Body::ReadIndexReply(_) => "read index reply",
        Body::TimeoutNow => "timeout now",
    }
}

pub(crate) fn message(message: &Message) -> String {
    // A damage is named by chance; only that there is one is drawn.
    let damaged = |damage: Option<DamageId>| if damage.is_some() { " DAMAGED" } else { "" };
    let yes = |granted| if granted { "yes" } else { "no" };
    let content = match &message.body {
        Body::PreVote(request) | Body::Vote(request) => format!("my log ends at {}", position(request.last)),
        Body::PreVoteReply(reply) | Body::VoteReply(reply) => yes(reply.granted).into(),
        Body::Append(Append { prev, entries: sent, commit, round }) => {
            format!("after {} {} commit {commit} round {round}", position(*prev), entries(sent))
        }
        Body::SnapshotOffer(offer) => {
            format!("my log begins behind {} round {}", position(offer.base), offer.round)
        }
        Body::AppendReply(AppendReply { round, damage, result }) => match result {
            AppendResult::Accepted { matched } => {
                format!("matched {matched} round {round}{}", damaged(*damage))
            }
            AppendResult::Rejected { prev, hint } => {
                format!("not after {prev}, try {} round {round}{}", position(*hint), damaged(*damage))
            }
        },
        Body::Heartbeat(heartbeat) => {
            let repair = heartbeat
                .repair
                .map_or(String::new(), |repair| format!(" repair to {}", position(repair.to)));
            format!("commit {} round {}{repair}", position(heartbeat.commit), heartbeat.round)
        }
        Body::HeartbeatReply(reply) => format!("round {}{}", reply.round, damaged(reply.damage)),
        // The question's number is drawn by chance.
        Body::ReadIndex(_) | Body::TimeoutNow => String::new(),
        Body::ReadIndexReply(reply) => format!("read at {}", reply.index),
    };
    format!("t{} {} {content}", message.term, name(&message.body)).trim_end().to_owned()
}

pub(crate) fn action(id: NodeId, action: &Action) -> String {
    match action {
        Action::Write(written) => format!("n{id} {}", write(written)),
        Action::Send { to, message: sent } => format!("n{id} → n{to} {}", message(sent)),
        Action::Apply { entries: applied, proposals } => {
            let done: Vec<_> =
                proposals.iter().map(|(index, ctx)| format!(", c{ctx} done at {index}")).collect();
            format!("n{id} applies {}{}", entries(applied), done.concat())
        }
        Action::Fetch { purpose, from, to, max_bytes: _ } => {
            let purpose = match purpose {
                FetchPurpose::Apply => "to apply".into(),
                FetchPurpose::Send { to, term: _ } => format!("for n{to}"),
            };
            format!("n{id} reads {from} to {to} from disk {purpose}")
        }
        Action::FetchSnapshot { from, at_least } => {
            format!("n{id} asks n{from} for a snapshot, {at_least} or later")
        }
        Action::Install { state, position: applied } => {
            format!("n{id} installs state {state}, applied {}", position(*applied))
        }
        Action::Discard { state } => format!("n{id} discards state {state}"),
        Action::ReadReady { ctx, index } => format!("n{id} c{ctx} reads at {index}"),
        Action::Failed { ctx, reason, outcome } => {
            let outcome = match outcome {
                Outcome::NotApplied => "not applied",
                Outcome::Unknown => "outcome unknown",
            };
            format!("n{id} c{ctx} failed: {}, {outcome}", fail_reason(*reason))
        }
        Action::Event(happened) => format!("n{id} {}", event(happened)),
    }
}

fn fail_reason(reason: FailReason) -> String {
    match reason {
        FailReason::NotLeader { leader: Some(leader) } => format!("not the leader, n{leader} is"),
        FailReason::NotLeader { leader: None } => "no leader".into(),
        FailReason::LeadershipLost => "leadership lost".into(),
        FailReason::HandingOver { to } => format!("handing over to n{to}"),
        FailReason::Members(refusal) => match refusal {
            ChangeRefusal::NotAMembership => "that is no membership".into(),
            ChangeRefusal::NothingToChange => "nothing to change".into(),
            ChangeRefusal::Busy => "another change or term is not settled".into(),
            ChangeRefusal::NotCaughtUp { id } => format!("n{id} has not caught up"),
            ChangeRefusal::NoQuorum { fit, voters } => format!("{fit} of {voters} voters would be there"),
        },
        FailReason::Overloaded => "overloaded".into(),
        FailReason::TooLarge { limit_bytes } => format!("more than {limit_bytes} bytes"),
    }
}

fn event(event: &Event) -> String {
    match event {
        Event::Following { term, leader: Some(leader) } => format!("follows n{leader} in t{term}"),
        Event::Following { term, leader: None } => format!("follows nobody in t{term}"),
        Event::PreCampaigning { term } => format!("pre-campaigns in t{term}"),
        Event::Campaigning { term } => format!("campaigns in t{term}"),
        Event::Leading { term, votes } => {
            let votes: Vec<_> = votes.iter().map(|id| format!("n{id}")).collect();
            format!("LEADS t{term} by {}", votes.join(" "))
        }
        Event::SteppedDown { term, reason: StepDownReason::NoQuorum } => {
            format!("steps down in t{term}: no quorum")
        }
        Event::SteppedDown { term, reason: StepDownReason::DiskStalled } => {
            format!("steps down in t{term}: disk stalled")
        }
        Event::SteppedDown { term, reason: StepDownReason::Removed } => {
            format!("steps down in t{term}: it does not vote any more")
        }
        Event::HandingOver { to } => format!("hands over to n{to}"),
        Event::TransferFailed { to, reason } => {
            let reason = match reason {
                TransferFailure::NotLeader => "it does not lead",
                TransferFailure::CannotLead => "that one cannot lead",
                TransferFailure::Busy => "it is handing over already",
                TransferFailure::TimedOut => "that one did not take over in time",
            };
            format!("does not hand over to n{to}: {reason}")
        }
        Event::StateDistrusted { applied } => {
            format!("gives up its state machine, which is wrong, applied {applied}")
        }
        Event::Compacted { to } => format!("lets go of its log up to {to}"),
        Event::SnapshotWanted { from } => format!("wants a snapshot of n{from}"),
        Event::Installing { position: applied } => {
            format!("takes a snapshot, applied {}", position(*applied))
        }
        Event::Truncated { to } => format!("cuts its log to {to}"),
        Event::AcknowledgedLost { by, acknowledged } => {
            format!("finds that n{by} LOST what it acknowledged, up to {acknowledged}")
        }
        Event::Repaired { up_to } => format!("is whole again, up to {up_to}"),
    }
}

pub(crate) fn status(status: &Status) -> String {
    let vote = status.vote.map_or("nobody".into(), |vote| format!("n{vote}"));
    let leader = status.leader.map_or("nobody".into(), |leader| format!("n{leader}"));
    let mut drawn = format!(
        "n{} {} t{} vote {vote} leader {leader} last {} durable {} commit {} applied {}{}",
        status.id,
        status.role,
        status.term,
        position(status.last),
        status.durable,
        status.commit,
        status.applied,
        if status.damaged { " DAMAGED" } else { "" },
    );
    if status.base.index > LogIndex(0) {
        drawn += &format!(" begins behind {}", position(status.base));
    }
    if status.state_lost {
        drawn += if status.state_distrusted { " STATE DISTRUSTED" } else { " STATE LOST" };
    }
    for follower in &status.followers {
        drawn += &format!(
            "\n  n{} matched {} next {}{}{}{}",
            follower.id,
            follower.matched,
            follower.next,
            if follower.active { "" } else { " silent" },
            if follower.damaged { " DAMAGED" } else { "" },
            if follower.needs_snapshot { " needs a snapshot" } else { "" },
        );
    }
    drawn
}
