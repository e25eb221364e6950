//! A connection on which both sides have said who they are: batches both ways until it ends.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use raftmap_raft::NodeId;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::connection::{Connection, LINGER};
use super::grpc::{FrameReader, FrameWriter, Rpc, Status, StreamError};
use super::hello::{Direction, Hello, Proof, Unwelcome};
use super::meters::Dropped;
use super::outbox::{Outbox, Outgoing};
use super::peer::Peer;
use super::wire::Frame;
use super::{Net, PeerEvent, PeerInfo, PeerSink, Refusal};
use crate::tls::renewal::Trust;

/// Messages that wait together leave in frames of about this size.
const FRAME_BYTES: usize = 1 << 20;

/// A connection whose both ends know each other.
#[derive(Debug)]
pub(super) struct Greeted {
    pub(super) rpc: Rpc,
    pub(super) hello: Hello,
    pub(super) address: SocketAddr,
    pub(super) connection: Connection,
    pub(super) reader: FrameReader,
    pub(super) writer: FrameWriter,
    /// Whether who the other end is, is still proven.
    pub(super) trust: Trust,
}

/// Why a connection came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unmet {
    /// This server does not want the other one, and told it.
    #[error("refused: {0}")]
    Refused(String),
    /// The other server does not want this one.
    #[error("refused by the other side: {refusal}")]
    RefusedBy {
        /// Who it is, if it proved that.
        by: Option<NodeId>,
        /// In its words.
        refusal: Refusal,
    },
    /// It broke, or never stood.
    #[error("{0}")]
    Broken(String),
    /// Others came after it.
    #[error("closed for newer connections: there were more than {0} that had not said who they are")]
    Crowded(usize),
    /// It took too long.
    #[error("not finished within {0:?}")]
    Late(Duration),
}

/// How the other side began.
pub(super) enum FirstWord {
    Hello(Hello),
    Refusal(Refusal),
    /// With something that no server of this version sends.
    Nonsense(String),
}

impl Net {
    /// What the other side says first.
    pub(super) async fn first_word(&self, reader: &mut FrameReader) -> Result<FirstWord, StreamError> {
        let frame = match reader.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return Err(StreamError::Truncated),
            Err(StreamError::Frame(reason)) => return Ok(FirstWord::Nonsense(reason)),
            Err(error) => return Err(error),
        };
        Ok(match Frame::decode(frame, self.frame_bytes_max()) {
            Ok(Frame::Hello(hello)) => FirstWord::Hello(hello),
            Ok(Frame::Refusal(refusal)) => FirstWord::Refusal(refusal),
            Ok(Frame::Batch(_) | Frame::Snapshot(_)) => {
                FirstWord::Nonsense("something else came before the hello".to_owned())
            }
            Err(error) => FirstWord::Nonsense(error.to_string()),
        })
    }

    /// Whether who says this is welcome; see [`Hello::check`].
    pub(super) fn check(&self, hello: &Hello, proof: Proof, direction: Direction) -> Result<(), Unwelcome> {
        hello.check(&self.hello(hello.member.node_id), proof, direction)
    }

    /// Whether a server that called is welcome: to be heard, also one that is not known; to the state, members alone.
    pub(super) fn check_caller(&self, hello: &Hello, proof: Proof, rpc: Rpc) -> Result<(), Unwelcome> {
        self.check(hello, proof, Direction::Accepted)?;
        let id = hello.member.node_id;
        let peer = self.caller(id)?;
        match rpc {
            Rpc::Snapshot if peer.address().is_none() => Err(Unwelcome::Unknown(id)),
            _ => Ok(()),
        }
    }

    /// Says hello to `peer`.
    pub(super) async fn greet(&self, peer: NodeId, writer: &mut FrameWriter) -> Result<(), h2::Error> {
        self.send_small(writer, Frame::Hello(self.hello(peer))).await
    }

    /// Tells the other side why it may not take part, and waits a while for it to leave.
    pub(super) async fn turn_away(
        &self,
        connection: Connection,
        mut writer: FrameWriter,
        reason: String,
    ) -> Unmet {
        if self.send_small(&mut writer, Frame::Refusal(reason.clone().into())).await.is_ok() {
            let _ = writer.end(Status::FailedPrecondition);
        }
        connection.finish(LINGER).await;
        Unmet::Refused(reason)
    }

    /// Sends a frame that carries nothing of what clients wrote but a key.
    pub(super) async fn send_small(&self, writer: &mut FrameWriter, frame: Frame) -> Result<(), h2::Error> {
        let frame = frame.encode(self.frame_bytes_max());
        writer.send(frame.expect("texts are cut, and a key is smaller than any frame limit")).await
    }
}

