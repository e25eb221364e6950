//! Raft consensus as a pure state machine.
mod entry;
mod ids;
mod membership;
mod write;

pub use entry::{Entry, HardState, LogPosition, Payload, PayloadError};
pub use ids::{Ctx, GroupId, LogIndex, NodeId, Term, WriteId};
pub use membership::{Membership, MembershipError};
pub use write::Write;
