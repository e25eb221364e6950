//! What every role has: the persistent state of figure 2, the log, what is committed and applied, and the outbox.

mod beginning;

use std::collections::VecDeque;

use crate::config::{Config, Restored};
use crate::entry::{Entry, HardState, LogPosition, Payload};
use crate::ids::{Ctx, DamageId, LogIndex, NodeId, Term, WriteId};
use crate::io::{Action, Event, FailReason, FetchPurpose, Outcome, Snapshot};
use crate::log_view::{Cached, LogView};
use crate::membership::Membership;
use crate::message::VoteRequest;
use crate::outbox::{Free, Outbox, Promise};

use self::beginning::Snapshots;

/// The state that a node keeps whatever its role is.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) config: Config,
    rng: fastrand::Rng,
    term: Term,
    vote: Option<NodeId>,
    damage: Damage,
    pub(crate) log: LogView,
    /// The last index that is on disk here.
    durable: LogIndex,
    /// Writes on their way to disk that added or cut entries, each with the last index once it is there.
    unsynced: VecDeque<(WriteId, LogIndex)>,
    commit: LogIndex,
    applied: LogIndex,
    /// Up to here entries are applied as soon as they may be; behind it a follower may wait until there are more of them.
    wanted: LogIndex,
    /// Whether entries are with the state machine, or being read from disk for it.
    apply: ApplyStage,
    snapshots: Snapshots,
    /// The state machine is wrong, and a snapshot is to take its place: the log says so, too.
    state_distrusted: bool,
    /// The membership at the log's base, and those that entries behind it carry.
    memberships: Vec<(LogIndex, Membership)>,
    /// Proposals made here that have not ended, by index.
    proposals: VecDeque<(LogIndex, Ctx)>,
    /// Bytes of entries behind the commit index.
    uncommitted_bytes: usize,
    pub(crate) outbox: Outbox,
}

/// Whether the disk lost something that this node may have acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    Whole,
    Damaged(DamageId),
    /// All is there again, and is said so on disk by this write: damaged until it is durable.
    Clearing(DamageId, WriteId),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum ApplyStage {
    Idle,
    Fetching,
    Applying {
        to: LogIndex,
    },
    /// A snapshot takes the place of the state machine; not before the log has named it, with `write`, as long as that is on
    /// its way.
    Installing {
        snapshot: Snapshot,
        write: Option<WriteId>,
    },
}

impl Core {
    pub(crate) fn new(config: Config, restored: Restored) -> Self {
        assert!(config.heartbeat_ticks < config.election_ticks, "nobody follows a leader of rare heartbeats");
        let Restored { hard_state, base, terms, last, state, applied, state_distrusted, memberships } =
            restored;
        assert!(applied <= last || hard_state.damaged, "applied {applied} behind the end of the log {last}");
        assert!(memberships.first().is_some_and(|first| first.0 == base.index), "no membership at {base:?}");
        let log = LogView::new(base, terms, last, config.cache_bytes);
        let mut rng = fastrand::Rng::with_seed(config.seed);
        let damage = if hard_state.damaged { Damage::Damaged(DamageId(rng.u64(..))) } else { Damage::Whole };
        Self {
            rng,
            config,
            term: hard_state.term,
            vote: hard_state.vote,
            damage,
            log,
            durable: last,
            unsynced: VecDeque::new(),
            // Only what was committed was ever applied, or let go of.
            commit: applied.max(base.index),
            applied,
            wanted: LogIndex(0),
            apply: ApplyStage::Idle,
            snapshots: Snapshots::new(state),
            state_distrusted,
            memberships,
            proposals: VecDeque::new(),
            uncommitted_bytes: 0,
            outbox: Outbox::default(),
        }
    }

    pub(crate) fn id(&self) -> NodeId {
        self.config.id
    }

    pub(crate) fn term(&self) -> Term {
        self.term
    }

    pub(crate) fn vote(&self) -> Option<NodeId> {
        self.vote
    }

    pub(crate) fn durable(&self) -> LogIndex {
        self.durable
    }

    pub(crate) fn commit(&self) -> LogIndex {
        self.commit
    }

    /// The last committed entry, at a node whose log holds it: any but a damaged one.
    pub(crate) fn committed(&self) -> LogPosition {
        let term = self.log.term_at(self.commit).expect("what is committed is in the log, or is its base");
        LogPosition { term, index: self.commit }
    }

    pub(crate) fn applied(&self) -> LogIndex {
        self.applied
    }

