//! Whether the servers' states agree: what each of them says of its own, held side by side at equal indexes.

use std::collections::{BTreeMap, BTreeSet};

use raftmap_raft::{LogIndex, Membership, NodeId};

/// What a digest is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DigestKind {
    /// Of what each entry did, chained: it finds servers that computed differently.
    Running,
    /// Of all rows, as they are read: it finds rows that rotted.
    Content,
}

/// The digest of a state at one index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateDigest {
    /// The last entry that the state had applied.
    pub index: LogIndex,
    /// The digest.
    pub digest: u128,
}

/// How the states of the servers stand to each other at one index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nobody contradicts this server.
    Open,
    /// A quorum has this server's state.
    Agreed,
    /// Servers contradict each other, and those that can settle it have yet to speak.
    Disputed,
    /// A quorum has another state than this server: these.
    Outvoted(BTreeSet<NodeId>),
    /// Servers contradicted each other, and whoever contradicts this one has given its state up since.
    Settled,
    /// No quorum has one state, and none will.
    Split,
}

/// Digests of one server that are kept of each kind: the newest ones. What a server says falls on its own share alone.
const KEPT: usize = 256;

/// The digests of one server's state.
#[derive(Debug, Default)]
struct Points(BTreeMap<DigestKind, BTreeMap<LogIndex, u128>>);

impl Points {
    fn add(&mut self, kind: DigestKind, StateDigest { index, digest }: StateDigest) {
        let points = self.0.entry(kind).or_default();
        points.insert(index, digest);
        if points.len() > KEPT {
            points.pop_first();
        }
    }

    fn get(&self, kind: DigestKind, index: LogIndex) -> Option<u128> {
        self.0.get(&kind)?.get(&index).copied()
    }
}

/// What servers say of their states.
#[derive(Debug, Default)]
pub(crate) struct Digests {
    own: Points,
    /// By server; `None`: it has no state that it trusts.
    others: BTreeMap<NodeId, Option<Points>>,
}

impl Digests {
    /// This server's state has that digest.
    pub(crate) fn add_own(&mut self, kind: DigestKind, digest: StateDigest) {
        self.own.add(kind, digest);
    }

    /// Another server says that of its state.
    pub(crate) fn add(&mut self, of: NodeId, kind: DigestKind, digest: StateDigest) {
        self.others.entry(of).or_default().get_or_insert_default().add(kind, digest);
    }

    /// Another server says that it has no state that it trusts. What it said of an earlier one counts no more.
    pub(crate) fn add_stateless(&mut self, of: NodeId) {
        self.others.insert(of, None);
    }

    /// Forgets what a server said, since its state may be another one by now.
    pub(crate) fn forget(&mut self, of: NodeId) {
        self.others.remove(&of);
    }

    /// Forgets this server's state, which another one replaces.
    pub(crate) fn forget_own(&mut self) {
        self.own = Points::default();
    }

    /// Whether another server has told of a state that it trusts.
    pub(crate) fn has_state(&self, id: NodeId) -> bool {
        self.others.get(&id).is_some_and(Option::is_some)
    }

    pub(crate) fn is_stateless(&self, id: NodeId) -> bool {
        self.others.get(&id).is_some_and(Option::is_none)
    }

    /// Whether another server has said something else than this one.
    pub(crate) fn contradicts(&self, other: NodeId, kind: DigestKind, index: LogIndex) -> bool {
        let theirs = || self.others.get(&other)?.as_ref()?.get(kind, index);
        self.own.get(kind, index).zip(theirs()).is_some_and(|(own, theirs)| own != theirs)
    }

