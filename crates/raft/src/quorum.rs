//! Majorities, computed over a [`Membership`]. While a joint configuration holds, each half needs its own (section 6;
//! scenario 30: never the union).

use std::collections::BTreeSet;

use crate::ids::NodeId;
use crate::membership::Membership;

/// Voters of a half that is ranked without an allocation.
const FEW: usize = 8;

/// How a vote stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tally {
    /// A quorum said yes.
    Won,
    /// A quorum can not be reached any more.
    Lost,
    /// Neither, yet.
    Open,
}

/// How many of `voters` are more than half (scenario 14: of four it is three).
fn majority(voters: &BTreeSet<NodeId>) -> usize {
    voters.len() / 2 + 1
}

fn halves(membership: &Membership) -> impl Iterator<Item = &BTreeSet<NodeId>> {
    std::iter::once(&membership.voters)
        .chain(Some(&membership.voters_outgoing).filter(|outgoing| !outgoing.is_empty()))
}

/// How a vote stands, by what each node said: `Some(true)`, `Some(false)` or nothing yet. Only voters are asked, each
/// once (scenario 10).
pub(crate) fn tally(membership: &Membership, vote: impl Fn(NodeId) -> Option<bool>) -> Tally {
    let mut all_won = true;
    for voters in halves(membership) {
        let yes = voters.iter().filter(|id| vote(**id) == Some(true)).count();
        let no = voters.iter().filter(|id| vote(**id) == Some(false)).count();
        if voters.len() - no < majority(voters) {
            return Tally::Lost;
        }
        all_won &= yes >= majority(voters);
    }
    if all_won { Tally::Won } else { Tally::Open }
}

/// Whether those for whom `holds` is true are a quorum.
pub(crate) fn is_quorum(membership: &Membership, holds: impl Fn(NodeId) -> bool) -> bool {
    tally(membership, |id| Some(holds(id))) == Tally::Won
}

/// The greatest value that a quorum has reached, by the value that each node has reached: the commit index from match
/// indexes, the confirmed round from acknowledged rounds.
pub(crate) fn reached<T: Copy + Ord + Default>(membership: &Membership, value: impl Fn(NodeId) -> T) -> T {
    // Asked with every acknowledgement: the usual number of voters needs no allocation.
    let (mut few, mut many) = ([T::default(); FEW], Vec::new());
    halves(membership)
        .map(|voters| {
            let values = match few.get_mut(..voters.len()) {
                Some(values) => values,
                None => {
                    many.resize(voters.len(), T::default());
                    &mut many[..]
                }
            };
            values.iter_mut().zip(voters).for_each(|(place, id)| *place = value(*id));
            values.sort_unstable_by(|a, b| b.cmp(a));
            // An empty set of voters reaches nothing: it must never count as a quorum of none.
            values.get(majority(voters) - 1).copied().unwrap_or_default()
        })
        .min()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().map(|id| NodeId(*id)).collect()
    }

    /// Scenario 14.
    #[test]
    fn half_of_an_even_cluster_is_no_quorum() {
        let four = Membership::of_voters(ids(&[1, 2, 3, 4]));
        assert!(!is_quorum(&four, |id| id.0 <= 2));
        assert!(is_quorum(&four, |id| id.0 <= 3));
        assert_eq!(reached(&four, |id| [0, 9, 9, 5, 5][usize::try_from(id.0).unwrap()]), 5);
        assert_eq!(reached(&four, |id| [0, 9, 9, 5, 4][usize::try_from(id.0).unwrap()]), 5);
        assert_eq!(reached(&four, |id| [0, 9, 9, 3, 4][usize::try_from(id.0).unwrap()]), 4);
    }

    /// Scenario 30.
    #[test]
    fn a_joint_configuration_needs_a_majority_of_each_half() {
        let joint =
            Membership { voters: ids(&[3, 4, 5]), voters_outgoing: ids(&[1, 2, 3]), ..Membership::default() };
        assert!(!is_quorum(&joint, |id| id.0 >= 3), "three of five in all, but one of the outgoing half");
        assert!(is_quorum(&joint, |id| id.0 >= 2 && id.0 <= 4));
    }

    /// Scenarios 10 and 34.
    #[test]
    fn learners_and_strangers_count_for_nothing() {
        let membership =
            Membership { voters: ids(&[1, 2, 3]), learners: ids(&[4, 5]), ..Membership::default() };
        assert!(!is_quorum(&membership, |id| id.0 == 1 || id.0 >= 4));
        assert_eq!(tally(&membership, |id| (id.0 != 2 && id.0 != 3).then_some(true)), Tally::Open);
    }

    #[test]
    fn no_voters_reach_nothing() {
        let nobody = Membership::default();
        assert!(!is_quorum(&nobody, |_| true));
        assert_eq!(reached(&nobody, |_| 7), 0);
    }

    proptest! {
        /// Scenario 13: the shortcut by sorting against the definition by counting.
        #[test]
        fn what_is_reached_is_the_greatest_that_a_quorum_has(
            voters in prop::collection::btree_set(1u64..8, 1..6),
            outgoing in prop::collection::btree_set(1u64..8, 0..6),
            values in prop::collection::vec(0u64..6, 8),
        ) {
            let membership = Membership {
                voters: voters.into_iter().map(NodeId).collect(),
                voters_outgoing: outgoing.into_iter().map(NodeId).collect(),
                ..Membership::default()
            };
            let value = |id: NodeId| values[usize::try_from(id.0).unwrap()];
            let by_counting = (0..6).rev().find(|v| is_quorum(&membership, |id| value(id) >= *v));
            prop_assert_eq!(Some(reached(&membership, value)), by_counting);
        }
    }
}
