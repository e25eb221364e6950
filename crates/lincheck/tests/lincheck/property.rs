//! Random histories: those of a linearizable map pass; corrupted ones are judged as by a checker without cleverness.

use proptest::prelude::*;
use raftmap_lincheck::{Operation, Options, Verdict, check_by_revision, check_by_search};

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

/// How far the search goes in histories that may be hard for it.
const BRIEF: Options = Options {
    revision_steps_max: 0,
    memo_max: 50_000,
    search_steps_max: 200_000,
    minimise_steps_max: 200_000,
};

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn histories_of_a_linearizable_map_pass(seed: u64, shape in shape(), operations in 1_usize..120) {
        let history = Executor::new(seed, Shape { operations, ..shape }).history();
        let by_revision = check_by_revision(&history, &Options::default());
        prop_assert!(by_revision.is_linearizable(), "{by_revision}\n{}", show(&history));
        // Some of these take it longer than a test may.
        let by_search = check_by_search(&history, &BRIEF);
        prop_assert!(passes(&by_search) != Some(false), "{by_search}\n{}", show(&history));
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