    /// How the states stand to each other at `index`, as far as is known. A server that is `connected`, and has a state, may
    /// still say something.
    pub(crate) fn judge(
        &self,
        own_id: NodeId,
        membership: &Membership,
        connected: impl Fn(NodeId) -> bool,
        kind: DigestKind,
        index: LogIndex,
    ) -> Verdict {
        let Some(own) = self.own.get(kind, index) else { return Verdict::Open };
        let said = |id: NodeId| match id == own_id {
            true => Some(own),
            false => self.others.get(&id)?.as_ref()?.get(kind, index),
        };
        let voters: BTreeSet<NodeId> =
            membership.voters.union(&membership.voters_outgoing).copied().collect();
        let digests: BTreeSet<u128> = voters.iter().filter_map(|id| said(*id)).chain([own]).collect();
        let has = |id: NodeId, digest: u128| said(id) == Some(digest);
        if let Some(digest) = digests.iter().find(|digest| membership.is_quorum(|id| has(id, **digest))) {
            return match *digest == own {
                true => Verdict::Agreed,
                false => Verdict::Outvoted(voters.into_iter().filter(|id| has(*id, *digest)).collect()),
            };
        }
        if digests.len() == 1 {
            return Verdict::Open;
        }
        let may_speak = |id: NodeId| said(id).is_none() && connected(id) && !self.is_stateless(id);
        let may_win = |digest: &u128| membership.is_quorum(|id| has(id, *digest) || may_speak(id));
        if digests.iter().any(may_win) { Verdict::Disputed } else { Verdict::Split }
    }

    /// What has become of a dispute at `index` in which nobody contradicts this server any more. It goes on while a server that
    /// has a state may still take the other side; one that cannot be asked now may be the one that did.
    pub(crate) fn judge_the_rest(
        &self,
        own_id: NodeId,
        membership: &Membership,
        kind: DigestKind,
        index: LogIndex,
    ) -> Verdict {
        let (agreeing, rest): (Vec<NodeId>, Vec<NodeId>) =
            (membership.voters.union(&membership.voters_outgoing))
                .copied()
                .filter(|id| *id != own_id)
                .partition(|id| self.agrees_since(*id, kind, index));
        match rest.into_iter().all(|id| self.is_stateless(id)) {
            false => Verdict::Open,
            true if agreeing.is_empty() => Verdict::Split,
            true => Verdict::Settled,
        }
    }

