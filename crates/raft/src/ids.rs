//! The numbers that consensus is made of, each a type of its own so that a term is never taken for an index.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A term (Raft paper, section 5.1): a period with at most one leader. 0 before the first election.
    Term
}
number! {
    /// The place of an entry in the log, from 1; 0 is the place before the first entry.
    LogIndex
}
number! {
    /// A server, unique in its cluster for ever: an id is not used again with an empty disk. 0 is not an id.
    NodeId
}
number! {
    /// One Raft group among those that a server hosts. There is one so far, [`GroupId::DEFAULT`].
    GroupId
}
number! {
    /// A request that waits for the core: it comes in with a proposal or a read and goes out exactly once.
    /// Whoever hands it in keeps it unique among those that wait.
    Ctx
}
number! {
    /// One discovery of a damaged disk, named by chance at each start of a damaged node: what is said of one damage, and
    /// arrives late, must not be taken for a word on the next.
    DamageId
}
number! {
    /// One state machine of this node: 0 from the first day, one more with each snapshot that is installed.
    StateId
}
number! {
    /// A [`crate::Write`] in the one ordered stream of writes, from 1, each one more than the last.
    WriteId
}

impl Term {
    /// The term after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl LogIndex {
    /// The index after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The index before this one; the index before 0 is 0.
    #[must_use]
    pub fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// The index `distance` places further on.
    #[must_use]
    pub fn plus(self, distance: u64) -> Self {
        Self(self.0 + distance)
    }
}

impl GroupId {
    /// The one group that a server hosts today; the default map lives in it.
    pub const DEFAULT: Self = Self(1);
}
