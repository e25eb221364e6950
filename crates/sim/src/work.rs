//! The work of a server's threads: what the runtime does in production, one piece after the other.

use std::num::NonZeroU64;

use raftmap_lincheck::Response;
use raftmap_raft::{
    AppendResult, Body, Ctx, Entry, Event as RaftEvent, FetchPurpose, LogIndex, NodeId, VoteRequest, Write,
};
use raftmap_replica::{Effect, Event, Notice, PeerMessage, Request};
use raftmap_state::{Answer, TraceContext};

use crate::clients::{Attempt, ReadRequest, Reply, noted_record};
use crate::oracle::{Checked, Violation, broken};
use crate::plan::Spread;
use crate::server::{Refused, Started};
use crate::time::Time;
use crate::world::{What, World};

/// The log is idle when nothing was written for this long.
const IDLE: Time = Time::ms(50);
/// How long a store takes to become durable, or to be opened.
const PERSIST: Spread = Spread(Time::ms(1), Time::ms(200));
const SPACE_EVERY: Time = Time::secs(1);
/// How long a read of the state takes, and of old entries.
const READ: Spread = Spread(Time(10), Time::ms(3));
const ANSWER_BYTES_MAX: u32 = 4 << 20;
/// What a disk says is free, usually and when it is nearly full.
const FREE_BYTES: u64 = 1 << 30;

/// A range of the log that a replica wants.
#[derive(Debug)]
pub(crate) struct Fetch {
    purpose: FetchPurpose,
    from: LogIndex,
    to: LogIndex,
    max_bytes: usize,
}

impl World {
    /// Something happens to a server: it will take it in.
    pub(crate) fn tell(&mut self, id: NodeId, event: Event) {
        let Some(running) = &mut self.server(id).running else { return };
        running.inbox.push(event);
        if !std::mem::replace(&mut running.woken, true) {
            let delay = self.plan.climate.processing.draw(&mut self.rng);
            self.schedule(delay, What::Wake(id));
        }
    }

    pub(crate) fn timer(&mut self, id: NodeId, timer: u64) -> Checked {
        match &self.servers[&id].running {
            Some(running) if running.timer == timer => self.wake(id),
            _ => Ok(()),
        }
    }

    /// A server takes in what has happened, in the order of the driver: quiet ticks that passed, events, the tick that is
    /// due. Then it carries out what its replica wants.
    pub(crate) fn wake(&mut self, id: NodeId) -> Checked {
        let now = self.now;
        let server = self.server(id);
        let clock = server.clock;
        let (clocks, local) = (clock.now(now), clock.local(now).duration());
        let Some(running) = &mut server.running else { return Ok(()) };
        running.woken = false;
        for _ in 0..running.ticks.caught_up(local) {
            running.replica.step(clocks, Event::Tick);
        }
        for event in std::mem::take(&mut running.inbox) {
            running.replica.step(clocks, event);
        }
        if running.ticks.is_due(local) {
            running.replica.step(clocks, Event::Tick);
        }
        let effects = running.replica.take_effects(clocks);
        let due = Time::of(running.ticks.due(running.replica.quiet_ticks()));
        running.timer += 1;
        let timer = running.timer;
        self.trace.mark(now, "wake", &[id.0, effects.len() as u64]);
        // What it wants written is of all the roles that it had meanwhile: it leads after that, and follows before.
        if effects.iter().any(follows) {
            self.oracle.follows(id);
        }
        let role = effects.iter().rev().find(|effect| follows(effect) || leads(effect));
        let led_and_follows = role.is_some_and(follows);
        let (leading, others): (Vec<_>, Vec<_>) = effects.into_iter().partition(leads);
        for effect in others.into_iter().chain(leading) {
            self.carry_out(id, effect)?;
            // It was removed: what it wanted beside that does not happen any more.
            if self.servers[&id].running.is_none() {
                return Ok(());
            }
        }
        // One that was stopped for long may win an election and hear of a later one in the same moment.
        if led_and_follows {
            self.oracle.follows(id);
        }
        let delay = clock.global(due).max(now + Time(1)) - now;
        self.schedule(delay, What::Timer(id, timer));
        Ok(())
    }

