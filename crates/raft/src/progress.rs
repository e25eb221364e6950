//! What a leader knows of one follower, and how far ahead of its answers it sends.
//!
//! ```text
//!            accepted
//!   Probe ────────────► Replicate     Probe:     one append at a time, to find where the logs agree
//!     ▲ ◄───────────────────┘ ▲       Replicate: appends follow each other without waiting, within a window
//!     │   rejected, or damaged│       Snapshot:  what it needs is not in the log any more; it is offered a snapshot
//!     ▼ the log was compacted │                  until it has what stands before the log
//!   Snapshot ─────────────────┘
//!            accepted
//! ```

use std::collections::VecDeque;

use crate::entry::LogPosition;
use crate::ids::{DamageId, LogIndex};
use crate::log_view::LogView;
use crate::message::Repair;

/// One follower, as its leader sees it.
#[derive(Debug)]
pub(crate) struct Progress {
    /// The follower's log durably equals the leader's up to here.
    matched: LogIndex,
    /// The leader's round when it heard so.
    matched_round: u64,
    /// The next index to send. Always above `matched`.
    next: LogIndex,
    mode: Mode,
    /// A read from disk for this follower is under way; nothing is sent meanwhile.
    pub(crate) fetching: bool,
    /// Heard from since the last check for a quorum.
    pub(crate) active: bool,
    /// Heard from between the last two checks.
    was_active: bool,
    /// It is no member any more, since this index; and for how many rounds of the clock it was told so.
    pub(crate) leaves: Option<(LogIndex, u32)>,
    /// An append was answered since the follower was last checked for lost ones.
    answered: bool,
    /// The round of the clock whose answer is the next occasion to check it for lost appends.
    check_at: Option<u64>,
    /// The latest round that it answered.
    acked_round: u64,
    /// The commit index that it was last told.
    pub(crate) told_commit: LogIndex,
    /// How many others should stand for election before it; see [`crate::Heartbeat::rank`].
    pub(crate) rank: u32,
    damage: Option<Damage>,
}

#[derive(Debug)]
enum Mode {
    Probe { waiting: bool },
    Replicate { inflight: VecDeque<Sent>, bytes: usize },
    Snapshot { waiting: bool },
}

/// An append on its way: its last index, and the bytes of its entries.
#[derive(Debug)]
struct Sent {
    last: LogIndex,
    bytes: usize,
}

/// A follower whose disk lost something.
#[derive(Debug)]
struct Damage {
    id: DamageId,
    /// The leader's round when it learned of it. Answers to this round and those before it may stem from before the
    /// damage, and say nothing any more.
    noticed_round: u64,
    /// What the follower must hold to be whole.
    repair_to: Option<LogPosition>,
}

/// How much may be on its way to one follower.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

impl Progress {
    /// A follower of which nothing is known, for a leader whose log ends at `last`.
    pub(crate) fn new(last: LogIndex) -> Self {
        Self {
            matched: LogIndex(0),
            matched_round: 0,
            next: last.next(),
            mode: Mode::Probe { waiting: false },
            fetching: false,
            active: true,
            was_active: true,
            leaves: None,
            answered: false,
            check_at: None,
            acked_round: 0,
            told_commit: LogIndex(0),
            rank: 0,
            damage: None,
        }
    }

    /// The index up to which it counts for commit: nothing while it is damaged.
    pub(crate) fn counted_match(&self) -> LogIndex {
        if self.damage.is_some() { LogIndex(0) } else { self.matched }
    }

    /// The round up to which it counts for reads: none while it is damaged.
    pub(crate) fn counted_round(&self) -> u64 {
        if self.damage.is_some() { 0 } else { self.acked_round }
    }

    /// Whether it counts for the leader's check of its quorum.
    pub(crate) fn counts_as_active(&self) -> bool {
        self.active && self.damage.is_none()
    }

    /// Begins another period in which it is to be heard from.
    pub(crate) fn begin_watch(&mut self) {
        self.was_active = std::mem::replace(&mut self.active, false);
    }

    /// Whether it was heard from in this period or in the one before.
    pub(crate) fn was_heard_lately(&self) -> bool {
        self.active || self.was_active
    }

    /// Whether it was heard from lately, and its disk is whole: it could count for a quorum now.
    pub(crate) fn is_fit(&self) -> bool {
        self.was_heard_lately() && self.damage.is_none()
    }

    /// Whether it holds what is committed, and was not told that it is.
    pub(crate) fn is_owed_commit(&self, commit: LogIndex) -> bool {
        self.told_commit < commit && self.matched >= commit
    }

    /// The index up to which it is known to match, damaged or not.
    pub(crate) fn matched(&self) -> LogIndex {
        self.matched
    }

    pub(crate) fn next(&self) -> LogIndex {
        self.next
    }

    pub(crate) fn is_damaged(&self) -> bool {
        self.damage.is_some()
    }

