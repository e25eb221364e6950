//! What must hold after each step, by somebody who sees all servers at once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use raftmap_raft::{Base, Entry, HardState, LogIndex, Membership, NodeId, Payload, Term, Write, WriteId};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A rule that was broken, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(crate) type Checked = Result<(), Violation>;

macro_rules! broken {
    ($($text:tt)*) => {
        Err(Violation(format!($($text)*)))
    };
}
pub(crate) use broken;

/// An entry as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    term: Term,
    content: u64,
}

impl Stamp {
    fn of(entry: &Entry) -> Self {
        let content = match &entry.payload {
            Payload::Noop => 0,
            payload => xxh3_64_with_seed(&payload.to_bytes(), u64::from(payload.kind())),
        };
        Self { term: entry.term, content }
    }
}

/// What one server holds.
#[derive(Debug, Default)]
struct Held {
    /// Its log, on disk or not, with what its state machine holds in its stead.
    log: Vec<Stamp>,
    /// What its log said is on disk, and was not found lost since.
    disk: Vec<Stamp>,
    /// The cuts of which it has not said so yet: after a crash they may be on disk or not.
    cuts: Vec<Cut>,
    hard_state: HardState,
    leads: Option<Term>,
    /// It started with a damaged disk, and was not repaired since.
    is_damaged: bool,
    /// Up to where it said in each term that it holds entries. A leader that was paused may hear it much later.
    said: BTreeMap<Term, LogIndex>,
    /// The same, as far as its disk was whole when it said so, or became whole since.
    counts: BTreeMap<Term, LogIndex>,
}

/// A cut of a log that its server wants written.
#[derive(Clone, Debug)]
struct Cut {
    write: WriteId,
    kind: CutKind,
}

#[derive(Clone, Debug)]
enum CutKind {
    Truncation {
        to: usize,
        /// The first entry behind it, in the same batch.
        next: Option<Stamp>,
    },
    /// A snapshot takes the place of the whole log: what it holds is what was committed.
    Snapshot(Vec<Stamp>),
}

impl Cut {
    /// Whether `log` may be what a disk holds that held `disk`, once this cut is on it.
    fn explains(&self, log: &[Stamp], disk: &[Stamp]) -> bool {
        match &self.kind {
            CutKind::Truncation { to, next } => {
                log.starts_with(&disk[..(*to).min(disk.len())])
                    && log.get(*to).is_none_or(|stamp| Some(stamp) == next.as_ref())
            }
            CutKind::Snapshot(held) => log.starts_with(held),
        }
    }
}

/// An entry that some server applied.
#[derive(Clone, Copy, Debug)]
struct Committed {
    stamp: Stamp,
    /// The latest term that anybody led when it was first seen: it was committed in that term or before.
    by: Term,
}

/// The observer.
#[derive(Debug)]
pub(crate) struct Oracle {
    /// The memberships that were ever in a log, by the index and the term of their entry.
    memberships: BTreeMap<(LogIndex, Term), Membership>,
    held: BTreeMap<NodeId, Held>,
    leaders: BTreeMap<Term, NodeId>,
    committed: Vec<Committed>,
    /// Never iterated over.
    appended: HashMap<(LogIndex, Term), (u64, Option<Term>)>,
    digests: HashMap<LogIndex, u128>,
    /// The highest revision that was acknowledged to anybody.
    acknowledged: u64,
}

fn place(index: LogIndex) -> usize {
    usize::try_from(index.0).expect("logs fit into memory")
}

impl Oracle {
    pub(crate) fn new(nodes: u64, voters: u64) -> Self {
        let founding = Membership::of_voters((1..=voters).map(NodeId));
        Self {
            memberships: BTreeMap::from([((LogIndex(0), Term(0)), founding)]),
            held: (1..=nodes).map(|id| (NodeId(id), Held::default())).collect(),
            leaders: BTreeMap::new(),
            committed: Vec::new(),
            appended: HashMap::new(),
            digests: HashMap::new(),
            acknowledged: 0,
        }
    }

    fn held(&mut self, id: NodeId) -> &mut Held {
        self.held.get_mut(&id).expect("it is a server")
    }

    /// Whether any log ever named it.
    pub(crate) fn was_member(&self, id: NodeId) -> bool {
        self.memberships.values().any(|membership| membership.all().contains(&id))
    }

