//! What must hold between the nodes (Raft paper, figure 3, and what clients are promised), checked as it happens.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use raftmap_raft::{
    Action, AppendResult, Body, Ctx, Entry, Event, LogIndex, LogPosition, Membership, Message, NodeId,
    Outcome, Payload, StateId, Term, Write,
};

use super::node::Node;

/// All that was seen so far.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    leaders: BTreeMap<Term, NodeId>,
    /// Every entry that any node ever wrote, with the one before it.
    written: BTreeMap<LogPosition, (LogPosition, Payload)>,
    /// What is committed, from index 1.
    committed: Vec<Committed>,
    /// What was applied anywhere, from index 1.
    applied: Vec<Entry>,
    waiting: BTreeMap<Ctx, Request>,
    /// Commands that failed as not applied.
    refused: BTreeSet<Bytes>,
    /// The last index whose proposal was answered.
    acknowledged: LogIndex,
    /// Whether a disk lost something without the node's knowledge.
    disks_lie: bool,
    founding: Membership,
}

#[derive(Clone, Copy, Debug)]
struct Committed {
    term: Term,
    /// The term of the leader that committed it.
    by: Term,
}

#[derive(Debug)]
enum Request {
    Proposal { node: NodeId, command: Bytes },
    Read { node: NodeId, not_before: LogIndex },
    Change { node: NodeId },
}

impl Checks {
    /// The checks of a cluster of these voters.
    pub(crate) fn new(voters: impl IntoIterator<Item = NodeId>) -> Self {
        Self { founding: Membership::of_voters(voters), ..Self::default() }
    }

    pub(crate) fn proposed(&mut self, node: NodeId, ctx: Ctx, command: Bytes) {
        self.waiting.insert(ctx, Request::Proposal { node, command });
    }

    pub(crate) fn change_began(&mut self, node: NodeId, ctx: Ctx) {
        self.waiting.insert(ctx, Request::Change { node });
    }

    pub(crate) fn read_began(&mut self, node: NodeId, ctx: Ctx) {
        self.waiting.insert(ctx, Request::Read { node, not_before: self.acknowledged });
    }

    /// Nobody waits for answers of a node that crashed.
    pub(crate) fn crashed(&mut self, node: NodeId) {
        self.waiting.retain(|_, request| match request {
            Request::Proposal { node: at, .. }
            | Request::Read { node: at, .. }
            | Request::Change { node: at } => *at != node,
        });
    }

    /// From here on a follower may lack what it acknowledged, and not know.
    pub(crate) fn a_disk_lied(&mut self) {
        self.disks_lie = true;
    }

    /// How many requests have not ended.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The last index that is committed anywhere.
    pub(crate) fn committed(&self) -> LogIndex {
        LogIndex(self.committed.len().try_into().unwrap())
    }

    /// Entries that a node starts with.
    pub(crate) fn restored(&mut self, base: LogPosition, entries: &[Entry]) {
        let mut before = base;
        for entry in entries {
            self.one_log(before, entry);
            before = entry.position();
        }
    }

    /// An action that `node` is about to carry out.
    pub(crate) fn action(&mut self, node: &Node, action: &Action) {
        match action {
            Action::Write(write) => self.writes(node, write),
            Action::Send { to, message } => promise_is_durable(node, *to, message),
            Action::Apply { entries, proposals } => self.applies(node, entries, proposals),
            Action::ReadReady { ctx, index } => self.reads(*ctx, *index),
            Action::Failed { ctx, reason: _, outcome } => self.fails(*ctx, *outcome),
            Action::Event(Event::Leading { term, votes: _ }) => self.leads(node, *term),
            Action::Event(Event::AcknowledgedLost { by, acknowledged }) => {
                assert!(self.disks_lie, "n{by} is said to have lost {acknowledged}, and has not");
            }
            Action::Install { state, position } => self.installs(node, *state, *position),
            Action::Fetch { .. }
            | Action::FetchSnapshot { .. }
            | Action::Discard { .. }
            | Action::Event(_) => {}
        }
    }

