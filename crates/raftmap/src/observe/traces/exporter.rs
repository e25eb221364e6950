//! Sends spans to a collector, by OTLP over HTTP.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http::uri::{InvalidUri, PathAndQuery, Scheme, Uri};
use http::{Request, StatusCode, header};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use metrics::{Counter, counter};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Span, otlp};

/// How many spans go into one request.
const BATCH_MAX: usize = 512;
/// How long spans gather.
const GATHER: Duration = Duration::from_millis(500);
/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the spans of a server that stops may take.
const LAST_PATIENCE: Duration = Duration::from_secs(1);
/// How long to wait before each further try; then the spans are dropped.
const PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
/// The port of OTLP over HTTP.
const PORT: u16 = 4318;
/// The path of traces, if the address has none.
const PATH: &str = "/v1/traces";

/// Where spans go: `http://HOST[:4318][/v1/traces]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    host: String,
    port: u16,
    path: PathAndQuery,
}

/// Why an address is none of a collector.
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {
    /// It is no address.
    #[error("{0}; write it as http://127.0.0.1:4318")]
    Address(#[from] InvalidUri),
    /// It is one of another kind.
    #[error(
        "spans are sent over plain http:// only: write http://HOST:PORT, of a collector on this machine or in its network, which passes \
         them on as it likes"
    )]
    Scheme,
    /// More than a host and a port stands where these belong.
    #[error(
        "a host, and a port from 1 to 65535 if it is not 4318, belong behind http://, as in http://127.0.0.1:4318"
    )]
    Host,
}

impl FromStr for Collector {
    type Err = CollectorError;

    fn from_str(text: &str) -> Result<Self, CollectorError> {
        let uri: Uri = text.parse()?;
        let (Some(authority), true) = (uri.authority(), uri.scheme() == Some(&Scheme::HTTP)) else {
            return Err(CollectorError::Scheme);
        };
        let path = match uri.path_and_query() {
            Some(path) if path.as_str() != "/" => path.clone(),
            _ => PathAndQuery::from_static(PATH),
        };
        let host = authority.host();
        let port = match authority.as_str().strip_prefix(host) {
            Some("") => PORT,
            Some(port) => {
                port.strip_prefix(':').and_then(|port| port.parse().ok()).ok_or(CollectorError::Host)?
            }
            None => return Err(CollectorError::Host),
        };
        Ok(Self { host: host.to_owned(), port, path })
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}{}", self.host, self.port, self.path)
    }
}

/// Sends the spans of a [`super::Tracer`] on.
pub struct Exporter {
    collector: Collector,
    instance: String,
    spans: mpsc::Receiver<Span>,
    sent: Counter,
    dropped: Counter,
    works: bool,
}

/// Why spans were not taken.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("no connection: {0}")]
    Connect(#[from] io::Error),
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error("no request can be made: {0}")]
    Request(#[from] http::Error),
    #[error("it does not answer")]
    Timeout,
    #[error("it answers {0}")]
    Status(StatusCode),
}

impl SendError {
    /// Whether the same spans may be taken later (OTLP 1.0, "Failures").
    fn is_passing(&self) -> bool {
        match self {
            Self::Request(_) => false,
            Self::Status(status) => matches!(status.as_u16(), 429 | 502 | 503 | 504),
            Self::Connect(_) | Self::Http(_) | Self::Timeout => true,
        }
    }
}

impl Exporter {
    /// For `spans`, to `collector`. `instance` names this server there.
    pub fn new(collector: Collector, instance: String, spans: mpsc::Receiver<Span>) -> Self {
        let sent = counter!("raftmap_spans_sent_total");
        let dropped = counter!("raftmap_spans_dropped_total");
        Self { collector, instance, spans, sent, dropped, works: true }
    }

