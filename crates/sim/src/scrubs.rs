//! Logs that rot while their servers run, and the scrubs that find it.
//!
//! What is checked: a server lets go of what rotted and goes on; whatever it does, nothing is lost. Its disk counts as damaged until
//! it starts again, for a restart may come before the log begins behind the rot.

use raftmap_log::ScrubStep;
use raftmap_raft::NodeId;
use raftmap_replica::Event;

use crate::oracle::{Checked, Violation, broken};
use crate::plan::Target;
use crate::time::Time;
use crate::world::{What, World};

/// After a pass that found something comes another one.
const AGAIN: Time = Time::ms(1_000);

impl World {
    /// The log of a server that runs rots, and is read again some time later.
    pub(crate) fn rot_in_use(&mut self, target: Target, scrubbed_after: Time) {
        let id = self.whom(target);
        if self.servers[&id].is_up() && self.budget.damage(id) {
            self.rot(id, false);
            self.schedule(scrubbed_after, What::Scrub(id));
        }
    }

    /// A server reads its log again.
    pub(crate) fn scrub(&mut self, id: NodeId) -> Checked {
        let Some(running) = &self.servers[&id].running else { return Ok(()) };
        let mut scrub = running.log.scrubber().scrub();
        let step = loop {
            match scrub.advance() {
                Ok((_, ScrubStep::More)) => {}
                Ok((_, step)) => break step,
                Err(error) => return self.disk_failed(id, &error.to_string()),
            }
        };
        let ScrubStep::Rotten(rot) = step else { return Ok(()) };
        if !self.budget.is_damaged(id) {
            return broken!("server {id} finds rot in its log, which nobody damaged: {rot:?}");
        }
        self.count_repair("scrubs that found rot");
        self.trace.note(self.now, "scrubbed", &[id.0, rot.segment, rot.offset], || {
            format!("server {id} finds rot: {rot:?}")
        });
        let reason = format!("segment {}, offset {}: {}", rot.segment, rot.offset, rot.reason);
        self.tell(id, Event::LogRotten { last: rot.last, reason });
        self.schedule(AGAIN, What::Scrub(id));
        Ok(())
    }
}
