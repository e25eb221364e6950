//! The requests that have not ended. Each ends exactly once: here is where it is taken out.

use std::collections::{BTreeMap, BTreeSet};

use raftmap_raft::{Ctx, LogIndex, NodeId};

/// A request that has not ended.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) origin: Origin,
    pub(crate) stage: Stage,
    deadline_ms: u64,
}

/// Who waits for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A client of this server.
    Client,
    /// A client of another server, which passed the request on.
    Peer { node: NodeId, sequence: u64 },
    /// This replica itself.
    Itself,
}

/// Where a request is. What can be said of its outcome follows from that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// In the queue: certainly not applied.
    Queued,
    /// In the log of this server, which leads.
    Proposed,
    /// Passed on to this server.
    Forwarded { to: NodeId, sequence: u64 },
    /// A read that waits for the leader's word.
    Confirming { min_revision: LogIndex },
    /// A read that waits until this index is applied here.
    Awaiting { index: LogIndex },
}

/// All requests that have not ended.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    pending: BTreeMap<Ctx, Pending>,
    deadlines: BTreeSet<(u64, Ctx)>,
    awaiting: BTreeSet<(LogIndex, Ctx)>,
    /// By the sequence under which they were passed on.
    forwarded: BTreeMap<u64, Ctx>,
}

impl Requests {
    pub(crate) fn insert(&mut self, ctx: Ctx, origin: Origin, stage: Stage, deadline_ms: u64) {
        let earlier = self.pending.insert(ctx, Pending { origin, stage: Stage::Queued, deadline_ms });
        assert!(earlier.is_none(), "request {ctx} waits twice");
        self.deadlines.insert((deadline_ms, ctx));
        self.set_stage(ctx, stage);
    }

    pub(crate) fn get(&self, ctx: Ctx) -> Option<&Pending> {
        self.pending.get(&ctx)
    }

    /// How long the request may still take, in milliseconds.
    pub(crate) fn remaining_ms(&self, ctx: Ctx, monotonic_ms: u64) -> u64 {
        self.pending.get(&ctx).map_or(0, |pending| pending.deadline_ms.saturating_sub(monotonic_ms))
    }

    /// Moves a request on. One that has ended meanwhile stays so.
    pub(crate) fn set_stage(&mut self, ctx: Ctx, stage: Stage) {
        let Some(pending) = self.pending.get_mut(&ctx) else { return };
        let before = std::mem::replace(&mut pending.stage, stage);
        self.leave(ctx, before);
        match stage {
            Stage::Awaiting { index } => {
                self.awaiting.insert((index, ctx));
            }
            Stage::Forwarded { sequence, .. } => {
                self.forwarded.insert(sequence, ctx);
            }
            Stage::Queued | Stage::Proposed | Stage::Confirming { .. } => {}
        }
    }

    fn leave(&mut self, ctx: Ctx, stage: Stage) {
        match stage {
            Stage::Awaiting { index } => {
                self.awaiting.remove(&(index, ctx));
            }
            Stage::Forwarded { sequence, .. } => {
                self.forwarded.remove(&sequence);
            }
            Stage::Queued | Stage::Proposed | Stage::Confirming { .. } => {}
        }
    }

    /// Takes a request out: it ends now, unless it has ended before.
    pub(crate) fn end(&mut self, ctx: Ctx) -> Option<Pending> {
        let pending = self.pending.remove(&ctx)?;
        self.deadlines.remove(&(pending.deadline_ms, ctx));
        self.leave(ctx, pending.stage);
        Some(pending)
    }

    /// A request whose deadline has passed.
    pub(crate) fn overdue(&self, monotonic_ms: u64) -> Option<Ctx> {
        self.deadlines.first().filter(|first| first.0 <= monotonic_ms).map(|first| first.1)
    }

    /// A read that waited for an index up to `applied`.
    pub(crate) fn readable(&self, applied: LogIndex) -> Option<Ctx> {
        self.awaiting.first().filter(|first| first.0 <= applied).map(|first| first.1)
    }

    /// The request that was passed on to `node` under this sequence, if it has not ended.
    pub(crate) fn forwarded_as(&self, node: NodeId, sequence: u64) -> Option<Ctx> {
        let ctx = *self.forwarded.get(&sequence)?;
        let stage = Stage::Forwarded { to: node, sequence };
        self.get(ctx).filter(|pending| pending.stage == stage).map(|_| ctx)
    }

    /// The requests that were passed on to another server than `node`.
    pub(crate) fn forwarded_elsewhere(&self, node: Option<NodeId>) -> Vec<Ctx> {
        let elsewhere = |ctx: &Ctx| {
            let stage = self.get(*ctx).map(|pending| pending.stage);
            matches!(stage, Some(Stage::Forwarded { to, .. }) if Some(to) != node)
        };
        self.forwarded.values().copied().filter(elsewhere).collect()
    }

    /// The requests whose answers rest on this server's state: reads, and what was proposed here.
    pub(crate) fn of_the_state(&self) -> Vec<(Ctx, Stage)> {
        let rests = |stage: Stage| {
            matches!(stage, Stage::Proposed | Stage::Confirming { .. } | Stage::Awaiting { .. })
        };
        let stages = self.pending.iter().map(|(ctx, pending)| (*ctx, pending.stage));
        stages.filter(|(_, stage)| rests(*stage)).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.pending.len()
    }
}
