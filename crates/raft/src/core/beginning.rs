//! The beginning of the log: what it lets go of since the state machine holds it durably (section 7), and the snapshots of
//! other nodes that take the place of both.

use super::{ApplyStage, Core};
use crate::ids::{LogIndex, NodeId, StateId};
use crate::io::{Action, Event, FailReason, Outcome, Snapshot};
use crate::outbox::Outbox;
use crate::write::Base;

/// What this node has of snapshots.
#[derive(Debug)]
pub(crate) struct Snapshots {
    /// The state machine that the log names.
    state: StateId,
    stage: Stage,
    /// Who was asked last.
    asked: Option<NodeId>,
}

#[derive(Debug)]
enum Stage {
    None,
    Fetching,
    /// It is here, and waits until nothing is being applied.
    Ready(Snapshot),
}

impl Snapshots {
    pub(super) fn new(state: StateId) -> Self {
        Self { state, stage: Stage::None, asked: None }
    }

    /// Asks `from` for a snapshot, unless one is on its way.
    fn want(&mut self, outbox: &mut Outbox, from: NodeId, at_least: LogIndex) {
        if let Stage::None = self.stage {
            self.stage = Stage::Fetching;
            self.asked = Some(from);
            outbox.event(Event::SnapshotWanted { from });
            outbox.act(Action::FetchSnapshot { from, at_least });
        }
    }

    fn ready(&mut self, snapshot: Snapshot) {
        assert!(matches!(self.stage, Stage::Fetching), "a snapshot that nobody asked for: {snapshot:?}");
        self.stage = Stage::Ready(snapshot);
    }

    fn failed(&mut self) {
        assert!(matches!(self.stage, Stage::Fetching), "no snapshot was asked for");
        self.stage = Stage::None;
    }

    fn take_ready(&mut self) -> Option<Snapshot> {
        match std::mem::replace(&mut self.stage, Stage::None) {
            Stage::Ready(snapshot) => Some(snapshot),
            stage => {
                self.stage = stage;
                None
            }
        }
    }
}

impl Core {
    /// Lets go of the entries up to `to`, which the state machine holds durably.
    pub(crate) fn compact(&mut self, to: LogIndex, durable: LogIndex) {
        assert!(
            to <= durable && durable <= self.applied,
            "{to} durable to {durable}: {} applied",
            self.applied
        );
        // What a damaged log lacks may be what is to be let go of. A state machine that is not trusted any more holds nothing.
        if to <= self.log.base().index || self.is_damaged() || self.is_state_lost() {
            return;
        }
        self.log.compact(to);
        let at = self.memberships.partition_point(|(index, _)| *index <= to);
        // Only what is committed is let go of, so what it says of members can never be rolled back (scenario 33).
        self.memberships.drain(..at - 1);
        self.memberships[0].0 = to;
        self.write_base(durable);
        self.outbox.event(Event::Compacted { to });
    }

    /// Gives up the state machine: it is wrong. Nothing more is applied to it, this node does not stand for election, and a
    /// snapshot of another one takes its place. The log stays as it is, and says so: a restart must not trust it again.
    pub(crate) fn distrust_state(&mut self) {
        // If a snapshot is taking its place, it is on its way out.
        if self.state_distrusted || matches!(self.apply, ApplyStage::Installing { .. }) {
            return;
        }
        self.state_distrusted = true;
        self.outbox.event(Event::StateDistrusted { applied: self.applied });
        self.write_base(Base::DISTRUSTED);
    }

    /// The last entry that a snapshot in the place of a lost state machine must have: what was applied here once is not taken
    /// back. One without any entry is none: a log cannot begin behind it.
    pub(crate) fn snapshot_needed(&self) -> LogIndex {
        self.log.base().index.max(self.applied).max(LogIndex(1))
    }

    /// Takes note of a snapshot that was asked for, and is here.
    pub(crate) fn snapshot_ready(&mut self, snapshot: Snapshot) {
        self.snapshots.ready(snapshot);
    }

    /// Takes note that what was asked for cannot be had. The next occasion asks again.
    pub(crate) fn snapshot_failed(&mut self) {
        self.snapshots.failed();
    }

    /// Asks for a snapshot, unless one is on its way or being installed.
    pub(crate) fn want_snapshot(&mut self, from: NodeId, at_least: LogIndex) {
        if !matches!(self.apply, ApplyStage::Installing { .. }) {
            self.snapshots.want(&mut self.outbox, from, at_least);
        }
    }

    /// Asks the others one after the other, since there is no leader: the one that should lead may lack nothing but a state. What
    /// anybody has applied is committed.
    pub(crate) fn want_snapshot_of_anybody(&mut self) {
        let (others, asked) = (self.others(), self.snapshots.asked);
        let next = others.iter().find(|id| asked.is_none_or(|asked| **id > asked));
        if let Some(from) = next.or(others.first()) {
            self.want_snapshot(*from, self.snapshot_needed());
        }
    }

    /// Puts the snapshot that is here in the place of the state machine, and of the log up to there, as soon as nothing is
    /// being applied (scenario 38).
    pub(crate) fn flush_snapshot(&mut self) {
        if self.apply != ApplyStage::Idle {
            return;
        }
        let Some(snapshot) = self.snapshots.take_ready() else { return };
        let position = snapshot.position;
        // One that is older than what is here would take back what was applied, and cut what was acknowledged (scenario 37).
        // A damaged log may have lost entries that are applied here, and are in no log any more: as old is new enough.
        let needed = if self.is_state_lost() {
            position.index >= self.snapshot_needed()
        } else {
            position.index >= self.applied && !self.log.matches(position)
        };
        if !needed {
            self.outbox.act(Action::Discard { state: snapshot.state });
            return;
        }
        self.install(snapshot);
    }

    /// Figure 13, steps 6 to 8: what follows the snapshot's last entry in this log stays if it is that very entry that it
    /// follows; if not, all of it goes, uncommitted memberships included (scenarios 32 and 36).
    fn install(&mut self, snapshot: Snapshot) {
        let Snapshot { position, membership, state } = snapshot.clone();
        self.outbox.event(Event::Installing { position });
        // Whether they were applied, and with which result, the snapshot does not tell (scenario 39).
        for (_, ctx) in self.take_proposals(position.index) {
            self.fail(ctx, FailReason::LeadershipLost, Outcome::Unknown);
        }
        if self.log.term_at(position.index) == Some(position.term) {
            self.log.compact(position.index);
            self.memberships.retain(|(index, _)| *index > position.index);
        } else {
            self.log.begin_anew(position);
            self.forget_durable_behind(position.index);
            self.memberships.clear();
            self.uncommitted_bytes = 0;
        }
        self.memberships.insert(0, (position.index, membership));
        self.snapshots.state = state;
        self.state_distrusted = false;
        self.write_base(position.index);
        self.commit_to(position.index);
        self.apply = ApplyStage::Installing { snapshot, write: Some(self.outbox.latest_write()) };
    }

    fn write_base(&mut self, durable: LogIndex) {
        let (position, membership) = (self.log.base(), self.memberships[0].1.clone());
        self.outbox.write_base(Base { position, membership, durable, state: self.snapshots.state });
        self.note_unsynced();
    }

    /// Goes on with an install once the log has named the snapshot.
    pub(super) fn named_in_log(&mut self) {
        if let ApplyStage::Installing { snapshot, write } = &mut self.apply
            && write.take_if(|write| self.outbox.is_persisted(*write)).is_some()
        {
            let action = Action::Install { state: snapshot.state, position: snapshot.position };
            self.outbox.act(action);
        }
    }
}
