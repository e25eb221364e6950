//! What goes wrong in a round, drawn before it begins.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;
use raftmap_raft::NodeId;

/// When faults begin, and how long they last, at most.
const BEGIN_MAX_MS: u64 = 1_500;
const LASTS_MAX_MS: u64 = 2_500;

/// Kinds of fault, to be chosen by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Processes are killed with SIGKILL.
    Kill,
    /// Processes are stopped with SIGSTOP and go on later.
    Pause,
    /// A server is cut off from the others; connections stay open, as when a cable is cut.
    Partition,
    /// What one server says does not reach another.
    OneWay,
    /// All that a server says and hears takes longer.
    SlowLinks,
    /// Connections break, with what is under way on them.
    Disconnect,
    /// Syncs take longer.
    SlowDisk,
    /// Writes or syncs fail, or a write is cut short.
    DiskError,
    /// A disk is full.
    FullDisk,
    /// The wall clock of a server jumps.
    Clock,
    /// Power is cut: what was not synced is lost.
    Power,
    /// Servers come, go and take the place of others, while all else goes on.
    Members,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = clap::ValueEnum::to_possible_value(self).map(|value| value.get_name().to_owned());
        f.pad(&name.unwrap_or_default())
    }
}

/// Whom a fault strikes, of those that are there when it does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Whom {
    Leader,
    /// So many of them.
    Some(usize),
    All,
}

/// One fault of a round.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) class: Class,
    pub(crate) whom: Whom,
    /// After the beginning of the round.
    pub(crate) at: Duration,
    pub(crate) lasts: Duration,
    /// What else there is to choose.
    pub(crate) roll: u64,
}

/// The choice that a number stands for.
pub(crate) fn pick<T: Copy>(number: u64, among: &[T]) -> T {
    let place = number % among.len() as u64;
    among[usize::try_from(place).expect("less than the length of a slice")]
}

impl Fault {
    /// Draws a fault of a class.
    pub(crate) fn draw(class: Class, rng: &mut Rng) -> Self {
        let many = matches!(class, Class::Kill | Class::Power | Class::Pause | Class::Disconnect);
        let whom = match rng.u32(..6) {
            0 | 1 => Whom::Leader,
            2 if many => Whom::All,
            3 if many => Whom::Some(2),
            _ => Whom::Some(1),
        };
        Self {
            class,
            whom,
            at: Duration::from_millis(rng.u64(100..BEGIN_MAX_MS)),
            lasts: Duration::from_millis(rng.u64(20..LASTS_MAX_MS)),
            roll: rng.u64(..),
        }
    }

    /// What was done, and to whom.
    pub(crate) fn told(&self, ids: &[NodeId]) -> String {
        let Self { class, whom, at, lasts, .. } = self;
        let leader = if matches!(whom, Whom::Leader) { " (leader)" } else { "" };
        let ids = ids.iter().map(NodeId::to_string).collect::<Vec<_>>().join("+");
        format!("{class} {ids}{leader} at {:.1} s for {:.1} s", at.as_secs_f64(), lasts.as_secs_f64())
    }
}
