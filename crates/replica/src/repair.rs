//! What becomes of a server whose state is not that of the others (STORAGE.md, "Scrub and digests"; docs/adr/0011).
//!
//! Each server tells the others digests of its state, and compares what they tell with its own, at equal indexes. If a quorum
//! has another state, this server quarantines itself: nothing rests on its state any more, its log votes and acknowledges on,
//! and a snapshot of a server of that quorum takes the state's place. If no quorum has one state, nobody can tell who is
//! right: requests are refused until somebody can.

use std::collections::{BTreeMap, BTreeSet};

use raftmap_raft::{Input, LogIndex, NodeId};
use raftmap_state::LEVEL_OF_SCANS;

use crate::digests::{DigestKind, Digests, StateDigest, Verdict};
use crate::event::{Effect, Notice, Now, Serves};
use crate::failure::{Failure, Reason};
use crate::peer::PeerBatch;
use crate::replica::Replica;
use crate::requests::Stage;

/// While the state stands still its digests are told again after so many heartbeats, for one may have been lost.
const TELL_AGAIN_HEARTBEATS: u32 = 20;

/// While rows are in dispute, and those who could settle it did not scan, they are asked to again after this long.
const SCAN_AGAIN_MS: u64 = 60_000;

/// What a replica knows of its state and those of the others.
#[derive(Debug, Default)]
pub(crate) struct Repair {
    digests: Digests,
    /// The newest index of each kind at which states were compared, and how that stands.
    standing: BTreeMap<DigestKind, (LogIndex, Verdict)>,
    /// Nothing may rest on the state: it is lost, or wrong, and another one takes its place.
    pub(crate) lost: bool,
    /// The servers that outvoted this one: a snapshot of one of them is good.
    sound: BTreeSet<NodeId>,
    /// It asked for a snapshot, and has applied nothing since: it would speak of a copy.
    copying: bool,
    /// A snapshot is taking the place of the state.
    installing: bool,
    /// Servers that contradicted this one, as the operator was told.
    contradict: BTreeSet<NodeId>,
    split: bool,
    serves: Serves,
    /// The last index whose digest was told to all, and how many ticks ago.
    told: LogIndex,
    told_ticks: u32,
    /// What the last scan found of this state.
    scan: Option<StateDigest>,
    /// The last scan that a quorum's states agreed at.
    sound_at: LogIndex,
    /// The log time of the last scan, and when this server first led with it, or last asked for another one, by its own clock; in
    /// milliseconds.
    scan_seen: Option<(Option<u64>, u64)>,
}

impl Repair {
    /// Of a replica that starts, perhaps without a state.
    pub(crate) fn new(lost: bool) -> Self {
        Self { lost, ..Self::default() }
    }

    pub(crate) fn is_split(&self) -> bool {
        self.split
    }

    fn is_disputed(&self) -> bool {
        self.standing.values().any(|(_, verdict)| is_open(verdict))
    }

    fn is_disputed_at(&self, kind: DigestKind, index: LogIndex) -> bool {
        self.standing.get(&kind).is_some_and(|(at, verdict)| *at == index && is_open(verdict))
    }

    fn are_rows_disputed(&self) -> bool {
        self.standing.get(&DigestKind::Content).is_some_and(|(_, verdict)| is_open(verdict))
    }

    fn forget_own(&mut self) {
        self.digests.forget_own();
        self.standing.clear();
        self.scan = None;
    }
}

fn is_open(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Disputed | Verdict::Split)
}

impl Replica {
    // What is said of states.

    /// Another server tells digests of its state.
    pub(crate) fn hear_digests(&mut self, from: NodeId, batch: &PeerBatch) {
        if batch.applied == LogIndex(0) {
            return self.repair.digests.add_stateless(from);
        }
        let applied = StateDigest { index: batch.applied, digest: batch.digest };
        let running = [Some(applied), batch.milestone].map(|digest| (DigestKind::Running, digest));
        for (kind, digest) in running.into_iter().chain([(DigestKind::Content, batch.scan)]) {
            let Some(digest) = digest else { continue };
            self.repair.digests.add(from, kind, digest);
            self.compare(kind, digest.index);
            self.note_contradiction(from, kind, digest.index);
        }
    }

