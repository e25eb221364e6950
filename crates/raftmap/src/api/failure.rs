//! Why a request failed, and what that says about the map.

use std::future::Future;
use std::time::{Duration, Instant};

use raftmap_state::Refusal;
use raftmap_state::validate::InvalidRequest;

/// Why a request failed: `Failure` of `map.proto`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Failure {
    /// What kind of failure it is.
    pub code: Code,
    /// Whether the request may have been applied.
    pub outcome: FailureOutcome,
    /// For a person: what happened and what to do.
    pub reason: String,
    /// Where the leader answers clients (`host:port`), if known.
    pub leader: Option<String>,
    /// [`Code::Invalid`], [`Code::TooLarge`]: the field of the request, as its path in `map.proto`.
    pub field: Option<&'static str>,
    /// [`Code::TooLarge`], [`Code::Overloaded`]: what is allowed.
    pub limit: Option<u64>,
    /// When it makes sense to ask again.
    pub retry_after: Option<Duration>,
}

/// Whether a request that failed may have changed the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureOutcome {
    /// It may have been applied, now or later.
    Unknown,
    /// This attempt certainly was not applied and will not be.
    NotApplied,
}

/// The codes of `map.proto`, where they are described, with the gRPC status that each travels under.
///
/// | code | gRPC status | for a caller |
/// |---|---|---|
/// | `Invalid` | INVALID_ARGUMENT | change the request |
/// | `TooLarge` | OUT_OF_RANGE | make the request, or what it asks for, smaller |
/// | `Overloaded` | RESOURCE_EXHAUSTED | ask again later |
/// | `NoLeader`, `NoQuorum`, `NodeUnfit`, `ShuttingDown`, `LeadershipLost` | UNAVAILABLE if not applied, else ABORTED | ask again, perhaps elsewhere |
/// | `Deadline` | DEADLINE_EXCEEDED | |
/// | `DiskFull` | RESOURCE_EXHAUSTED | needs an operator |
/// | `Unauthenticated` | UNAUTHENTICATED | |
/// | `Denied` | PERMISSION_DENIED | |
/// | `SessionUnknown`, `SequenceForgotten`, `SequenceReused` | FAILED_PRECONDITION | open a new session |
/// | `Behind` | UNAVAILABLE | ask another server, or later |
/// | `ScanLost` | ABORTED | scan again, from the last key |
/// | `Unsupported` | UNIMPLEMENTED | |
/// | `Unspecified` | INTERNAL | a fault of the server |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "their meaning stands in map.proto, once")]
pub enum Code {
    Unspecified = 0,
    Invalid = 1,
    TooLarge = 2,
    Overloaded = 3,
    NoLeader = 4,
    NoQuorum = 5,
    Deadline = 6,
    LeadershipLost = 7,
    DiskFull = 8,
    NodeUnfit = 9,
    ShuttingDown = 10,
    Unauthenticated = 11,
    Denied = 12,
    SessionUnknown = 13,
    SequenceForgotten = 14,
    SequenceReused = 15,
    Behind = 16,
    ScanLost = 17,
    Unsupported = 18,
}

impl Failure {
    /// A failure of a request that was certainly not applied.
    pub fn not_applied(code: Code, reason: impl Into<String>) -> Self {
        Self {
            code,
            outcome: FailureOutcome::NotApplied,
            reason: reason.into(),
            leader: None,
            field: None,
            limit: None,
            retry_after: None,
        }
    }

    /// A failure of a request that may have been applied, or may be later.
    pub fn unknown(code: Code, reason: impl Into<String>) -> Self {
        Self { outcome: FailureOutcome::Unknown, ..Self::not_applied(code, reason) }
    }

    /// The same, with the field that is to blame.
    #[must_use]
    pub fn in_field(self, field: &'static str) -> Self {
        Self { field: Some(field), ..self }
    }

    /// The same, with the limit that was passed.
    #[must_use]
    pub fn over_limit(self, limit: u64) -> Self {
        Self { limit: Some(limit), ..self }
    }

    /// The same, with a time after which to ask again.
    #[must_use]
    pub fn retry_after(self, delay: Duration) -> Self {
        Self { retry_after: Some(delay), ..self }
    }
}

impl Code {
    /// Its name in `map.proto`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "CODE_UNSPECIFIED",
            Self::Invalid => "INVALID",
            Self::TooLarge => "TOO_LARGE",
            Self::Overloaded => "OVERLOADED",
            Self::NoLeader => "NO_LEADER",
            Self::NoQuorum => "NO_QUORUM",
            Self::Deadline => "DEADLINE",
            Self::LeadershipLost => "LEADERSHIP_LOST",
            Self::DiskFull => "DISK_FULL",
            Self::NodeUnfit => "NODE_UNFIT",
            Self::ShuttingDown => "SHUTTING_DOWN",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::Denied => "DENIED",
            Self::SessionUnknown => "SESSION_UNKNOWN",
            Self::SequenceForgotten => "SEQUENCE_FORGOTTEN",
            Self::SequenceReused => "SEQUENCE_REUSED",
            Self::Behind => "BEHIND",
            Self::ScanLost => "SCAN_LOST",
            Self::Unsupported => "UNSUPPORTED",
        }
    }
}

impl From<raftmap_state::FailureCode> for Code {
    fn from(code: raftmap_state::FailureCode) -> Self {
        use raftmap_state::FailureCode as State;
        match code {
            State::Invalid => Self::Invalid,
            State::TooLarge => Self::TooLarge,
            State::Overloaded => Self::Overloaded,
            State::NodeUnfit => Self::NodeUnfit,
            State::SessionUnknown => Self::SessionUnknown,
            State::SequenceForgotten => Self::SequenceForgotten,
            State::SequenceReused => Self::SequenceReused,
        }
    }
}

impl From<InvalidRequest> for Failure {
    fn from(invalid: InvalidRequest) -> Self {
        Self {
            field: Some(invalid.field()),
            limit: invalid.limit(),
            ..Self::not_applied(invalid.code().into(), invalid.to_string())
        }
    }
}

/// A refused entry changed no key: this attempt was not applied. It says nothing about earlier ones with the same tag.
impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self { limit: refusal.limit(), ..Self::not_applied(refusal.code().into(), refusal.to_string()) }
    }
}

/// `request`, or at its deadline a [`Code::Deadline`] with `outcome`.
///
/// # Errors
/// Those of `request`, and that of the deadline.
pub async fn by_deadline<T>(
    deadline: Instant,
    outcome: FailureOutcome,
    request: impl Future<Output = Result<T, Failure>> + Send,
) -> Result<T, Failure> {
    match tokio::time::timeout_at(deadline.into(), request).await {
        Ok(result) => result,
        Err(_) => {
            let reason = "the request's deadline passed before it was answered";
            Err(Failure { outcome, ..Failure::not_applied(Code::Deadline, reason) })
        }
    }
}
