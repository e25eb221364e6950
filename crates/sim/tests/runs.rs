//! Whole runs.

use std::collections::BTreeSet;

use raftmap_sim::{Choice, Class, Plan, Trace, run};

fn plan(seed: u64) -> Plan {
    Plan::draw(seed, &Choice::default())
}

#[test]
fn the_same_seed_is_the_same_run_to_the_last_event() {
    for seed in 0..4 {
        let (first, second) = (run(plan(seed), Trace::default()), run(plan(seed), Trace::default()));
        assert_eq!((first.trace_hash, first.events), (second.trace_hash, second.events), "seed {seed}");
        let file = tempfile::tempfile().unwrap();
        let written = run(plan(seed), Trace::to_file(file));
        assert_eq!(written.trace_hash, first.trace_hash, "seed {seed} with a trace");
    }
    assert_ne!(run(plan(0), Trace::default()).trace_hash, run(plan(1), Trace::default()).trace_hash);
}

#[test]
fn many_seeds_keep_every_promise() {
    for seed in 1000..1040 {
        let outcome = run(plan(seed), Trace::default());
        assert_eq!(outcome.violation, None, "seed {seed}");
        assert!(outcome.committed > 0, "seed {seed}");
    }
}

#[test]
fn kinds_of_fault_are_chosen_by_name() {
    let choice = Choice { nodes: Some(5), classes: BTreeSet::from([Class::Power]) };
    let mut power_cuts = 0;
    for seed in 0..5 {
        let outcome = run(Plan::draw(seed, &choice), Trace::default());
        assert_eq!(outcome.violation, None);
        let known = ["power cuts", "crashes of all servers", "writes that a crash cut short"];
        let others: Vec<_> = outcome.faults.keys().filter(|kind| !known.contains(kind)).collect();
        assert!(others.is_empty(), "{others:?}");
        power_cuts += outcome.faults.get("power cuts").copied().unwrap_or(0);
    }
    assert!(power_cuts > 0);
}

#[test]
fn a_run_without_its_faults_has_none() {
    let mut plan = plan(3);
    assert!(!plan.faults.is_empty());
    plan.keep_only(&BTreeSet::new());
    assert!(run(plan, Trace::default()).faults.is_empty());
}
