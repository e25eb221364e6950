//! What must hold of one node at any time, written once as code and checked while it runs. What must hold between nodes
//! only a simulator can see.

use crate::core::Core;
use crate::entry::LogPosition;
use crate::ids::{LogIndex, NodeId, Term};
use crate::raft::Role;

/// What the node was when it was checked last.
#[derive(Debug)]
pub(crate) struct Witness {
    term: Term,
    vote: Option<NodeId>,
    commit: LogIndex,
    applied: LogIndex,
    /// While it leads: the end of its log.
    led: Option<LogPosition>,
}

impl Witness {
    pub(crate) fn new(core: &Core) -> Self {
        let (term, vote) = (core.term(), core.vote());
        Self { term, vote, commit: core.commit(), applied: core.applied(), led: None }
    }

    /// Checks `core` in `role`, also against what it was before.
    ///
    /// # Panics
    /// If an invariant is broken.
    pub(crate) fn check(&mut self, core: &Core, role: &Role) {
        let (term, last) = (core.term(), core.log.last());
        assert!(term >= self.term, "the term went down from {} to {term}", self.term);
        assert!(
            term > self.term || self.vote.is_none() || core.vote() == self.vote,
            "the vote of term {term} changed from {:?} to {:?}",
            self.vote,
            core.vote()
        );
        assert!(core.commit() >= self.commit, "commit went down from {} to {}", self.commit, core.commit());
        assert!(core.applied() >= self.applied, "applied went down to {}", core.applied());
        assert!(core.applied() <= core.commit(), "{} applied, {} committed", core.applied(), core.commit());
        assert!(core.durable() <= last.index, "{} durable of {} entries", core.durable(), last.index);
        assert!(
            core.commit() <= last.index || core.is_damaged(),
            "{} committed, {} there",
            core.commit(),
            last.index
        );
        assert!(last.term <= term, "an entry of term {} in term {term}", last.term);
        self.check_leader(core, role, last);
        *self = Self { led: self.led, ..Self::new(core) };
    }

    /// Leader append-only (section 5.3).
    fn check_leader(&mut self, core: &Core, role: &Role, last: LogPosition) {
        let Role::Leader(_) = role else {
            self.led = None;
            return;
        };
        assert!(!core.is_damaged(), "a damaged node leads");
        assert!(core.vote() == Some(core.id()), "a leader that did not vote for itself");
        assert!(last.term == core.term(), "a leader without an entry of its own term");
        if let Some(led) = self.led.filter(|led| led.term == core.term()) {
            assert!(core.log.matches(led), "a leader's log lost {led:?}");
        }
        self.led = Some(last);
    }
}
