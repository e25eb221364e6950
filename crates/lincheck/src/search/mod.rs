//! The search of Wing and Gong with Lowe's refinements: it takes no revision's word for the order.
//!
//! It looks for any order of the operations that the clocks allow and that gives the same answers (Wing and Gong 1993;
//! Lowe 2017, *Testing for linearizability*). A revision is no more to it than the name of a write: a record must carry
//! the name of the write that set it, but nothing follows from one name being greater. (Where there are several ways on,
//! the one that the revisions suggest is tried first. That saves time; it decides nothing.)
//!
//! Operations on keys that have nothing to do with each other are judged apart ([`components`]), as the locality of
//! linearizability allows (Herlihy and Wing 1990). Scans would join everything: they are left to the witness check.
//!
//! Writes of unknown outcome never return, so each could come at any later time or never. Of those nobody saw, none is
//! needed ([`labels`]); the others are tried only right before an operation that they have to do with ([`explore`]).

mod components;
mod entries;
mod explore;
mod labels;
mod memo;

use crate::finding::{Contradiction, Finding, subject};
use crate::program::Program;

use self::components::{Component, components};
use self::explore::{End, Explorer, Scratch};
use self::labels::Labels;

/// How often a component gets a share of the steps.
const ROUNDS: usize = 2;

/// How far the search goes.
#[derive(Clone, Copy)]
pub(crate) struct Bounds {
    /// Configurations kept for one component.
    pub(crate) memo_max: usize,
    /// Operations tried, over all components.
    pub(crate) steps_max: u64,
}

/// What the search found.
pub(crate) struct Searched {
    pub(crate) finding: Finding,
    pub(crate) components: usize,
    /// How many of them were too much for the bounds.
    pub(crate) undecided: usize,
}

/// Judges all operations but scans, component by component, up to the first that is not linearizable.
pub(crate) fn judge(program: &Program, bounds: Bounds) -> Searched {
    let components = components(program);
    let labels = match Labels::new(program, &components) {
        Ok(labels) => labels,
        Err(contradiction) => {
            let finding = Finding::Not(contradiction);
            return Searched { finding, components: components.list.len(), undecided: 0 };
        }
    };
    let mut scratch = Scratch::new(program.keys.len());
    let mut steps_left = bounds.steps_max;
    let mut undecided: Vec<&Component> = components.list.iter().collect();
    // Each gets its share of the steps; then those for which it was too little get theirs of what the others left.
    for _ in 0..ROUNDS {
        let mut waiting = undecided.len() as u64;
        let mut still = Vec::new();
        for component in undecided {
            let mut share = steps_left / waiting;
            (waiting, steps_left) = (waiting - 1, steps_left - share);
            let explorer = Explorer::new(program, component, &labels, &mut scratch);
            let end = explorer.run(bounds.memo_max, &mut share);
            steps_left += share;
            match end {
                End::Linearizable => {}
                End::Undecided => still.push(component),
                End::Not { until } => {
                    let finding = Finding::Not(contradiction(program, component, until));
                    return Searched { finding, components: components.list.len(), undecided: still.len() };
                }
            }
        }
        undecided = still;
    }
    let undecided: Vec<usize> =
        undecided.iter().map(|component| component.ops.len() + component.unknown.len()).collect();
    let finding = match undecided.iter().max() {
        None => Finding::Linearizable,
        Some(largest) => Finding::Undecided(format!(
            "{} of {} groups of keys were not decided within {} kept configurations each and {} steps in all; \
             the largest has {largest} operations",
            undecided.len(),
            components.list.len(),
            bounds.memo_max,
            bounds.steps_max,
        )),
    };
    Searched { finding, components: components.list.len(), undecided: undecided.len() }
}

fn contradiction(program: &Program, component: &Component, until: u64) -> Contradiction {
    let stuck = component.ops.iter().find(|id| program.op(**id).end == until);
    let stuck =
        stuck.map_or_else(String::new, |id| format!("; none goes beyond {}", subject(program.op(*id))));
    Contradiction {
        reason: format!("no order that the clocks allow gives these answers{stuck}"),
        alone: Vec::new(),
        keys: component.keys.clone(),
        until,
    }
}
