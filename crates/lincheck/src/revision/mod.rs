//! The witness check: revisions say in which order everything happened; the rest of the history must agree.
//!
//! A write has a revision of its own, a read comes after the write of its revision and before the next. That is a whole
//! order of all answered operations, so it remains to look whether
//!
//! 1. no two writes share a revision,
//! 2. the order is one that the clocks allow ([`timeline`]),
//! 3. the map, when it goes through them in that order, gives the same answers ([`replay`]).
//!
//! An order that passes is a linearization: the proof is in hand, whatever one thinks of revisions. Since the contract
//! makes revisions a part of every answer, an order that fails means that the history broke the contract.
//!
//! Writes of unknown outcome are what makes it a search ([`place`]). Each may be at any revision that no known write has
//! and that is later than everything that had returned when it was called; or nowhere. What others saw tells nearly
//! always where: a record names the revision of its write ([`unknown`]).

mod place;
mod replay;
mod slots;
mod timeline;
mod unknown;

use crate::finding::{Contradiction, Finding};
use crate::program::Program;

use self::place::Search;
use self::slots::{Ground, Neighbours};
use self::timeline::Timeline;
use self::unknown::Unknowns;

/// Judges a history by its revisions, in at most `steps_max` steps of a replay.
pub(crate) fn judge(program: &Program, steps_max: u64) -> Finding {
    match judge_in_order(program, steps_max) {
        Ok(finding) => finding,
        Err(contradiction) => Finding::Not(contradiction),
    }
}

fn judge_in_order(program: &Program, steps_max: u64) -> Result<Finding, Contradiction> {
    let timeline = Timeline::new(program)?;
    let unknowns = Unknowns::new(program, &timeline)?;
    let neighbours = Neighbours::new(program, &timeline);
    let search = |every_slot| {
        let ground =
            Ground { program, timeline: &timeline, unknowns: &unknowns, neighbours: &neighbours, every_slot };
        Search::new(ground, steps_max).run()
    };
    let first = search(false);
    // A search that tries one of several like slots may fail where writes of unknown outcome compete for them.
    if first.must_try_every_slot { Ok(search(true).finding) } else { Ok(first.finding) }
}