    fn carry_out(&mut self, id: NodeId, effect: Effect) -> Checked {
        match effect {
            Effect::Write(write) => self.wants_written(id, write),
            Effect::Send { to, batch } => {
                for message in &batch.messages {
                    self.check_promise(id, to, message)?;
                }
                let batch = self.without_wrong_answers(id, batch);
                self.send(id, to, batch);
                Ok(())
            }
            Effect::Apply(entries) => self.wants_applied(id, entries),
            Effect::PersistState => {
                let delay = PERSIST.draw(&mut self.rng) + self.servers[&id].disk_delay;
                self.schedule(delay, What::StatePersisted(id));
                Ok(())
            }
            Effect::FetchSnapshot { from, at_least } => {
                self.fetch_snapshot(id, from, at_least);
                Ok(())
            }
            Effect::Install { state, position: _ } => {
                let delay = PERSIST.draw(&mut self.rng);
                self.schedule(delay, What::Installed(id, state));
                Ok(())
            }
            Effect::Discard(state) => {
                self.server(id).engines.remove(&state);
                Ok(())
            }
            Effect::Fetch { purpose, from, to, max_bytes } => {
                let delay = READ.draw(&mut self.rng) + self.servers[&id].disk_delay;
                self.schedule(delay, What::Fetched(id, Box::new(Fetch { purpose, from, to, max_bytes })));
                Ok(())
            }
            Effect::Answer { ctx, result } => {
                self.ends(id, ctx)?;
                if result.is_ok() && self.budget.is_state_wrong(id) {
                    self.answer(id, ctx, Reply::Broken);
                    return Ok(());
                }
                if let Ok(answer) = &result {
                    self.check_acknowledgement(answer)?;
                }
                let reply = match result {
                    Ok(answer) => Reply::Answer(answer),
                    Err(failure) => Reply::Failed(failure),
                };
                self.answer(id, ctx, reply);
                Ok(())
            }
            Effect::Read { ctx } => {
                self.ends(id, ctx)?;
                self.may_read(id)?;
                if let Some(attempt) = self.attempts.get(&ctx).cloned() {
                    let delay = READ.draw(&mut self.rng);
                    self.schedule(delay, What::Read(id, attempt));
                }
                Ok(())
            }
            Effect::RefusePeer { peer, reason, removed } => self.refused(id, peer, &reason, removed),
            // Everybody is where it always was.
            Effect::Locate { .. } => Ok(()),
            Effect::Serve(serves) => {
                if let Some(running) = &mut self.server(id).running {
                    running.serves = serves;
                }
                Ok(())
            }
            Effect::Stop { reason } => self.expelled(id, &reason),
            Effect::Notice(notice) => self.notice(id, &notice),
        }
    }

    fn ends(&mut self, id: NodeId, ctx: Ctx) -> Checked {
        let running = self.server(id).running.as_mut();
        match running.and_then(|running| running.requests.remove(&ctx)) {
            Some(_) => Ok(()),
            None => broken!("request {ctx} at server {id} ends twice"),
        }
    }

