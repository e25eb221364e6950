//! How requests come in, and where they go: into the log here, to the leader, or back.

use raftmap_raft::{Ctx, Input, NodeId};
use raftmap_state::{Body, Command, LEVEL_OF_TRACES, Operation, TraceContext, Write, WriteRequest};

use crate::event::{Now, Request, RequestKind};
use crate::failure::{Failure, Reason};
use crate::peer::{Forward, ForwardReply, PeerMessage};
use crate::queue::{QueuedCommand, size_bytes};
use crate::replica::Replica;
use crate::requests::{Origin, Stage};

impl Replica {
    /// Lets in a request of a client, or refuses it.
    pub(crate) fn admit(&mut self, now: Now, request: Request) {
        let Request { ctx, deadline_ms, kind, trace } = request;
        assert!(ctx.0 < 1 << 63, "the upper half of the numbers is the replica's own");
        self.requests.insert(ctx, Origin::Client, Stage::Queued, deadline_ms);
        let changes_members = matches!(kind, RequestKind::AddMember(_) | RequestKind::RemoveMember(_));
        let state = match kind {
            RequestKind::Read { .. } => self.check_state(),
            _ if self.repair.is_split() && !changes_members => Err(Reason::StatesDiffer),
            _ => Ok(()),
        };
        if let Err(reason) = self.check_room().and(state) {
            return self.respond(ctx, Err(Failure::not_applied(reason, self.raft.leader())));
        }
        match kind {
            RequestKind::Write { request, session } => {
                let answer_bytes_max = self.config.answer_bytes_max;
                self.admit_command(ctx, Body::Write(Write { request, session, answer_bytes_max }), trace);
            }
            RequestKind::OpenSession => {
                self.queue.push_command(ctx, Body::OpenSession(self.config.session_limits), trace);
            }
            RequestKind::AddMember(introduction) => self.add_member(now, ctx, introduction),
            RequestKind::RemoveMember(id) => self.remove_member(ctx, id),
            RequestKind::Read { linearizable: true, min_revision } => self.queue.push_read(ctx, min_revision),
            RequestKind::Read { linearizable: false, min_revision } => {
                self.requests.set_stage(ctx, Stage::Awaiting { index: min_revision });
            }
        }
    }

    fn admit_command(&mut self, ctx: Ctx, body: Body, trace: Option<TraceContext>) {
        match self.check_command(&body) {
            Ok(()) => self.queue.push_command(ctx, body, trace),
            Err(reason) => self.respond(ctx, Err(Failure::not_applied(reason, self.raft.leader()))),
        }
    }

    fn check_room(&self) -> Result<(), Reason> {
        if self.shutting_down {
            Err(Reason::ShuttingDown)
        } else if self.requests.len() > self.config.requests_max {
            Err(Reason::Overloaded { limit: self.config.requests_max as u64 })
        } else {
            Ok(())
        }
    }

    fn check_command(&self, body: &Body) -> Result<(), Reason> {
        let bytes = self.queue.command_bytes();
        if bytes > 0 && bytes + size_bytes(body) > self.config.queued_bytes_max {
            return Err(Reason::Overloaded { limit: self.config.queued_bytes_max as u64 });
        }
        match self.free_bytes {
            Some(free_bytes) if self.space_is_low() && grows_the_map(body) => {
                Err(Reason::DiskFull { free_bytes, reserve_bytes: self.config.space_reserve_bytes })
            }
            _ => Ok(()),
        }
    }

    /// Lets in a command that another server passed on, if this one leads: nothing is passed on twice. One that arrives
    /// again, or late, is not taken again.
    pub(crate) fn admit_forwarded(&mut self, now: Now, from: NodeId, forward: Forward) {
        let Forward { sequence, timeout_ms, command } = forward;
        let seen = self.forward_seen.entry(from).or_default();
        if sequence <= *seen {
            return;
        }
        *seen = sequence;
        // Its trace may be left out.
        let level = Command::level_untraced(&command);
        let refused = match Command::decode(command) {
            _ if !self.raft.is_leader() || !self.raft.membership().all().contains(&from) => self.no_leader(),
            _ if level > self.view.level => Reason::Unsupported,
            Err(_) => Reason::Unsupported,
            Ok(_) if self.repair.is_split() => Reason::StatesDiffer,
            Ok(decoded) => match self.check_room() {
                Err(reason) => reason,
                Ok(()) => {
                    let ctx = self.own_ctx();
                    let deadline_ms = now.monotonic_ms.saturating_add(timeout_ms);
                    self.requests.insert(
                        ctx,
                        Origin::Peer { node: from, sequence },
                        Stage::Queued,
                        deadline_ms,
                    );
                    let Command { body, trace, .. } = decoded.command;
                    return self.admit_command(ctx, body, trace);
                }
            },
        };
        let result = Err(Failure::not_applied(refused, self.raft.leader()));
        self.send(from, PeerMessage::ForwardReply(ForwardReply { sequence, result }));
    }

