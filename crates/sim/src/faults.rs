//! How the faults of a plan are carried out, and how a run ends.

use std::collections::BTreeSet;
use std::path::Path;

use raftmap_log::mem_disk::Fault as DiskFault;
use raftmap_raft::NodeId;
use raftmap_replica::{Event, ReplicaStatus};

use crate::clients::Reply;
use crate::oracle::{Checked, Violation, broken};
use crate::plan::{Crash, Fault, Spread, Target};
use crate::time::Time;
use crate::world::{Undo, What, World};

/// How long a server whose disk failed stays down.
const AFTER_FAILURE: Spread = Spread(Time::ms(50), Time::secs(2));
/// After how long at most the others notice that a server has lost its power.
const SILENCE_MAX: Time = Time::secs(4);
const BLOCK_BYTES: usize = 4096;
/// What a disk that tears blocks does not tear.
const SECTOR_BYTES: usize = 512;

impl World {
    pub(crate) fn whom(&self, target: Target) -> NodeId {
        match target {
            Target::Server(id) => id,
            Target::Leader => self.leader().unwrap_or(NodeId(1)),
        }
    }

    pub(crate) fn leader(&self) -> Option<NodeId> {
        self.servers
            .values()
            .filter_map(|server| Some(server.running.as_ref()?.replica.status().raft))
            .filter(|raft| raft.leader == Some(raft.id))
            .max_by_key(|raft| raft.term)
            .map(|raft| raft.id)
    }

    pub(crate) fn count(&mut self, kind: &'static str) {
        *self.faults.entry(kind).or_default() += 1;
    }

    pub(crate) fn count_repair(&mut self, kind: &'static str) {
        *self.repairs.entry(kind).or_default() += 1;
    }

    pub(crate) fn strike(&mut self, place: usize) -> Checked {
        let fault = self.plan.faults[place].fault.clone();
        self.trace.note(self.now, "fault", &[place as u64], || format!("FAULT {place}: {fault}"));
        match fault {
            Fault::Crash { target, how, down } => {
                let id = self.whom(target);
                self.crash(id, how, down);
            }
            Fault::CrashAll { how, down } => {
                self.count("crashes of all servers");
                for id in self.ids() {
                    let later = Time(self.rng.u64(..=down.0 / 2));
                    self.crash(id, how, down + later);
                }
            }
            Fault::LogRot { target, scrubbed_after } => self.rot_in_use(target, scrubbed_after),
            Fault::LyingWrite { target, blocks } => self.arm_lie(target, blocks),
            Fault::DiskError { target, operation, short } => self.arm_error(target, operation, short),
            Fault::SlowDisk { target, by, lasts } => {
                let id = self.whom(target);
                self.count("slow disks");
                let delay = self.server(id).disk_delay + by;
                self.server(id).disk_delay = delay;
                self.schedule(lasts, What::Undo(Undo::Speed(id, by)));
            }
            Fault::FullDisk { target, lasts } => {
                let id = self.whom(target);
                self.count("full disks");
                self.server(id).disk_full += 1;
                self.schedule(lasts, What::Undo(Undo::Space(id)));
            }
            Fault::Partition { links, lasts } => {
                self.count("partitions");
                links.iter().for_each(|link| self.cut(*link));
                self.schedule(lasts, What::Undo(Undo::Mend(links)));
            }
            Fault::Disconnect { a, b } if a != b => {
                self.count("broken connections");
                self.disconnect(a, b);
            }
            Fault::Disconnect { .. } => {}
            Fault::Pause { target, lasts } => {
                let id = self.whom(target);
                if self.servers[&id].is_up() && !self.servers[&id].paused {
                    self.count("pauses");
                    self.server(id).paused = true;
                    self.schedule(lasts, What::Resume(id, self.servers[&id].life));
                }
            }
            Fault::ClockJump { target, by_ms } => {
                let id = self.whom(target);
                self.count("clock jumps");
                self.server(id).clock.offset_ms += by_ms;
            }
            Fault::HandOver { target, to } => {
                let id = self.whom(target);
                self.count("handovers");
                self.tell(id, Event::HandOver { to });
            }
            Fault::Misapply { target } => {
                let id = self.whom(target);
                self.server(id).misapplies = true;
            }
            Fault::Members(change) => self.change_members(change),
            Fault::Upgrade { server } => return self.upgrade(server),
            Fault::ClientsCut { target, lasts } => {
                let id = self.whom(target);
                self.count("servers without clients");
                self.server(id).clients_cut += 1;
                self.schedule(lasts, What::Undo(Undo::Clients(id)));
            }
        }
        Ok(())
    }

