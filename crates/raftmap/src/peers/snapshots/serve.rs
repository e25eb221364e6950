//! The sender's end of a connection for a snapshot.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raftmap_raft::LogIndex;
use raftmap_state::{SnapshotChunks, SnapshotError, StateError};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::shelf::Place;
use super::{HeldSnapshot, store_failure};
use crate::peers::Net;
use crate::peers::connection::LINGER;
use crate::peers::grpc::{FrameReader, FrameWriter, Status, StreamError};
use crate::peers::meters::SnapshotMeters;
use crate::peers::peer::Peer;
use crate::peers::session::Greeted;
use crate::peers::wire::{Denied, Frame, SnapshotFrame, SnapshotRequest};

/// Serves a snapshot to a peer that has said who it is, and keeps the view for a while for it to come back.
pub(in crate::peers) async fn serve(net: &Net, peer: &Peer, greeted: Greeted) {
    tokio::select! {
        () = attend(net, peer, greeted) => {}
        // Whoever gets a snapshot goes on with it when this server is back, or begins anew.
        () = net.stop.cancelled() => {}
    }
}

/// Why a snapshot was not sent whole.
#[derive(Debug, thiserror::Error)]
enum Unsent {
    #[error("{0}")]
    Broken(#[from] StreamError),
    #[error("the receiver said nothing for {0:?}")]
    Late(Duration),
    #[error("the receiver took nothing for {0:?}")]
    Stuck(Duration),
    #[error("the peer asked anew")]
    Replaced,
    #[error("the peer is refused: {0}")]
    Refused(String),
    /// The peer is to be told this.
    #[error("{0}")]
    Told(String),
    /// The peer is to be told this.
    #[error("not sent: {0}")]
    Denied(Denied),
    /// The node ends.
    #[error("{0}")]
    Store(String),
    #[error("{0}")]
    Distrusted(String),
    #[error("this server stops")]
    Stopped,
}

impl From<h2::Error> for Unsent {
    fn from(error: h2::Error) -> Self {
        Self::Broken(error.into())
    }
}

async fn attend(net: &Net, peer: &Peer, greeted: Greeted) {
    let Greeted { hello, address, connection, mut reader, mut writer, mut trust, .. } = greeted;
    let request = match ask(net, &mut reader).await {
        Ok(request) => request,
        Err(unsent) => {
            warn!(peer = %peer.id, %address, reason = %unsent, "no snapshot was asked for");
            if let Unsent::Told(reason) = unsent {
                net.turn_away(connection, writer, reason).await;
            }
            return;
        }
    };
    let line = peer.line(&hello.member);
    let place = line.as_ref().and_then(|_| net.shelf.place(peer.id));
    let mut sending = Sending { net, peer, writer: &mut writer, bytes: 0 };
    let sent = match (&line, &place) {
        (None, _) => Err(Unsent::Denied(Denied::Unconnected)),
        (_, None) => Err(Unsent::Denied(Denied::Busy(net.shelf.places_max() as u64))),
        (Some(line), Some(place)) => tokio::select! {
            sent = sending.run(place, request) => sent,
            () = place.lost() => Err(Unsent::Replaced),
            refusal = line.refused() => Err(Unsent::Refused(refusal.reason)),
            reason = trust.lost() => Err(Unsent::Distrusted(reason)),
        },
    };
    match sent {
        Ok(()) => connection.finish(net.limits.snapshot_silence_max).await,
        Err(unsent) => {
            warn!(peer = %peer.id, %address, reason = %unsent, "a snapshot was not sent whole");
            peer.meters.snapshots_sent.failed();
            match unsent {
                Unsent::Denied(denied) => {
                    let frame = Frame::Snapshot(SnapshotFrame::Denied(denied));
                    if net.send_small(&mut writer, frame).await.is_ok() {
                        let _ = writer.end(Status::Ok);
                    }
                    connection.finish(LINGER).await;
                }
                Unsent::Told(reason) => {
                    net.turn_away(connection, writer, reason).await;
                }
                _ => drop(connection),
            }
        }
    }
    let Some(place) = place else { return };
    place.rest();
    tokio::select! {
        () = sleep(net.limits.snapshot_kept) => {}
        () = place.lost() => {}
    }
}

/// What the peer asks for.
async fn ask(net: &Net, reader: &mut FrameReader) -> Result<SnapshotRequest, Unsent> {
    let within = net.limits.handshake_timeout;
    let frame = match timeout(within, reader.next()).await {
        Ok(Ok(Some(frame))) => frame,
        Ok(Ok(None)) => return Err(StreamError::Truncated.into()),
        Ok(Err(StreamError::Frame(reason))) => return Err(Unsent::Told(reason)),
        Ok(Err(error)) => return Err(error.into()),
        Err(_) => return Err(Unsent::Late(within)),
    };
    match Frame::decode(frame, net.frame_bytes_max()) {
        Ok(Frame::Snapshot(SnapshotFrame::Request(request))) => Ok(request),
        Ok(Frame::Refusal(refusal)) => Err(Unsent::Refused(refusal.reason)),
        Ok(_) => Err(Unsent::Told("something else came instead of a request for a snapshot".to_owned())),
        Err(error) => Err(Unsent::Told(error.to_string())),
    }
}

/// A snapshot on its way to a peer.
struct Sending<'a> {
    net: &'a Net,
    peer: &'a Peer,
    writer: &'a mut FrameWriter,
    bytes: u64,
}

/// Chunks that are about to be read.
struct Begun {
    view: Arc<HeldSnapshot>,
    chunks: SnapshotChunks,
    resumed: bool,
}