    /// A number for a request that is not of a client of this server.
    pub(crate) fn own_ctx(&mut self) -> Ctx {
        self.next_internal += 1;
        Ctx((1 << 63) | self.next_internal)
    }

    /// Moves on what is queued: at a leader into the log and into rounds of reads, at a follower to its leader. While
    /// nobody leads it stays.
    pub(crate) fn pump(&mut self, now: Now) {
        if self.raft.is_leader() {
            self.pump_reads();
            self.propose_batch(now);
        } else if let Some(leader) = self.leader_in_reach() {
            self.pump_reads();
            self.forward_all(now, leader);
        }
    }

    fn pump_reads(&mut self) {
        while let Some((ctx, min_revision)) = self.queue.pop_read() {
            if self.requests.get(ctx).is_some() {
                self.requests.set_stage(ctx, Stage::Confirming { min_revision });
                self.raft.step(Input::Read { ctx });
            }
        }
    }

    /// Proposes what has gathered, unless enough batches are on their way: then it gathers further. So the batches grow
    /// with the load, and nobody waits for a timer.
    fn propose_batch(&mut self, now: Now) {
        let commit = self.raft.commit();
        self.batches.retain(|last| *last > commit);
        // What comes while this server hands over, or cannot answer, is for the next leader.
        if self.batches.len() >= self.config.batches_max
            || self.raft.handing_over_to().is_some()
            || self.repair.lost
        {
            return;
        }
        let before = self.raft.last_index();
        let mut bytes = 0;
        while bytes < self.config.batch_bytes_max
            && let Some(QueuedCommand { ctx, body, trace, size_bytes }) = self.queue.pop_command()
        {
            if self.requests.get(ctx).is_some() {
                bytes += size_bytes;
                self.propose(now, ctx, body, trace);
            }
        }
        let last = self.raft.last_index();
        if last > before {
            self.batches.push_back(last);
        }
    }

    pub(crate) fn propose(&mut self, now: Now, ctx: Ctx, body: Body, trace: Option<TraceContext>) {
        let (stamped_time_ms, trace) = (Some(self.clock.stamp_ms(now)), self.understood(trace));
        let command = Command { stamped_time_ms, trace, body }.encode();
        self.requests.set_stage(ctx, Stage::Proposed);
        self.raft.step(Input::Propose { ctx, command });
    }

    fn forward_all(&mut self, now: Now, leader: NodeId) {
        while let Some(QueuedCommand { ctx, body, trace, size_bytes: _ }) = self.queue.pop_command() {
            let Some(pending) = self.requests.get(ctx) else { continue };
            if pending.origin != Origin::Client {
                let failure = Failure::not_applied(Reason::NoLeader, Some(leader));
                self.respond(ctx, Err(failure));
                continue;
            }
            let sequence = self.next_forward;
            self.next_forward += 1;
            let timeout_ms = self.requests.remaining_ms(ctx, now.monotonic_ms);
            let trace = self.understood(trace);
            let command = Command { stamped_time_ms: None, trace, body }.encode();
            self.requests.set_stage(ctx, Stage::Forwarded { to: leader, sequence });
            self.send(leader, PeerMessage::Forward(Forward { sequence, timeout_ms, command }));
        }
    }

    /// A trace that may go into the log: all that have the log understand it.
    fn understood(&self, trace: Option<TraceContext>) -> Option<TraceContext> {
        trace.filter(|_| self.view.level >= LEVEL_OF_TRACES)
    }

    /// A command of the replica's own, at a leader.
    pub(crate) fn propose_own(&mut self, now: Now, body: Body) -> Ctx {
        let ctx = self.own_request(now);
        self.propose(now, ctx, body, None);
        ctx
    }

    /// A request that nobody waits for.
    pub(crate) fn own_request(&mut self, now: Now) -> Ctx {
        const PATIENCE_MS: u64 = 60_000;
        let ctx = self.own_ctx();
        self.requests.insert(ctx, Origin::Itself, Stage::Queued, now.monotonic_ms + PATIENCE_MS);
        ctx
    }

    /// Whether everything in the log is applied and nothing waits.
    pub(crate) fn is_idle(&self) -> bool {
        self.view.applied == self.raft.last_index() && !self.queue.has_commands()
    }
}

/// Whether the command may make the map larger. What makes it smaller is let in when the disk is nearly full.
fn grows_the_map(body: &Body) -> bool {
    let Body::Write(Write { request, .. }) = body else { return true };
    match request {
        WriteRequest::Put(_) => true,
        WriteRequest::Delete(_) => false,
        WriteRequest::Txn(txn) => {
            txn.then.iter().chain(&txn.otherwise).any(|operation| matches!(operation, Operation::Put(_)))
        }
    }
}