    pub(crate) fn repair(&self) -> Option<Repair> {
        let damage = self.damage.as_ref()?;
        Some(Repair { damage: damage.id, to: damage.repair_to? })
    }

    /// Whether an append may be sent now.
    pub(crate) fn may_send(&self, window: Window) -> bool {
        !self.fetching
            && match &self.mode {
                Mode::Probe { waiting } | Mode::Snapshot { waiting } => !waiting,
                Mode::Replicate { inflight, bytes } => {
                    inflight.len() < window.messages && *bytes < window.bytes
                }
            }
    }

    /// Whether it waits to be asked where the logs agree, or to be offered a snapshot.
    pub(crate) fn wants_probe(&self) -> bool {
        matches!(self.mode, Mode::Probe { waiting: false } | Mode::Snapshot { waiting: false })
            && !self.fetching
    }

    /// Whether what it needs is not in the leader's log any more.
    pub(crate) fn needs_snapshot(&self) -> bool {
        matches!(self.mode, Mode::Snapshot { .. })
    }

    /// Takes note that the leader's log begins behind `base`.
    pub(crate) fn log_begins_behind(&mut self, base: LogIndex) {
        if self.next <= base && !self.needs_snapshot() {
            self.mode = Mode::Snapshot { waiting: false };
        }
    }

    /// Takes note of an append that was sent, up to `last`.
    pub(crate) fn sent(&mut self, last: LogIndex, size_bytes: usize) {
        if self.awaits_nothing() {
            // Heartbeats that are on their way were sent before this one: their answers say nothing of it.
            self.check_at = None;
            self.answered = false;
        }
        match &mut self.mode {
            Mode::Probe { waiting } | Mode::Snapshot { waiting } => *waiting = true,
            Mode::Replicate { inflight, bytes } => {
                inflight.push_back(Sent { last, bytes: size_bytes });
                *bytes += size_bytes;
                self.next = last.next();
            }
        }
    }

    /// Takes note of an accepted append, in the leader's round `now`. An answer that arrives late takes nothing back.
    pub(crate) fn accepted(&mut self, matched: LogIndex, now: u64, log: &LogView) {
        self.answered = true;
        if matched > self.matched {
            (self.matched, self.matched_round) = (matched, now);
        }
        self.next = self.next.max(self.matched.next());
        match &mut self.mode {
            Mode::Probe { .. } | Mode::Snapshot { .. } => {
                self.next = self.matched.next();
                self.mode = Mode::Replicate { inflight: VecDeque::new(), bytes: 0 };
                self.log_begins_behind(log.base().index);
            }
            Mode::Replicate { inflight, bytes } => {
                while let Some(sent) = inflight.pop_front_if(|sent| sent.last <= matched) {
                    *bytes -= sent.bytes;
                }
            }
        }
    }

    /// Takes note of a rejected append that was sent in `round` and asked for `prev`; `hint` is where the follower's log may
    /// agree. Answers what it had acknowledged, if it does not have that any more.
    pub(crate) fn rejected(
        &mut self,
        prev: LogIndex,
        hint: LogPosition,
        round: u64,
        log: &LogView,
    ) -> Option<LogIndex> {
        self.answered = true;
        let mut lost = None;
        if prev <= self.matched {
            // One that was overtaken by an acknowledgement says nothing (scenario 18). But this question was asked after
            // the acknowledgement had arrived: the disk lied, or an older state of it was put back.
            if round <= self.matched_round {
                return None;
            }
            lost = Some(std::mem::take(&mut self.matched));
            self.matched_round = round;
        }
        self.next = match self.mode {
            // It is on its way to what stands before the log.
            Mode::Snapshot { .. } if lost.is_none() => return None,
            Mode::Replicate { .. } if lost.is_none() => self.matched.next(),
            // The answer to a question before this one.
            Mode::Probe { .. } if self.next.previous() != prev && lost.is_none() => return None,
            _ => log.last_agreeable(hint).index.next().min(prev).max(self.matched.next()),
        };
        self.mode = Mode::Probe { waiting: false };
        self.log_begins_behind(log.base().index);
        lost
    }

    fn awaits_nothing(&self) -> bool {
        match &self.mode {
            Mode::Probe { .. } | Mode::Snapshot { .. } => true,
            Mode::Replicate { inflight, .. } => inflight.is_empty(),
        }
    }

    /// Takes note that the clock began `round`. Lost appends are looked for by the rounds of the clock alone: those for
    /// reads come far more often.
    pub(crate) fn clock_began(&mut self, round: u64) {
        self.check_at.get_or_insert(round);
    }

