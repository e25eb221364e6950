//! Clusters that are upgraded one server at a time: some begin with an older program, and change it for the newer one later.
//!
//! What is promised: the level rises when all members understand the new one, and not before; no server is ever given what its program
//! does not understand, or refused as too old if it is not; and once all programs are new the level has risen.

use raftmap_raft::{Entry, NodeId, Payload, Write};
use raftmap_state::{Command, LEVEL, LEVEL_FIRST};

use crate::oracle::{Checked, Violation, broken};
use crate::plan::{Fault, Plan, Planned, Spread};
use crate::time::Time;
use crate::world::{What, World};

/// How long a server is down while its program is changed.
const CHANGE: Spread = Spread(Time::ms(10), Time::secs(3));
/// After how long it is tried again, if the server must not go down.
const AGAIN: Time = Time::ms(300);

impl Plan {
    /// The feature level of the program that a server begins with.
    pub(crate) fn first_level(&self, id: NodeId) -> u8 {
        let upgrades = |planned: &Planned| {
            !planned.left_out && matches!(planned.fault, Fault::Upgrade { server } if server == id)
        };
        if self.faults.iter().any(upgrades) { LEVEL_FIRST } else { LEVEL }
    }
}

fn level_of(entry: &Entry) -> u8 {
    match &entry.payload {
        Payload::Command(bytes) => Command::level_of(bytes),
        Payload::Noop | Payload::Membership(_) => LEVEL_FIRST,
    }
}

/// Whether it raises the level. What uses it, scans and traces, comes later, when members may have come that are to be refused.
fn raises(entry: &Entry) -> bool {
    let Payload::Command(bytes) = &entry.payload else { return false };
    Command::level_untraced(bytes) > LEVEL_FIRST && !Command::is_scan(bytes)
}

impl World {
    /// A server's program is the newer one from its next start on, which is soon.
    pub(crate) fn upgrade(&mut self, id: NodeId) -> Checked {
        if self.servers[&id].is_up() && !self.budget.may_go_down(id) {
            self.schedule(AGAIN, What::Upgrade(id));
            return Ok(());
        }
        self.count("upgrades");
        self.server(id).level = LEVEL;
        if self.servers[&id].is_up() {
            self.go_down(id, false, false);
            let delay = CHANGE.draw(&mut self.rng);
            self.schedule(delay, What::Start(id));
        }
        Ok(())
    }

    /// Nobody has what it does not understand in its log.
    pub(crate) fn check_level(&mut self, id: NodeId, write: &Write) -> Checked {
        let level = self.servers[&id].level;
        for entry in &write.entries {
            let needed = level_of(entry);
            if needed > level {
                return broken!(
                    "server {id} understands level {level}, and is given entry {} of level {needed}",
                    entry.index
                );
            }
            if raises(entry) {
                self.check_raise(id, entry, write)?;
            }
            self.level_proposed = self.level_proposed.max(needed);
        }
        Ok(())
    }

    /// Whoever proposes a level knows that all members understand it: those that the entries before it name.
    fn check_raise(&self, id: NodeId, raise: &Entry, write: &Write) -> Checked {
        let Some(running) = &self.servers[&id].running else { return Ok(()) };
        let behind = write.entries.iter().filter(|entry| entry.index > raise.index);
        let changed_behind = behind.into_iter().any(|entry| matches!(entry.payload, Payload::Membership(_)));
        if running.replica.leader() != Some(id) || changed_behind {
            return Ok(());
        }
        let members = running.replica.status().membership.all();
        match members.into_iter().find(|member| self.servers[member].level < level_of(raise)) {
            Some(member) => {
                broken!("server {id} raises the level, and server {member}, a member, does not understand it")
            }
            None => Ok(()),
        }
    }

    /// Whether a server may be refused as too old: somebody has a level in its log that it does not understand. Who is down may be on
    /// its way to a newer program, and have been refused for the one before.
    pub(crate) fn is_too_old(&self, id: NodeId) -> bool {
        self.servers[&id].level < self.level_proposed || !self.servers[&id].is_up()
    }

    /// Once all programs are new the level rises by itself.
    pub(crate) fn has_highest_level(&self, id: NodeId) -> bool {
        self.servers[&id].running.as_ref().is_some_and(|running| running.worker.view().level == LEVEL)
    }
}