    /// Whether those for whom `holds` is true were a majority when the entry at `index` was committed: by the membership that was in
    /// force then, which is that of the entry's append, or a later one. `in_log` says of an index and a term whether such an entry is
    /// in the log that counts.
    fn is_majority(
        &self,
        index: LogIndex,
        in_log: impl Fn(LogIndex, Term) -> bool,
        holds: impl Fn(NodeId) -> bool,
    ) -> bool {
        let known = self.memberships.iter().filter(|((at, term), _)| at.0 == 0 || in_log(*at, *term));
        let at_append = known.clone().take_while(|((at, _), _)| *at <= index).last();
        let later = known.skip_while(|((at, _), _)| *at <= index);
        at_append.into_iter().chain(later).any(|(_, membership)| {
            let majority = |voters: &BTreeSet<NodeId>| {
                voters.is_empty() || 2 * voters.iter().filter(|id| holds(**id)).count() > voters.len()
            };
            majority(&membership.voters) && majority(&membership.voters_outgoing)
        })
    }

    /// The highest revision that was acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    pub(crate) fn committed(&self) -> usize {
        self.committed.len()
    }

    /// The first `index` entries, which are committed: what a state machine holds that stands for them.
    fn held_by_state(&self, id: NodeId, index: LogIndex) -> Result<Vec<Stamp>, Violation> {
        match self.committed.get(..place(index)) {
            Some(committed) => Ok(committed.iter().map(|committed| committed.stamp).collect()),
            None => broken!("the log of server {id} begins behind {index}, which nobody has applied"),
        }
    }

    /// A server starts with these entries in its log behind `base`. What was on its disk is there, unless it says that it is
    /// damaged.
    pub(crate) fn started(
        &mut self,
        id: NodeId,
        base: LogIndex,
        entries: &[Entry],
        hard_state: HardState,
    ) -> Checked {
        let mut log = self.held_by_state(id, base)?;
        log.extend(entries.iter().map(Stamp::of));
        let held = self.held(id);
        let explained = || held.cuts.iter().any(|cut| cut.explains(&log, &held.disk));
        if !hard_state.damaged && !log.starts_with(&held.disk) && !explained() {
            let same = log.iter().zip(&held.disk).take_while(|(a, b)| a == b).count();
            return broken!(
                "server {id} comes back with {} entries, the first {same} as they were, had {} on disk, and does \
                 not say that it is damaged",
                log.len(),
                held.disk.len()
            );
        }
        let before = held.hard_state;
        let forgotten = hard_state.term < before.term
            || (hard_state.term == before.term && before.vote.is_some() && hard_state.vote != before.vote);
        if forgotten {
            return broken!("server {id} comes back with {hard_state:?}, and had {before:?} on disk");
        }
        let is_damaged = hard_state.damaged;
        let Held { said, mut counts, is_damaged: was_damaged, .. } = std::mem::take(held);
        // The end of its damage reached the disk, and a crash was faster than the news of it.
        if was_damaged && !is_damaged {
            counts.clone_from(&said);
        }
        *held = Held { disk: log.clone(), log, hard_state, is_damaged, said, counts, ..Held::default() };
        Ok(())
    }

    pub(crate) fn ended(&mut self, id: NodeId) {
        let held = self.held(id);
        held.leads = None;
        held.log.clear();
    }

    /// A server's consensus adds to its log, or cuts it.
    pub(crate) fn appends(&mut self, id: NodeId, write: &Write) -> Checked {
        let held = self.held.get_mut(&id).expect("it is a server");
        if let Some(to) = write.truncate_to {
            if let Some(term) = held.leads {
                return broken!(
                    "server {id} leads term {term} and cuts its log to {to}: leaders only append"
                );
            }
            held.log.truncate(place(to));
            let next = write.entries.first().map(Stamp::of);
            held.cuts.push(Cut { write: write.id, kind: CutKind::Truncation { to: place(to), next } });
        }
        if let Some(base) = &write.base {
            self.begins_anew(id, write.id, base)?;
        }
        let held = self.held.get_mut(&id).expect("it is a server");
        for entry in &write.entries {
            if place(entry.index) != held.log.len() + 1 {
                return broken!("server {id} has {} entries and appends {}", held.log.len(), entry.index);
            }
            let stamp = Stamp::of(entry);
            let before = held.log.last().map(|stamp| stamp.term);
            let known = self.appended.entry((entry.index, entry.term)).or_insert((stamp.content, before));
            if *known != (stamp.content, before) {
                return broken!(
                    "log matching: the entry {} of term {} is not the same at server {id} as elsewhere, or follows \
                     another",
                    entry.index,
                    entry.term
                );
            }
            held.log.push(stamp);
            if let Payload::Membership(membership) = &entry.payload {
                self.memberships.insert((entry.index, entry.term), Membership::clone(membership));
            }
        }
        Ok(())
    }

    /// A log lets go of what is committed and applied, and keeps what comes behind it; or a snapshot takes its place.
    fn begins_anew(&mut self, id: NodeId, write: WriteId, base: &Base) -> Checked {
        let by_state = self.held_by_state(id, base.position.index)?;
        if by_state.last().map_or(Term(0), |stamp| stamp.term) != base.position.term {
            return broken!(
                "the log of server {id} begins behind {:?}, which is not committed",
                base.position
            );
        }
        let held = self.held(id);
        if held.log.get(by_state.len().wrapping_sub(1)) != by_state.last() {
            if let Some(term) = held.leads {
                return broken!("server {id} leads term {term} and puts a snapshot in the place of its log");
            }
            held.log.clone_from(&by_state);
            held.cuts.push(Cut { write, kind: CutKind::Snapshot(by_state) });
        }
        Ok(())
    }

    /// A server's log says that a write is on disk.
    pub(crate) fn durable(&mut self, id: NodeId, write: &Write) {
        if let Some(base) = &write.base {
            // It was looked at when it was wanted.
            let by_state = self.held_by_state(id, base.position.index).unwrap_or_default();
            let held = self.held(id);
            if held.disk.get(by_state.len().wrapping_sub(1)) != by_state.last() {
                held.disk = by_state;
            }
            held.cuts.retain(|cut| cut.write > write.id);
        }
        let held = self.held(id);
        if let Some(hard_state) = write.hard_state {
            held.hard_state = hard_state;
        }
        if let Some(to) = write.truncate_to {
            held.disk.truncate(place(to));
            held.cuts.retain(|cut| cut.write > write.id);
        }
        held.disk.extend(write.entries.iter().map(Stamp::of));
    }

    /// A server says in `term` that it holds the log up to `matched`, and whether its disk is damaged.
    pub(crate) fn promises_entries(
        &mut self,
        id: NodeId,
        term: Term,
        matched: LogIndex,
        is_damaged: bool,
    ) -> Checked {
        let held = self.held(id);
        if held.is_damaged && !is_damaged {
            return broken!(
                "server {id} has a damaged disk, and accepts entries up to {matched} without saying so"
            );
        }
        let said = held.said.entry(term).or_default();
        *said = matched.max(*said);
        // What it began to say before it was whole may leave after.
        if !is_damaged || !held.is_damaged {
            held.counts.insert(term, *said);
        }
        let at = place(matched);
        if at > 0 && (held.disk.len() < at || held.disk[at - 1] != held.log[at - 1]) {
            return broken!(
                "durable before promised: server {id} accepts entries up to {matched}, and {} are on its disk",
                held.disk.len()
            );
        }
        Ok(())
    }

    /// A server votes for `candidate` in `term`.
    pub(crate) fn promises_vote(&self, id: NodeId, term: Term, candidate: NodeId) -> Checked {
        let on_disk = self.held[&id].hard_state;
        if (on_disk.term, on_disk.vote) == (term, Some(candidate)) {
            return Ok(());
        }
        broken!(
            "durable before promised: server {id} votes for {candidate} in term {term}, its disk has {on_disk:?}"
        )
    }

    pub(crate) fn follows(&mut self, id: NodeId) {
        self.held(id).leads = None;
    }

    pub(crate) fn leads(&mut self, id: NodeId, term: Term) -> Checked {
        let other = *self.leaders.entry(term).or_insert(id);
        if other != id {
            return broken!("election safety: {other} and {id} both lead term {term}");
        }
        let earlier = self.committed.partition_point(|committed| committed.by < term);
        let held = self.held(id);
        held.leads = Some(term);
        let log = std::mem::take(&mut held.log);
        let lost = (0..earlier).find(|at| log.get(*at) != Some(&self.committed[*at].stamp));
        self.held(id).log = log;
        match lost {
            Some(at) => broken!(
                "leader completeness: server {id} leads term {term} without the committed entry {}",
                at + 1
            ),
            None => Ok(()),
        }
    }

    /// A server's disk is whole again: it holds what it said.
    pub(crate) fn repaired(&mut self, id: NodeId) {
        let held = self.held(id);
        held.is_damaged = false;
        held.counts = held.said.clone();
    }

    /// A leader commits what a majority, itself among them, has said that it holds, each with a whole disk.
    fn commits_by_counting(&self, id: NodeId, entries: &[Entry]) -> Checked {
        let leads = self.held[&id].leads;
        let own = entries.iter().rev().find(|entry| Some(entry.term) == leads);
        let (Some(term), Some(last)) = (leads, own) else { return Ok(()) };
        let counts = |held: &Held| held.counts.get(&term).is_some_and(|upto| *upto >= last.index);
        let holds = |other: NodeId| other == id || counts(&self.held[&other]);
        let log = &self.held[&id].log;
        let in_log = |at: LogIndex, term| log.get(place(at) - 1).is_some_and(|stamp| stamp.term == term);
        if !self.is_majority(last.index, in_log, holds) {
            let others: Vec<_> = self.held.keys().filter(|other| **other != id && holds(**other)).collect();
            return broken!(
                "server {id} leads term {term} and applies {}, and with whole disks only {others:?} beside it said that they \
                 hold it",
                last.index
            );
        }
        Ok(())
    }

    /// A server applies entries.
    pub(crate) fn applies(&mut self, id: NodeId, entries: &[Entry]) -> Checked {
        self.commits_by_counting(id, entries)?;
        let by = self.leaders.last_key_value().map_or(Term(0), |leader| *leader.0);
        for entry in entries {
            let (at, stamp) = (place(entry.index), Stamp::of(entry));
            if self.held[&id].disk.get(at - 1) != Some(&stamp) {
                return broken!("server {id} applies {}, which is not on its disk", entry.index);
            }
            match self.committed.get(at - 1) {
                Some(committed) if committed.stamp == stamp => {}
                Some(_) => {
                    return broken!(
                        "state machine safety: server {id} applies another entry at {}",
                        entry.index
                    );
                }
                None if at == self.committed.len() + 1 => self.committed.push(Committed { stamp, by }),
                None => {
                    return broken!(
                        "server {id} applies {} before anybody applied what is before",
                        entry.index
                    );
                }
            }
        }
        Ok(())
    }

    /// A server has applied everything up to `index`, and its state has this digest.
    pub(crate) fn applied(&mut self, id: NodeId, index: LogIndex, digest: u128) -> Checked {
        let known = *self.digests.entry(index).or_insert(digest);
        if known != digest {
            return broken!("server {id} has another state than others after the same {index} entries");
        }
        Ok(())
    }

    /// Whether the servers' state after `index` entries has this digest.
    pub(crate) fn has_state(&self, index: LogIndex, digest: u128) -> bool {
        index == LogIndex(0) || self.digests.get(&index) == Some(&digest)
    }

    /// A client is told that its write was applied at `revision`.
    ///
    /// `damaged` servers held what they promised when they promised it; what they lost since is made good before they
    /// count again.
    pub(crate) fn acknowledges(&mut self, revision: LogIndex, damaged: &BTreeSet<NodeId>) -> Checked {
        let at = place(revision);
        let Some(committed) = self.committed.get(at - 1) else {
            return broken!("revision {revision} is acknowledged, and nobody has applied it");
        };
        let on_disk = |id: &NodeId| self.held[id].disk.get(at - 1) == Some(&committed.stamp);
        let committed_at = |at: LogIndex| self.committed.get(place(at) - 1);
        let in_log = |at, term| committed_at(at).is_none_or(|committed| committed.stamp.term == term);
        if !self.is_majority(revision, in_log, |id| damaged.contains(&id) || on_disk(&id)) {
            let holders: Vec<_> = self.held.keys().filter(|id| on_disk(id)).collect();
            return broken!(
                "on disk on a majority: revision {revision} is acknowledged, and {holders:?} have it on disk"
            );
        }
        self.acknowledged = self.acknowledged.max(revision.0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const C: NodeId = NodeId(3);

    fn entry(index: u64, term: u64, content: &'static str) -> Entry {
        let payload = Payload::Command(Bytes::from_static(content.as_bytes()));
        Entry { term: Term(term), index: LogIndex(index), payload }
    }

    fn write(entries: Vec<Entry>) -> Write {
        Write { id: WriteId(1), entries, ..Write::default() }
    }

    /// Appends at a server, and says that it is on disk.
    fn keep(oracle: &mut Oracle, id: NodeId, entries: Vec<Entry>) {
        let write = write(entries);
        oracle.appends(id, &write).unwrap();
        oracle.durable(id, &write);
    }

    fn breaks(checked: Checked, rule: &str) {
        let violation = checked.expect_err(rule);
        assert!(violation.0.contains(rule), "{violation}");
    }

    #[test]
    fn two_leaders_in_a_term_are_noticed() {
        let mut oracle = Oracle::new(3, 3);
        oracle.leads(A, Term(1)).unwrap();
        oracle.leads(B, Term(2)).unwrap();
        breaks(oracle.leads(B, Term(1)), "election safety");
    }

    #[test]
    fn a_leader_that_cuts_its_log_is_noticed() {
        let mut oracle = Oracle::new(3, 3);
        keep(&mut oracle, A, vec![entry(1, 1, "a")]);
        let cut = Write { truncate_to: Some(LogIndex(0)), ..Write::default() };
        oracle.leads(A, Term(1)).unwrap();
        breaks(oracle.appends(A, &cut), "leaders only append");
        oracle.follows(A);
        oracle.appends(A, &cut).unwrap();
    }

    #[test]
    fn logs_that_do_not_match_are_noticed() {
        let mut oracle = Oracle::new(3, 3);
        keep(&mut oracle, A, vec![entry(1, 1, "a"), entry(2, 2, "b")]);
        breaks(oracle.appends(B, &write(vec![entry(1, 1, "other")])), "log matching");
        let mut oracle = Oracle::new(3, 3);
        keep(&mut oracle, A, vec![entry(1, 1, "a"), entry(2, 2, "b")]);
        keep(&mut oracle, B, vec![entry(1, 2, "c")]);
        breaks(oracle.appends(B, &write(vec![entry(2, 2, "b")])), "log matching");
    }

    #[test]
    fn a_leader_without_a_committed_entry_is_noticed() {
        let mut oracle = Oracle::new(3, 3);
        oracle.leads(A, Term(1)).unwrap();
        keep(&mut oracle, C, vec![entry(1, 1, "a")]);
        oracle.applies(C, &[entry(1, 1, "a")]).unwrap();
        breaks(oracle.leads(B, Term(2)), "leader completeness");
    }

    #[test]
    fn a_leader_that_counts_a_damaged_server_is_noticed() {
        let leads_with = |is_damaged| {
            let mut oracle = Oracle::new(3, 3);
            for id in [A, B] {
                keep(&mut oracle, id, vec![entry(1, 1, "a")]);
            }
            oracle.leads(A, Term(1)).unwrap();
            oracle
                .started(
                    B,
                    LogIndex(0),
                    &[entry(1, 1, "a")],
                    HardState { damaged: is_damaged, ..HardState::default() },
                )
                .unwrap();
            oracle.promises_entries(B, Term(1), LogIndex(1), is_damaged).unwrap();
            oracle
        };
        let mut repaired = leads_with(true);
        repaired.repaired(B);
        repaired.applies(A, &[entry(1, 1, "a")]).unwrap();
        let mut comes_back_whole = leads_with(true);
        comes_back_whole.started(B, LogIndex(0), &[entry(1, 1, "a")], HardState::default()).unwrap();
        comes_back_whole.applies(A, &[entry(1, 1, "a")]).unwrap();
        leads_with(false).applies(A, &[entry(1, 1, "a")]).unwrap();
        breaks(leads_with(true).applies(A, &[entry(1, 1, "a")]), "whole disks");
    }

    #[test]
    fn a_late_leader_of_an_earlier_term_need_not_have_what_was_committed_after_it() {
        let mut oracle = Oracle::new(5, 5);
        oracle.leads(A, Term(3)).unwrap();
        keep(&mut oracle, C, vec![entry(1, 3, "a")]);
        oracle.applies(C, &[entry(1, 3, "a")]).unwrap();
        oracle.leads(B, Term(2)).unwrap();
    }

    #[test]
    fn two_entries_at_one_index_are_noticed_when_they_are_applied() {
        let mut oracle = Oracle::new(3, 3);
        keep(&mut oracle, A, vec![entry(1, 1, "a")]);
        keep(&mut oracle, B, vec![entry(1, 2, "b")]);
        oracle.applies(A, &[entry(1, 1, "a")]).unwrap();
        breaks(oracle.applies(B, &[entry(1, 2, "b")]), "state machine safety");
    }

    #[test]
    fn what_is_promised_or_applied_before_it_is_on_disk_is_noticed() {
        let mut oracle = Oracle::new(3, 3);
        oracle.appends(A, &write(vec![entry(1, 1, "a")])).unwrap();
        breaks(oracle.promises_entries(A, Term(1), LogIndex(1), false), "durable before promised");
        breaks(oracle.applies(A, &[entry(1, 1, "a")]), "not on its disk");
        breaks(oracle.promises_vote(A, Term(1), B), "durable before promised");
        let vote = HardState { term: Term(1), vote: Some(B), damaged: false };
        oracle.durable(A, &Write { hard_state: Some(vote), ..Write::default() });
        oracle.promises_vote(A, Term(1), B).unwrap();
    }

    #[test]
    fn a_disk_that_forgets_without_a_word_is_noticed() {
        let mut oracle = Oracle::new(3, 3);
        keep(&mut oracle, A, vec![entry(1, 1, "a"), entry(2, 1, "b")]);
        breaks(oracle.started(A, LogIndex(0), &[entry(1, 1, "a")], HardState::default()), "had 2 on disk");
        let damaged = HardState { damaged: true, ..HardState::default() };
        oracle.started(A, LogIndex(0), &[entry(1, 1, "a")], damaged).unwrap();
        let vote = HardState { term: Term(3), vote: Some(B), damaged: false };
        oracle.durable(A, &Write { hard_state: Some(vote), ..Write::default() });
        let forgotten = HardState { term: Term(3), vote: None, damaged: false };
        breaks(oracle.started(A, LogIndex(0), &[entry(1, 1, "a")], forgotten), "on disk");
    }

    #[test]
    fn a_cut_that_was_under_way_may_be_on_disk_or_not_and_nothing_else_may() {
        let before = [entry(1, 1, "a"), entry(2, 1, "b"), entry(3, 1, "c")];
        let with_cut = || {
            let mut oracle = Oracle::new(3, 3);
            keep(&mut oracle, A, before.to_vec());
            let cut = Write {
                id: WriteId(2),
                truncate_to: Some(LogIndex(1)),
                entries: vec![entry(2, 2, "x"), entry(3, 2, "y")],
                ..Write::default()
            };
            oracle.appends(A, &cut).unwrap();
            (oracle, cut)
        };
        let started =
            |oracle: &mut Oracle, log: &[Entry]| oracle.started(A, LogIndex(0), log, HardState::default());
        started(&mut with_cut().0, &before).unwrap();
        started(&mut with_cut().0, &before[..1]).unwrap();
        started(&mut with_cut().0, &[entry(1, 1, "a"), entry(2, 2, "x")]).unwrap();
        breaks(started(&mut with_cut().0, &before[..2]), "had 3 on disk");
        breaks(started(&mut with_cut().0, &[entry(1, 1, "a"), entry(2, 2, "z")]), "had 3 on disk");
        let (mut oracle, cut) = with_cut();
        oracle.durable(A, &cut);
        breaks(started(&mut oracle, &before[..1]), "had 3 on disk");
    }

    #[test]
    fn what_is_acknowledged_without_a_majority_is_noticed() {
        let mut oracle = Oracle::new(3, 3);
        keep(&mut oracle, A, vec![entry(1, 1, "a")]);
        breaks(oracle.acknowledges(LogIndex(1), &BTreeSet::new()), "nobody has applied it");
        oracle.applies(A, &[entry(1, 1, "a")]).unwrap();
        breaks(oracle.acknowledges(LogIndex(1), &BTreeSet::new()), "on disk on a majority");
        keep(&mut oracle, B, vec![entry(1, 1, "a")]);
        oracle.acknowledges(LogIndex(1), &BTreeSet::new()).unwrap();
        assert_eq!(oracle.acknowledged(), 1);
    }

    #[test]
    fn servers_that_come_to_different_states_are_noticed() {
        let mut oracle = Oracle::new(3, 3);
        oracle.applied(A, LogIndex(1), 7).unwrap();
        breaks(oracle.applied(B, LogIndex(1), 8), "another state");
    }
}
