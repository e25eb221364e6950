//! Entries a second through three consensus cores in memory. `README.md` says how each is driven.

mod load;
mod open_raft;
mod ours;
mod raft_rs;

use std::time::Duration;

use load::Load;

/// A core by name, and what it takes for a load.
type Core = (&'static str, fn(&Load) -> Duration);

const CORES: [Core; 3] =
    [("raftmap-raft", ours::run), ("raft-rs 0.7", raft_rs::run), ("openraft 0.10", open_raft::run)];
/// How many entries are proposed together, and how many in all: a run takes between a tenth of a second and a few.
const LOADS: [(usize, usize); 2] = [(1, 50_000), (64, 256_000)];
const ROUNDS: usize = 5;

fn main() {
    // One core and one batch size can be asked for, to profile them.
    let mut asked_for = std::env::args().skip(1);
    let (name, batch) = (asked_for.next().unwrap_or_default(), asked_for.next());
    let cores: Vec<Core> = CORES.into_iter().filter(|core| core.0.contains(&name)).collect();
    let loads =
        LOADS.into_iter().filter(|load| batch.as_ref().is_none_or(|batch| *batch == load.0.to_string()));
    println!(
        "entries/s, median of {ROUNDS} rounds in turn; three nodes in one thread, entries of 16 + 128 bytes\n"
    );
    println!("{:<16}{:>8}{:>14}{:>26}{:>12}", "core", "batch", "entries/s", "lowest to highest", "ours is");
    for (batch, entries) in loads {
        let load = Load::new(entries, batch);
        let mut rates = vec![Vec::new(); cores.len()];
        for _ in 0..ROUNDS {
            for ((_, run), rates) in cores.iter().zip(&mut rates) {
                rates.push(entries as f64 / run(&load).as_secs_f64());
            }
        }
        rates.iter_mut().for_each(|rates| rates.sort_by(f64::total_cmp));
        let ours = rates[0][ROUNDS / 2];
        for ((name, _), rates) in cores.iter().zip(&rates) {
            let (median, spread) =
                (rates[ROUNDS / 2], format!("{:.0} to {:.0}", rates[0], rates[ROUNDS - 1]));
            println!("{name:<16}{batch:>8}{median:>14.0}{spread:>26}{:>11.2}x", ours / median);
        }
    }
}
