//! What is said about a snapshot, as the messages of `peer.proto`, and back.

use bytes::Bytes;
use raftmap_proto::peer;
use raftmap_proto::peer::peer_frame::Frame as Wire;
use raftmap_proto::peer::snapshot_denied::Reason;
use raftmap_raft::{GroupId, LogIndex};

use super::{WireError, index};

/// A frame on a connection for a snapshot, behind the hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::peers) enum SnapshotFrame {
    /// What is asked for.
    Request(SnapshotRequest),
    /// Chunks follow.
    Begin {
        /// They are those behind the token; else they begin with the header.
        resumed: bool,
    },
    /// Nothing follows.
    Denied(Denied),
    /// A chunk of the snapshot, the header among them.
    Chunk(Bytes),
}

/// A snapshot that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::peers) struct SnapshotRequest {
    /// Of which group.
    pub(in crate::peers) group: GroupId,
    /// What must be applied in it.
    pub(in crate::peers) at_least: LogIndex,
    /// How far the one came that is to go on.
    pub(in crate::peers) token: Option<Bytes>,
}

/// Why a snapshot is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::peers) enum Denied {
    /// Between the two data directories stands no long-lived stream. That may change.
    #[error("no connection stands on which the two servers know each other")]
    Unconnected,
    /// This many others are being served, and no more are. That will change.
    #[error("{0} other servers are being sent snapshots, and no more are")]
    Busy(u64),
    /// The sender's state is not fit to be sent.
    #[error("it has no state that is fit to be sent")]
    NoState,
    /// The sender has applied no more than this.
    #[error("it has applied no more than {0}")]
    Behind(LogIndex),
}

pub(super) fn into_wire(frame: SnapshotFrame) -> Wire {
    match frame {
        SnapshotFrame::Request(SnapshotRequest { group, at_least, token }) => {
            Wire::SnapshotRequest(peer::SnapshotRequest { group_id: group.0, at_least: at_least.0, token })
        }
        SnapshotFrame::Begin { resumed } => Wire::SnapshotBegin(peer::SnapshotBegin { resumed }),
        SnapshotFrame::Denied(denied) => {
            let reason = match denied {
                Denied::Unconnected => Reason::Unconnected(peer::Nothing {}),
                Denied::Busy(others) => Reason::Busy(others),
                Denied::NoState => Reason::NoState(peer::Nothing {}),
                Denied::Behind(applied) => Reason::Behind(applied.0),
            };
            Wire::SnapshotDenied(peer::SnapshotDenied { reason: Some(reason) })
        }
        SnapshotFrame::Chunk(chunk) => Wire::SnapshotChunk(chunk),
    }
}

pub(super) fn request_from_wire(request: peer::SnapshotRequest) -> Result<SnapshotFrame, WireError> {
    let group = GroupId(request.group_id);
    if group != GroupId::DEFAULT {
        return Err(WireError::Group(group));
    }
    let at_least = index("the index asked for", request.at_least)?;
    Ok(SnapshotFrame::Request(SnapshotRequest { group, at_least, token: request.token }))
}

pub(super) fn denied_from_wire(denied: peer::SnapshotDenied) -> Result<SnapshotFrame, WireError> {
    let denied = match denied.reason.ok_or(WireError::Variant("why there is no snapshot"))? {
        Reason::Unconnected(_) => Denied::Unconnected,
        Reason::Busy(others) => Denied::Busy(others),
        Reason::NoState(_) => Denied::NoState,
        Reason::Behind(applied) => Denied::Behind(index("the applied index", applied)?),
    };
    Ok(SnapshotFrame::Denied(denied))
}
