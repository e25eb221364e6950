//! Connections: TCP, TLS 1.3, HTTP/2, and the generated clients on top.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use connectrpc::client::{BoxFuture, ClientBody, ClientConfig, ClientTransport};
use connectrpc::{ConnectError, Protocol};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::rt::{Read, Write};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use raftmap_proto::v1::{ClusterClient, MapClient};
use rustls::AlertDescription;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;

use crate::config::Secured;
use crate::endpoint::Endpoint;

/// How long name, TCP, TLS and HTTP/2 may take together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a connection that is in use is checked, and how long the check may take: a server that is paused or cut off
/// is found out by it.
const PING_INTERVAL: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = Duration::from_secs(4);
/// What a server may send ahead of being read. Fixed, since one slow scan would teach an adaptive window too little.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// The largest message that is taken from a server: an answer of 4 MiB, or several in one message of a pipeline.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// How long a connection that nobody needs any more may take to say goodbye.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection to one server, shared by all calls to it.
#[derive(Clone)]
pub(crate) struct Transport {
    requests: SendRequest<ClientBody>,
    /// Its end ends the connection.
    _alive: Arc<oneshot::Sender<()>>,
}

impl ClientTransport for Transport {
    type ResponseBody = Incoming;
    type Error = hyper::Error;

    fn send(
        &self,
        request: Request<ClientBody>,
    ) -> BoxFuture<'static, Result<Response<Self::ResponseBody>, Self::Error>> {
        Box::pin(self.requests.clone().send_request(request))
    }
}

impl Transport {
    pub(crate) fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }
}

/// The calls that one connection offers.
pub(crate) struct Calls {
    pub(crate) map: MapClient<Transport>,
    pub(crate) cluster: ClusterClient<Transport>,
    pub(crate) transport: Transport,
}

/// Why there is no connection: nothing was sent.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("no connection within {CONNECT_TIMEOUT:?}")]
    TimedOut,
    #[error("connect: {0}")]
    Tcp(String),
    #[error("TLS: {0}")]
    Tls(String),
    #[error("TLS: {0}")]
    Certificate(String),
    #[error("HTTP/2: {0}")]
    Http(String),
}

/// Connects to `endpoint`.
pub(crate) async fn dial(endpoint: &Endpoint, secured: Option<&Secured>) -> Result<Calls, DialError> {
    let transport = tokio::time::timeout(CONNECT_TIMEOUT, connect(endpoint, secured.map(|it| &it.tls)))
        .await
        .map_err(|_| DialError::TimedOut)??;
    let headers = secured.map(|it| it.headers.clone()).unwrap_or_default();
    let config = ClientConfig::new(endpoint.uri(secured.is_some()))
        .with_protocol(Protocol::Grpc)
        .with_default_headers(headers)
        .with_default_max_message_size(MESSAGE_BYTES_MAX);
    Ok(Calls {
        map: MapClient::new(transport.clone(), config.clone()),
        cluster: ClusterClient::new(transport.clone(), config),
        transport,
    })
}

async fn connect(
    endpoint: &Endpoint,
    tls: Option<&Arc<rustls::ClientConfig>>,
) -> Result<Transport, DialError> {
    let failed = |e: io::Error| DialError::Tcp(e.to_string());
    let tcp = TcpStream::connect(endpoint.address()).await.map_err(failed)?;
    tcp.set_nodelay(true).map_err(failed)?;
    let Some(tls) = tls else {
        return handshake(TokioIo::new(tcp)).await;
    };
    let stream =
        TlsConnector::from(Arc::clone(tls)).connect(endpoint.server_name(), tcp).await.map_err(|e| {
            match server_not_believed(&e) {
                true => DialError::Certificate(e.to_string()),
                false => DialError::Tls(e.to_string()),
            }
        })?;
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(DialError::Tls("the server does not speak HTTP/2".to_owned()));
    }
    handshake(TokioIo::new(stream)).await
}

async fn handshake<T: Read + Write + Unpin + Send + 'static>(io: T) -> Result<Transport, DialError> {
    let (requests, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .adaptive_window(false)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .handshake(io)
        .await
        .map_err(|e| DialError::Http(with_causes(&e)))?;
    let (alive, released) = oneshot::channel();
    tokio::spawn(async move {
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            // How it ended, the calls on it are told.
            _ = &mut connection => {}
            _ = released => drop(tokio::time::timeout(GOODBYE_TIMEOUT, connection).await),
        }
    });
    Ok(Transport { requests, _alive: Arc::new(alive) })
}

/// Whether a handshake failed by the server's certificate.
fn server_not_believed(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
}

/// Whether a connection ended because the server refused the client's certificate, by an alert that comes after the
/// client's side of the handshake (RFC 8446, section 4.4.2.4): the client may have sent requests by then, of which the
/// server has read none. The text is all that HTTP/2 keeps of what ended a connection.
pub(crate) fn client_not_believed(error: &ConnectError) -> bool {
    const ALERTS: [AlertDescription; 9] = [
        AlertDescription::CertificateRequired,
        AlertDescription::BadCertificate,
        AlertDescription::UnsupportedCertificate,
        AlertDescription::CertificateRevoked,
        AlertDescription::CertificateExpired,
        AlertDescription::CertificateUnknown,
        AlertDescription::UnknownCA,
        // Of another authority that has the name of the right one.
        AlertDescription::DecryptError,
        AlertDescription::AccessDenied,
    ];
    let text = with_causes(error);
    ALERTS.iter().any(|alert| text.ends_with(&rustls::Error::AlertReceived(*alert).to_string()))
}

/// An error and all that lies behind it, in one line: hyper and h2 keep the cause for the last link.
pub(crate) fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
