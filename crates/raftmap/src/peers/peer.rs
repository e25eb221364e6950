//! What is kept of each peer, connected or not.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use raftmap_raft::NodeId;
use raftmap_replica::PeerBatch;
use raftmap_state::Member;
use tokio::sync::{MutexGuard as TurnGuard, Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::meters::{Dropped, Meters};
use super::outbox::{Outbox, OutboxLimits};
use super::{PeerInfo, PeerLimits, PeerStatus, Refusal, Room};

/// One of the other servers.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: NodeId,
    pub(super) meters: Meters,
    outbox_limits: OutboxLimits,
    inbox: Arc<Semaphore>,
    inbox_bytes_max: u32,
    state: Mutex<State>,
    /// Held by the connection that speaks for the peer, from its `Connected` to its `Lost`.
    turn: tokio::sync::Mutex<()>,
    /// Whether a connection stands.
    stands: watch::Sender<bool>,
}

/// What a new address of a peer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Located {
    /// It had none: nobody dials it yet.
    Anew,
    /// It is dialed already, from now on there.
    Again,
}

#[derive(Debug)]
struct State {
    /// Where to dial it, as `host:port`; `None`: it is not dialed.
    address: Option<String>,
    /// Cancelled when it is not to be dialed any more.
    forgotten: CancellationToken,
    line: Option<Line>,
    /// When the last line closed, or else when this server began.
    closed_at: Instant,
    /// Cancelled when a newer connection of the peer takes over.
    newest: CancellationToken,
}

impl State {
    fn new() -> Self {
        Self {
            address: None,
            forgotten: CancellationToken::new(),
            line: None,
            closed_at: Instant::now(),
            newest: CancellationToken::new(),
        }
    }
}

/// A connection that stands.
#[derive(Debug)]
struct Line {
    member: Member,
    info: PeerInfo,
    outbox: Arc<Outbox>,
    /// The queue was full, and that was said.
    full: bool,
}

impl Peer {
    pub(super) fn new(id: NodeId, limits: &PeerLimits) -> Self {
        let outbox_limits =
            OutboxLimits { messages: limits.outbox_messages_max, bytes: limits.outbox_bytes_max };
        Self {
            id,
            meters: Meters::new(id),
            outbox_limits,
            inbox: Arc::new(Semaphore::new(limits.inbox_bytes_max as usize)),
            inbox_bytes_max: limits.inbox_bytes_max,
            state: Mutex::new(State::new()),
            turn: tokio::sync::Mutex::new(()),
            stands: watch::Sender::new(false),
        }
    }

    pub(super) fn address(&self) -> Option<String> {
        self.state().address.clone()
    }

    /// Where to dial it for a snapshot: where it said that it is, if it is connected. It may have come, or moved, while this server
    /// was away, which then waits for that very snapshot to hear of it.
    pub(super) fn address_for_snapshots(&self) -> Option<String> {
        let state = self.state();
        let said = state.line.as_ref().map(|line| line.info.peer_address.clone());
        said.filter(|said| !said.is_empty()).or_else(|| state.address.clone())
    }

    /// From now on, it is dialed there.
    pub(super) fn locate(&self, address: String) -> Located {
        let mut state = self.state();
        if state.address.replace(address).is_some() {
            return Located::Again;
        }
        state.forgotten = CancellationToken::new();
        Located::Anew
    }

    /// It is not dialed any more.
    pub(super) fn forget(&self) {
        let mut state = self.state();
        state.address = None;
        state.forgotten.cancel();
    }

    /// Cancelled when it is not to be dialed any more.
    pub(super) fn forgotten(&self) -> CancellationToken {
        self.state().forgotten.clone()
    }

    /// Waits until there has been no connection for this long.
    pub(super) async fn unconnected_for(&self, patience: Duration) {
        let mut stands = self.stands.subscribe();
        loop {
            // The sender lives as long as this.
            let _ = stands.wait_for(|stands| !stands).await;
            if patience.is_zero() || timeout(patience, stands.wait_for(|stands| *stands)).await.is_err() {
                return;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }

    /// Announces a new connection: an older one ends. The answer is cancelled when a newer one comes.
    pub(super) fn take_over(&self) -> CancellationToken {
        let newest = CancellationToken::new();
        let before = std::mem::replace(&mut self.state().newest, newest.clone());
        before.cancel();
        newest
    }

    /// Waits until no other connection speaks for the peer.
    pub(super) async fn turn(&self) -> TurnGuard<'_, ()> {
        self.turn.lock().await
    }

    /// From now on, what is sent to the peer goes over this connection.
    pub(super) fn open(&self, member: Member, info: PeerInfo) -> Arc<Outbox> {
        let outbox = Arc::new(Outbox::new(self.outbox_limits));
        self.state().line = Some(Line { member, info, outbox: Arc::clone(&outbox), full: false });
        self.stands.send_replace(true);
        self.meters.connected(true);
        outbox
    }

    /// What waits to be sent over the connection that stands, if it is that of this data directory.
    pub(super) fn line(&self, member: &Member) -> Option<Arc<Outbox>> {
        let state = self.state();
        let line = state.line.as_ref().filter(|line| line.member == *member);
        line.map(|line| Arc::clone(&line.outbox))
    }

    /// The connection is no more; what waited for it is dropped.
    pub(super) fn close(&self) {
        let mut state = self.state();
        if state.line.take().is_some() {
            state.closed_at = Instant::now();
        }
        drop(state);
        self.stands.send_replace(false);
        self.meters.connected(false);
    }

    pub(super) fn send(&self, batch: PeerBatch) {
        let mut state = self.state();
        let Some(line) = &mut state.line else { return self.meters.dropped(Dropped::Unconnected) };
        if line.outbox.push(batch) {
            line.full = false;
            return;
        }
        self.meters.dropped(Dropped::Full);
        if !std::mem::replace(&mut line.full, true) {
            let queued_bytes = line.outbox.bytes();
            warn!(peer = %self.id, queued_bytes, "the peer takes too little: what does not fit its queue is dropped");
        }
    }

    pub(super) fn refuse(&self, refusal: Refusal) {
        if let Some(line) = &self.state().line {
            line.outbox.refuse(refusal);
        }
    }

    /// Waits until a frame of this size may be received.
    pub(super) async fn room(&self, bytes: usize) -> Room {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.inbox_bytes_max);
        let place = Arc::clone(&self.inbox).acquire_many_owned(bytes).await;
        Room { _place: place.expect("the semaphore is never closed") }
    }

    pub(super) fn status(&self) -> PeerStatus {
        let state = self.state();
        PeerStatus {
            id: self.id,
            connected: state.line.as_ref().map(|line| line.info.clone()),
            away_since: state.line.is_none().then_some(state.closed_at),
            queued_bytes: state.line.as_ref().map_or(0, |line| line.outbox.bytes()),
            dropped_batches: self.meters.dropped_batches(),
        }
    }
}