    /// Log matching (section 5.3): an index and a term name one entry, and all that comes before it.
    fn writes(&mut self, node: &Node, write: &Write) {
        let raft = node.raft.as_ref().unwrap();
        let before = |entry: &Entry| {
            let index = entry.index.previous();
            raft.term_at(index).map(|term| LogPosition { index, term })
        };
        let mut before = write.entries.first().and_then(before);
        for entry in &write.entries {
            // What a later write of the same step has let go of needs no check any more.
            if let Some(before) = before {
                self.one_log(before, entry);
            }
            before = Some(entry.position());
        }
    }

    /// What a state machine is that has applied everything up to `index`.
    pub(crate) fn state_at(&self, index: LogIndex) -> (LogPosition, Membership) {
        let applied = &self.applied[..usize::try_from(index.0).unwrap()];
        let membership = applied.iter().rev().find_map(|entry| match &entry.payload {
            Payload::Membership(membership) => Some(Membership::clone(membership)),
            _ => None,
        });
        let position = applied.last().map(Entry::position).unwrap_or_default();
        (position, membership.unwrap_or_else(|| self.founding.clone()))
    }

    /// Scenario 37: a snapshot takes back nothing that was applied, and the log on disk has named it before.
    fn installs(&mut self, node: &Node, state: StateId, position: LogPosition) {
        assert!(position.index >= node.applied, "n{} installs {position:?} and had applied more", node.id);
        assert!(node.applying.is_none(), "n{} installs while it applies (scenario 38)", node.id);
        assert_eq!(node.disk.state().0, state, "n{} installs what its log does not name", node.id);
        let committed = self.committed.get(place(position.index)).map(|committed| committed.term);
        assert_eq!(committed, Some(position.term), "n{} installs what is not committed", node.id);
    }

    fn one_log(&mut self, before: LogPosition, entry: &Entry) {
        let known = self.written.entry(entry.position()).or_insert_with(|| (before, entry.payload.clone()));
        assert_eq!(*known, (before, entry.payload.clone()), "two logs at {:?}", entry.position());
    }

    /// State machine safety (section 5.4.3), and each proposal answered once, by its own entry.
    fn applies(&mut self, node: &Node, entries: &[Entry], proposals: &[(LogIndex, Ctx)]) {
        let mut expected = node.applied.next();
        for entry in entries {
            assert_eq!(entry.index, expected, "n{} leaves out entries, or applies them twice", node.id);
            expected = expected.next();
            if let Payload::Command(command) = &entry.payload {
                assert!(!self.refused.contains(command), "{command:?} is applied, and was said not to be");
            }
            match self.applied.get(place(entry.index)) {
                Some(known) => assert_eq!(known, entry, "state machines go apart at {}", entry.index),
                None => self.applied.push(entry.clone()),
            }
            assert!(node.disk.holds(entry.position()), "n{} applies what it may lose", node.id);
            let committed = self.committed.get(place(entry.index)).map(|committed| committed.term);
            assert_eq!(committed, Some(entry.term), "n{} applies what is not committed", node.id);
        }
        for (index, ctx) in proposals {
            let entry = entries.iter().find(|entry| entry.index == *index).expect("an entry of these");
            let at = match self.waiting.remove(ctx) {
                Some(Request::Proposal { node: at, command }) => {
                    assert_eq!(
                        entry.payload,
                        Payload::Command(command),
                        "c{ctx} is answered for another command"
                    );
                    at
                }
                Some(Request::Change { node: at }) => {
                    assert!(matches!(entry.payload, Payload::Membership(_)), "c{ctx} was to change members");
                    at
                }
                _ => panic!("c{ctx} does not wait for an entry"),
            };
            assert_eq!(at, node.id, "c{ctx} is answered elsewhere");
            self.acknowledged = self.acknowledged.max(*index);
        }
    }

    /// Linearizability: a read sees what was acknowledged before it began.
    fn reads(&mut self, ctx: Ctx, index: LogIndex) {
        let Some(Request::Read { node: _, not_before }) = self.waiting.remove(&ctx) else {
            panic!("c{ctx} is not a read that waits");
        };
        assert!(index >= not_before, "c{ctx} reads at {index}, {not_before} was acknowledged before: stale");
        assert!(index <= self.committed(), "c{ctx} reads at {index}, which is not committed");
    }

