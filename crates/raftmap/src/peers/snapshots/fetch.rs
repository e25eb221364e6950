//! The receiver's end: dials, takes in, dials again.

use std::path::PathBuf;
use std::sync::Arc;

use raftmap_raft::{GroupId, LogIndex, NodeId};
use raftmap_state::{DiskOptions, SnapshotError, SnapshotHeader};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::info;

use super::FetchError;
use super::install::{Install, InstallError, Plan};
use crate::peers::dialer::{Backoff, dial};
use crate::peers::grpc::{FrameReader, Rpc, Status, StreamError};
use crate::peers::peer::Peer;
use crate::peers::session::{Greeted, Unmet};
use crate::peers::wire::{Denied, Frame, SnapshotFrame, SnapshotRequest};
use crate::peers::{Net, Refusal};
use crate::tls::renewal::Trust;

/// How often a snapshot is begun, from the header on, before it is given up.
const BEGINNINGS_MAX: u32 = 5;

/// What is wanted, and where it is to go.
#[derive(Clone, Debug)]
pub(in crate::peers) struct Wanted {
    pub(in crate::peers) from: NodeId,
    pub(in crate::peers) at_least: LogIndex,
    pub(in crate::peers) group: GroupId,
    pub(in crate::peers) dir: PathBuf,
    pub(in crate::peers) options: DiskOptions,
}

/// A snapshot on its way here.
pub(in crate::peers) struct Fetch<'a> {
    net: &'a Net,
    peer: &'a Peer,
    plan: Plan,
    install: Option<Install>,
    /// From the header on.
    beginnings: u32,
    bytes: u64,
    /// When the last part came that was new.
    heard: Instant,
}

/// How an attempt ended that may be repeated.
enum Unfinished {
    /// It goes on where it is.
    Broken(String),
    /// What came is not what was sent: all begins anew.
    Spoiled(String),
}

/// How an attempt ended.
type Attempt = Result<Result<SnapshotHeader, Unfinished>, FetchError>;

impl<'a> Fetch<'a> {
    /// Gets the snapshot, or fails and leaves nothing behind.
    pub(in crate::peers) async fn run(net: Arc<Net>, wanted: Wanted) -> Result<SnapshotHeader, FetchError> {
        let Wanted { from, at_least, group, dir, options } = wanted;
        let peer = &*net.peer(from).ok_or(FetchError::Unknown(from))?;
        let plan = Plan { group, at_least, dir, options };
        let mut fetch =
            Fetch { net: &net, peer, plan, install: None, beginnings: 0, bytes: 0, heard: Instant::now() };
        let began = Instant::now();
        info!(peer = %from, %at_least, "fetching a snapshot");
        peer.meters.snapshots_received.begun();
        let fetched = tokio::select! {
            fetched = fetch.attempts() => fetched,
            () = net.stop.cancelled() => Err(FetchError::Stopped),
        };
        if let Some(install) = fetch.install.take() {
            // Its directory is to be gone when this is over.
            drop(install.end().await);
        }
        let (bytes, seconds) = (fetch.bytes, began.elapsed().as_secs_f64());
        match &fetched {
            Ok(header) => {
                peer.meters.snapshots_received.finished();
                #[expect(clippy::cast_precision_loss, reason = "for people to read")]
                let mib_per_second = bytes as f64 / f64::from(1 << 20) / seconds;
                let index = header.applied.position.index;
                info!(peer = %from, %index, bytes, seconds, mib_per_second, "a snapshot is here");
            }
            Err(error) => {
                peer.meters.snapshots_received.failed();
                info!(peer = %from, bytes, seconds, %error, "a snapshot did not come");
            }
        }
        fetched
    }

    async fn attempts(&mut self) -> Result<SnapshotHeader, FetchError> {
        let limits = &self.net.limits;
        let mut backoff = Backoff::new(limits.redial_min, limits.redial_max);
        loop {
            let heard = self.heard;
            let reason = match self.attempt().await? {
                Ok(header) => return Ok(header),
                Err(Unfinished::Broken(reason)) => reason,
                Err(Unfinished::Spoiled(reason)) => {
                    if let Some(install) = self.install.take() {
                        drop(install.end().await);
                    }
                    if self.beginnings >= BEGINNINGS_MAX {
                        let (from, times) = (self.peer.id, self.beginnings);
                        return Err(FetchError::Restarted { from, times, last: reason });
                    }
                    reason
                }
            };
            if self.heard > heard {
                backoff.reset();
                info!(peer = %self.peer.id, bytes = self.bytes, reason, "a snapshot broke off, and is asked for again");
            }
            let wait = backoff.next();
            if Instant::now() + wait >= self.deadline() {
                return Err(FetchError::Silent {
                    from: self.peer.id,
                    within: limits.snapshot_silence_max,
                    last: reason,
                });
            }
            sleep(wait).await;
        }
    }

    /// Until when something new is to come.
    fn deadline(&self) -> Instant {
        self.heard + self.net.limits.snapshot_silence_max
    }