    /// Whether the state machine is lost: it is not to be trusted, or the log does not reach back to where it stands; and no
    /// snapshot is taking its place.
    pub(crate) fn is_state_lost(&self) -> bool {
        let lost = self.state_distrusted || self.applied < self.log.base().index;
        lost && !matches!(self.apply, ApplyStage::Installing { .. })
    }

    pub(crate) fn is_state_distrusted(&self) -> bool {
        self.state_distrusted
    }

    /// The membership in force: the last one in the log, committed or not (section 6).
    pub(crate) fn membership(&self) -> &Membership {
        &self.memberships.last().expect("the membership at the base is never removed").1
    }

    /// The index of the entry that put it in force.
    pub(crate) fn membership_index(&self) -> LogIndex {
        self.memberships.last().expect("the membership at the base is never removed").0
    }

    /// All members but this one.
    pub(crate) fn others(&self) -> Vec<NodeId> {
        self.membership().all().into_iter().filter(|id| *id != self.id()).collect()
    }

    /// Which damage its disk has, if any.
    pub(crate) fn damage(&self) -> Option<DamageId> {
        match self.damage {
            Damage::Whole => None,
            Damage::Damaged(id) | Damage::Clearing(id, _) => Some(id),
        }
    }

    pub(crate) fn is_damaged(&self) -> bool {
        self.damage != Damage::Whole
    }

    /// Whether this node may stand for election. One that the latest membership leaves out may, too, as long as that is not
    /// known to be committed: others may need what it has of the log to get there (dissertation, section 4.2.2). It then counts
    /// for nothing itself.
    pub(crate) fn may_campaign(&self) -> bool {
        !self.is_state_lost() && self.may_campaign_with_a_state()
    }

    /// Whether all that keeps this node from standing for election is that its state machine is lost. Then it may be the only one that
    /// can be elected.
    pub(crate) fn lacks_but_a_state(&self) -> bool {
        self.is_state_lost() && self.may_campaign_with_a_state()
    }

    fn may_campaign_with_a_state(&self) -> bool {
        let settled = self.membership_index() <= self.commit;
        let votes = |(_, membership): &(LogIndex, Membership)| membership.is_voter(self.id());
        let latest = self.memberships.iter().rev().take(if settled { 1 } else { 2 });
        !self.is_damaged() && latest.into_iter().any(votes)
    }

    /// A timeout by chance, between one and two election timeouts (section 5.2).
    pub(crate) fn random_timeout(&mut self) -> u32 {
        let base = self.config.election_ticks;
        base + self.rng.u32(0..base.max(1))
    }

    /// How long a node that has just started waits for the leader that there may be, which would send a heartbeat meanwhile: by
    /// chance between one and two heartbeat intervals. Asking for pre-votes disturbs nobody.
    pub(crate) fn random_first_timeout(&mut self) -> u32 {
        let base = self.config.heartbeat_ticks.max(1);
        base + self.rng.u32(0..base)
    }

    /// Until pre-votes are asked for again, by chance between one and two times a wait that doubles with each time, up to a
    /// heartbeat. Asking disturbs nobody, and who refused may have noticed a moment later that the leader is gone.
    pub(crate) fn random_retry(&mut self, asked: u32) -> u32 {
        let doubled = 1_u32.checked_shl(asked).unwrap_or(u32::MAX);
        let base = doubled.min(self.config.heartbeat_ticks).max(1);
        base + self.rng.u32(0..base)
    }

    /// A number that no earlier start of this node used, but for an unlikely chance.
    pub(crate) fn random_u64(&mut self) -> u64 {
        self.rng.u64(..)
    }

    // Terms and votes.

    /// Moves on to a later term, in which this node has voted for `vote`. The vote of the term before is forgotten here
    /// and nowhere else (scenario 3).
    pub(crate) fn enter_term(&mut self, term: Term, vote: Option<NodeId>) {
        assert!(term > self.term, "terms only go up: {} to {term}", self.term);
        self.term = term;
        self.vote = vote;
        self.write_hard_state();
    }

    fn write_hard_state(&mut self) {
        let damaged = matches!(self.damage, Damage::Damaged(_));
        self.outbox.write_hard_state(HardState { term: self.term, vote: self.vote, damaged });
    }

    pub(crate) fn send(&mut self, to: NodeId, message: Free) {
        self.outbox.send(self.term, to, message);
    }

    pub(crate) fn promise(&mut self, to: NodeId, promise: Promise) {
        self.outbox.promise(self.term, to, promise);
    }

    /// Answers a request for a vote in this term; whether it was granted.
    pub(crate) fn answer_vote(&mut self, candidate: NodeId, request: VoteRequest) -> bool {
        let free = self.vote.is_none_or(|vote| vote == candidate);
        if self.is_damaged() || !free || request.last < self.log.last() {
            self.send(candidate, Free::VoteRefused);
            return false;
        }
        if self.vote.is_none() {
            self.vote = Some(candidate);
            self.write_hard_state();
        }
        self.promise(candidate, Promise::VoteGranted);
        true
    }