    /// Whether another server has had this one's state at `index`, or later.
    fn agrees_since(&self, other: NodeId, kind: DigestKind, index: LogIndex) -> bool {
        let Some(own) = self.own.0.get(&kind) else { return false };
        let agrees = |(index, digest): (&LogIndex, &u128)| {
            self.others.get(&other).and_then(|points| points.as_ref()?.get(kind, *index)) == Some(*digest)
        };
        own.range(index..).any(agrees)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: LogIndex = LogIndex(7);

    /// How it looks to server 1, which has digest 1, in a cluster of so many, of which the others said these; 0: nothing yet,
    /// 9: it has no state.
    fn verdict(voters: u64, said: &[u128], connected: &[u64]) -> Verdict {
        let mut digests = Digests::default();
        digests.add_own(DigestKind::Running, StateDigest { index: AT, digest: 1 });
        for (id, digest) in (2..).zip(said) {
            match digest {
                0 => {}
                9 => digests.add_stateless(NodeId(id)),
                digest => {
                    digests.add(NodeId(id), DigestKind::Running, StateDigest { index: AT, digest: *digest })
                }
            }
        }
        let membership = Membership::of_voters((1..=voters).map(NodeId));
        let connected = |id: NodeId| connected.contains(&id.0);
        digests.judge(NodeId(1), &membership, connected, DigestKind::Running, AT)
    }

    fn outvoted(by: &[u64]) -> Verdict {
        Verdict::Outvoted(by.iter().copied().map(NodeId).collect())
    }

    #[test]
    fn a_majority_decides_and_nothing_less() {
        assert_eq!(verdict(3, &[0, 0], &[2, 3]), Verdict::Open);
        assert_eq!(verdict(3, &[1, 0], &[2, 3]), Verdict::Agreed);
        assert_eq!(verdict(3, &[1, 2], &[2, 3]), Verdict::Agreed);
        assert_eq!(verdict(3, &[2, 2], &[2, 3]), outvoted(&[2, 3]));
        assert_eq!(verdict(3, &[2, 0], &[2, 3]), Verdict::Disputed);
        assert_eq!(verdict(3, &[2, 0], &[2]), Verdict::Split, "the third is away");
        assert_eq!(verdict(3, &[2, 9], &[2, 3]), Verdict::Split, "the third has no state of its own");
        assert_eq!(verdict(3, &[2, 3], &[2, 3]), Verdict::Split);
        assert_eq!(verdict(2, &[2], &[2]), Verdict::Split);
        assert_eq!(verdict(4, &[1, 2, 2], &[2, 3, 4]), Verdict::Split, "half is no majority");
        assert_eq!(verdict(5, &[2, 2, 0, 1], &[2, 3, 4, 5]), Verdict::Disputed);
        assert_eq!(verdict(5, &[2, 2, 2, 1], &[2, 3, 4, 5]), outvoted(&[2, 3, 4]));
    }

    #[test]
    fn only_digests_at_one_index_are_compared_and_few_are_kept() {
        let mut digests = Digests::default();
        let membership = Membership::of_voters((1..=3).map(NodeId));
        let judge = |digests: &Digests, index| {
            digests.judge(NodeId(1), &membership, |_| true, DigestKind::Running, index)
        };
        for index in 1..=1000 {
            let index = LogIndex(index);
            digests.add_own(DigestKind::Running, StateDigest { index, digest: 1 });
            digests.add_own(DigestKind::Content, StateDigest { index, digest: 2 });
            digests.add(NodeId(2), DigestKind::Running, StateDigest { index: index.next(), digest: 2 });
        }
        assert!(digests.own.0.values().all(|points| points.len() == KEPT));
        assert_eq!(judge(&digests, LogIndex(1000)), Verdict::Disputed);
        assert_eq!(judge(&digests, LogIndex(1)), Verdict::Open, "forgotten");
        assert_eq!(judge(&digests, LogIndex(1001)), Verdict::Open, "not there yet");
        digests.forget(NodeId(2));
        assert_eq!(judge(&digests, LogIndex(1000)), Verdict::Open);
    }

    #[test]
    fn a_dispute_ends_when_all_that_have_a_state_agree() {
        let rest = |said: &[Option<(u64, u128)>]| {
            let mut digests = Digests::default();
            let at = |index, digest| StateDigest { index: LogIndex(index), digest };
            [at(7, 1), at(9, 3)].into_iter().for_each(|own| digests.add_own(DigestKind::Running, own));
            for (id, said) in (2..).map(NodeId).zip(said) {
                match said {
                    None => {}
                    Some((0, _)) => digests.add_stateless(id),
                    Some((index, digest)) => digests.add(id, DigestKind::Running, at(*index, *digest)),
                }
            }
            let membership = Membership::of_voters((1..=4).map(NodeId));
            digests.judge_the_rest(NodeId(1), &membership, DigestKind::Running, AT)
        };
        let (gave_up, agrees) = (Some((0, 0)), Some((7, 1)));
        assert_eq!(rest(&[agrees, gave_up, gave_up]), Verdict::Settled);
        assert_eq!(rest(&[Some((9, 3)), gave_up, gave_up]), Verdict::Settled, "it has since");
        assert_eq!(rest(&[Some((6, 1)), gave_up, gave_up]), Verdict::Open, "that was before");
        assert_eq!(rest(&[agrees, gave_up, None]), Verdict::Open, "perhaps it was this one");
        assert_eq!(rest(&[gave_up, gave_up, gave_up]), Verdict::Split, "one alone may be wrong");
    }

    #[test]
    fn a_learner_counts_for_nothing_and_may_be_outvoted() {
        let mut digests = Digests::default();
        let at = |digest| StateDigest { index: AT, digest };
        digests.add_own(DigestKind::Running, at(1));
        let mut membership = Membership::of_voters((2..=4).map(NodeId));
        membership.learners.extend([NodeId(1), NodeId(5)]);
        let judge =
            |digests: &Digests| digests.judge(NodeId(1), &membership, |_| true, DigestKind::Running, AT);
        digests.add(NodeId(5), DigestKind::Running, at(1));
        digests.add(NodeId(2), DigestKind::Running, at(2));
        assert_eq!(judge(&digests), Verdict::Disputed);
        digests.add(NodeId(4), DigestKind::Running, at(2));
        assert_eq!(judge(&digests), outvoted(&[2, 4]));
    }
}