    fn fails(&mut self, ctx: Ctx, outcome: Outcome) {
        match self.waiting.remove(&ctx).unwrap_or_else(|| panic!("c{ctx} ends twice")) {
            Request::Proposal { command, .. } if outcome == Outcome::NotApplied => {
                let applied =
                    self.applied.iter().any(|entry| entry.payload == Payload::Command(command.clone()));
                assert!(!applied, "{command:?} was applied");
                self.refused.insert(command);
            }
            Request::Proposal { .. } | Request::Change { .. } => {}
            Request::Read { .. } => assert_eq!(outcome, Outcome::NotApplied, "a read changes nothing"),
        }
    }

    /// Election safety (section 5.2) and leader completeness (section 5.4).
    fn leads(&mut self, node: &Node, term: Term) {
        let leader = *self.leaders.entry(term).or_insert(node.id);
        assert_eq!(leader, node.id, "two leaders in term {term}");
        let raft = node.raft.as_ref().unwrap();
        for (index, committed) in (1..).map(LogIndex).zip(&self.committed) {
            let held = committed.by >= term
                || index < raft.base().index
                || raft.term_at(index) == Some(committed.term);
            assert!(held, "n{} leads term {term} without {index}, committed in {}", node.id, committed.by);
        }
    }

    /// After a step of `id`: what it takes for committed is, and is durable on a quorum.
    pub(crate) fn commits(&mut self, nodes: &BTreeMap<NodeId, Node>, id: NodeId) {
        let raft = nodes[&id].raft.as_ref().unwrap();
        let status = raft.status();
        if status.damaged {
            return;
        }
        for index in
            (1..=status.commit.0).map(LogIndex).skip(node_has_checked(&self.committed, status.commit))
        {
            let term = raft.term_at(index).expect("what is committed is in the log");
            match self.committed.get(place(index)) {
                Some(known) => assert_eq!(known.term, term, "n{id} commits another entry at {index}"),
                None => {
                    let position = LogPosition { index, term };
                    let durable = |node: &&Node| node.disk.hard_state().damaged || node.disk.holds(position);
                    let membership = raft.membership();
                    for voters in [&membership.voters, &membership.voters_outgoing] {
                        let held =
                            nodes.values().filter(|node| voters.contains(&node.id)).filter(durable).count();
                        assert!(
                            voters.is_empty() || 2 * held > voters.len(),
                            "n{id} commits {index}, which {held} of {voters:?} hold"
                        );
                    }
                    self.committed.push(Committed { term, by: status.term });
                }
            }
        }
    }
}

/// How many of the first `commit` entries need no second look: all but the last that are known, since logs that agree on
/// one agree on all before it.
fn node_has_checked(committed: &[Committed], commit: LogIndex) -> usize {
    committed.len().min(usize::try_from(commit.0).unwrap()).saturating_sub(1)
}

fn place(index: LogIndex) -> usize {
    usize::try_from(index.0 - 1).unwrap()
}

/// Scenarios 1 and 21: nothing that promises leaves before the disk has what it promises.
fn promise_is_durable(node: &Node, to: NodeId, message: &Message) {
    let (disk, raft) = (&node.disk, node.raft.as_ref().unwrap());
    let voted = |vote: Option<NodeId>| {
        let state = disk.hard_state();
        state.term == message.term && (vote.is_none() || state.vote == vote)
    };
    match &message.body {
        Body::Vote(_) => assert!(voted(None), "a candidate's own vote is not durable"),
        Body::VoteReply(reply) if reply.granted => assert!(voted(Some(to)), "a vote is not durable"),
        Body::AppendReply(reply) => {
            if let AppendResult::Accepted { matched } = reply.result {
                // Of what the log is about to let go of the term is not known any more.
                let durable = match raft.term_at(matched) {
                    Some(term) => disk.holds(LogPosition { index: matched, term }),
                    None => disk.last().index >= matched,
                };
                assert!(durable, "{matched} is acknowledged and not durable");
                assert!(voted(None), "the term of an acknowledgement is not durable");
            }
        }
        _ => {}
    }
}