    /// Whether this node would vote for a candidate in the next term, as far as its log and disk tell.
    pub(crate) fn would_vote(&self, request: VoteRequest) -> bool {
        !self.is_damaged() && request.last >= self.log.last()
    }

    // The log.

    /// Adds entries behind the last one.
    pub(crate) fn append(&mut self, entries: Vec<Entry>) {
        self.take_in(&entries);
        self.outbox.write_entries(entries);
        self.note_unsynced();
    }

    /// Adds one entry behind the last one.
    pub(crate) fn append_one(&mut self, entry: Entry) {
        self.take_in(std::slice::from_ref(&entry));
        self.outbox.write_entry(entry);
        self.note_unsynced();
    }

    fn take_in(&mut self, entries: &[Entry]) {
        self.log.append(entries);
        for entry in entries {
            self.uncommitted_bytes += entry.size_bytes();
            if let Payload::Membership(membership) = &entry.payload {
                self.memberships.push((entry.index, Membership::clone(membership)));
            }
        }
    }

    /// Removes everything behind `to`: entries of a leader that did not get to commit them.
    pub(crate) fn truncate(&mut self, to: LogIndex) {
        // What a damaged node still holds may be an older state of its log, from before a truncation: what stands there
        // is then not what was committed.
        let committed = if self.is_damaged() { LogIndex(0) } else { self.commit };
        assert!(to >= committed, "cut to {to}, and {committed} is committed (scenario 15)");
        self.log.truncate(to);
        self.memberships.retain(|(index, _)| *index <= to);
        self.forget_durable_behind(to);
        self.outbox.write_truncation(to);
        self.note_unsynced();
        self.outbox.event(Event::Truncated { to });
    }

    fn forget_durable_behind(&mut self, to: LogIndex) {
        // What a write on its way says of the indexes behind `to` is no longer true of what stands there (scenario 22).
        self.durable = self.durable.min(to);
        for (_, last) in &mut self.unsynced {
            *last = to.min(*last);
        }
    }

    fn note_unsynced(&mut self) {
        let (write, last) = (self.outbox.latest_write(), self.log.last_index());
        match self.unsynced.back_mut() {
            Some(latest) if latest.0 == write => latest.1 = last,
            _ => self.unsynced.push_back((write, last)),
        }
    }

    /// Takes note that all writes up to `write` are durable.
    pub(crate) fn persisted(&mut self, write: WriteId) {
        self.outbox.persisted(write);
        while let Some((_, last)) = self.unsynced.pop_front_if(|unsynced| unsynced.0 <= write) {
            self.durable = last;
        }
        self.named_in_log();
        if let Damage::Clearing(_, clearing) = self.damage
            && self.outbox.is_persisted(clearing)
        {
            self.damage = Damage::Whole;
            self.outbox.event(Event::Repaired { up_to: self.durable });
        }
    }

    /// Ends the damage: this node holds again what it may have acknowledged.
    pub(crate) fn clear_damage(&mut self) {
        if let Damage::Damaged(id) = self.damage {
            self.damage = Damage::Whole;
            self.write_hard_state();
            self.damage = Damage::Clearing(id, self.outbox.latest_write());
        }
    }

    // Commit and apply.

    /// Raises the commit index to `index`, if that is higher.
    pub(crate) fn commit_to(&mut self, index: LogIndex) {
        if index <= self.commit {
            return;
        }
        assert!(index <= self.log.last_index(), "commit {index} behind the end {}", self.log.last_index());
        let committed_bytes = self.log.cached_size_bytes(self.commit.next(), index);
        self.uncommitted_bytes = self.uncommitted_bytes.saturating_sub(committed_bytes);
        self.commit = index;
    }

    /// Counts anew the bytes that wait to be committed, for a leader that begins.
    pub(crate) fn recount_uncommitted(&mut self) {
        self.uncommitted_bytes = self.log.cached_size_bytes(self.commit.next(), self.log.last_index());
    }

    pub(crate) fn has_room_for(&self, payload: &Payload) -> bool {
        self.uncommitted_bytes == 0
            || self.uncommitted_bytes + payload.size_bytes() <= self.config.max_uncommitted_bytes
    }

    /// Somebody waits for what is committed up to `index` to be applied, or it has waited for long enough.
    pub(crate) fn want_applied(&mut self, index: LogIndex) {
        self.wanted = self.wanted.max(index);
    }

