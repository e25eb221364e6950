//! Keeps a connection to one peer: dials, and dials again.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::connection::Connection;
use super::grpc::{self, FrameReader, FrameWriter, Rpc, StreamError};
use super::hello::{Direction, Proof, Unwelcome};
use super::peer::Peer;
use super::security::Secured;
use super::session::{FirstWord, Greeted, Unmet, attend};
use super::{Net, PeerEvent, PeerSink, Refusal};

/// Dials a peer whenever there is no connection to it, until it is forgotten or the server stops; a connection that
/// stands then goes on. Of two servers the one with
/// the lower id dials; if it does not, since it has not heard of the other one, that does.
pub(super) async fn run<S: PeerSink>(net: Arc<Net>, sink: Arc<S>, peer: Arc<Peer>) {
    let over = peer.forgotten();
    let id = peer.id;
    let patience = if net.member.node_id < id { Duration::ZERO } else { net.limits.dial_patience };
    let mut backoff = Backoff::new(net.limits.redial_min, net.limits.redial_max);
    let mut said = String::new();
    loop {
        tokio::select! {
            () = peer.unconnected_for(patience) => {}
            () = over.cancelled() => return,
            () = net.stop.cancelled() => return,
        }
        let dialed = tokio::select! {
            dialed = timeout(net.limits.handshake_timeout, dial(&net, &peer, Rpc::Stream)) => dialed,
            () = over.cancelled() => return,
            () = net.stop.cancelled() => return,
        };
        match dialed.unwrap_or(Err(Unmet::Late(net.limits.handshake_timeout))) {
            Ok(greeted) => {
                backoff.reset();
                said.clear();
                if attend(&net, &*sink, &peer, greeted).await {
                    backoff.refused(net.limits.redial_refused);
                }
            }
            Err(unmet) => {
                peer.meters.dial_failed();
                let reason = unmet.to_string();
                let address = peer.address();
                // Said once, and again when it changes: a peer that is down would fill the log.
                if reason == said {
                    debug!(peer = %id, address, reason, "still not connected");
                } else {
                    warn!(peer = %id, address, reason, "not connected");
                    said = reason;
                }
                if matches!(unmet, Unmet::Refused(_) | Unmet::RefusedBy { .. }) {
                    backoff.refused(net.limits.redial_refused);
                }
                if let Unmet::RefusedBy { refusal, .. } = unmet {
                    let _ = net.deliver(&*sink, PeerEvent::Refused { by: id, refusal }).await;
                }
            }
        }
        tokio::select! {
            () = sleep(backoff.next()) => {}
            () = over.cancelled() => return,
            () = net.stop.cancelled() => return,
        }
    }
}