impl Sending<'_> {
    async fn run(&mut self, place: &Place<'_, HeldSnapshot>, request: SnapshotRequest) -> Result<(), Unsent> {
        let began = Instant::now();
        self.meters().begun();
        let Begun { view, mut chunks, resumed } = self.begin(place, request).await?;
        let index = view.reader.header().applied.position.index;
        info!(peer = %self.peer.id, %index, resumed, "sending a snapshot");
        self.send(SnapshotFrame::Begin { resumed }).await?;
        if !resumed {
            self.send(SnapshotFrame::Chunk(view.reader.header_bytes().clone())).await?;
        }
        loop {
            // Nothing is read ahead of a receiver that takes nothing.
            in_time(self.net.limits.snapshot_silence_max, self.writer.room()).await?;
            let (rest, chunk) = self.read(&view, chunks).await?;
            chunks = rest;
            if !is_fit(&view) {
                return Err(Unsent::Told("this server's state is in doubt".to_owned()));
            }
            let Some(chunk) = chunk else { break };
            self.net.pacer.pass(chunk.len()).await;
            self.send(SnapshotFrame::Chunk(chunk)).await?;
        }
        self.writer.end(Status::Ok)?;
        self.meters().finished();
        let seconds = began.elapsed().as_secs_f64();
        info!(peer = %self.peer.id, %index, bytes = self.bytes, seconds, "a snapshot was sent");
        Ok(())
    }

    fn meters(&self) -> &SnapshotMeters {
        &self.peer.meters.snapshots_sent
    }

    /// The snapshot that was kept for the peer if it can go on with it, else one of now.
    async fn begin(
        &self,
        place: &Place<'_, HeldSnapshot>,
        request: SnapshotRequest,
    ) -> Result<Begun, Unsent> {
        let SnapshotRequest { group, at_least, token } = request;
        // With room for what a frame says besides.
        let chunk_bytes = self.net.limits.snapshot_chunk_bytes.min(self.net.frame_bytes_max() / 2);
        let kept = place.view().filter(|view| applied(view) >= at_least && is_fit(view));
        if let (Some(view), Some(token)) = (kept, token) {
            let resuming = Arc::clone(&view);
            let resumed = spawn_blocking(move || resuming.reader.resume(&token, chunk_bytes)).await;
            match or_panic(resumed)?.map_err(store_failure) {
                Ok(chunks) => return Ok(Begun { view, chunks, resumed: true }),
                Err(Ok(error)) => return Err(self.store_failed(error)),
                // It is of another one.
                Err(Err(_unfit)) => {}
            }
        }
        let source = Arc::clone(&self.net.source);
        let taken = or_panic(spawn_blocking(move || source.snapshot()).await)?;
        let view = taken.map_err(|error| self.store_failed(error))?;
        let view = Arc::new(view.ok_or(Unsent::Denied(Denied::NoState))?);
        if view.reader.header().group != group {
            return Err(Unsent::Told(format!("group {group} is not hosted here")));
        }
        if applied(&view) < at_least {
            return Err(Unsent::Denied(Denied::Behind(applied(&view))));
        }
        place.keep(Arc::clone(&view));
        let chunks = view.reader.chunks(chunk_bytes);
        Ok(Begun { view, chunks, resumed: false })
    }

    /// The next chunk, from the disk.
    async fn read(
        &self,
        view: &Arc<HeldSnapshot>,
        mut chunks: SnapshotChunks,
    ) -> Result<(SnapshotChunks, Option<Bytes>), Unsent> {
        // The view stays until the read is over, also if nobody waits for it any more.
        let view = Arc::clone(view);
        let read = spawn_blocking(move || {
            let chunk = chunks.next().transpose();
            drop(view);
            chunk.map(|chunk| (chunks, chunk))
        });
        or_panic(read.await)?.map_err(|error: SnapshotError| match store_failure(error) {
            Ok(error) => self.store_failed(error),
            Err(error) => Unsent::Told(error.to_string()),
        })
    }

    async fn send(&mut self, frame: SnapshotFrame) -> Result<(), Unsent> {
        let frame = Frame::Snapshot(frame).encode(self.net.frame_bytes_max());
        let frame = frame.map_err(|too_large| Unsent::Told(too_large.to_string()))?;
        let bytes = frame.len();
        in_time(self.net.limits.snapshot_silence_max, self.writer.send(frame)).await?;
        self.bytes += bytes as u64;
        self.meters().bytes(bytes);
        Ok(())
    }

    fn store_failed(&self, error: StateError) -> Unsent {
        let reason = error.to_string();
        self.net.source.failed(error);
        Unsent::Store(reason)
    }
}

/// Lets the receiver take its time, but not for ever.
async fn in_time(within: Duration, taken: impl Future<Output = Result<(), h2::Error>>) -> Result<(), Unsent> {
    Ok(timeout(within, taken).await.map_err(|_| Unsent::Stuck(within))??)
}

/// What a thread gave that may block. Its panic goes on here.
fn or_panic<T>(joined: Result<T, JoinError>) -> Result<T, Unsent> {
    joined.map_err(|error| match error.try_into_panic() {
        Ok(panic) => resume_unwind(panic),
        Err(_cancelled) => Unsent::Stopped,
    })
}

fn applied(view: &HeldSnapshot) -> LogIndex {
    view.reader.header().applied.position.index
}

fn is_fit(view: &HeldSnapshot) -> bool {
    view.fit.load(Ordering::Acquire)
}
