//! Changes of the membership (section 6). A change of the learners alone is one entry. Any change of the voters goes through a joint
//! configuration: an entry with both sets of voters, and once that is committed, one with the new set alone.

use std::collections::BTreeSet;

use super::{Leader, send_heartbeat};
use crate::core::Core;
use crate::entry::Payload;
use crate::ids::{Ctx, NodeId};
use crate::io::{ChangeRefusal, Event, FailReason, Outcome, StepDownReason};
use crate::membership::Membership;
use crate::outbox::Free;
use crate::progress::Progress;
use crate::quorum;
use crate::raft::Role;

/// So many rounds of the clock a server that was removed is still told of it.
const FAREWELL_ROUNDS: u32 = 20;

impl Leader {
    /// Begins to change the membership to these voters and learners.
    pub(crate) fn change_members(
        &mut self,
        core: &mut Core,
        ctx: Ctx,
        voters: BTreeSet<NodeId>,
        learners: BTreeSet<NodeId>,
    ) {
        if let Err(refusal) = self.check_change(core, &voters, &learners) {
            core.fail(ctx, FailReason::Members(refusal), Outcome::NotApplied);
            return;
        }
        let current = core.membership();
        let joint = voters != current.voters;
        let voters_outgoing = if joint { current.voters.clone() } else { BTreeSet::new() };
        let index = Self::append(
            core,
            Payload::Membership(Box::new(Membership { voters, voters_outgoing, learners })),
        );
        self.follow_members(core);
        if joint {
            self.change = Some(ctx);
        } else {
            core.expect_proposal(index, ctx);
        }
    }

    /// Whether the membership may be changed to this now.
    pub(crate) fn check_change(
        &self,
        core: &Core,
        voters: &BTreeSet<NodeId>,
        learners: &BTreeSet<NodeId>,
    ) -> Result<(), ChangeRefusal> {
        let current = core.membership();
        if voters.is_empty() || !voters.is_disjoint(learners) {
            return Err(ChangeRefusal::NotAMembership);
        }
        // One that was not committed yet may roll back under the next one; and until an entry of this term is committed, an
        // earlier leader's may be (scenario 28).
        let settled = core.commit() >= self.opening && core.membership_index() <= core.commit();
        if !settled || current.is_joint() || self.transfer.is_some() {
            return Err(ChangeRefusal::Busy);
        }
        if (voters, learners) == (&current.voters, &current.learners) {
            return Err(ChangeRefusal::NothingToChange);
        }
        let last = core.log.last_index();
        let caught_up = |id: &NodeId| {
            self.progress.get(id).is_some_and(|progress| {
                // It has shown that its disk takes what it is sent: the entry by which it came, at least.
                let has_come = progress.matched() >= core.membership_index();
                progress.is_fit()
                    && has_come
                    && last.0 - progress.matched().0 <= core.config.max_promotion_lag
            })
        };
        if let Some(id) = voters.difference(&current.voters).find(|id| !caught_up(id)) {
            return Err(ChangeRefusal::NotCaughtUp { id: *id });
        }
        let next = Membership { voters: voters.clone(), ..Membership::default() };
        let fit = |id| id == core.id() || self.progress.get(&id).is_some_and(Progress::is_fit);
        if !quorum::is_quorum(&next, fit) {
            let fit = voters.iter().filter(|id| fit(**id)).count();
            return Err(ChangeRefusal::NoQuorum { fit, voters: voters.len() });
        }
        Ok(())
    }

    /// Leaves a joint configuration once it is committed, whoever began it (scenario 31).
    pub(super) fn flush_members(&mut self, core: &mut Core) {
        let settled = core.commit() >= self.opening && core.membership_index() <= core.commit();
        if settled && core.membership().is_joint() {
            let next = Membership { voters_outgoing: BTreeSet::new(), ..core.membership().clone() };
            let index = Self::append(core, Payload::Membership(Box::new(next)));
            if let Some(ctx) = self.change.take() {
                core.expect_proposal(index, ctx);
            }
            self.follow_members(core);
        }
    }

    /// Replicates to all members, and for a while to those that are none any more: they are to hear of it (scenario 35).
    fn follow_members(&mut self, core: &Core) {
        let (members, index) = (core.membership().all(), core.membership_index());
        for id in core.others() {
            let fresh = || Progress::new(core.log.last_index().previous());
            self.progress.entry(id).or_insert_with(fresh).leaves = None;
        }
        for (_, progress) in self.progress.iter_mut().filter(|(id, _)| !members.contains(id)) {
            progress.leaves.get_or_insert((index, 0));
        }
    }

    /// Lets go of those that were removed and have heard of it, or do not answer.
    pub(super) fn see_off(&mut self) {
        self.progress.retain(|_, progress| {
            let Some((index, rounds)) = progress.leaves else { return true };
            progress.leaves = Some((index, rounds + 1));
            let knows = progress.matched() >= index && progress.told_commit >= index;
            !knows && rounds < FAREWELL_ROUNDS
        });
    }

    /// Whether this leader does not vote any more, and that is committed.
    pub(super) fn is_removed(core: &Core) -> bool {
        let membership = core.membership();
        !membership.is_voter(core.id()) && !membership.is_joint() && core.membership_index() <= core.commit()
    }

    /// A leader that is not among the voters any more leads until that is committed, and does not count itself. Then it tells
    /// all others, and whoever has the most of its log takes over.
    pub(super) fn depart(&mut self, core: &mut Core) -> Option<Role> {
        if !Self::is_removed(core) {
            return None;
        }
        for (to, progress) in &mut self.progress {
            send_heartbeat(core, *to, progress, self.round);
        }
        let voters = self.progress.iter().filter(|(id, _)| core.membership().is_voter(**id));
        if let Some((successor, _)) = voters.max_by_key(|(_, progress)| progress.counted_match()) {
            core.send(*successor, Free::TimeoutNow);
        }
        core.outbox.event(Event::SteppedDown { term: core.term(), reason: StepDownReason::Removed });
        Some(Role::follower(core, None))
    }
}