    /// Whether something could be applied and waits, perhaps for the next tick.
    pub(crate) fn holds_back(&self) -> bool {
        let (from, to) = self.appliable();
        from <= to && self.apply == ApplyStage::Idle && !self.is_state_lost()
    }

    /// The first and the last entry that could be applied: both committed and durable here.
    fn appliable(&self) -> (LogIndex, LogIndex) {
        (self.applied.next(), self.commit.min(self.durable))
    }

    /// Whether what could be applied is so little that more may gather first; see [`Config::max_follower_lag`].
    fn may_wait(&self, from: LogIndex, to: LogIndex) -> bool {
        self.wanted <= self.applied
            && to.0 - self.applied.0 <= self.config.max_follower_lag
            && self.log.cached_size_bytes(from, to) < self.config.max_apply_bytes
    }

    /// Hands to the state machine what is both committed and durable here, a bounded piece at a time.
    pub(crate) fn flush_apply(&mut self) {
        if self.apply != ApplyStage::Idle || self.is_state_lost() {
            return;
        }
        let (from, to) = self.appliable();
        if from > to || self.may_wait(from, to) {
            return;
        }
        let max_bytes = self.config.max_apply_bytes;
        match self.log.entries(from, to, max_bytes) {
            Cached::Entries(entries) => self.apply(entries),
            Cached::OnDisk { to } => {
                self.apply = ApplyStage::Fetching;
                self.outbox.act(Action::Fetch { purpose: FetchPurpose::Apply, from, to, max_bytes });
            }
        }
    }

    /// Goes on with entries that were read from disk to be applied.
    pub(crate) fn apply_fetched(&mut self, entries: Vec<Entry>) {
        assert!(self.apply == ApplyStage::Fetching, "entries that nobody asked for");
        if self.state_distrusted {
            self.apply = ApplyStage::Idle;
            return;
        }
        let expected = self.applied.next();
        assert!(
            entries.first().is_some_and(|first| first.index == expected),
            "the log gave other entries than those asked for from {expected} on (scenario 25)"
        );
        self.apply(entries);
    }

    fn apply(&mut self, entries: Vec<Entry>) {
        let to = entries.last().map_or(self.applied, |last| last.index);
        assert!(to <= self.commit.min(self.durable), "apply {to}: not committed and durable");
        let proposals = self.take_proposals(to);
        self.apply = ApplyStage::Applying { to };
        self.outbox.act(Action::Apply { entries, proposals });
    }

    fn take_proposals(&mut self, to: LogIndex) -> Vec<(LogIndex, Ctx)> {
        let taken = self.proposals.partition_point(|proposal| proposal.0 <= to);
        self.proposals.drain(..taken).collect()
    }

    pub(crate) fn applied_to(&mut self, index: LogIndex) {
        let asked_for = match &self.apply {
            ApplyStage::Applying { to } => Some(*to),
            ApplyStage::Installing { snapshot, write: None } => Some(snapshot.position.index),
            ApplyStage::Idle | ApplyStage::Fetching | ApplyStage::Installing { .. } => None,
        };
        assert!(asked_for == Some(index), "applied {index}, asked for {:?}", self.apply);
        self.applied = index;
        self.apply = ApplyStage::Idle;
    }

    /// Lets go of old entries in memory.
    pub(crate) fn trim_cache(&mut self) {
        self.log.trim_cache(self.applied.min(self.durable), self.config.cache_bytes);
    }

    // Requests.

    /// Remembers who proposed the entry at `index`.
    pub(crate) fn expect_proposal(&mut self, index: LogIndex, ctx: Ctx) {
        self.proposals.push_back((index, ctx));
    }

    /// Ends the proposals that this node can no longer see through: they may be committed by another leader or not
    /// (scenario 46). Those already committed end when they are applied.
    pub(crate) fn fail_uncommitted_proposals(&mut self) {
        let committed = self.proposals.partition_point(|proposal| proposal.0 <= self.commit);
        for (_, ctx) in self.proposals.split_off(committed) {
            self.fail(ctx, FailReason::LeadershipLost, Outcome::Unknown);
        }
    }

    pub(crate) fn fail(&mut self, ctx: Ctx, reason: FailReason, outcome: Outcome) {
        self.outbox.act(Action::Failed { ctx, reason, outcome });
    }

    pub(crate) fn fail_read(&mut self, ctx: Ctx, reason: FailReason) {
        self.fail(ctx, reason, Outcome::NotApplied);
    }

    /// The place behind which this node's log and one that has `at` can not agree.
    pub(crate) fn hint_for(&self, at: LogPosition) -> LogPosition {
        self.log.last_agreeable(at)
    }
}