/// Makes a connection to the peer for a call, on which both sides have said who they are.
pub(super) async fn dial(net: &Net, peer: &Peer, rpc: Rpc) -> Result<Greeted, Unmet> {
    let broken = |reason: String| Unmet::Broken(reason);
    let known = match rpc {
        Rpc::Stream => peer.address(),
        Rpc::Snapshot => peer.address_for_snapshots(),
    };
    let Some(dialed) = known else { return Err(broken("nobody has said where it is".to_owned())) };
    let socket = TcpStream::connect(&dialed).await.map_err(|error| broken(error.to_string()))?;
    let address = socket.peer_addr().map_err(|error| broken(error.to_string()))?;
    // What leaves together was gathered above: nothing is to wait for more.
    socket.set_nodelay(true).map_err(|error| broken(error.to_string()))?;
    let host = dialed.rsplit_once(':').map_or(&*dialed, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let Secured { io, proof, trust } = net.security.connect(socket, host).await.map_err(broken)?;
    let (connection, requests) = Connection::of_dialed(io, &net.limits)
        .await
        .map_err(|error| broken(format!("{error}{}", net.security.hint())))?;
    match call(net, peer, (rpc, &dialed), requests, proof).await {
        Ok((hello, reader, writer)) => Ok(Greeted { rpc, hello, address, connection, reader, writer, trust }),
        Err(Failed::Unwelcome(writer, reason)) => Err(net.turn_away(connection, *writer, reason).await),
        Err(Failed::RefusedBy(refusal)) => Err(Unmet::RefusedBy { by: Some(peer.id), refusal }),
        Err(Failed::Broken(error)) => {
            let reason = connection.lost().await.map_or_else(|| error.to_string(), |lost| lost.to_string());
            Err(broken(format!("{reason}{}", net.security.hint())))
        }
    }
}

/// Why a call came to nothing.
enum Failed {
    /// The peer is to be told this.
    Unwelcome(Box<FrameWriter>, String),
    RefusedBy(Refusal),
    Broken(StreamError),
}

impl From<h2::Error> for Failed {
    fn from(error: h2::Error) -> Self {
        Self::Broken(error.into())
    }
}

impl From<StreamError> for Failed {
    fn from(error: StreamError) -> Self {
        Self::Broken(error)
    }
}

async fn call(
    net: &Net,
    peer: &Peer,
    (rpc, address): (Rpc, &str),
    requests: h2::client::SendRequest<bytes::Bytes>,
    proof: Result<Proof, Unwelcome>,
) -> Result<(super::hello::Hello, FrameReader, FrameWriter), Failed> {
    let request = grpc::request(rpc, net.security.scheme(), address)
        .map_err(|error| StreamError::Answer(error.to_string()))?;
    let (response, stream) = requests.ready().await?.send_request(request, false)?;
    let mut writer = FrameWriter::of_client(stream);
    let refuse = |writer, reason: String| Failed::Unwelcome(Box::new(writer), reason);
    let proof = match proof {
        Ok(Proof::Certificate(found)) if found != peer.id => {
            Err(Unwelcome::NotTheDialed { dialed: peer.id, found })
        }
        proof => proof,
    };
    // Before the hello: who is not the one that was dialed is told nothing.
    let proof = match proof {
        Ok(proof) => proof,
        Err(unwelcome) => return Err(refuse(writer, unwelcome.to_string())),
    };
    net.greet(peer.id, &mut writer).await?;
    let response = response.await?;
    grpc::check_answer(&response)?;
    let mut reader = FrameReader::new(response.into_body(), net.frame_bytes_max());
    match net.first_word(&mut reader).await? {
        FirstWord::Hello(hello) => match net.check(&hello, proof, Direction::Dialed(peer.id)) {
            Ok(()) => Ok((hello, reader, writer)),
            Err(unwelcome) => Err(refuse(writer, unwelcome.to_string())),
        },
        FirstWord::Refusal(refusal) => Err(Failed::RefusedBy(refusal)),
        FirstWord::Nonsense(reason) => Err(refuse(writer, reason)),
    }
}

/// How long to wait before the next attempt: twice as long each time, up to a limit, and between half and all of that by
/// chance, so that servers that lost each other at once do not come back at once.
pub(super) struct Backoff {
    min: Duration,
    max: Duration,
    current: Duration,
}

impl Backoff {
    pub(super) fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, current: min }
    }

    pub(super) fn reset(&mut self) {
        self.current = self.min;
    }

    /// The next wait is this long: what was refused will be refused again, until an operator has done something.
    fn refused(&mut self, wait: Duration) {
        self.current = wait;
    }

    pub(super) fn next(&mut self) -> Duration {
        let wait = self.current.mul_f64(fastrand::f64().midpoint(1.0));
        self.current = (self.current * 2).min(self.max);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_the_limit_and_begin_anew() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(50), ms(1000));
        for full in [50, 100, 200, 400, 800, 1000, 1000] {
            let wait = backoff.next();
            assert!(ms(full) / 2 <= wait && wait <= ms(full), "{wait:?} of {full} ms");
        }
        backoff.reset();
        assert!(backoff.next() <= ms(50));
        backoff.refused(ms(5000));
        assert!(backoff.next() >= ms(2500));
        assert!(backoff.next() <= ms(1000));
    }
}
