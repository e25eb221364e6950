//! Servers whose state is wrong, and what they may do until that is found.
//!
//! Nothing can keep a server from answering from a wrong state before anybody knows that it is wrong. What is promised, and
//! what is checked here: the server is found, serves nothing from then on, and comes to have the state of the others by itself;
//! nothing is lost meanwhile. So what a wrong server answers reaches no client, and nobody copies its state. When faults have
//! ended all states must be equal.

use bytes::Bytes;
use raftmap_raft::{Entry, LogIndex, NodeId, Payload};
use raftmap_replica::{PeerBatch, PeerMessage};
use raftmap_state::{Body, Command, Write, WriteRequest};

use crate::oracle::{Checked, Violation, broken};
use crate::world::World;

impl World {
    /// If a server's state machine is to apply something to another effect, it does so now: it puts another value.
    pub(crate) fn misapply(&mut self, id: NodeId, entries: &mut [Entry]) {
        if !self.servers[&id].misapplies {
            return;
        }
        let Some(entry) = entries.iter_mut().find_map(|entry| Some((altered(entry)?, entry))) else { return };
        if !self.others_can_tell(id, entry.1.index.previous()) || !self.budget.state_goes_wrong(id) {
            return;
        }
        entry.1.payload = entry.0;
        self.server(id).misapplies = false;
        self.server(id).doubtful.clear();
        self.count("states that went wrong");
        self.trace.say(self.now, || format!("server {id} applies entry {} to another effect", entry.1.index));
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
        let view = running.worker.view();
        if !self.budget.is_state_wrong(id) {
            return self.oracle.applied(id, view.applied, view.digest);
        }
        // One that was set aside is not right before another one has taken its place.
        if !running.replica.status().raft.state_lost {
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

/// Another command in the place of a put.
fn altered(entry: &Entry) -> Option<Payload> {
    let Payload::Command(bytes) = &entry.payload else { return None };
    let mut command = Command::decode(bytes.clone()).ok()?.command;
    let Body::Write(Write { request: WriteRequest::Put(put), .. }) = &mut command.body else { return None };
    put.entries.first_mut()?.value = Bytes::from_static(b"wrong");
    Some(Payload::Command(command.encode()))
}
