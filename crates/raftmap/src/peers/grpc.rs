//! The calls between servers, `Stream` and `Snapshot` of `raftmap.peer.v1.Peer`, as gRPC over HTTP/2: heads, frames, ends.
//!
//! It stands on `h2` itself, as a queue that is taken from only when the network has room cannot be had above it: the
//! generated client keeps dozens of encoded messages of its own, whatever their size. Any other gRPC client can call.

use std::future::poll_fn;

use bytes::{Bytes, BytesMut};
use connectrpc::envelope::Envelope;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};

const GRPC: &str = "application/grpc";
const GRPC_PROTO: &str = "application/grpc+proto";
const GRPC_STATUS: &str = "grpc-status";

/// The calls, each on a connection of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rpc {
    /// Batches, for as long as the two servers live.
    Stream,
    /// The state of the server that is called.
    Snapshot,
}

impl Rpc {
    fn path(self) -> &'static str {
        match self {
            Self::Stream => "/raftmap.peer.v1.Peer/Stream",
            Self::Snapshot => "/raftmap.peer.v1.Peer/Snapshot",
        }
    }

    /// The call that is served here by this request.
    pub(super) fn of<B>(request: &Request<B>) -> Option<Self> {
        let kind = request.headers().get(CONTENT_TYPE);
        let grpc = kind.is_some_and(|kind| kind == GRPC || kind == GRPC_PROTO);
        let path = request.uri().path();
        let rpc = [Self::Stream, Self::Snapshot].into_iter().find(|rpc| rpc.path() == path);
        rpc.filter(|_| grpc && request.method() == Method::POST)
    }
}

/// How a call ends, by the numbers of gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Ok = 0,
    /// The Refusal says why.
    FailedPrecondition = 9,
    /// There is no such call.
    Unimplemented = 12,
}

/// A stream of frames that is of no use any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamError {
    /// The connection broke, or the other side reset the stream.
    #[error("{0}")]
    Broken(#[from] h2::Error),
    /// A frame is larger than it may be, or is framed wrongly.
    #[error("{0}")]
    Frame(String),
    /// The stream ended within a frame.
    #[error("the stream ended within a frame")]
    Truncated,
    /// What answers is no server of raftmap.
    #[error("the answer is not that of a server of raftmap: {0}")]
    Answer(String),
}

/// The request that opens the stream of a call.
pub(super) fn request(rpc: Rpc, scheme: &str, authority: &str) -> Result<Request<()>, http::Error> {
    Request::builder()
        .method(Method::POST)
        .uri(format!("{scheme}://{authority}{}", rpc.path()))
        .header(CONTENT_TYPE, GRPC)
        .header(TE, "trailers")
        .body(())
}

/// Answers any other call.
pub(super) fn decline(respond: &mut SendResponse<Bytes>) -> Result<(), h2::Error> {
    let mut response = head();
    response.headers_mut().insert(GRPC_STATUS, status(Status::Unimplemented));
    respond.send_response(response, true).map(drop)
}

/// Opens the answer to the call.
pub(super) fn accept(respond: &mut SendResponse<Bytes>) -> Result<FrameWriter, h2::Error> {
    let stream = respond.send_response(head(), false)?;
    Ok(FrameWriter { stream, side: Side::Server })
}

fn head() -> Response<()> {
    let mut response = Response::new(());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(GRPC));
    response
}

fn status(status: Status) -> HeaderValue {
    HeaderValue::from(status as u16)
}

/// Whether this is the head of an answer to the call.
pub(super) fn check_answer<B>(response: &Response<B>) -> Result<(), StreamError> {
    let status = response.headers().get(GRPC_STATUS);
    if response.status() == StatusCode::OK && status.is_none() {
        return Ok(());
    }
    Err(StreamError::Answer(format!("status {}, grpc-status {status:?}", response.status())))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

/// Sends frames, each when there is room for it on the way.
#[derive(Debug)]
pub(super) struct FrameWriter {
    stream: SendStream<Bytes>,
    side: Side,
}

impl FrameWriter {
    pub(super) fn of_client(stream: SendStream<Bytes>) -> Self {
        Self { stream, side: Side::Client }
    }

    /// Waits until something can be sent.
    pub(super) async fn room(&mut self) -> Result<(), h2::Error> {
        self.capacity(1).await.map(drop)
    }

    /// Sends `frame` piece by piece, as the other side takes it.
    pub(super) async fn send(&mut self, mut frame: Bytes) -> Result<(), h2::Error> {
        while !frame.is_empty() {
            let capacity = self.capacity(frame.len()).await?;
            let piece = frame.split_to(capacity.min(frame.len()));
            self.stream.send_data(piece, false)?;
        }
        Ok(())
    }

    /// Ready when the other side has no use for the stream any more.
    pub(super) async fn lost(&mut self) -> h2::Error {
        match poll_fn(|context| self.stream.poll_reset(context)).await {
            Ok(reason) => reason.into(),
            Err(error) => error,
        }
    }

    /// Ends the stream. Whoever drops the writer and the reader before the other side ended it, too, resets it: what is on
    /// its way may be lost then.
    pub(super) fn end(&mut self, with: Status) -> Result<(), h2::Error> {
        match self.side {
            Side::Client => self.stream.send_data(Bytes::new(), true),
            Side::Server => {
                let mut trailers = HeaderMap::new();
                trailers.insert(GRPC_STATUS, status(with));
                self.stream.send_trailers(trailers)
            }
        }
    }

    async fn capacity(&mut self, wanted: usize) -> Result<usize, h2::Error> {
        self.stream.reserve_capacity(wanted);
        loop {
            let capacity = self.stream.capacity();
            if capacity > 0 {
                return Ok(capacity);
            }
            match poll_fn(|context| self.stream.poll_capacity(context)).await {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Err(Reason::STREAM_CLOSED.into()),
            }
        }
    }
}

/// Receives frames. The other side may send as much ahead as the windows of HTTP/2 allow; what is read here makes room
/// for more.
#[derive(Debug)]
pub(super) struct FrameReader {
    stream: RecvStream,
    buffer: BytesMut,
    frame_bytes_max: usize,
}

impl FrameReader {
    pub(super) fn new(stream: RecvStream, frame_bytes_max: usize) -> Self {
        Self { stream, buffer: BytesMut::new(), frame_bytes_max }
    }

    /// The next frame without its prefix; `None` at the end. Memory is taken as its bytes arrive.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, StreamError> {
        loop {
            let envelope = Envelope::decode_with_limit(&mut self.buffer, self.frame_bytes_max)
                .map_err(|error| StreamError::Frame(error.message.unwrap_or_default()))?;
            match envelope {
                Some(envelope) if envelope.flags == 0 => return Ok(Some(envelope.data)),
                Some(_) => return Err(StreamError::Frame("a frame is compressed".to_owned())),
                None => {}
            }
            match self.stream.data().await {
                Some(Ok(data)) => {
                    self.buffer.extend_from_slice(&data);
                    self.stream.flow_control().release_capacity(data.len())?;
                }
                Some(Err(error)) => return Err(error.into()),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(StreamError::Truncated),
            }
        }
    }
}
