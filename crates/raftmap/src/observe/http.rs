//! The port for operators and their machines: `/metrics`, `/healthz`, `/readyz`, over plain HTTP/1.1.
//!
//! It tells nothing of what is in the map, and changes nothing; still it belongs on an address that strangers do not
//! reach.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{interval, sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::debug;

/// Connections at once; one more waits.
const CONNECTIONS_MAX: usize = 32;

/// How long a connection may last, from its first byte to its last: scrapers come again.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a request head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest request head, in bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Samples of histograms pile up until somebody reads them, or until they are added up here.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(10);

/// After a failed accept: each further try would fail at once, too.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(100);

/// Whether a node can take requests now; if not, why.
pub type Readiness = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The port while it is open. It closes when this is dropped.
pub struct Observation {
    address: SocketAddr,
    _open: DropGuard,
}

/// What the port tells of.
struct Told {
    metrics: PrometheusHandle,
    readiness: Readiness,
}

impl Observation {
    /// Opens the port on `listener`. `/healthz` answers 200 as long as the process runs, `/readyz` 200 or 503 with the
    /// reason, as `readiness` says.
    ///
    /// # Errors
    /// If the listener does not know its address.
    pub fn open(listener: TcpListener, metrics: PrometheusHandle, readiness: Readiness) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(upkeep(metrics.clone())));
        let told = Arc::new(Told { metrics, readiness });
        tokio::spawn(stop.clone().run_until_cancelled_owned(accept(listener, told, stop.clone())));
        Ok(Self { address, _open: stop.drop_guard() })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

async fn upkeep(metrics: PrometheusHandle) {
    let mut ticks = interval(UPKEEP_INTERVAL);
    loop {
        ticks.tick().await;
        metrics.run_upkeep();
    }
}

async fn accept(listener: TcpListener, told: Arc<Told>, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((socket, address)) => {
                let connection = serve(socket, Arc::clone(&told));
                tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
                    match timeout(CONNECTION_TIMEOUT, connection).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => debug!(%address, %error, "disconnected"),
                        Err(_) => debug!(%address, "disconnected: it lasted too long"),
                    }
                    drop(place);
                }));
            }
            Err(error) => {
                debug!(%error, "a connection could not be accepted");
                sleep(PAUSE_AFTER_FAILURE).await;
            }
        }
    }
}

async fn serve(socket: TcpStream, told: Arc<Told>) -> hyper::Result<()> {
    let service = service_fn(move |request| {
        let response = told.answer(&request);
        async move { Ok::<_, Infallible>(response) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(socket), service)
        .await
}

impl Told {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "GET alone\n".to_owned());
        }
        match request.uri().path() {
            "/metrics" => {
                let mut response = text(StatusCode::OK, self.metrics.render());
                let form = header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                response.headers_mut().insert(header::CONTENT_TYPE, form);
                response
            }
            "/healthz" => text(StatusCode::OK, "ok\n".to_owned()),
            "/readyz" => match (self.readiness)() {
                Ok(()) => text(StatusCode::OK, "ready\n".to_owned()),
                Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
            },
            _ => text(StatusCode::NOT_FOUND, "/metrics, /healthz or /readyz\n".to_owned()),
        }
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
}
