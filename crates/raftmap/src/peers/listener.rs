//! Takes connections of peers, and finds out who they are.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::connection::{Call, Connection, LINGER};
use super::grpc::{self, FrameReader, Rpc};
use super::hello::{Proof, Unwelcome};
use super::meters;
use super::security::Secured;
use super::session::{FirstWord, Greeted, Unmet, attend};
use super::snapshots;
use super::{Net, PeerEvent, PeerSink};
use crate::tls::renewal::Trust;

/// The process is out of file descriptors, or the like: each further try would fail at once, too.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(100);

/// Accepts connections until the server stops.
pub(super) async fn run<S: PeerSink>(net: Arc<Net>, sink: Arc<S>, listener: TcpListener) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = net.stop.cancelled() => return,
        };
        match accepted {
            Ok((socket, address)) => {
                net.tasks.spawn(take(Arc::clone(&net), Arc::clone(&sink), socket, address));
            }
            Err(error) => {
                warn!(%error, "a connection could not be accepted");
                sleep(PAUSE_AFTER_FAILURE).await;
            }
        }
    }
}

async fn take<S: PeerSink>(net: Arc<Net>, sink: Arc<S>, socket: TcpStream, address: SocketAddr) {
    let place = net.strangers.place();
    let met = tokio::select! {
        met = timeout(net.limits.handshake_timeout, meet(&net, socket, address)) => {
            met.unwrap_or(Err(Unmet::Late(net.limits.handshake_timeout)))
        }
        () = place.lost() => Err(Unmet::Crowded(net.limits.handshakes_max)),
        () = net.stop.cancelled() => return,
    };
    drop(place);
    let unmet = match met {
        Ok(greeted) => {
            net.strangers.forget(address.ip());
            let peer = net.peer_or_new(greeted.hello.member.node_id);
            match greeted.rpc {
                Rpc::Stream => drop(attend(&net, &*sink, &peer, greeted).await),
                Rpc::Snapshot => snapshots::serve(&net, &peer, greeted).await,
            }
            return;
        }
        Err(unmet) => unmet,
    };
    meters::stranger();
    let reason = unmet.to_string();
    if net.strangers.is_news(address.ip(), &reason) {
        warn!(%address, reason, "a connection to the port for servers came to nothing");
    } else {
        debug!(%address, reason, "again a connection to the port for servers came to nothing");
    }
    if let Unmet::RefusedBy { by: Some(by), refusal } = unmet {
        let _ = net.deliver(&*sink, PeerEvent::Refused { by, refusal }).await;
    }
}

async fn meet(net: &Net, socket: TcpStream, address: SocketAddr) -> Result<Greeted, Unmet> {
    // What leaves together was gathered above: nothing is to wait for more.
    socket.set_nodelay(true).map_err(|error| Unmet::Broken(error.to_string()))?;
    let Secured { io, proof, trust } = net.security.accept(socket).await.map_err(Unmet::Broken)?;
    let hinted = |reason: String| Unmet::Broken(format!("{reason}{}", net.security.hint()));
    let (connection, mut calls) =
        Connection::of_accepted(io, &net.limits).await.map_err(|lost| hinted(lost.to_string()))?;
    match calls.recv().await {
        Some(call) => answer(net, address, connection, call, (proof, trust)).await,
        None => {
            let lost = connection.lost().await;
            Err(hinted(lost.map_or_else(|| "closed without a call".to_owned(), |lost| lost.to_string())))
        }
    }
}

async fn answer(
    net: &Net,
    address: SocketAddr,
    connection: Connection,
    (request, mut respond): Call,
    (proof, trust): (Result<Proof, Unwelcome>, Trust),
) -> Result<Greeted, Unmet> {
    let Some(rpc) = Rpc::of(&request) else {
        let reason = format!("there is no call {} {}", request.method(), request.uri().path());
        if grpc::decline(&mut respond).is_ok() {
            connection.finish(LINGER).await;
        }
        return Err(Unmet::Refused(reason));
    };
    let broken = |error: h2::Error| Unmet::Broken(error.to_string());
    let mut writer = grpc::accept(&mut respond).map_err(broken)?;
    let mut reader = FrameReader::new(request.into_body(), net.frame_bytes_max());
    let proof = match proof {
        Ok(proof) => proof,
        Err(unwelcome) => return Err(net.turn_away(connection, writer, unwelcome.to_string()).await),
    };
    let reason = match net.first_word(&mut reader).await {
        Ok(FirstWord::Hello(hello)) => match net.check_caller(&hello, proof, rpc) {
            Ok(()) => {
                net.greet(hello.member.node_id, &mut writer).await.map_err(broken)?;
                return Ok(Greeted { rpc, hello, address, connection, reader, writer, trust });
            }
            Err(unwelcome) => unwelcome.to_string(),
        },
        Ok(FirstWord::Nonsense(reason)) => reason,
        Ok(FirstWord::Refusal(refusal)) => {
            let proven = match proof {
                Proof::Certificate(id) => Some(id),
                Proof::Nothing => None,
            };
            return Err(Unmet::RefusedBy { by: proven.filter(|id| net.peer(*id).is_some()), refusal });
        }
        Err(error) => {
            let lost = connection.lost().await;
            return Err(Unmet::Broken(lost.map_or_else(|| error.to_string(), |lost| lost.to_string())));
        }
    };
    Err(net.turn_away(connection, writer, reason).await)
}
