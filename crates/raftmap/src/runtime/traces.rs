//! What the driver sees of requests that are followed; see [`crate::observe::traces`].
//!
//! All of it is bounded: a request by its answer, an entry by its being applied, and both by [`FOLLOWED_MAX`].

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use raftmap_raft::{Ctx, Entry, LogIndex, Payload, Term, Write, WriteId};
use raftmap_replica::{Effect, Event, PeerMessage, RequestKind};
use raftmap_state::{Command, TraceContext};

use crate::observe::traces::{Attribute, Span, Tracer};

/// How many requests, and how many entries, are followed at once; others are not.
const FOLLOWED_MAX: usize = 4096;

/// Tells a [`Tracer`] what this server does for requests.
#[derive(Debug)]
pub(crate) struct Traces {
    tracer: Tracer,
    requests: HashMap<Ctx, Request>,
    /// The commands among them.
    commands: HashMap<TraceContext, Ctx>,
    entries: BTreeMap<LogIndex, Written>,
}

/// A request of a client of this server that was neither answered nor proposed.
#[derive(Debug)]
struct Request {
    trace: TraceContext,
    began: SystemTime,
    stage: &'static str,
}

const QUEUE: &str = "queue";
const FORWARD: &str = "forward";
const CONFIRM_READ: &str = "confirm read";

/// An entry that is in the log here, and not applied.
#[derive(Debug)]
struct Written {
    trace: TraceContext,
    term: Term,
    began: SystemTime,
    /// `None`: it is on the disk.
    write: Option<WriteId>,
    committed: Option<SystemTime>,
}

impl Traces {
    pub(crate) fn new(tracer: Tracer) -> Self {
        Self { tracer, requests: HashMap::new(), commands: HashMap::new(), entries: BTreeMap::new() }
    }

    /// A request of a client comes to the replica.
    pub(crate) fn submitted(&mut self, ctx: Ctx, trace: Option<&TraceContext>, kind: &RequestKind) {
        let Some(trace) = trace.filter(|_| self.tracer.is_on() && self.requests.len() < FOLLOWED_MAX) else {
            return;
        };
        let stage = match kind {
            RequestKind::Read { .. } => CONFIRM_READ,
            RequestKind::Write { .. } | RequestKind::OpenSession => QUEUE,
            // Its steps are entries of the replica's own.
            RequestKind::AddMember(_) | RequestKind::RemoveMember(_) => return,
        };
        if stage == QUEUE {
            self.commands.insert(trace.clone(), ctx);
        }
        self.requests.insert(ctx, Request { trace: trace.clone(), began: SystemTime::now(), stage });
    }

    /// Something is about to happen to the replica.
    pub(crate) fn event(&mut self, event: &Event) {
        match event {
            _ if self.entries.is_empty() => {}
            Event::Persisted(id) => self.persisted(*id),
            Event::Applied { view, .. } => self.applied(view.applied),
            _ => {}
        }
    }

    /// The replica, which leads or not, wants these things done, and knows of what is committed.
    pub(crate) fn effects(&mut self, effects: &[Effect], commit: LogIndex, leads: bool) {
        if !self.tracer.is_on() {
            return;
        }
        for effect in effects {
            match effect {
                Effect::Write(write) => self.written(write),
                Effect::Send { batch, .. } if !self.commands.is_empty() => {
                    batch.messages.iter().for_each(|message| self.sent(message));
                }
                Effect::Answer { ctx, result } => self.ended(*ctx, result.is_ok()),
                Effect::Read { ctx } => self.ended(*ctx, true),
                _ => {}
            }
        }
        self.committed(commit, leads);
    }

    /// A request has left its stage.
    fn ended(&mut self, ctx: Ctx, answered: bool) {
        let Some(Request { trace, began, stage }) = self.requests.remove(&ctx) else { return };
        self.commands.remove(&trace);
        // Answered, and not seen to be proposed: its trace was left out, since not all understand it yet.
        if !(answered && stage == QUEUE) {
            self.tracer.record(Span::within(&trace, stage, began));
        }
    }

    /// A command goes to the log; at the leader that its client asked, it has left the queue.
    fn proposed(&mut self, trace: &TraceContext) {
        if let Some(ctx) = self.commands.get(trace)
            && self.requests.get(ctx).is_some_and(|request| request.stage == QUEUE)
        {
            self.ended(*ctx, false);
        }
    }

    fn sent(&mut self, message: &PeerMessage) {
        if let PeerMessage::Forward(forward) = message
            && let Some(trace) = Command::trace_of(&forward.command)
            && let Some(request) = self.commands.get(&trace).and_then(|ctx| self.requests.get_mut(ctx))
        {
            request.stage = FORWARD;
        }
    }

    fn written(&mut self, write: &Write) {
        if let Some(to) = write.truncate_to {
            self.entries.split_off(&LogIndex(to.0 + 1));
        }
        for Entry { index, term, payload } in &write.entries {
            // A snapshot of another history may have taken the place of what was here.
            if !self.entries.is_empty() {
                self.entries.remove(index);
            }
            let Payload::Command(command) = payload else { continue };
            let Some(trace) = Command::trace_of(command) else { continue };
            self.proposed(&trace);
            if self.entries.len() < FOLLOWED_MAX {
                let (began, write) = (SystemTime::now(), Some(write.id));
                self.entries.insert(*index, Written { trace, term: *term, began, write, committed: None });
            }
        }
    }

    fn persisted(&mut self, id: WriteId) {
        for (index, entry) in &mut self.entries {
            if entry.write.is_some_and(|write| write <= id) {
                entry.write = None;
                self.tracer.record(entry.span("write log", *index, entry.began));
            }
        }
    }

    fn committed(&mut self, commit: LogIndex, leads: bool) {
        for (index, entry) in self.entries.range_mut(..=commit) {
            if entry.committed.is_none() {
                entry.committed = Some(SystemTime::now());
                if leads {
                    self.tracer.record(entry.span("replicate", *index, entry.began));
                }
            }
        }
    }

    fn applied(&mut self, applied: LogIndex) {
        let waiting = self.entries.split_off(&LogIndex(applied.0 + 1));
        for (index, entry) in std::mem::replace(&mut self.entries, waiting) {
            if let Some(committed) = entry.committed {
                self.tracer.record(entry.span("apply", index, committed));
            }
        }
    }
}

impl Written {
    fn span(&self, name: &'static str, index: LogIndex, began: SystemTime) -> Span {
        Span::within(&self.trace, name, began)
            .with("raftmap.index", Attribute::Number(index.0))
            .with("raftmap.term", Attribute::Number(self.term.0))
    }
}
