//! One connection: HTTP/2 or HTTP/1.1 until it ends, idles, or the server stops.

use std::borrow::Cow;
use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::FrontDoorConfig;
use crate::tls::config::ALPN_H2;

/// Bytes of a stream, and of all streams of a connection together, that a peer may send before they are read. Not
/// adaptive: a window that grows with the delay is memory that the peer decides on.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Streams that a peer opened and reset before they were accepted: more than that, and the connection ends (the
/// "rapid reset" of CVE-2023-44487).
const RESET_STREAMS_MAX: usize = 32;

/// HTTP/1.1 only: header lines of one request.
const HEADER_LINES_MAX: usize = 64;

/// How long the other end has to take its leave, once it is told that the connection closes and nothing is under way.
const FAREWELL: Duration = Duration::from_secs(1);

/// Which HTTP was agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Http1,
    Http2,
    /// Nothing was agreed on, as on a connection without TLS: the first bytes tell.
    FromFirstBytes,
}

impl Version {
    /// What was agreed on in a TLS handshake. Who asks for nothing is a plain HTTP/1.1 client (RFC 9113, section 3.1).
    pub(super) fn of_alpn(agreed: Option<&[u8]>) -> Self {
        if agreed == Some(ALPN_H2) { Self::Http2 } else { Self::Http1 }
    }
}

/// Why a connection is to end, and how long its requests may take to.
pub(super) struct Unwanted {
    pub(super) reason: String,
    pub(super) within: Duration,
}

/// Answers requests on `io` with `answer` until the connection ends. When it idles, `stop` comes, or it is `unwanted`, requests under
/// way may end within a while.
///
/// # Errors
/// If the connection broke, or did not end in time.
pub(super) async fn serve<I, A, F, B>(
    io: I,
    version: Version,
    config: &FrontDoorConfig,
    stop: &CancellationToken,
    unwanted: impl Future<Output = Unwanted>,
    answer: A,
) -> Result<(), ConnectionError>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    let requests = Arc::new(Requests::default());
    let service = service_fn({
        let requests = Arc::clone(&requests);
        move |request| {
            let under_way = UnderWay::new(&requests);
            let answered = answer(request);
            async move { Ok::<_, Infallible>(answered.await.map(|body| Tracked { body, under_way })) }
        }
    });
    let builder = builder(version, config);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));

    // Looked at from time to time instead of a timer that each request resets: a connection that was not used since the
    // last look is idle, which it is told after one to two times the idle timeout.
    let mut look = pin!(sleep(config.head_timeout));
    let mut started_before = 0;
    let mut unwanted = pin!(unwanted);
    let mut within = config.drain_timeout;
    let why = loop {
        tokio::select! {
            result = connection.as_mut() => return result.map_err(ConnectionError::Broken),
            () = stop.cancelled() => break Cow::Borrowed("the server stops"),
            Unwanted { reason, within: patience } = unwanted.as_mut() => {
                info!(reason, "a connection is closed by this server");
                within = patience;
                break Cow::Owned(reason);
            }
            () = look.as_mut() => {
                let started = requests.started.load(Ordering::Relaxed);
                if started == started_before && requests.count() == 0 {
                    break Cow::Borrowed(if started == 0 { "no request came in time" } else { "it was idle" });
                }
                started_before = started;
                look.as_mut().reset(Instant::now() + config.idle_timeout);
            }
        }
    };
    debug!(%why, "connection is being closed");
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        result = connection => result.map_err(ConnectionError::Broken),
        () = requests.ended() => Ok(()),
        () = sleep(within) => Err(ConnectionError::NotDrained(requests.count())),
    }
}

/// How a connection may end other than by agreement.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    /// The other end went away, or did not keep to the protocol or to a limit.
    #[error("{0}")]
    Broken(Box<dyn std::error::Error + Send + Sync>),
    /// It was cut.
    #[error("cut off with {0} requests under way when the time to drain was over")]
    NotDrained(usize),
}

fn builder(version: Version, config: &FrontDoorConfig) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    match version {
        Version::Http1 => builder = builder.http1_only(),
        Version::Http2 => builder = builder.http2_only(),
        Version::FromFirstBytes => {}
    }
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(config.head_timeout)
        .max_buf_size(config.head_bytes_max as usize)
        .max_headers(HEADER_LINES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .adaptive_window(false)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(config.streams_max)
        .max_header_list_size(config.head_bytes_max)
        .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
        .keep_alive_interval(config.ping_interval)
        .keep_alive_timeout(config.ping_interval);
    builder
}

/// The requests of one connection.
#[derive(Default)]
struct Requests {
    started: AtomicU64,
    under_way: AtomicUsize,
    one_ended: Notify,
}

impl Requests {
    fn count(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }

    /// Returns when nothing has been under way for [`FAREWELL`].
    async fn ended(&self) {
        loop {
            while self.count() > 0 {
                self.one_ended.notified().await;
            }
            sleep(FAREWELL).await;
            if self.count() == 0 {
                return;
            }
        }
    }
}

/// One request, from its head to the last byte of its answer.
struct UnderWay(Arc<Requests>);

impl UnderWay {
    fn new(requests: &Arc<Requests>) -> Self {
        requests.started.fetch_add(1, Ordering::Relaxed);
        requests.under_way.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(requests))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
        self.0.one_ended.notify_one();
    }
}

pin_project! {
    /// An answer's body that keeps its request under way until it is gone.
    struct Tracked<B> {
        #[pin]
        body: B,
        under_way: UnderWay,
    }
}

impl<B: Body> Body for Tracked<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