/// How a session ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the peer connected anew")]
    Replaced,
    #[error("this server stops")]
    Stopped,
    #[error("the peer ended it")]
    Closed,
    #[error("refused: {0}")]
    Refused(Refusal),
    #[error("refused by the peer: {0}")]
    RefusedBy(Refusal),
    #[error("{0}")]
    Distrusted(String),
    #[error("{0}")]
    Broken(String),
}

/// Carries batches over the connection until it ends, or until a newer one takes its place. One connection at a time
/// speaks for a peer, and its events come in order. Says whether one side refused the other.
pub(super) async fn attend(net: &Net, sink: &impl PeerSink, peer: &Peer, greeted: Greeted) -> bool {
    let Greeted { rpc: _, hello, address, connection, mut reader, mut writer, mut trust } = greeted;
    let replaced = peer.take_over();
    let turn = tokio::select! {
        biased;
        () = replaced.cancelled() => return false,
        () = net.cut.cancelled() => return false,
        turn = peer.turn() => turn,
    };
    let Hello { version, level, client_address, peer_address, damaged, member, .. } = hello;
    let info = PeerInfo { address, client_address, peer_address, version, level, damaged };
    let outbox = peer.open(member, info.clone());
    let connected = tokio::select! {
        biased;
        () = replaced.cancelled() => false,
        result = net.deliver(sink, PeerEvent::Connected { member, info: info.clone() }) => result.is_ok(),
    };
    if !connected {
        peer.close();
        return false;
    }
    info!(peer = %peer.id, %address, version = info.version, level, damaged, "connected");

    let session = Session { net, sink, peer, outbox: &outbox };
    let ended = tokio::select! {
        ended = session.run(&mut reader, &mut writer, &replaced) => ended,
        reason = trust.lost() => Ended::Distrusted(reason),
    };
    peer.close();
    // The sink may be gone; then nobody needs to know.
    let _ = net.deliver(sink, PeerEvent::Lost(peer.id)).await;
    if let Ended::RefusedBy(refusal) = &ended {
        let _ = net.deliver(sink, PeerEvent::Refused { by: peer.id, refusal: refusal.clone() }).await;
    }
    drop(turn);
    let refused = matches!(ended, Ended::Refused(_) | Ended::RefusedBy(_));
    part(net, peer, address, connection, ended).await;
    refused
}

/// Tells the operator why a connection ended, and the other side what it is still to hear.
async fn part(net: &Net, peer: &Peer, address: SocketAddr, connection: Connection, ended: Ended) {
    let peer = peer.id;
    match ended {
        Ended::Refused(Refusal { reason, .. }) => {
            warn!(%peer, %address, reason, "the peer is refused");
            connection.finish(LINGER).await;
        }
        Ended::Distrusted(reason) => warn!(%peer, %address, reason, "the connection is closed"),
        Ended::RefusedBy(Refusal { reason, .. }) => {
            warn!(%peer, %address, reason, "the peer refuses this server")
        }
        Ended::Broken(reason) => {
            let reason = connection.lost().await.map_or(reason, |lost| lost.to_string());
            warn!(%peer, %address, reason, "the connection is lost");
        }
        Ended::Stopped => tokio::select! {
            () = connection.finish(net.limits.stop_timeout) => {}
            () = net.cut.cancelled() => {}
        },
        Ended::Replaced | Ended::Closed => info!(%peer, %address, reason = %ended, "disconnected"),
    }
}

struct Session<'a, S> {
    net: &'a Net,
    sink: &'a S,
    peer: &'a Peer,
    outbox: &'a Outbox,
}

/// How the reading of a connection ended.
enum Read {
    Ended(Ended),
    /// The peer sent what no correct one sends.
    Nonsense(String),
}

