//! From a history that is not linearizable to a few of its operations that are not either.
//!
//! First the history is seen through a few keys ([`project`]), then operations are taken out as long as the rest is not
//! linearizable (delta debugging: Zeller and Hildebrandt 2002). Not every part of a linearizable history is linearizable
//! (a read without the write that it saw is not), so what is taken out is chosen such that it would be: reads at any
//! time, writes only when nothing that remains could hang on them ([`drop`]).

mod drop;
mod project;

use std::collections::HashSet;

use crate::finding::{Contradiction, Finding};
use crate::history::{Key, Operation};
use crate::program::Program;
use crate::verdict::Method;

use self::drop::may_drop;
use self::project::{before, project};

/// At most so many of the keys are tried alone.
const KEYS_ALONE_MAX: usize = 16;

/// An operation, or what is left of it, and its place in the history.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) source: usize,
    pub(crate) operation: Operation,
}

/// The offending part, and why it offends.
pub(crate) struct Small {
    pub(crate) parts: Vec<Part>,
    pub(crate) reason: String,
}

/// What says whether a part still offends.
pub(crate) struct Judge<'a> {
    pub(crate) method: Method,
    pub(crate) judge: &'a dyn Fn(&Program) -> Finding,
    /// Operations that may still be judged.
    pub(crate) steps_left: u64,
}

impl Judge<'_> {
    /// Why these operations alone are not linearizable; `None`: they are, or it would take too long.
    fn offence(&mut self, parts: &[Part]) -> Option<Contradiction> {
        let steps = parts.len() as u64;
        self.steps_left = self.steps_left.checked_sub(steps.max(1))?;
        let history: Vec<Operation> = parts.iter().map(|part| part.operation.clone()).collect();
        match (self.judge)(&Program::new(&history).ok()?) {
            Finding::Not(contradiction) => Some(contradiction),
            Finding::Linearizable | Finding::Undecided(_) => None,
        }
    }
}

/// Makes the offending part of a history small.
pub(crate) fn minimise(
    history: &[Operation],
    program: &Program,
    found: Contradiction,
    judge: &mut Judge<'_>,
) -> Small {
    let whole = |source: usize| Part { source, operation: history[source].clone() };
    if !found.alone.is_empty() {
        let parts = found.alone.iter().map(|id| whole(program.op(*id).source)).collect();
        return Small { parts, reason: found.reason };
    }
    let mut small = start(history, program, found, judge);
    loop {
        let length = small.parts.len();
        drop_while_offending(&mut small, judge, |part, _| part.is_read());
        let method = judge.method;
        drop_while_offending(&mut small, judge, |part, rest| !part.is_read() && may_drop(method, part, rest));
        if small.parts.len() == length {
            return small;
        }
    }
}

/// The history through one key, through those at which it showed, or as it is.
fn start(history: &[Operation], program: &Program, found: Contradiction, judge: &mut Judge<'_>) -> Small {
    let keys: Vec<&Key> = found.keys.iter().map(|key| &program.keys[key.index()]).collect();
    let alone = keys.iter().take(KEYS_ALONE_MAX).map(|key| HashSet::from([*key]));
    let together = std::iter::once(keys.iter().copied().collect());
    for keys in alone.chain(together).filter(|keys: &HashSet<&Key>| !keys.is_empty()) {
        let Some(parts) = project(history, &keys) else { continue };
        for parts in [before(&parts, found.until), parts] {
            if let Some(contradiction) = judge.offence(&parts) {
                return Small { parts, reason: contradiction.reason };
            }
        }
    }
    let parts = history.iter().cloned().enumerate();
    Small {
        parts: parts.map(|(source, operation)| Part { source, operation }).collect(),
        reason: found.reason,
    }
}

/// Takes out what may be, in ever smaller chunks, as long as the rest offends.
fn drop_while_offending(small: &mut Small, judge: &mut Judge<'_>, may: impl Fn(&Part, &[Part]) -> bool) {
    let mut chunk = small.parts.len();
    while chunk > 0 {
        let mut from = 0;
        while from < small.parts.len() {
            let to = small.parts.len().min(from + chunk);
            let mut rest = small.parts.clone();
            for place in (from..to).rev() {
                let part = rest.remove(place);
                if !may(&part, &rest) {
                    rest.insert(place, part);
                }
            }
            let kept = to - from - (small.parts.len() - rest.len());
            let offence = if rest.len() < small.parts.len() { judge.offence(&rest) } else { None };
            match offence {
                Some(contradiction) => {
                    *small = Small { parts: rest, reason: contradiction.reason };
                    from += kept;
                }
                None => from = to,
            }
        }
        chunk /= 2;
    }
}