    /// Runs until `stop`; what waits then is sent, if that takes no longer than a second or two.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::new();
        while self.gather(&mut batch, &stop).await {
            self.send(&batch, &stop).await;
            batch.clear();
        }
        while let Ok(span) = self.spans.try_recv() {
            batch.push(span);
        }
        if !batch.is_empty() {
            let sent = self.post(&batch, &stop).await;
            self.count(&batch, sent.is_ok());
        }
    }

    /// Waits for spans and a little for more; false: nothing comes any more.
    async fn gather(&mut self, batch: &mut Vec<Span>, stop: &CancellationToken) -> bool {
        tokio::select! {
            biased;
            () = stop.cancelled() => return false,
            taken = self.spans.recv_many(batch, BATCH_MAX) => if taken == 0 {
                return false;
            },
        }
        let more = async {
            while batch.len() < BATCH_MAX {
                let room = BATCH_MAX - batch.len();
                if self.spans.recv_many(batch, room).await == 0 {
                    break;
                }
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => false,
            _ = timeout(GATHER, more) => true,
        }
    }

    /// Sends a batch, again if the collector is not there, or drops it.
    async fn send(&mut self, batch: &[Span], stop: &CancellationToken) {
        let mut pauses = PAUSES.iter();
        loop {
            let Err(error) = self.post(batch, stop).await else {
                if !std::mem::replace(&mut self.works, true) {
                    info!(collector = %self.collector, "spans are taken again");
                }
                return self.count(batch, true);
            };
            if std::mem::replace(&mut self.works, false) {
                warn!(collector = %self.collector, %error, "spans are not taken; requests are served all the same");
            }
            let pause = pauses.next().filter(|_| error.is_passing() && !stop.is_cancelled());
            let Some(pause) = pause else { return self.count(batch, false) };
            tokio::select! {
                () = sleep(*pause) => {}
                // Once more, at once.
                () = stop.cancelled() => {}
            }
        }
    }

    fn count(&self, batch: &[Span], sent: bool) {
        let counter = if sent { &self.sent } else { &self.dropped };
        counter.increment(batch.len() as u64);
    }

    async fn post(&self, batch: &[Span], stop: &CancellationToken) -> Result<(), SendError> {
        let last = async {
            stop.cancelled().await;
            sleep(LAST_PATIENCE).await;
        };
        tokio::select! {
            sent = timeout(PATIENCE, self.exchange(batch)) => sent.unwrap_or(Err(SendError::Timeout)),
            () = last => Err(SendError::Timeout),
        }
    }

    /// One request over a connection of its own: there are two a second at most but under load.
    async fn exchange(&self, batch: &[Span]) -> Result<(), SendError> {
        let Collector { host, port, path } = &self.collector;
        // An IPv6 address stands in brackets in a URL.
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let stream = TcpStream::connect((bare, *port)).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let request = Request::post(path.as_str())
            .header(header::HOST, format!("{host}:{port}"))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONNECTION, "close")
            .body(Full::new(Bytes::from(otlp::request(&self.instance, batch))))?;
        // Why it ended is told to whoever waits for the answer.
        let carried = async {
            let _ended = connection.await;
            std::future::pending::<()>().await;
        };
        let status = tokio::select! {
            answer = sender.send_request(request) => answer?.status(),
            () = carried => unreachable!("it waits for ever"),
        };
        if status.is_success() { Ok(()) } else { Err(SendError::Status(status)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_leave_out_what_is_usual() {
        let cases = [
            ("http://127.0.0.1", "http://127.0.0.1:4318/v1/traces"),
            ("http://collector:1234/", "http://collector:1234/v1/traces"),
            ("http://[::1]:4318/otlp/v1/traces", "http://[::1]:4318/otlp/v1/traces"),
        ];
        for (text, whole) in cases {
            assert_eq!(text.parse::<Collector>().expect(text).to_string(), whole);
        }
    }

    #[test]
    fn what_is_no_address_of_a_collector_is_an_error_that_shows_one() {
        for text in [
            "",
            "127.0.0.1:4318",
            "https://collector:4318",
            "/v1/traces",
            "http://",
            "nonsense here",
            "http://me@host",
            "http://host:abc",
            "http://host:431800",
        ] {
            let error = text.parse::<Collector>().expect_err(text).to_string();
            assert!(error.contains("http://"), "{text}: {error}");
        }
    }
}