    /// Takes note of an answered heartbeat. Answers whether appends seem to be lost: some are on their way, and none was
    /// answered since it was checked before. The answer may be to an earlier round than the clock's latest: on a link
    /// slower than the clock it always is.
    pub(crate) fn heartbeat_answered(&mut self, round: u64) -> bool {
        self.acked_round = self.acked_round.max(round);
        if self.check_at.is_none_or(|at| round < at) {
            return false;
        }
        self.check_at = None;
        let answered = std::mem::take(&mut self.answered);
        match &mut self.mode {
            Mode::Probe { waiting } | Mode::Snapshot { waiting } => {
                *waiting = false;
                false
            }
            Mode::Replicate { inflight, .. } => !inflight.is_empty() && !answered && !self.fetching,
        }
    }

    /// Takes note of what an answer says of the follower's disk. Answers whether the answer is to be believed at all:
    /// one that tells of no damage, and may stem from before it, is not.
    pub(crate) fn learn_damage(&mut self, damage: Option<DamageId>, round: u64, leader_round: u64) -> bool {
        match (&self.damage, damage) {
            (Some(known), Some(id)) if known.id == id => true,
            (_, Some(id)) => {
                // What it acknowledged before may be gone.
                self.damage = Some(Damage { id, noticed_round: leader_round, repair_to: None });
                (self.matched, self.matched_round) = (LogIndex(0), leader_round);
                self.acked_round = 0;
                self.mode = match self.mode {
                    Mode::Snapshot { .. } => Mode::Snapshot { waiting: false },
                    Mode::Probe { .. } | Mode::Replicate { .. } => Mode::Probe { waiting: false },
                };
                true
            }
            (Some(known), None) if round <= known.noticed_round => false,
            (_, None) => {
                self.damage = None;
                true
            }
        }
    }

    /// A round was confirmed without this follower: if it is damaged and the round is later than the damage, the leader's
    /// last entry is what it must come to hold.
    pub(crate) fn round_confirmed(&mut self, round: u64, last: LogPosition) {
        if let Some(damage) = &mut self.damage
            && round > damage.noticed_round
        {
            damage.repair_to.get_or_insert(last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Term;

    const WINDOW: Window = Window { messages: 2, bytes: 1000 };

    fn at(index: u64) -> LogPosition {
        LogPosition { term: Term(1), index: LogIndex(index) }
    }

    fn replicating(matched: u64) -> Progress {
        let mut progress = Progress::new(LogIndex(matched));
        progress.accepted(LogIndex(matched), 1, &LogView::default());
        progress
    }

    #[test]
    fn the_window_bounds_messages_and_bytes() {
        let mut progress = replicating(5);
        progress.sent(LogIndex(6), 10);
        assert!(progress.may_send(WINDOW));
        progress.sent(LogIndex(7), 10);
        assert!(!progress.may_send(WINDOW), "two messages");
        progress.accepted(LogIndex(6), 1, &LogView::default());
        assert!(progress.may_send(WINDOW));
        progress.sent(LogIndex(8), 990);
        progress.accepted(LogIndex(7), 1, &LogView::default());
        assert!(progress.may_send(WINDOW), "990 bytes of 1000");
        progress.sent(LogIndex(9), 10);
        assert!(!progress.may_send(WINDOW));
        progress.accepted(LogIndex(9), 1, &LogView::default());
        assert!(progress.may_send(WINDOW));
        assert_eq!(progress.next(), LogIndex(10));
    }

    /// Scenario 18.
    #[test]
    fn a_late_rejection_takes_nothing_back() {
        let log = LogView::default();
        let mut progress = replicating(5);
        progress.rejected(LogIndex(5), LogPosition::default(), 1, &log);
        assert_eq!((progress.matched(), progress.next()), (LogIndex(5), LogIndex(6)));
        assert!(matches!(progress.mode, Mode::Replicate { .. }));
        progress.sent(LogIndex(9), 1);
        progress.rejected(LogIndex(9), LogPosition::default(), 1, &log);
        assert_eq!(progress.next(), LogIndex(6), "a gap: on from what matches");
        progress.rejected(LogIndex(3), LogPosition::default(), 1, &log);
        assert_eq!(progress.next(), LogIndex(6), "an older question's answer");
    }

    #[test]
    fn an_answer_from_before_the_damage_is_not_believed() {
        let mut progress = replicating(100);
        let id = DamageId(4);
        assert!(progress.learn_damage(Some(id), 7, 8));
        assert_eq!(progress.counted_match(), LogIndex(0));
        assert!(!progress.learn_damage(None, 8, 9), "sent before the damage was noticed");
        progress.accepted(LogIndex(100), 1, &LogView::default());
        assert_eq!(progress.counted_match(), LogIndex(0), "damaged nodes do not count");
        progress.round_confirmed(8, at(120));
        assert_eq!(progress.repair(), None, "the round began before");
        progress.round_confirmed(9, at(120));
        progress.round_confirmed(10, at(130));
        assert_eq!(progress.repair(), Some(Repair { damage: id, to: at(120) }));
        assert!(progress.learn_damage(None, 9, 10));
        assert_eq!(progress.counted_match(), LogIndex(100));
    }
}