    /// The state machine has applied more: that is its digest now.
    pub(crate) fn note_own_digests(&mut self) {
        self.repair.copying = false;
        if self.repair.lost {
            return;
        }
        let applied = StateDigest { index: self.view.applied, digest: self.view.digest };
        for digest in self.view.milestone.into_iter().chain([applied]) {
            self.repair.digests.add_own(DigestKind::Running, digest);
            self.compare(DigestKind::Running, digest.index);
        }
    }

    /// All rows were hashed at the entry of a scan.
    pub(crate) fn scanned(&mut self, digest: StateDigest) {
        if self.repair.lost || self.repair.installing {
            return;
        }
        self.repair.scan = Some(digest);
        // The others are told with the next heartbeat, even if nothing else is new.
        self.repair.told = LogIndex(0);
        self.repair.digests.add_own(DigestKind::Content, digest);
        self.compare(DigestKind::Content, digest.index);
    }

    /// Rows cannot be read any more: the engine knows them to be broken.
    pub(crate) fn scan_failed(&mut self, index: LogIndex, reason: String) {
        if self.repair.lost || self.repair.installing {
            return;
        }
        if self.raft.membership().all() == [self.raft.id()].into() {
            let reason = format!(
                "its state cannot be read any more, and there is no other server to take it from: restore a backup ({reason})"
            );
            return self.effect(Effect::Stop { reason });
        }
        let has_state = |id: &NodeId| self.repair.digests.has_state(*id);
        if !self.connected.keys().any(has_state) {
            let reason = format!(
                "its state cannot be read any more, and no server is connected that has one: start it again when the others are up ({reason})"
            );
            return self.effect(Effect::Stop { reason });
        }
        self.notice(Notice::StateUnreadable { index, reason });
        self.give_up_state(BTreeSet::new());
    }

    /// Whether it is time for a scan, at a leader: by log time, which goes on when leaders change, or by this server's own, since log
    /// time may stand still for long when a clock was wrong.
    pub(crate) fn is_scan_due(&mut self, now: Now, stamp_ms: u64) -> bool {
        let may_scan = self.view.level >= LEVEL_OF_SCANS;
        let Some(every_ms) = self.config.scan_every_ms.filter(|_| may_scan) else { return false };
        let last_ms = self.view.scanned_ms;
        let seen =
            self.repair.scan_seen.filter(|(seen, _)| *seen == last_ms).unwrap_or((last_ms, now.monotonic_ms));
        self.repair.scan_seen = Some(seen);
        let since_ms = last_ms.map_or(0, |last_ms| stamp_ms.saturating_sub(last_ms));
        let wait_ms = if self.repair.are_rows_disputed() { every_ms.min(SCAN_AGAIN_MS) } else { every_ms };
        let is_due = since_ms.max(now.monotonic_ms.saturating_sub(seen.1)) >= wait_ms;
        if is_due {
            // While log time stands still the next scan bears the time of the last one.
            self.repair.scan_seen = Some((last_ms, now.monotonic_ms));
        }
        is_due
    }

    /// What this server tells of its state: nothing, if it has none that it trusts.
    pub(crate) fn own_digests(&self) -> PeerBatch {
        if self.repair.lost || self.repair.copying {
            return PeerBatch::default();
        }
        let (applied, digest) = (self.view.applied, self.view.digest);
        PeerBatch {
            applied,
            digest,
            milestone: self.view.milestone,
            scan: self.repair.scan,
            ..PeerBatch::default()
        }
    }

    /// A new connection may be to another life of the server, with another state.
    pub(crate) fn forget_digests_of(&mut self, peer: NodeId) {
        self.repair.digests.forget(peer);
        self.repair.contradict.remove(&peer);
        // Nor did it hear what it was told on the one before.
        self.repair.told = LogIndex(0);
    }

