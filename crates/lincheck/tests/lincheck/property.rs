//! Random histories: those of a linearizable map pass; corrupted ones are judged as by a checker without cleverness.

use proptest::prelude::*;
use raftmap_lincheck::{Operation, Options, Verdict, check, check_by_revision, check_by_search};

use crate::brute::{Revisions, is_linearizable};
use crate::generate::{Executor, Shape, corrupt};

fn shape() -> impl Strategy<Value = Shape> {
    (1_usize..4, 0_u64..4, 0_u32..60, 1_u64..8, 0_u32..50, 0_u32..40).prop_map(
        |(keys, values, unknown, overlap, many_keys, other_entries)| Shape {
            keys,
            values,
            unknown,
            overlap,
            many_keys,
            other_entries,
            ..Shape::default()
        },
    )
}

fn show(history: &[Operation]) -> String {
    history.iter().map(|operation| format!("{operation:?}\n")).collect()
}

fn passes(verdict: &Verdict) -> Option<bool> {
    match verdict {
        Verdict::Linearizable(_) => Some(true),
        Verdict::NotLinearizable(_) => Some(false),
        Verdict::Undecided(_) => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn histories_of_a_linearizable_map_pass(seed: u64, shape in shape(), operations in 1_usize..120) {
        let history = Executor::new(seed, Shape { operations, ..shape }).history();
        let options = Options::default();
        for verdict in [check(&history, &options), check_by_revision(&history, &options), check_by_search(&history, &options)] {
            prop_assert!(verdict.is_linearizable(), "{verdict}\n{}", show(&history));
        }
    }

    #[test]
    fn the_witness_check_judges_as_brute_force_does(
        seed: u64, shape in shape(), operations in 1_usize..8, corruptions in 0_usize..3,
    ) {
        let mut executor = Executor::new(seed, Shape { operations, ..shape });
        let mut history = executor.history();
        (0..corruptions).for_each(|_| corrupt(&mut history, &mut executor.rng));
        let verdict = check_by_revision(&history, &Options::default());
        let expected = is_linearizable(&history, Revisions::Order);
        prop_assert_eq!(passes(&verdict), Some(expected), "{}\n{}", verdict, show(&history));
    }

    #[test]
    fn the_search_judges_as_brute_force_does(
        seed: u64, shape in shape(), operations in 1_usize..8, corruptions in 0_usize..3,
    ) {
        let mut executor = Executor::new(seed, Shape { operations, ..shape });
        let mut history = executor.history();
        (0..corruptions).for_each(|_| corrupt(&mut history, &mut executor.rng));
        let verdict = check_by_search(&history, &Options::default());
        let expected = is_linearizable(&history, Revisions::Names);
        prop_assert_eq!(passes(&verdict), Some(expected), "{}\n{}", verdict, show(&history));
    }
}