    pub(crate) fn undo(&mut self, undo: Undo) -> Checked {
        match undo {
            Undo::Mend(links) => {
                for link in links {
                    for (at, parcel) in self.network.mend(&mut self.rng, link, self.now) {
                        let delay = at - self.now;
                        self.schedule(delay, What::Arrive(parcel));
                    }
                }
            }
            Undo::Speed(id, by) => {
                let delay = self.server(id).disk_delay - by;
                self.server(id).disk_delay = delay;
            }
            Undo::Space(id) => self.server(id).disk_full -= 1,
            Undo::Clients(id) => self.server(id).clients_cut -= 1,
        }
        Ok(())
    }

    // Servers go down.

    fn crash(&mut self, id: NodeId, how: Crash, down: Time) {
        if !self.servers[&id].is_up() || !self.budget.may_go_down(id) {
            return;
        }
        self.count(if how.power { "power cuts" } else { "kills" });
        if how.power && self.plan.climate.tears_blocks {
            let atomic_bytes = if self.budget.damage(id) { SECTOR_BYTES } else { BLOCK_BYTES };
            self.server(id).disk.set_atomic_bytes(atomic_bytes);
        }
        let under_way = how.mid_write && self.write_in_part(id, how.power);
        // Where the log does not hold everything, that is damage like any other.
        let engine_lost = how.engine_lost && (!self.servers[&id].needs_its_state() || self.budget.damage(id));
        self.go_down(id, how.power, engine_lost);
        if engine_lost {
            self.count("state machines lost");
        }
        if how.rot && self.budget.damage(id) {
            self.rot(id, !under_way);
        }
        self.schedule(down, What::Start(id));
    }

    /// Goes down in the middle of the write that is under way, if one is.
    fn write_in_part(&mut self, id: NodeId, power: bool) -> bool {
        let roll = self.rng.u64(..8);
        let server = self.server(id);
        let Some(running) = &mut server.running else { return false };
        if running.writing.is_empty() {
            return false;
        }
        let fault = if power { DiskFault::PowerCut } else { DiskFault::Kill };
        server.disk.set_fault(server.disk.operations() + roll, fault);
        // It fails where the fault strikes, or is whole before it; nobody is told either way.
        let _in_part = running.log.write(&std::mem::take(&mut running.writing));
        server.disk.clear_faults();
        self.count("writes that a crash cut short");
        true
    }

    pub(crate) fn go_down(&mut self, id: NodeId, power: bool, engine_lost: bool) {
        self.trace.note(self.now, "down", &[id.0], || format!("server {id} is down"));
        self.deferred.insert(id, Vec::new());
        let mut rng = self.rng.fork();
        let server = self.server(id);
        let requests = server.running.as_mut().map(|running| std::mem::take(&mut running.requests));
        server.end(power, engine_lost, &mut rng);
        server.disk.clear_faults();
        server.error_armed = None;
        server.lie = None;
        self.oracle.ended(id);
        for other in self.ids().into_iter().filter(|other| *other != id) {
            if power && self.network.stands(id, other) && self.rng.bool() {
                let delay = Time(self.rng.u64(..SILENCE_MAX.0));
                self.vanish(id, other, delay);
            } else {
                self.disconnect(id, other);
            }
        }
        for ctx in requests.unwrap_or_default().into_keys() {
            self.answer(id, ctx, Reply::Broken);
        }
    }

    /// A disk failed under a server: it ends at once, and starts again later.
    pub(crate) fn disk_failed(&mut self, id: NodeId, reason: &str) -> Checked {
        let server = &self.servers[&id];
        if server.error_armed.is_none() && !self.budget.is_damaged(id) {
            return broken!("server {id} ends, for its disk failed, which it did not: {reason}");
        }
        self.trace.say(self.now, || format!("server {id} ends: {reason}"));
        self.count("failed disks");
        self.go_down(id, false, false);
        let delay = AFTER_FAILURE.draw(&mut self.rng);
        self.schedule(delay, What::Start(id));
        Ok(())
    }

    // Disks.

    fn arm_error(&mut self, target: Target, operation: u64, short: bool) {
        let id = self.whom(target);
        let server = &self.servers[&id];
        if !server.is_up() || server.lie.is_some() || !self.budget.may_go_down(id) {
            return;
        }
        let kind = [std::io::ErrorKind::Other, std::io::ErrorKind::StorageFull][self.rng.usize(..2)];
        let server = self.server(id);
        let at = server.disk.operations() + operation;
        server.disk.set_fault(at, if short { DiskFault::ShortWrite } else { DiskFault::Error(kind) });
        server.error_armed = Some(at);
    }

    fn arm_lie(&mut self, target: Target, blocks: Option<i64>) {
        let id = self.whom(target);
        let server = &self.servers[&id];
        if !server.is_up() || server.error_armed.is_some() || !self.budget.damage(id) {
            return;
        }
        let lie = blocks.map_or(DiskFault::LostWrite, DiskFault::MisdirectedWrite);
        self.server(id).lie = Some(lie);
    }

    /// Before a batch is written: the disk lies about it, if it is to. Whether it does.
    pub(crate) fn lie_about_batch(&mut self, id: NodeId) -> bool {
        let server = self.server(id);
        let Some(lie) = server.lie.take() else { return false };
        server.disk.set_fault(server.disk.operations(), lie);
        self.budget.lie(id);
        self.count("writes lost or misplaced");
        true
    }

