//! What leaves the core, and when. Here the rule lives that no promise leaves before the disk has what it depends on:
//! the roles hand messages over as [`Free`] or as [`Promise`], and only this file turns either into an [`Action`].

use std::collections::VecDeque;

use crate::entry::{Entry, HardState};
use crate::ids::{DamageId, LogIndex, NodeId, Term, WriteId};
use crate::io::{Action, Event};
use crate::message::{
    Append, AppendReply, AppendResult, Body, Heartbeat, HeartbeatReply, Message, ReadIndex, ReadIndexReply,
    SnapshotOffer, VoteReply, VoteRequest,
};
use crate::write::{Base, Write};

/// Messages that promise nothing: they leave at once.
#[derive(Debug)]
pub(crate) enum Free {
    PreVote(VoteRequest),
    PreVoteReply(VoteReply),
    VoteRefused,
    Append(Append),
    SnapshotOffer(SnapshotOffer),
    AppendRejected { round: u64, damage: Option<DamageId>, prev: LogIndex, hint: crate::LogPosition },
    Heartbeat(Heartbeat),
    HeartbeatReply(HeartbeatReply),
    ReadIndex(ReadIndex),
    ReadIndexReply(ReadIndexReply),
    TimeoutNow,
}

/// Messages that promise what must be durable first (scenarios 1 and 21).
#[derive(Debug)]
pub(crate) enum Promise {
    /// A candidate asks for votes: it has voted for itself.
    Vote(VoteRequest),
    /// A vote was given.
    VoteGranted,
    /// Entries are on disk up to `matched`.
    AppendAccepted { round: u64, damage: Option<DamageId>, matched: LogIndex },
}

/// A promise that waits for the disk. In another term it is of no use, and is dropped.
#[derive(Debug)]
struct Waiting {
    after: WriteId,
    term: Term,
    to: NodeId,
    promise: Promise,
}

/// Actions not yet taken, promises not yet released, and the write that is being put together.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    actions: Vec<Action>,
    waiting: VecDeque<Waiting>,
    write: Write,
    /// Writes that nothing is added to any more.
    closed: Vec<Write>,
    issued: WriteId,
    persisted: WriteId,
}

impl Outbox {
    pub(crate) fn send(&mut self, term: Term, to: NodeId, message: Free) {
        let body = match message {
            Free::PreVote(request) => Body::PreVote(request),
            Free::PreVoteReply(reply) => Body::PreVoteReply(reply),
            Free::VoteRefused => Body::VoteReply(VoteReply { granted: false }),
            Free::Append(append) => Body::Append(append),
            Free::SnapshotOffer(offer) => Body::SnapshotOffer(offer),
            Free::AppendRejected { round, damage, prev, hint } => {
                let result = AppendResult::Rejected { prev, hint };
                Body::AppendReply(AppendReply { round, damage, result })
            }
            Free::Heartbeat(heartbeat) => Body::Heartbeat(heartbeat),
            Free::HeartbeatReply(reply) => Body::HeartbeatReply(reply),
            Free::ReadIndex(read) => Body::ReadIndex(read),
            Free::ReadIndexReply(reply) => Body::ReadIndexReply(reply),
            Free::TimeoutNow => Body::TimeoutNow,
        };
        self.actions.push(Action::Send { to, message: Message { term, body } });
    }

    /// Sends `promise` once everything written so far is durable.
    pub(crate) fn promise(&mut self, term: Term, to: NodeId, promise: Promise) {
        let next = Waiting { after: self.latest_write(), term, to, promise };
        if !self.waiting.back_mut().is_some_and(|last| last.merge(&next)) {
            self.waiting.push_back(next);
        }
    }

    /// The write that the state of the core depends on now: the one being put together, or else the last one issued.
    pub(crate) fn latest_write(&self) -> WriteId {
        WriteId(self.issued.0 + u64::from(!self.write_is_empty()))
    }

    pub(crate) fn is_persisted(&self, write: WriteId) -> bool {
        write <= self.persisted
    }