impl<S: PeerSink> Session<'_, S> {
    async fn run(
        &self,
        reader: &mut FrameReader,
        writer: &mut FrameWriter,
        replaced: &CancellationToken,
    ) -> Ended {
        let mut reading = pin!(self.read(reader));
        let mut writing = pin!(self.write(writer));
        let mut stopping = false;
        loop {
            tokio::select! {
                biased;
                () = replaced.cancelled() => return Ended::Replaced,
                () = self.net.cut.cancelled() => return Ended::Stopped,
                () = self.net.stop.cancelled(), if !stopping => {
                    self.outbox.stop();
                    stopping = true;
                }
                refusal = self.outbox.refused() => {
                    // A peer that does not read its refusal is not waited for.
                    let _ = timeout(LINGER, writing).await;
                    return Ended::Refused(refusal);
                }
                written = &mut writing => {
                    let Err(error) = written else { return Ended::Stopped };
                    // What the peer said last may explain it.
                    return match timeout(LINGER, reading).await {
                        Ok(Read::Ended(ended)) => ended,
                        Ok(Read::Nonsense(reason)) => Ended::Broken(reason),
                        Err(_) => Ended::Broken(error.to_string()),
                    };
                }
                read = &mut reading => match read {
                    Read::Ended(ended) => return ended,
                    Read::Nonsense(reason) => {
                        let refusal = Refusal::from(reason);
                        self.outbox.refuse(refusal.clone());
                        let _ = timeout(LINGER, writing).await;
                        return Ended::Refused(refusal);
                    }
                },
            }
        }
    }

    /// Hands on what comes, until the stream ends. Reads no further while there is no room for what came.
    async fn read(&self, reader: &mut FrameReader) -> Read {
        loop {
            let frame = match reader.next().await {
                Ok(Some(frame)) => frame,
                Ok(None) => return Read::Ended(Ended::Closed),
                Err(StreamError::Frame(reason)) => return Read::Nonsense(reason),
                Err(error) => return Read::Ended(Ended::Broken(error.to_string())),
            };
            self.peer.meters.received(frame.len());
            let room = self.peer.room(frame.len()).await;
            let batch = match Frame::decode(frame, self.net.frame_bytes_max()) {
                Ok(Frame::Batch(batch)) => batch,
                Ok(Frame::Refusal(refusal)) => return Read::Ended(Ended::RefusedBy(refusal)),
                Ok(Frame::Hello(_)) => return Read::Nonsense("a second hello".to_owned()),
                Ok(Frame::Snapshot(_)) => {
                    return Read::Nonsense("a snapshot has a call of its own".to_owned());
                }
                Err(error) => return Read::Nonsense(error.to_string()),
            };
            let received = PeerEvent::Received { from: self.peer.id, batch, room };
            if self.net.deliver(self.sink, received).await.is_err() {
                return Read::Ended(Ended::Stopped);
            }
        }
    }

    /// Sends what gathers, until the stream is to end. What waits is taken only when there is room for it on the way, so
    /// that as much as possible leaves together.
    async fn write(&self, writer: &mut FrameWriter) -> Result<(), h2::Error> {
        let frame_bytes_max = self.net.frame_bytes_max();
        let frame_bytes = FRAME_BYTES.min(frame_bytes_max / 2);
        loop {
            writer.room().await?;
            let outgoing = tokio::select! {
                outgoing = self.outbox.next(frame_bytes) => outgoing,
                error = writer.lost() => return Err(error),
            };
            let batch = match outgoing {
                Outgoing::Batch(batch) => batch,
                Outgoing::Refusal(refusal) => {
                    self.net.send_small(writer, Frame::Refusal(refusal)).await?;
                    return writer.end(Status::FailedPrecondition);
                }
                Outgoing::End => return writer.end(Status::Ok),
            };
            match Frame::Batch(batch).encode(frame_bytes_max) {
                Ok(frame) => {
                    self.peer.meters.sent(frame.len());
                    writer.send(frame).await?;
                }
                Err(too_large) => {
                    self.peer.meters.dropped(Dropped::TooLarge);
                    error!(peer = %self.peer.id, error = %too_large, "a message was not sent: the limits do not fit together");
                }
            }
        }
    }
}
