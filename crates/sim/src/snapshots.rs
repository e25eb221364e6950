//! Snapshots on their way from one server to another: chunk after chunk over a connection of their own, which breaks and is
//! made again as long as both are up.

use raftmap_raft::{GroupId, LogIndex, Membership, NodeId, Snapshot, StateId};
use raftmap_replica::Event;
use raftmap_state::{MemoryEngine, MemoryIngest, MemorySnapshot, SnapshotInstall, SnapshotReader};

use crate::oracle::{Checked, Violation, broken};
use crate::plan::Spread;
use crate::time::Time;
use crate::world::{What, World};

/// How long it takes to reach another server for a snapshot, and how long until the next attempt.
const DIAL: Spread = Spread(Time::ms(1), Time::ms(300));
/// So many attempts in a row may fail.
const ATTEMPTS_MAX: u32 = 20;
/// Of a hundred chunks, before how many the connection breaks.
const BREAKS: u32 = 3;

/// A snapshot that a server fetches.
pub(crate) struct Transfer {
    from: NodeId,
    at_least: LogIndex,
    failures: u32,
    stream: Option<Stream>,
}

/// Both ends of what has begun.
struct Stream {
    /// The life of the sender that holds it.
    life: u64,
    reader: SnapshotReader<MemorySnapshot>,
    install: SnapshotInstall<MemoryIngest>,
}

impl World {
    pub(crate) fn fetch_snapshot(&mut self, id: NodeId, from: NodeId, at_least: LogIndex) {
        if let Some(running) = &mut self.server(id).running {
            running.transfer = Some(Transfer { from, at_least, failures: 0, stream: None });
        }
        let delay = DIAL.draw(&mut self.rng);
        self.schedule(delay, What::Transfer(id));
    }

    /// A server goes on with the snapshot that it fetches: another chunk, or another attempt.
    pub(crate) fn transfer(&mut self, id: NodeId) -> Checked {
        let Some(mut transfer) = self.server(id).running.as_mut().and_then(|running| running.transfer.take())
        else {
            return Ok(());
        };
        let sender = &self.servers[&transfer.from];
        let reached = sender.is_up() && !sender.paused && self.network.is_open((id, transfer.from));
        if !reached || self.rng.u32(..100) < BREAKS {
            transfer.failures += 1;
            if transfer.failures > ATTEMPTS_MAX {
                self.snapshot_fails(id, "its sender is not reached");
                return Ok(());
            }
            let delay = DIAL.draw(&mut self.rng);
            return self.go_on_with(id, transfer, delay);
        }
        transfer.failures = 0;
        let delay = self.plan.climate.network.draw(&mut self.rng);
        match &mut transfer.stream {
            None => match self.begin_stream(id, &transfer)? {
                Some(stream) => {
                    transfer.stream = Some(stream);
                    self.go_on_with(id, transfer, delay)
                }
                None => {
                    self.snapshot_fails(id, "its sender has nothing that is new enough");
                    Ok(())
                }
            },
            Some(_) if sender.running.as_ref().is_some_and(|running| !running.serves.snapshots) => {
                self.snapshot_fails(id, "its sender does not trust its state");
                Ok(())
            }
            Some(stream) if stream.life != sender.life => {
                self.snapshot_fails(id, "its sender has started again");
                Ok(())
            }
            Some(stream) => {
                let token = stream.install.token();
                let chunk = stream.reader.resume(&token, self.plan.climate.chunk_bytes);
                let chunk = chunk.ok().and_then(|mut chunks| chunks.next()).and_then(Result::ok);
                let taken = chunk.map(|chunk| stream.install.take(&chunk));
                if !matches!(taken, Some(Ok(()))) {
                    return broken!("server {id} does not take the next chunk: {taken:?}");
                }
                if stream.install.is_complete() {
                    return self.snapshot_is_here(id, transfer);
                }
                self.go_on_with(id, transfer, delay)
            }
        }
    }

    fn go_on_with(&mut self, id: NodeId, transfer: Transfer, delay: Time) -> Checked {
        if let Some(running) = &mut self.server(id).running {
            running.transfer = Some(transfer);
        }
        self.schedule(delay, What::Transfer(id));
        Ok(())
    }