    pub(crate) fn persisted(&mut self, write: WriteId) {
        assert!(write <= self.issued, "write {write} was reported and never issued");
        // Reports that arrive out of order take nothing back (scenario 23).
        self.persisted = self.persisted.max(write);
    }

    pub(crate) fn write_hard_state(&mut self, hard_state: HardState) {
        self.write.hard_state = Some(hard_state);
    }

    pub(crate) fn write_truncation(&mut self, to: LogIndex) {
        let from = self.write.entries.first().map(|entry| entry.index);
        match from {
            Some(from) if from <= to => self.write.entries.retain(|entry| entry.index <= to),
            _ => {
                self.write.entries.clear();
                self.write.truncate_to = Some(self.write.truncate_to.map_or(to, |earlier| earlier.min(to)));
            }
        }
    }

    /// A write of its own: its place among truncations and entries is then the one that it has here.
    pub(crate) fn write_base(&mut self, base: Base) {
        self.close_write();
        self.write.base = Some(Box::new(base));
        self.close_write();
    }

    fn close_write(&mut self) {
        if !self.write_is_empty() {
            self.issued.0 += 1;
            self.closed.push(Write { id: self.issued, ..std::mem::take(&mut self.write) });
        }
    }

    pub(crate) fn write_entries(&mut self, mut entries: Vec<Entry>) {
        if self.write.entries.is_empty() {
            self.write.entries = entries;
        } else {
            self.write.entries.append(&mut entries);
        }
    }

    pub(crate) fn write_entry(&mut self, entry: Entry) {
        self.write.entries.push(entry);
    }

    /// Pushes an action that is neither a write nor a message.
    pub(crate) fn act(&mut self, action: Action) {
        assert!(!matches!(action, Action::Write(_) | Action::Send { .. }), "these have ways of their own");
        self.actions.push(action);
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.actions.push(Action::Event(event));
    }

    /// All actions so far. The writes come first, since the others may depend on it being under way; then what was sent;
    /// then the promises that the disk has made good, unless `term` has moved on from theirs.
    pub(crate) fn take(&mut self, term: Term) -> Vec<Action> {
        self.close_write();
        for (place, write) in self.closed.drain(..).enumerate() {
            self.actions.insert(place, Action::Write(write));
        }
        // Asked after every step: what has nothing to say allocates nothing.
        let mut actions = std::mem::take(&mut self.actions);
        while let Some(kept) = self.waiting.pop_front_if(|waiting| waiting.after <= self.persisted) {
            if kept.term == term {
                let message = Message { term, body: kept.promise.into_body() };
                actions.push(Action::Send { to: kept.to, message });
            }
        }
        actions
    }

    fn write_is_empty(&self) -> bool {
        let Write { id: _, hard_state, truncate_to, base, entries } = &self.write;
        hard_state.is_none() && truncate_to.is_none() && base.is_none() && entries.is_empty()
    }
}

impl Waiting {
    /// Makes one of two acknowledgements that wait for the same write, if they are that: a disk that stands still leaves no
    /// more of them than it has writes to do.
    fn merge(&mut self, next: &Self) -> bool {
        let same = (self.after, self.term, self.to) == (next.after, next.term, next.to);
        match (&mut self.promise, &next.promise) {
            (
                Promise::AppendAccepted { round, damage, matched },
                Promise::AppendAccepted { round: next_round, damage: next_damage, matched: next_matched },
            ) if same && damage == next_damage => {
                *round = (*next_round).max(*round);
                *matched = (*next_matched).max(*matched);
                true
            }
            _ => false,
        }
    }
}

impl Promise {
    fn into_body(self) -> Body {
        match self {
            Self::Vote(request) => Body::Vote(request),
            Self::VoteGranted => Body::VoteReply(VoteReply { granted: true }),
            Self::AppendAccepted { round, damage, matched } => {
                let result = AppendResult::Accepted { matched };
                Body::AppendReply(AppendReply { round, damage, result })
            }
        }
    }
}