    fn note_contradiction(&mut self, peer: NodeId, kind: DigestKind, index: LogIndex) {
        if self.repair.digests.contradicts(peer, kind, index) && self.repair.contradict.insert(peer) {
            self.notice(Notice::Diverged { peer, index });
        }
    }

    // What follows from it.

    fn compare(&mut self, kind: DigestKind, index: LogIndex) {
        let mut verdict = self.verdict_at(kind, index);
        if verdict == Verdict::Open && self.repair.is_disputed_at(kind, index) {
            let (id, membership) = (self.raft.id(), self.raft.membership());
            verdict = self.repair.digests.judge_the_rest(id, membership, kind, index);
        }
        if let Verdict::Outvoted(by) = verdict {
            return self.quarantine(kind, index, by);
        }
        let standing = self.repair.standing.get(&kind).map(|(index, _)| *index);
        if verdict == Verdict::Agreed && kind == DigestKind::Content && index > self.repair.sound_at {
            self.repair.sound_at = index;
            self.notice(Notice::StateSound { index });
        }
        if verdict != Verdict::Open && standing.is_none_or(|standing| index >= standing) {
            self.repair.standing.insert(kind, (index, verdict));
            self.check_split();
        }
    }

    /// Looks again at what was not settled: members and connections may have changed, and servers may have given up their states.
    fn compare_again(&mut self) {
        let open = |(kind, (index, verdict)): (&DigestKind, &(LogIndex, Verdict))| {
            is_open(verdict).then_some((*kind, *index))
        };
        for (kind, index) in self.repair.standing.iter().filter_map(open).collect::<Vec<_>>() {
            self.compare(kind, index);
        }
    }

    fn verdict_at(&self, kind: DigestKind, index: LogIndex) -> Verdict {
        let (id, membership) = (self.raft.id(), self.raft.membership());
        let connected = |id: NodeId| self.connected.contains_key(&id);
        self.repair.digests.judge(id, membership, connected, kind, index)
    }

    /// Nothing rests on this server's state any more.
    fn quarantine(&mut self, kind: DigestKind, index: LogIndex, by: BTreeSet<NodeId>) {
        self.notice(Notice::Quarantined { kind, index, by: by.iter().copied().collect() });
        self.give_up_state(by);
    }

    fn give_up_state(&mut self, sound: BTreeSet<NodeId>) {
        self.repair.lost = true;
        self.repair.sound = sound;
        self.repair.forget_own();
        self.check_split();
        self.raft.step(Input::DistrustState);
        self.end_what_rests_on_the_state(Reason::Quarantined);
    }

    /// No quorum has one state: nobody knows which one is right.
    fn check_split(&mut self) {
        let split = self.repair.standing.values().any(|(_, verdict)| *verdict == Verdict::Split);
        if split == self.repair.split {
            return;
        }
        self.repair.split = split;
        self.notice(if split { Notice::StatesDiffer } else { Notice::StatesAgree });
        if split {
            self.end_what_rests_on_the_state(Reason::StatesDiffer);
            for ctx in self.queue.drain() {
                self.respond(ctx, Err(Failure::not_applied(Reason::StatesDiffer, self.raft.leader())));
            }
        }
    }

    /// Ends the reads of this server, and the writes whose answers it would have to give. Those may be applied all the same.
    fn end_what_rests_on_the_state(&mut self, reason: Reason) {
        for (ctx, stage) in self.requests.of_the_state() {
            let leader = self.raft.leader();
            self.respond(
                ctx,
                Err(match stage {
                    Stage::Proposed => Failure::unknown(reason, leader),
                    _ => Failure::not_applied(reason, leader),
                }),
            );
        }
    }

    /// Why nothing may be read here, if nothing may.
    pub(crate) fn check_state(&self) -> Result<(), Reason> {
        if self.repair.split {
            Err(Reason::StatesDiffer)
        } else if self.is_quarantined() {
            Err(Reason::Quarantined)
        } else if self.repair.lost || self.view.applied < self.raft.base().index {
            Err(Reason::StateLost)
        } else {
            Ok(())
        }
    }