    /// A bit of what was written to the log or the hard state rots.
    pub(crate) fn rot(&mut self, id: NodeId, hard_state_too: bool) {
        let files = self.servers[&id].log_files();
        let hard_state = hard_state_too && self.rng.u32(..5) == 0;
        let is_hard_state = |path: &Path| path.ends_with("hard-state");
        let files: Vec<_> = files.into_iter().filter(|(path, _)| is_hard_state(path) == hard_state).collect();
        if files.is_empty() {
            return;
        }
        let (path, _) = &files[self.rng.usize(..files.len())];
        let disk = self.servers[&id].disk.clone();
        let bytes = disk.disk_bytes(path).unwrap_or_default();
        let written: Vec<usize> = bytes
            .chunks(BLOCK_BYTES)
            .enumerate()
            .filter(|(_, block)| block.iter().any(|byte| *byte != 0))
            .map(|(place, _)| place)
            .collect();
        if written.is_empty() {
            return;
        }
        let block = written[self.rng.usize(..written.len())];
        let bit = (block * BLOCK_BYTES * 8) as u64 + self.rng.u64(..BLOCK_BYTES as u64 * 8);
        if disk.flip_bit(path, bit).is_ok() {
            self.count("rotten blocks");
            self.trace.say(self.now, || format!("server {id}: bit {bit} of {} rots", path.display()));
        }
    }

    // The end.

    /// Faults end; clients end their calls and write once more each.
    pub(crate) fn heal(&mut self) -> Checked {
        self.trace.note(self.now, "heal", &[], || "faults end");
        self.network.calm_down();
        self.clients.close();
        self.healed = true;
        self.servers.values_mut().for_each(|server| server.misapplies = false);
        Ok(())
    }

    pub(crate) fn is_at_rest(&self) -> bool {
        self.healed && self.clients.all_rest() && self.why_not_at_rest().is_none()
    }

    /// What is still to be done, in words.
    pub(crate) fn why_not_at_rest(&self) -> Option<String> {
        if !self.clients.all_rest() {
            return Some("clients still wait".to_owned());
        }
        let Some(membership) = self.settled_membership() else {
            return Some("members are changing".to_owned());
        };
        let mut ends = Vec::new();
        for server in self.servers.values().filter(|server| membership.all().contains(&server.id)) {
            let id = server.id;
            let Some(running) = &server.running else { return Some(format!("server {id} is down")) };
            let raft = running.replica.status().raft;
            if !self.has_highest_level(id) {
                return Some(format!("server {id}: the feature level has not risen"));
            }
            if raft.damaged || raft.leader.is_none() {
                return Some(format!("server {id}: {raft:?}"));
            }
            ends.push((raft.applied, raft.last.index, raft.durable));
        }
        if let Some(id) = membership.all().into_iter().find(|id| self.servers[id].is_rotten()) {
            return Some(format!("nobody has found that a row of server {id} rotted"));
        }
        let states: Vec<_> = self.states(&membership.all()).collect();
        if states
            .iter()
            .any(|(status, _)| status.quarantined || status.states_differ || status.raft.state_lost)
            || states.iter().any(|(_, digest)| *digest != states[0].1)
        {
            return Some(format!("the servers' states are not equal: {states:?}"));
        }
        let (applied, last, durable) = ends[0];
        let together = ends.iter().all(|end| *end == ends[0]) && applied == last && applied == durable;
        (!together).then(|| format!("the servers are not at one index: {ends:?}"))
    }

    fn states(&self, members: &BTreeSet<NodeId>) -> impl Iterator<Item = (ReplicaStatus, u128)> {
        let running = members.iter().filter_map(|id| self.servers[id].running.as_ref());
        running.map(|running| (running.replica.status(), running.worker.view().digest))
    }

    /// All is healed and at rest: the servers hold the same, and the history is linearizable.
    pub(crate) fn judge(&mut self) -> Checked {
        let members = self.settled_membership().unwrap_or_default().all();
        let mut digests = Vec::new();
        for server in self.servers.values().filter(|server| members.contains(&server.id)) {
            let Some(running) = &server.running else { continue };
            let failed = |error: &dyn std::fmt::Display| {
                Violation(format!("the state of server {} cannot be read: {error}", server.id))
            };
            let mut content = running.state.content_digest().map_err(|error| failed(&error))?;
            digests.push(content.advance(u64::MAX).map_err(|error| failed(&error))?);
        }
        if digests.iter().any(|digest| *digest != digests[0]) {
            return broken!("the servers hold different rows at the same index: {digests:?}");
        }
        self.trace.note(self.now, "judge", &[self.clients.history().len() as u64], || "all at rest");
        self.searched = crate::verdict::of(self.clients.history())?;
        Ok(())
    }
}
