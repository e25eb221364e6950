//! What a log entry asks of the state machine.
//!
//! A command carries all that its outcome depends on, since servers may run with different flags and the outcome must
//! be the same on each. Which limit comes from where:
//!
//! | limit | where it is |
//! |---|---|
//! | size of an answer | in each write: [`Write::answer_bytes_max`] |
//! | idle expiry, answers and bytes kept, number of sessions | in the opening of a session: [`SessionLimits`]; the first three stay with the session for its life |
//! | rows that one entry removes because they expired | constants of the format: [`crate::limits`] |
//! | how an answer's size is counted | constants of the format: [`crate::limits`] |
//! | sizes and number of keys, values, operations | checked before the proposal ([`crate::validate`]); apply takes what decodes |

use raftmap_raft::NodeId;

use crate::request::{SessionTag, WriteRequest};
use crate::trace::TraceContext;

/// A command of the state machine; what [`raftmap_raft::Payload::Command`] holds, encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The leader's clock when it proposed this, in milliseconds since the Unix epoch. `None`: log time stands still.
    pub stamped_time_ms: Option<u64>,
    /// Whose trace it belongs to; most belong to none. Only at [`crate::LEVEL_OF_TRACES`].
    pub trace: Option<TraceContext>,
    /// What to do.
    pub body: Body,
}

/// What a [`Command`] does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Changes the map.
    Write(Write),
    /// Opens a session, whose id is the index of this entry.
    OpenSession(SessionLimits),
    /// Lets log time pass, so that keys and sessions expire without other traffic.
    Time,
    /// Records who a member is, at first contact.
    RecordMember(Member),
    /// Says where a member is, or a server that is to become one.
    IntroduceMember(Introduction),
    /// Lets the cluster use what came with this feature level; see [`crate::LEVEL`]. A lower one changes nothing.
    RaiseLevel(u8),
    /// Marks the entry at which all servers hash all their rows, to find those that rotted (STORAGE.md, "Scrub and digests").
    Scan,
}

/// A change of the map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// What to change.
    pub request: WriteRequest,
    /// Makes it exactly-once. Without a tag it is applied as often as it stands in the log.
    pub session: Option<SessionTag>,
    /// The largest answer that the proposing server passes on, in bytes; a larger one turns the whole write into
    /// [`crate::Refusal::AnswerTooLarge`].
    pub answer_bytes_max: u32,
}

/// What a session may hold, decided by the server that proposed its opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// It expires when it was not used for this long, in milliseconds of log time.
    pub idle_expiry_ms: u64,
    /// How many answers it keeps that its client has not acknowledged; at least 1.
    pub in_flight_max: u32,
    /// How many bytes these answers may have together. One answer is kept even if it alone is larger.
    pub kept_bytes_max: u64,
    /// How many sessions are open at once; opening one more closes the one that was unused for longest. At least 1.
    pub sessions_max: u32,
}

impl Default for SessionLimits {
    /// One hour, 1,024 answers, 8 MiB, 4,096 sessions.
    fn default() -> Self {
        Self { idle_expiry_ms: 3_600_000, in_flight_max: 1024, kept_bytes_max: 8 << 20, sessions_max: 4096 }
    }
}

/// Who a server is: what its data directory says since `init`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id in the cluster.
    pub node_id: NodeId,
    /// Drawn at random when its data directory was made: a wiped disk comes back with another one.
    pub incarnation: u128,
    /// A hash of the founding members; the same on every server of a cluster.
    pub founding_hash: u128,
}

/// What the cluster is told of a server that is to become a member, or of a member that moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Introduction {
    /// Its id in the cluster.
    pub node_id: NodeId,
    /// Where the other servers reach it, as `host:port`.
    pub peer_address: String,
    /// Where clients reach it, as `host:port`.
    pub client_address: String,
    /// Which member goes when this one becomes a voter: one change takes the one in and the other out.
    pub replaces: Option<NodeId>,
}
