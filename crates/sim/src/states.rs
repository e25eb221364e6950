//! Servers whose state is wrong, and what they may do until that is found.
//!
//! Nothing can keep a server from answering from a wrong state before anybody knows that it is wrong. What is promised, and
//! what is checked here: the server is found, serves nothing from then on, and comes to have the state of the others by itself;
//! nothing is lost meanwhile. So what a wrong server answers reaches no client, and nobody copies its state. When faults have
//! ended all states must be equal.

use bytes::Bytes;
use raftmap_raft::{Entry, LogIndex, NodeId, Payload};
use raftmap_replica::{Event, PeerBatch, PeerMessage, StateDigest};
use raftmap_state::{Body, Command, Engine, Snapshot, Write, WriteRequest};

use crate::oracle::{Checked, Violation, broken};
use crate::server::Rotten;
use crate::world::World;

impl World {
    /// If a server's state machine is to apply something to another effect, it does so now: it puts another value.
    pub(crate) fn misapply(&mut self, id: NodeId, entries: &mut [Entry]) {
        if !self.servers[&id].misapplies {
            return;
        }
        let known = &self.misapplied;
        let mut unknown = entries.iter_mut().filter(|entry| !known.contains(&entry.index));
        let Some(entry) = unknown.find_map(|entry| Some((altered(entry)?, entry))) else { return };
        if !self.others_can_tell(id, entry.1.index.previous()) || !self.budget.state_goes_wrong(id) {
            return;
        }
        entry.1.payload = entry.0;
        self.misapplied.insert(entry.1.index);
        self.server(id).misapplies = false;
        self.server(id).doubtful.clear();
        self.count("states that went wrong");
        self.trace.say(self.now, || format!("server {id} applies entry {} to another effect", entry.1.index));
    }

    /// If a server's state is to go wrong, one of its rows may rot instead: that of a key that it puts now.
    pub(crate) fn may_rot(&mut self, id: NodeId, entries: &[Entry]) -> Option<Bytes> {
        let server = &self.servers[&id];
        // One row at a time: a second one could hide the first, or bring it back.
        let last = entries.last().filter(|_| server.misapplies && server.rotten.is_none())?;
        let key = entries.iter().find_map(key_that_is_put)?;
        (self.rng.bool() && self.others_can_tell(id, last.index)).then_some(key)
    }

    /// A row of the map is another one from now on, on the disk, too.
    pub(crate) fn rot_row(&mut self, id: NodeId, key: &[u8]) {
        /// Revision and deadline come before the value.
        const VALUE_AT: usize = 16;
        let Some(engine) = self.servers[&id].engines.values().next().cloned() else { return };
        let row_key = Bytes::from([&[2], key].concat());
        let Ok(Some(value)) = engine.snapshot().get(&row_key) else { return };
        if value.len() <= VALUE_AT || !self.budget.state_goes_wrong(id) {
            return;
        }
        let mut rotten = value.to_vec();
        // No two servers' rows rot alike, or they would agree against the one that is right.
        rotten[VALUE_AT] ^= id.0.to_le_bytes()[0];
        let row = (row_key, Bytes::from(rotten));
        let written =
            engine.commit(vec![(row.0.clone(), Some(row.1.clone()))]).and_then(|()| engine.persist());
        let server = self.server(id);
        server.misapplies = false;
        server.doubtful.clear();
        server.rotten = written.is_ok().then_some(Rotten { row, scanned: false });
        self.count("rows that rotted");
        self.trace.say(self.now, || format!("server {id}: a row rots"));
    }

    /// Whether a scan has told the others of a row that rotted, even if that was written again since.
    pub(crate) fn has_scanned_rot(&self, id: NodeId) -> bool {
        self.servers[&id].rotten.as_ref().is_some_and(|rotten| rotten.scanned)
    }

    /// Carries out the scan that was asked for, or leaves it out, as a server does that is still busy with the one before.
    pub(crate) fn scan(&mut self, id: NodeId) -> Checked {
        let scan = self.server(id).running.as_mut().and_then(|running| running.worker.take_scan());
        let Some(mut scan) = scan else { return Ok(()) };
        // Once faults have ended a few scans must do.
        if !self.healed && self.rng.u8(..8) == 0 {
            return Ok(());
        }
        let index = scan.at().index;
        let Ok(Some(digest)) = scan.advance(u64::MAX) else {
            return broken!("server {id} cannot scan its state");
        };
        // Entries behind that of the scan may have written the row again by now.
        if let Some(rotten) = &mut self.server(id).rotten {
            rotten.scanned = true;
        }
        self.count_repair("scans");
        self.trace.note(self.now, "scanned", &[id.0, index.0], || {
            format!("server {id} scans at {index}: {digest}")
        });
        self.tell(id, Event::Scanned(StateDigest { index, digest: digest.0 }));
        Ok(())
    }