    /// One connection.
    async fn attempt(&mut self) -> Attempt {
        let within = self.net.limits.handshake_timeout;
        let dialed = timeout(within, dial(self.net, self.peer, Rpc::Snapshot)).await;
        let greeted = match dialed.unwrap_or(Err(Unmet::Late(within))) {
            Ok(greeted) => greeted,
            Err(Unmet::Refused(reason) | Unmet::RefusedBy { refusal: Refusal { reason, .. }, .. }) => {
                return Err(FetchError::Refused(reason));
            }
            Err(unmet) => return Ok(Err(Unfinished::Broken(unmet.to_string()))),
        };
        let Greeted { hello, connection: _open, mut reader, mut writer, mut trust, .. } = greeted;
        if self.peer.line(&hello.member).is_none() {
            return Ok(Err(Unfinished::Broken(Denied::Unconnected.to_string())));
        }
        let token = match &self.install {
            Some(install) => install.token().await,
            None => None,
        };
        if self.install.as_ref().is_some_and(Install::has_ended) {
            return self.settle().await;
        }
        let resuming = token.is_some();
        let Plan { group, at_least, .. } = self.plan;
        let request = Frame::Snapshot(SnapshotFrame::Request(SnapshotRequest { group, at_least, token }));
        let asked = async {
            self.net.send_small(&mut writer, request).await?;
            writer.end(Status::Ok)
        };
        if let Err(error) = timeout(within, asked).await.unwrap_or(Err(h2::Reason::CANCEL.into())) {
            return Ok(Err(Unfinished::Broken(error.to_string())));
        }
        match self.next(&mut reader, &mut trust).await {
            Ok(SnapshotFrame::Begin { resumed: true }) if resuming => {}
            Ok(SnapshotFrame::Begin { resumed: false }) => self.begin().await?,
            Ok(SnapshotFrame::Denied(denied)) => return self.denied(denied),
            Ok(_) => return Ok(Err(Unfinished::Spoiled("the answer is none to the request".to_owned()))),
            Err(unfinished) => return Ok(Err(unfinished)),
        }
        self.take_in(&mut reader, &mut trust).await
    }

    /// Begins with an empty store.
    async fn begin(&mut self) -> Result<(), FetchError> {
        if let Some(install) = self.install.take() {
            drop(install.end().await);
        }
        self.beginnings += 1;
        if self.beginnings > BEGINNINGS_MAX {
            let last = "the sender had forgotten what was sent so far".to_owned();
            return Err(FetchError::Restarted { from: self.peer.id, times: BEGINNINGS_MAX, last });
        }
        self.install = Some(Install::start(self.plan.clone()));
        Ok(())
    }

    fn denied(&self, denied: Denied) -> Attempt {
        let from = self.peer.id;
        match denied {
            Denied::Unconnected | Denied::Busy(_) => Ok(Err(Unfinished::Broken(denied.to_string()))),
            Denied::NoState => Err(FetchError::NoState(from)),
            Denied::Behind(applied) => {
                Err(FetchError::Behind { from, applied, at_least: self.plan.at_least })
            }
        }
    }

    /// Takes in chunks until the stream or the snapshot is at its end.
    async fn take_in(&mut self, reader: &mut FrameReader, trust: &mut Trust) -> Attempt {
        loop {
            let install = self.install.as_ref().expect("it has begun");
            let frame = tokio::select! {
                biased;
                () = install.ended() => return self.settle().await,
                frame = self.next(reader, trust) => frame,
            };
            match frame {
                Ok(SnapshotFrame::Chunk(chunk)) => {
                    let bytes = chunk.len();
                    install.take(chunk).await;
                    self.bytes += bytes as u64;
                    self.peer.meters.snapshots_received.bytes(bytes);
                    // Only now: this server's own disk is not the peer's silence.
                    self.heard = Instant::now();
                }
                Ok(_) => {
                    return Ok(Err(Unfinished::Spoiled("something else came instead of a chunk".to_owned())));
                }
                Err(unfinished) => {
                    // All may have come: then the thread ends by itself.
                    let _taken_in = install.token().await;
                    return if install.has_ended() { self.settle().await } else { Ok(Err(unfinished)) };
                }
            }
        }
    }

    /// The thread has ended: what came of it.
    async fn settle(&mut self) -> Attempt {
        let install = self.install.take().expect("it has begun");
        match install.end().await {
            Ok(installed) => Ok(Ok(installed.keep())),
            Err(InstallError::Snapshot(SnapshotError::Engine(error))) => Err(FetchError::Engine(error)),
            Err(InstallError::Exists(path)) => Err(FetchError::Exists(path)),
            Err(InstallError::Panicked(message)) => Err(FetchError::Panicked(message)),
            Err(
                error @ (InstallError::Snapshot(_) | InstallError::TooOld { .. } | InstallError::Abandoned),
            ) => Ok(Err(Unfinished::Spoiled(error.to_string()))),
        }
    }

    /// What comes next about the snapshot.
    async fn next(&self, reader: &mut FrameReader, trust: &mut Trust) -> Result<SnapshotFrame, Unfinished> {
        let silent = || Unfinished::Broken(format!("nothing came for {:?}", self.heard.elapsed()));
        let frame = tokio::select! {
            frame = timeout_at(self.deadline(), reader.next()) => frame.map_err(|_| silent())?,
            reason = trust.lost() => return Err(Unfinished::Broken(reason)),
        };
        let frame = match frame {
            Ok(Some(frame)) => frame,
            Ok(None) => return Err(Unfinished::Broken("it ended before its end".to_owned())),
            Err(StreamError::Frame(reason)) => return Err(Unfinished::Spoiled(reason)),
            Err(error) => return Err(Unfinished::Broken(error.to_string())),
        };
        match Frame::decode(frame, self.net.frame_bytes_max()) {
            Ok(Frame::Snapshot(frame)) => Ok(frame),
            Ok(Frame::Refusal(reason)) => Err(Unfinished::Broken(format!("refused: {reason}"))),
            Ok(_) => Err(Unfinished::Spoiled("it does not belong to a snapshot".to_owned())),
            Err(error) => Err(Unfinished::Spoiled(error.to_string())),
        }
    }
}
