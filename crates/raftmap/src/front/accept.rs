//! Takes connections, and gets each through its handshake.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use connectrpc::Dispatcher;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::access::{Admission, Caller};
use super::connection::{self, Unwanted, Version};
use super::gate::Gate;
use super::meters::{Held, Meters};
use super::places::{Place, Places};
use super::{FrontDoorConfig, Security};
use crate::tls::renewal::{ServerTls, Trust};

/// The process is out of file descriptors, or the like: each further try would fail at once, too.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(100);

/// A connection on which nothing comes for so long is asked whether its other end is there (RFC 9293, section 3.8.4) ...
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
/// ... and again so often, until the kernel gives it up: after nine times.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);

/// What all connections share.
pub(super) struct Door<D> {
    security: Security,
    admission: Admission,
    config: Arc<FrontDoorConfig>,
    meters: Arc<Meters>,
    stop: CancellationToken,
    gate: Arc<Gate<D>>,
    connections: Arc<Places>,
    handshakes: Arc<Places>,
}

impl<D: Dispatcher> Door<D> {
    pub(super) fn new(
        security: Security,
        admission: Admission,
        config: Arc<FrontDoorConfig>,
        meters: Arc<Meters>,
        stop: CancellationToken,
        gate: Arc<Gate<D>>,
    ) -> Self {
        let each = config.connections_per_address_max;
        let connections = Places::new(config.connections_max, each);
        // Who takes all that one address may have, and finishes no handshake, leaves half of them to others.
        let handshakes = Places::new(config.handshakes_max, each.min(config.handshakes_max.div_ceil(2)));
        Self { security, admission, config, meters, stop, gate, connections, handshakes }
    }

    /// Takes connections until the door stops; they end in tasks of `tracker`.
    pub(super) async fn accept(self: Arc<Self>, listener: TcpListener, tracker: TaskTracker) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.cancelled() => return,
            };
            match accepted {
                Ok((socket, address)) => {
                    tracker.spawn(Arc::clone(&self).take(socket, address));
                }
                Err(error) => {
                    warn!(%error, "a connection could not be accepted");
                    sleep(PAUSE_AFTER_FAILURE).await;
                }
            }
        }
    }

    async fn take(self: Arc<Self>, socket: TcpStream, address: SocketAddr) {
        let Some(_place) = self.place(&self.connections, address, "connections") else { return };
        // Small answers leave at once: batching is done above, where it is known what is ready. Who is gone without a word is found
        // missing, also where nothing is sent: on a watch over HTTP/1.1, say.
        let alive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY);
        let set = socket.set_nodelay(true).and_then(|()| SockRef::from(&socket).set_tcp_keepalive(&alive));
        if let Err(error) = set {
            debug!(%address, %error, "the connection broke at once");
            return;
        }
        let _counted = Held::new(&self.meters.connections);
        match &self.security {
            Security::Plaintext => {
                let caller = Caller::new(address, &self.admission, None);
                self.serve(socket, Version::FromFirstBytes, caller, Trust::in_nothing()).await;
            }
            Security::Tls(tls) => self.secure(socket, address, tls).await,
        }
    }

    async fn secure(&self, socket: TcpStream, address: SocketAddr, security: &ServerTls) {
        let Some(place) = self.place(&self.handshakes, address, "handshakes") else { return };
        let (settings, changes) = security.begin();
        let acceptor = TlsAcceptor::from(settings.config);
        let handshake = timeout(self.config.handshake_timeout, acceptor.accept(socket));
        let stream = tokio::select! {
            handshake = handshake => match handshake {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    self.meters.handshakes_refused.increment(1);
                    info!(%address, reason = %error, "handshake refused");
                    return;
                }
                Err(_) => {
                    self.meters.handshakes_refused.increment(1);
                    info!(%address, limit = ?self.config.handshake_timeout, "handshake not finished in time");
                    return;
                }
            },
            () = self.stop.cancelled() => return,
        };
        drop(place);
        let (_, tls) = stream.get_ref();
        let version = Version::of_alpn(tls.alpn_protocol());
        let caller = Caller::new(address, &self.admission, tls.peer_certificates());
        if let Some(reason) = caller.refusal() {
            info!(%address, %reason, "the certificate is of no use here: all requests are refused");
        }
        let trust = changes.trust(tls.peer_certificates());
        self.serve(stream, version, caller, trust).await;
    }

    async fn serve<I>(&self, io: I, version: Version, caller: Caller, mut trust: Trust)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        debug!(%caller, ?version, "connected");
        let answer = {
            let (gate, caller) = (Arc::clone(&self.gate), caller.clone());
            move |request| {
                let (gate, caller) = (Arc::clone(&gate), caller.clone());
                async move { gate.answer(caller, request).await }
            }
        };
        let unwanted = async {
            tokio::select! {
                reason = trust.lost() => {
                    caller.distrust();
                    Unwanted { reason, within: self.config.drain_timeout }
                }
                () = caller.guesses_too_much() => {
                    let reason = "it has shown too many tokens that are nobody's".to_owned();
                    Unwanted { reason, within: Duration::ZERO }
                }
            }
        };
        match connection::serve(io, version, &self.config, &self.stop, unwanted, answer).await {
            Ok(()) => debug!(%caller, "disconnected"),
            Err(error) => debug!(%caller, %error, "disconnected"),
        }
    }

    fn place(&self, places: &Arc<Places>, address: SocketAddr, what: &'static str) -> Option<Place> {
        let place = places.take(address.ip());
        if let Err(full) = &place {
            self.meters.connections_refused.increment(1);
            info!(%address, what, limit = %full, "a connection was closed unanswered: the limit is reached");
        }
        place.ok()
    }
}