    /// The sender takes a snapshot of its state machine, if that will do.
    fn begin_stream(&self, id: NodeId, transfer: &Transfer) -> Result<Option<Stream>, Violation> {
        let sender = &self.servers[&transfer.from];
        let Some(running) = &sender.running else { return Ok(None) };
        let Ok(reader) = running.state.snapshot() else {
            return broken!("server {} cannot read its state", transfer.from);
        };
        if !running.serves.snapshots || self.budget.is_state_wrong(transfer.from) {
            return Ok(None);
        }
        // An older program refuses the header.
        if reader.header().applied.level > self.servers[&id].level {
            return Ok(None);
        }
        let whole = reader.header().applied.position.index >= running.log.base().index;
        if !whole || reader.header().applied.position.index < transfer.at_least {
            return Ok(None);
        }
        match SnapshotInstall::new(GroupId::DEFAULT, reader.header_bytes(), MemoryIngest::default()) {
            Ok(install) => Ok(Some(Stream { life: sender.life, reader, install })),
            Err(error) => broken!("the header of a snapshot is refused: {error}"),
        }
    }

    fn snapshot_fails(&mut self, id: NodeId, reason: &str) {
        self.count_repair("snapshots given up");
        self.trace.say(self.now, || format!("server {id} gets no snapshot: {reason}"));
        self.tell(id, Event::SnapshotFailed);
    }

    fn snapshot_is_here(&mut self, id: NodeId, transfer: Transfer) -> Checked {
        let Some(Stream { install, .. }) = transfer.stream else { return Ok(()) };
        let header = install.header().clone();
        let engine: MemoryEngine = match install.finish() {
            Ok(machine) => machine.into_engine(),
            Err(error) => return broken!("a whole snapshot is refused by server {id}: {error}"),
        };
        let position = header.applied.position;
        self.trace.note(self.now, "snapshot", &[id.0, position.index.0], || {
            format!("server {id} has a snapshot of {} up to {}", transfer.from, position.index)
        });
        let founding = Membership::of_voters((1..=self.plan.voters).map(NodeId));
        let membership = header.membership.map_or(founding, |(_, membership)| membership);
        let server = self.server(id);
        let state = server.engines.last_key_value().map_or(StateId(0), |(last, _)| StateId(last.0 + 1));
        server.engines.insert(state, engine);
        self.tell(id, Event::SnapshotReady(Snapshot { position, membership, state }));
        Ok(())
    }

    /// A server's state machine is durable: what was applied until now.
    pub(crate) fn state_persisted(&mut self, id: NodeId) -> Checked {
        let Some(running) = &mut self.server(id).running else { return Ok(()) };
        match running.worker.machine().persist() {
            Ok(position) => self.tell(id, Event::StatePersisted(position.index)),
            Err(error) => return broken!("the store of server {id} fails: {error}"),
        }
        Ok(())
    }

    /// A snapshot takes the place of a server's state machine.
    pub(crate) fn installed(&mut self, id: NodeId, state: StateId) -> Checked {
        let server = self.server(id);
        let machine = match server.open_state(state) {
            Ok(machine) => machine,
            Err(refused) => return broken!("server {id} cannot open its snapshot: {refused:?}"),
        };
        server.engines.retain(|kept, _| *kept == state);
        server.rotten = None;
        let Some(running) = &mut server.running else { return Ok(()) };
        running.state = machine.reader();
        let event = match running.worker.install(machine) {
            Ok(event) => event,
            Err(error) => return broken!("the snapshot of server {id} fails: {error}"),
        };
        let view = running.worker.view();
        self.count_repair("snapshots installed");
        self.trace.note(self.now, "installed", &[id.0, view.applied.0], || {
            format!("server {id} has a snapshot in the place of its state, up to {}", view.applied)
        });
        self.look_at_state(id)?;
        self.tell(id, event);
        self.whole_if_it_has_its_state(id);
        Ok(())
    }

    /// A server is whole if neither its log nor its state machine lacks anything.
    pub(crate) fn whole_if_it_has_its_state(&mut self, id: NodeId) {
        let status = self.servers[&id].running.as_ref().map(|running| running.replica.status().raft);
        if status.is_some_and(|status| !status.damaged && !status.state_lost) {
            self.budget.whole(id);
        }
    }
}
