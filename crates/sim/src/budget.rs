//! Which damage to disks is survived (STORAGE.md), and so which the simulator does. The one place that says so.
//!
//! - Fewer than a majority of the servers may be damaged at a time. A server counts from the moment its disk changes until
//!   it runs again, whole. A cluster of one may not be damaged: it refuses to start, rightly.
//! - A disk that tears blocks of 4 KiB when power fails does damage: to a start, half a block is a block that rotted.
//! - Of a hard state one slot may rot at a time, never both.
//! - A state that went wrong counts until its server has that of another one. Nobody copies it before that is found: a copy
//!   takes its side.
//! - **The accepted corner**: a lie about the very last batch before its mark shows nowhere. So a server whose disk lied
//!   does not go down before another batch, or the mark, stands behind the lie.
//!
//! Everything else is without a budget: crashes of all servers at once, power cuts in the middle of any write, failing
//! disks, any partition, any clock.

use std::collections::BTreeSet;

use raftmap_raft::NodeId;

/// The servers whose disks were changed.
#[derive(Debug)]
pub(crate) struct Budget {
    damaged_max: usize,
    damaged: BTreeSet<NodeId>,
    /// Those whose disks changed since they started: nothing was noticed yet.
    hidden: BTreeSet<NodeId>,
    /// Those whose state is not that of the others.
    wrong: BTreeSet<NodeId>,
    was_wrong: bool,
    /// Those that must not go down yet.
    lied: BTreeSet<NodeId>,
}

impl Budget {
    pub(crate) fn new(nodes: u64) -> Self {
        let damaged_max = usize::try_from(nodes.saturating_sub(1) / 2).unwrap_or(0);
        let none = BTreeSet::new;
        Self { damaged_max, damaged: none(), hidden: none(), wrong: none(), was_wrong: false, lied: none() }
    }

    /// Whether this disk may be damaged now; if so, it counts as damaged.
    pub(crate) fn damage(&mut self, id: NodeId) -> bool {
        let fits = self.fits(id);
        if fits {
            self.damaged.insert(id);
            self.hidden.insert(id);
        }
        fits
    }

    /// Whether this one may be damaged, too, or once more. What was wrong before may be so again when others are damaged: then there
    /// are more of them than fit already.
    fn fits(&self, id: NodeId) -> bool {
        let others = self.damaged.union(&self.wrong).filter(|other| **other != id).count();
        others < self.damaged_max
    }

    /// Whether this server's state may go wrong now; if so, it is wrong.
    pub(crate) fn state_goes_wrong(&mut self, id: NodeId) -> bool {
        let fits = self.fits(id);
        if fits {
            self.wrong.insert(id);
            self.was_wrong = true;
        }
        fits
    }

    /// What was wrong with a server's state, and was counted then, is so again, or is found only now.
    pub(crate) fn state_is_wrong_again(&mut self, id: NodeId) {
        self.wrong.insert(id);
    }

    pub(crate) fn is_state_wrong(&self, id: NodeId) -> bool {
        self.wrong.contains(&id)
    }

    /// Whether a state went wrong so far: what was said of it may arrive late.
    pub(crate) fn any_state_was_wrong(&self) -> bool {
        self.was_wrong
    }

    /// This server has the state of the others.
    pub(crate) fn state_is_right(&mut self, id: NodeId) {
        self.wrong.remove(&id);
    }

    /// Whether this disk may lie about its next write now; if so, its server stays up until more was written.
    pub(crate) fn lie(&mut self, id: NodeId) -> bool {
        let fits = self.damage(id);
        if fits {
            self.lied.insert(id);
        }
        fits
    }

    /// Another batch, or the mark, stands behind the lie.
    pub(crate) fn written_behind(&mut self, id: NodeId) {
        self.lied.remove(&id);
    }

    pub(crate) fn may_go_down(&self, id: NodeId) -> bool {
        !self.lied.contains(&id)
    }

    /// The servers whose disks are damaged.
    pub(crate) fn damaged(&self) -> &BTreeSet<NodeId> {
        &self.damaged
    }

    pub(crate) fn is_damaged(&self, id: NodeId) -> bool {
        self.damaged.contains(&id) || self.wrong.contains(&id)
    }

    /// A server has looked at its disk.
    pub(crate) fn looked_at(&mut self, id: NodeId) {
        self.hidden.remove(&id);
    }

    /// A server runs on this disk, and is whole, as far as it was looked at.
    pub(crate) fn whole(&mut self, id: NodeId) {
        if !self.hidden.contains(&id) {
            self.damaged.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_than_a_majority_are_damaged_at_a_time() {
        for (nodes, most) in [(1, 0), (2, 0), (3, 1), (4, 1), (5, 2)] {
            let mut budget = Budget::new(nodes);
            let damaged = (1..=nodes).filter(|id| budget.damage(NodeId(*id))).count();
            assert_eq!(damaged, most, "of {nodes}");
        }
    }

    #[test]
    fn a_server_whose_state_is_wrong_again_is_not_damaged_beside_another_one() {
        let mut budget = Budget::new(3);
        assert!(budget.state_goes_wrong(NodeId(1)));
        budget.state_is_right(NodeId(1));
        assert!(budget.damage(NodeId(2)));
        budget.state_is_wrong_again(NodeId(1));
        assert!(!budget.damage(NodeId(1)) && !budget.damage(NodeId(2)));
    }

    #[test]
    fn a_server_counts_until_it_has_looked_and_is_whole() {
        let mut budget = Budget::new(3);
        assert!(budget.damage(NodeId(1)));
        budget.whole(NodeId(1));
        assert!(!budget.damage(NodeId(2)), "nobody has looked at the first one's disk");
        budget.looked_at(NodeId(1));
        budget.whole(NodeId(1));
        assert!(budget.damage(NodeId(2)));
    }

    #[test]
    fn a_disk_that_lied_stays_up_until_more_was_written() {
        let mut budget = Budget::new(3);
        assert!(budget.lie(NodeId(1)) && !budget.may_go_down(NodeId(1)));
        budget.written_behind(NodeId(1));
        assert!(budget.may_go_down(NodeId(1)) && budget.is_damaged(NodeId(1)));
    }
}
