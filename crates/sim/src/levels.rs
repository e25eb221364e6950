//! Clusters that are upgraded one server at a time: some begin with an older program, and change it for the newer one later.
//!
//! What is promised: no server is ever given what its program does not understand, and is never refused as too old if it is not;
//! and the cluster's level has risen once all programs are new.

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
            self.level_proposed = self.level_proposed.max(needed);
        }
        Ok(())
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