    fn check_promise(&mut self, id: NodeId, to: NodeId, message: &PeerMessage) -> Checked {
        let PeerMessage::Raft(message) = message else { return Ok(()) };
        match &message.body {
            Body::Vote(VoteRequest { .. }) => self.oracle.promises_vote(id, message.term, id),
            Body::VoteReply(reply) if reply.granted => self.oracle.promises_vote(id, message.term, to),
            Body::AppendReply(reply) => match reply.result {
                AppendResult::Accepted { matched } => {
                    self.oracle.promises_entries(id, message.term, matched, reply.damage.is_some())
                }
                AppendResult::Rejected { .. } => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn check_acknowledgement(&mut self, answer: &Answer) -> Checked {
        let revision = match answer {
            Answer::Put(put) => put.revision,
            Answer::Delete(delete) => delete.revision,
            Answer::Txn(txn) => txn.revision,
            Answer::SessionOpened(opened) => LogIndex(opened.session_id.0),
            Answer::Done => return Ok(()),
        };
        self.oracle.acknowledges(revision, self.budget.damaged())
    }

    fn notice(&mut self, id: NodeId, notice: &Notice) -> Checked {
        self.trace.say(self.now, || format!("server {id}: {notice:?}"));
        match notice {
            Notice::Raft(RaftEvent::Leading { term, .. }) => self.oracle.leads(id, *term),
            Notice::Raft(RaftEvent::AcknowledgedLost { .. }) => {
                broken!("server {id} says that acknowledged entries are lost: {notice:?}")
            }
            Notice::Raft(RaftEvent::Repaired { .. }) => {
                self.whole_if_it_has_its_state(id);
                self.oracle.repaired(id);
                Ok(())
            }
            Notice::Diverged { .. } | Notice::StatesDiffer if !self.budget.any_state_was_wrong() => {
                broken!("server {id} says that states differ, and none went wrong: {notice:?}")
            }
            Notice::Quarantined { .. } if !self.budget.is_state_wrong(id) && !self.has_scanned_rot(id) => {
                broken!("server {id} is quarantined, and its state is right: {notice:?}")
            }
            Notice::Quarantined { .. } => {
                self.budget.state_is_wrong_again(id);
                self.count_repair("quarantines");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    // The log's thread.

    fn wants_written(&mut self, id: NodeId, write: Write) -> Checked {
        self.trace.say(self.now, || format!("server {id} writes {}", summary(&write)));
        self.check_level(id, &write)?;
        self.oracle.appends(id, &write)?;
        if let Some(running) = &mut self.server(id).running {
            running.waiting.push_back(write);
        }
        self.write_on(id);
        Ok(())
    }

    /// All that waits is written with one sync, unless the log is busy.
    fn write_on(&mut self, id: NodeId) {
        let Some(running) = &mut self.server(id).running else { return };
        if !running.writing.is_empty() || running.waiting.is_empty() {
            return;
        }
        running.writing = running.waiting.drain(..).collect();
        let delay = self.plan.climate.disk.draw(&mut self.rng) + self.servers[&id].disk_delay;
        self.schedule(delay, What::Written(id));
    }

    pub(crate) fn written(&mut self, id: NodeId) -> Checked {
        let Some(running) = &mut self.server(id).running else { return Ok(()) };
        let writes = std::mem::take(&mut running.writing);
        let in_log =
            |write: &Write| !write.entries.is_empty() || write.truncate_to.is_some() || write.base.is_some();
        let is_batch = writes.iter().any(in_log);
        let lies =
            is_batch && writes.iter().all(|write| write.hard_state.is_none()) && self.lie_about_batch(id);
        let Some(running) = &mut self.server(id).running else { return Ok(()) };
        let result = running.log.write(&writes).and_then(|last| {
            // The next segment is made by a thread of its own, or when the log needs it.
            match running.log.prepare()? {
                Some(preparation) if running.writes % 2 == 0 => preparation.run()?,
                _ => {}
            }
            // So are segments that are not needed any more removed.
            match running.log.cut()? {
                Some(cut) if running.writes % 3 == 0 => cut.run()?,
                _ => {}
            }
            Ok(last)
        });
        running.writes += 1;
        let count = running.writes;
        let last = match result {
            Ok(last) => last,
            Err(error) => return self.disk_failed(id, &error.to_string()),
        };
        self.trace.note(self.now, "written", &[id.0, last.0], || {
            format!("server {id} has on disk all up to {last:?}")
        });
        for write in &writes {
            self.oracle.durable(id, write);
        }
        if is_batch && !lies {
            self.budget.written_behind(id);
        }
        self.tell(id, Event::Persisted(last));
        self.schedule(IDLE, What::LogIdle(id, count));
        self.write_on(id);
        Ok(())
    }

    pub(crate) fn log_idle(&mut self, id: NodeId, writes: u64) -> Checked {
        let Some(running) = &mut self.server(id).running else { return Ok(()) };
        if running.writes != writes || !running.writing.is_empty() {
            return Ok(());
        }
        if let Err(error) = running.log.mark() {
            return self.disk_failed(id, &error.to_string());
        }
        self.budget.written_behind(id);
        Ok(())
    }

    pub(crate) fn space(&mut self, id: NodeId) -> Checked {
        let free_bytes = if self.servers[&id].disk_full > 0 { 1 } else { FREE_BYTES };
        self.tell(id, Event::Space { free_bytes });
        self.schedule(SPACE_EVERY, What::Space(id));
        Ok(())
    }

    pub(crate) fn fetched(&mut self, id: NodeId, fetch: Fetch) -> Checked {
        if !self.budget.may_go_down(id) {
            // It would find the lie, and end.
            self.schedule(IDLE, What::Fetched(id, Box::new(fetch)));
            return Ok(());
        }
        let Some(running) = &mut self.server(id).running else { return Ok(()) };
        let Fetch { purpose, from, to, max_bytes } = fetch;
        match Event::fetched(purpose, running.reader.entries(from, to, max_bytes)) {
            Ok(fetched) => self.tell(id, fetched),
            Err(error) => return self.disk_failed(id, &error.to_string()),
        }
        Ok(())
    }

    // The state machine's thread.

    fn wants_applied(&mut self, id: NodeId, entries: Vec<Entry>) -> Checked {
        self.oracle.applies(id, &entries)?;
        if let Some(running) = &mut self.server(id).running {
            running.applying = entries;
        }
        let delay = self.plan.climate.apply.draw(&mut self.rng);
        self.schedule(delay, What::Applied(id));
        Ok(())
    }

    pub(crate) fn applied(&mut self, id: NodeId) -> Checked {
        let Some(running) = &mut self.server(id).running else { return Ok(()) };
        let mut entries = std::mem::take(&mut running.applying);
        let rots = self.may_rot(id, &entries);
        if rots.is_none() {
            self.misapply(id, &mut entries);
        }
        let Some(running) = &mut self.server(id).running else { return Ok(()) };
        let event = match running.worker.apply(&entries) {
            Ok(event) => event,
            Err(error) => return broken!("the state machine of server {id} fails: {error}"),
        };
        let view = running.worker.view();
        self.trace.note(self.now, "applied", &[id.0, view.applied.0], || {
            format!("server {id} has applied all up to {}", view.applied)
        });
        if let Some(key) = rots {
            self.rot_row(id, &key);
        }
        self.look_at_state(id)?;
        self.tell(id, event);
        self.scan(id)
    }

    pub(crate) fn read(&mut self, id: NodeId, attempt: Attempt) -> Checked {
        if self.budget.is_state_wrong(id) {
            self.answer(id, attempt.ctx, Reply::Broken);
            return Ok(());
        }
        let Some(running) = &self.servers[&id].running else { return Ok(()) };
        let failed = |error: &dyn std::fmt::Display| Violation(format!("server {id} cannot read: {error}"));
        let response = match &attempt.read {
            None => return broken!("a write was answered as a read"),
            Some(ReadRequest::Get(get)) => {
                let answer = running.state.get(get, ANSWER_BYTES_MAX).map_err(|error| failed(&error))?;
                let records = answer.records.iter().map(|record| record.as_ref().map(noted_record)).collect();
                Response::Got { revision: answer.revision.0, records }
            }
            Some(ReadRequest::Scan(scan)) => {
                let mut cursor = running.state.scan(scan).map_err(|error| failed(&error))?;
                let page = cursor.next_page(u64::MAX).map_err(|error| failed(&error))?;
                let record = |record: &raftmap_state::Record| (record.key.clone(), noted_record(record));
                Response::Scanned {
                    revision: page.revision.0,
                    records: page.records.iter().map(record).collect(),
                }
            }
        };
        self.answer_read(id, attempt.ctx, response);
        Ok(())
    }

    // Its life.

    /// A request of a client arrives.
    pub(crate) fn request(&mut self, id: NodeId, attempt: Attempt) -> Checked {
        let now = self.now;
        let server = self.server(id);
        if server.clients_cut > 0 {
            return Ok(());
        }
        let (ctx, client) = (attempt.ctx, attempt.client);
        let Some(running) = &mut server.running else {
            let delay = READ.draw(&mut self.rng);
            self.schedule(delay, What::Reply(client, ctx, Reply::Broken));
            return Ok(());
        };
        running.requests.insert(ctx, client);
        let remaining_ms = (attempt.deadline - now).0 / 1000;
        let deadline_ms = server.clock.now(now).monotonic_ms + remaining_ms;
        let kind = attempt.kind.clone();
        self.attempts.insert(ctx, attempt);
        self.tell(id, Event::Request(Request { ctx, deadline_ms, kind, trace: trace_of(ctx) }));
        Ok(())
    }

    pub(crate) fn start(&mut self, id: NodeId) -> Checked {
        if self.servers[&id].is_up() || self.servers[&id].retired {
            return Ok(());
        }
        // Whoever has not noticed yet that it was down does now.
        for other in self.ids().into_iter().filter(|other| *other != id) {
            self.disconnect(id, other);
        }
        let (now, climate) = (self.now, self.plan.climate.clone());
        let server = self.server(id);
        let started = server.start(&climate, now);
        let Started { base, entries } = match started {
            Ok(started) => started,
            Err(Refused::Disk(reason)) => return self.disk_failed(id, &reason),
            Err(Refused::Data(reason)) => return broken!("server {id} does not start: {reason}"),
        };
        let Some(status) = server.running.as_ref().map(|running| running.replica.status().raft) else {
            return Ok(());
        };
        let hard_state =
            raftmap_raft::HardState { term: status.term, vote: status.vote, damaged: status.damaged };
        self.trace.note(now, "start", &[id.0, entries.len() as u64], || {
            format!("server {id} starts with {} entries, {hard_state:?}", entries.len())
        });
        // What was written over the row was not on the disk yet.
        if self.servers[&id].is_rotten() {
            self.budget.state_is_wrong_again(id);
        }
        if status.state_lost && !self.budget.is_damaged(id) {
            return broken!("server {id} says that its state machine is lost, and nobody damaged it");
        }
        self.budget.looked_at(id);
        if status.damaged && !self.budget.is_damaged(id) {
            return broken!("server {id} says that its disk is damaged, and nobody damaged it");
        }
        if !status.damaged && !status.state_lost {
            self.budget.whole(id);
        }
        self.oracle.started(id, base.index, &entries, hard_state)?;
        if self.budget.is_state_wrong(id) {
            self.look_at_state(id)?;
        }
        self.schedule(Time(1), What::Space(id));
        // Its first tick, and whatever its replica wants at once.
        self.schedule(Time(2), What::Timer(id, 0));
        Ok(())
    }
}

/// Some requests are followed: nothing may depend on that.
fn trace_of(ctx: Ctx) -> Option<TraceContext> {
    let number = NonZeroU64::new(ctx.0).filter(|number| number.get() % 4 == 0)?;
    Some(TraceContext::new(number.into(), number))
}

fn leads(effect: &Effect) -> bool {
    matches!(effect, Effect::Notice(Notice::Raft(RaftEvent::Leading { .. })))
}

fn follows(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::Notice(Notice::Raft(RaftEvent::Following { .. } | RaftEvent::SteppedDown { .. }))
    )
}

fn summary(write: &Write) -> String {
    let mut text = String::new();
    if let Some(hard_state) = write.hard_state {
        text += &format!("{hard_state:?} ");
    }
    if let Some(to) = write.truncate_to {
        text += &format!("cut to {to} ");
    }
    if let Some(base) = &write.base {
        text += &format!("begins behind {:?}, state {} ", base.position, base.state);
    }
    if let (Some(first), Some(last)) = (write.entries.first(), write.entries.last()) {
        text += &format!("entries {} to {} of term {}", first.index, last.index, last.term);
    }
    text
}