    /// Whether this server's state was found to be wrong, and another one has not taken its place yet.
    pub(crate) fn is_quarantined(&self) -> bool {
        self.repair.lost && (self.raft.is_state_distrusted() || !self.repair.sound.is_empty())
    }

    /// What may be read here, and copied by other servers, whenever that changes. A state that is in dispute is not copied: the
    /// copy would take its side.
    pub(crate) fn tell_what_is_served(&mut self) {
        let reads = !self.repair.lost && !self.repair.split;
        let serves = Serves { reads, snapshots: reads && !self.repair.is_disputed() };
        if serves != self.repair.serves {
            self.repair.serves = serves;
            self.effect(Effect::Serve(serves));
        }
    }

    /// A snapshot is about to take the place of the state.
    pub(crate) fn state_is_replaced(&mut self) {
        self.repair.installing = true;
        self.repair.forget_own();
        self.check_split();
    }

    /// The state machine speaks for the first time since then.
    pub(crate) fn note_replaced(&mut self) {
        if std::mem::take(&mut self.repair.installing) && std::mem::take(&mut self.repair.lost) {
            self.repair.sound.clear();
            self.repair.contradict.clear();
            self.notice(Notice::StateReplaced { index: self.view.applied });
        }
    }

    /// Whether the log may let go of entries. While states are in dispute others may need them to come to a state of their own.
    pub(crate) fn may_compact(&self) -> bool {
        !self.repair.lost && !self.repair.is_disputed()
    }

    /// A snapshot is asked for.
    pub(crate) fn note_copying(&mut self) {
        self.repair.copying = true;
    }

    /// Of whom to take a snapshot, if of anybody now, when consensus says `asked`. If a quorum was found to have another state
    /// than this server, of one of those who had it; if none of them is connected, of the leader alone. And while nobody leads
    /// of one who is connected: asking any other takes long, and keeps from asking those who are there.
    pub(crate) fn snapshot_source(&self, asked: NodeId) -> Option<NodeId> {
        let sound = &self.repair.sound;
        let (leads, connected) = (self.raft.leader() == Some(asked), self.connected.contains_key(&asked));
        if sound.is_empty() || sound.contains(&asked) {
            return (leads || connected).then_some(asked);
        }
        let of_sound = sound.iter().copied().find(|id| self.connected.contains_key(id));
        of_sound.or(leads.then_some(asked))
    }

    /// Of those who may lead in the place of this server, whether this one has a state that it trusts.
    pub(crate) fn may_take_over(&self, id: NodeId) -> bool {
        !self.repair.digests.is_stateless(id)
            && (self.repair.sound.is_empty() || self.repair.sound.contains(&id))
    }

    // Time.

    pub(crate) fn tick_repair(&mut self) {
        self.compare_again();
        if self.repair.lost && self.raft.is_leader() && self.raft.handing_over_to().is_none() {
            self.hand_over(None);
        }
        self.repair.told_ticks += 1;
        if self.repair.told_ticks >= self.tell_after_ticks() {
            self.repair.told_ticks = 0;
            self.repair.told = self.view.applied;
            for peer in self.connected.keys() {
                self.outgoing.entry(*peer).or_default();
            }
        }
    }

    fn tell_after_ticks(&self) -> u32 {
        let heartbeat = self.config.raft.heartbeat_ticks;
        if self.repair.told < self.view.applied { heartbeat } else { heartbeat * TELL_AGAIN_HEARTBEATS }
    }

    /// How many of the next ticks have nothing to do with this.
    pub(crate) fn quiet_repair_ticks(&self) -> u32 {
        let busy = self.repair.is_disputed() || (self.repair.lost && self.raft.is_leader());
        let left = self.tell_after_ticks().saturating_sub(self.repair.told_ticks + 1);
        if busy { 0 } else { left }
    }
}