    /// Whether all others are there, each with a state of its own and the log up to `index`: if one of them had to copy the state of
    /// another, nobody could tell which of two is right, and the cluster would wait for its operator.
    fn others_can_tell(&self, id: NodeId, index: LogIndex) -> bool {
        let members = self.servers[&id].running.as_ref().map(|running| running.replica.status().membership);
        let others = members.unwrap_or_default().all().into_iter().filter(|other| *other != id);
        others.map(|other| &self.servers[&other]).all(|server| {
            let status = server.running.as_ref().map(|running| running.replica.status().raft);
            status.is_some_and(|raft| !raft.state_lost && !raft.damaged && raft.durable >= index)
                && !server.paused
        })
    }

    /// Looks at a server's state: is it that of the others?
    pub(crate) fn look_at_state(&mut self, id: NodeId) -> Checked {
        let Some(running) = &self.servers[&id].running else { return Ok(()) };
        let (view, state_lost) = (running.worker.view(), running.replica.status().raft.state_lost);
        if !self.budget.is_state_wrong(id) {
            return self.oracle.applied(id, view.applied, view.digest);
        }
        if self.servers[&id].is_rotten() {
            return Ok(());
        }
        // One that was set aside is not right before another one has taken its place.
        if !state_lost {
            let mut doubtful = std::mem::take(&mut self.server(id).doubtful);
            doubtful.push((view.applied, view.digest));
            if doubtful.iter().any(|(index, digest)| self.oracle.has_state(*index, *digest)) {
                self.budget.state_is_right(id);
            } else {
                self.server(id).doubtful = doubtful;
            }
        }
        Ok(())
    }

    /// Whether the servers rightly say that nobody can tell whose state is right: no quorum has come to the end with the right one,
    /// and who has not come there would have to copy the state of one that is in doubt.
    pub(crate) fn waits_for_its_operator(&self) -> bool {
        let Some(membership) = self.settled_membership() else { return false };
        let running = |id: NodeId| self.servers[&id].running.as_ref();
        let says = |id: NodeId| running(id).is_some_and(|running| running.replica.status().states_differ);
        let last = self.oracle.committed() as u64;
        let is_right = |id: NodeId| {
            let at_end = running(id).is_some_and(|running| running.worker.view().applied.0 >= last);
            at_end && !self.budget.is_state_wrong(id)
        };
        self.budget.any_state_was_wrong()
            && membership.all().into_iter().any(says)
            && !membership.is_quorum(is_right)
    }

    /// Nobody may read a state that its server knows to be wrong.
    pub(crate) fn may_read(&self, id: NodeId) -> Checked {
        match &self.servers[&id].running {
            Some(running) if !running.serves.reads => {
                broken!("server {id} reads a state that it does not trust")
            }
            _ => Ok(()),
        }
    }

    /// What a server with a wrong state answers to commands that others passed on reaches nobody.
    pub(crate) fn without_wrong_answers(&self, id: NodeId, mut batch: PeerBatch) -> PeerBatch {
        if self.budget.is_state_wrong(id) {
            batch.messages.retain(|message| !matches!(message, PeerMessage::ForwardReply(_)));
        }
        batch
    }
}

fn key_that_is_put(entry: &Entry) -> Option<Bytes> {
    let Payload::Command(bytes) = &entry.payload else { return None };
    let command = Command::decode(bytes.clone()).ok()?.command;
    let Body::Write(Write { request: WriteRequest::Put(put), .. }) = command.body else { return None };
    Some(put.entries.first()?.key.clone())
}

/// Another command in the place of a put.
fn altered(entry: &Entry) -> Option<Payload> {
    let Payload::Command(bytes) = &entry.payload else { return None };
    let mut command = Command::decode(bytes.clone()).ok()?.command;
    let Body::Write(Write { request: WriteRequest::Put(put), .. }) = &mut command.body else { return None };
    put.entries.first_mut()?.value = Bytes::from_static(b"wrong");
    Some(Payload::Command(command.encode()))
}
