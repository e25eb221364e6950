//! How long a million operations take: `cargo test --release -p raftmap-lincheck -- --ignored --nocapture million`.

use std::time::Instant;

use raftmap_lincheck::{Operation, Options, Verdict, check_by_revision, check_by_search};

use crate::generate::{Executor, Shape};

fn measure(name: &str, shape: Shape, methods: &[(&str, Method)]) {
    let history = Executor::new(1, shape).history();
    for (method, check) in methods {
        let start = Instant::now();
        let verdict = check(&history, &Options::default());
        println!("{name}, {method}: {:.1} s, {verdict}", start.elapsed().as_secs_f64());
        assert!(verdict.is_linearizable());
    }
}

type Method = fn(&[Operation], &Options) -> Verdict;

const BOTH: [(&str, Method); 2] = [("by revision", check_by_revision), ("by search", check_by_search)];

#[test]
#[ignore = "measures; build it with --release"]
fn a_million_operations_over_a_thousand_keys() {
    let shape = Shape { operations: 1_000_000, clients: 32, keys: 1_000, overlap: 32, ..Shape::default() };
    let single = Shape { many_keys: 0, scans: 0, unknown: 0, ..shape.clone() };
    measure("one in ten unknown", Shape { unknown: 10, ..single.clone() }, &BOTH[1..]);
    measure("one key each", single.clone(), &BOTH);
    measure("one in a hundred unknown", Shape { unknown: 1, ..single.clone() }, &BOTH);
    measure("one in ten unknown", Shape { unknown: 10, ..single }, &BOTH);
    measure("many keys and scans", Shape { unknown: 1, scans: 2, ..shape }, &BOTH);
}
