//! `Pipeline`: many requests over one stream, each answered when it is ready.
//!
//! Three tasks share the work of a stream: the library's reader takes messages off the connection, the driver here
//! starts their requests and gathers the answers, and the connection's own task sends what is there. What is there when
//! the connection can send becomes one message: a batch is what piled up meanwhile, and nothing waits for a timer.
//!
//! The driver never stops reading, because HTTP/2 closes a connection on which many small frames stay unread. What is
//! too much is refused instead, at three limits of [`PipelineLimits`]: requests in flight (those whose answer is not
//! yet sent count), their bytes, and the bytes of answers that the client does not take. A client that goes on sending
//! and takes no answers at all loses the stream.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use connectrpc::{ConnectError, InboundStream, ServiceStream};
use futures::stream::FuturesUnordered;
use futures::{Stream, StreamExt};
use raftmap_proto::v1;
use raftmap_proto::v1::tagged_request::Request;
use raftmap_proto::v1::tagged_response::Response;
use raftmap_state::validate::InvalidRequest;
use tokio::sync::mpsc;

use super::access::Caller;
use super::budget::Share;
use super::calls::{Calls, unsent};
use super::meters::{Held, Kind};
use super::sizes::Counted;
use super::{PipelineLimits, status};
use crate::api::{Code, Failure, ReadAndWrite};

/// Whoever is refused because a stream is full asks again when some of it may be done.
const RETRY_AFTER: Duration = Duration::from_millis(20);

/// Serves a stream of requests until it ends, the client is gone, or the server stops.
pub(super) fn open<N: ReadAndWrite>(
    calls: Arc<Calls<N>>,
    caller: &Caller,
    share: &Arc<Share>,
    requests: InboundStream<v1::PipelineRequest>,
) -> ServiceStream<v1::PipelineResponse> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let unread = Arc::new(Unread::default());
    let message_bytes_max = calls.node.limits().answer_bytes_max as usize;
    let (caller, share, node) = (caller.clone(), Arc::clone(share), Arc::clone(&calls.node));
    let answers = Answers {
        receiver,
        unread: Arc::clone(&unread),
        share: Arc::clone(&share),
        held_back: None,
        bytes_on_their_way: 0,
        message_bytes_max,
        members_index: Box::new(move || node.members_index()),
        told_members_index: 0,
    };
    let driver = Driver { calls, caller, sender, unread, share, bytes_in_flight: 0, stopping: false };
    tokio::spawn(driver.run(requests));
    Box::pin(answers)
}

/// The answers that are ready and not yet sent.
#[derive(Default)]
struct Unread {
    count: AtomicUsize,
    bytes: AtomicUsize,
}

/// An answer, and what it counts in bytes.
type Answer = (v1::TaggedResponse, usize);

struct Driver<N> {
    calls: Arc<Calls<N>>,
    caller: Caller,
    /// Unbounded in itself: `unread` is what bounds it.
    sender: mpsc::UnboundedSender<Result<Answer, ConnectError>>,
    unread: Arc<Unread>,
    /// Of the budget: what runs and what is not sent yet.
    share: Arc<Share>,
    bytes_in_flight: usize,
    stopping: bool,
}

/// A request that may run.
struct Admitted {
    tag: u64,
    request: Request,
    bytes: usize,
    deadline: Instant,
}

/// A request that is answered.
struct Done {
    tag: u64,
    kind: Kind,
    bytes: usize,
    result: Result<Response, Failure>,
}

impl<N: ReadAndWrite> Driver<N> {
    async fn run(mut self, mut requests: InboundStream<v1::PipelineRequest>) {
        let _counted = Held::new(&self.calls.meters.pipelines);
        let stop = self.calls.stop.clone();
        let answers = self.sender.clone();
        let mut running = FuturesUnordered::new();
        let mut open = true;
        let mut error = None;
        while (open && !self.stopping) || !running.is_empty() {
            tokio::select! {
                Some(done) = running.next() => self.finish(done),
                message = requests.next(), if open => match message {
                    Some(Ok(message)) => for request in message.to_owned_message().requests {
                        match self.admit(request, running.len()) {
                            Ok(admitted) => {
                                running.push(run(Arc::clone(&self.calls), self.caller.clone(), admitted));
                            }
                            Err(refused) => self.refuse(refused),
                        }
                        if self.is_flooded() {
                            break;
                        }
                    },
                    Some(Err(broken)) => (open, error) = (false, Some(broken)),
                    None => open = false,
                },
                () = stop.cancelled(), if !self.stopping => self.stopping = true,
                () = answers.closed() => return,
            }
            if self.is_flooded() {
                let reason = "this stream's answers are not taken, and still requests come";
                error = Some(status::error(&Failure::unknown(Code::Overloaded, reason)));
                break;
            }
        }
        if let Some(error) = error {
            let _client_gone = self.sender.send(Err(error));
        }
    }

    fn limits(&self) -> PipelineLimits {
        self.calls.config.pipeline
    }

    fn is_flooded(&self) -> bool {
        self.unread.count.load(Ordering::Relaxed) > 2 * self.limits().in_flight_max
    }

    /// Whether a request may run beside `running` others.
    fn admit(&mut self, tagged: v1::TaggedRequest, running: usize) -> Result<Admitted, (u64, Failure)> {
        let tag = tagged.tag;
        let limits = self.limits();
        let refused = |failure: Failure| Err((tag, failure));
        let overloaded = |what, limit: usize| {
            Failure::not_applied(Code::Overloaded, format!("this stream has too {what} in flight"))
                .over_limit(limit as u64)
                .retry_after(RETRY_AFTER)
        };
        let Some(request) = tagged.request else {
            let failure = Failure::from(InvalidRequest::Unset { field: "requests.request" });
            self.calls.meters.refused("Pipeline", &self.caller, &failure);
            return refused(failure);
        };
        if self.stopping {
            return refused(Failure::not_applied(Code::ShuttingDown, "this server stops: ask another one"));
        }
        if running + self.unread.count.load(Ordering::Relaxed) >= limits.in_flight_max {
            return refused(overloaded("many requests", limits.in_flight_max));
        }
        let bytes = request.counted_bytes();
        if running > 0 && self.bytes_in_flight + bytes > limits.bytes_in_flight_max {
            return refused(overloaded("large requests", limits.bytes_in_flight_max));
        }
        if let Err(failure) = self.share.grow(bytes) {
            return refused(failure.retry_after(RETRY_AFTER));
        }
        self.bytes_in_flight += bytes;
        let timeout = match tagged.timeout_ms {
            0 => self.calls.config.request_timeout,
            millis => Duration::from_millis(millis.into()).min(self.calls.config.request_timeout_max),
        };
        Ok(Admitted { tag, request, bytes, deadline: Instant::now() + timeout })
    }

    /// Passes on what became of a request that ran.
    fn finish(&mut self, done: Done) {
        self.bytes_in_flight -= done.bytes;
        self.share.shrink(done.bytes);
        let answer = done.result.and_then(|response| {
            let bytes = response.counted_bytes();
            self.hold(bytes).map_err(|failure| unsent(done.kind, failure.retry_after(RETRY_AFTER)))?;
            Ok((response, bytes))
        });
        match answer {
            Ok((response, bytes)) => self.answer(done.tag, response, bytes),
            Err(failure) => self.refuse((done.tag, failure)),
        }
    }

    /// Takes room for an answer of `bytes` until it is sent.
    fn hold(&self, bytes: usize) -> Result<(), Failure> {
        let limit = self.limits().unread_bytes_max;
        let unread = self.unread.bytes.load(Ordering::Relaxed);
        if unread > 0 && unread + bytes > limit {
            let reason = "this stream's answers are not taken fast enough";
            return Err(Failure::not_applied(Code::Overloaded, reason).over_limit(limit as u64));
        }
        self.share.grow(bytes)
    }

    /// Failures are small, and bounded by their number.
    fn refuse(&self, (tag, failure): (u64, Failure)) {
        self.answer(tag, Response::Failure(status::message(&failure)), 0);
    }

    fn answer(&self, tag: u64, response: Response, bytes: usize) {
        self.unread.count.fetch_add(1, Ordering::Relaxed);
        self.unread.bytes.fetch_add(bytes, Ordering::Relaxed);
        let response = v1::TaggedResponse { tag, response: Some(response) };
        let _client_gone = self.sender.send(Ok((response, bytes)));
    }
}

async fn run<N: ReadAndWrite>(calls: Arc<Calls<N>>, caller: Caller, admitted: Admitted) -> Done {
    let Admitted { tag, request, bytes, deadline } = admitted;
    let (kind, result) = match request {
        Request::Get(request) => {
            let id = request.request_id.clone();
            let call = calls.observed(Kind::Get, &caller, &id, calls.get(request, deadline));
            (Kind::Get, call.await.map(Response::Get))
        }
        Request::Put(request) => {
            let id = request.request_id.clone();
            let call = calls.observed(Kind::Put, &caller, &id, calls.put(request, deadline));
            (Kind::Put, call.await.map(Response::Put))
        }
        Request::Delete(request) => {
            let id = request.request_id.clone();
            let call = calls.observed(Kind::Delete, &caller, &id, calls.delete(request, deadline));
            (Kind::Delete, call.await.map(Response::Delete))
        }
        Request::Txn(request) => {
            let id = request.request_id.clone();
            let call = calls.observed(Kind::Txn, &caller, &id, calls.txn(request, deadline));
            (Kind::Txn, call.await.map(Response::Txn))
        }
    };
    Done { tag, kind, bytes, result }
}

/// The stream of answers. Each message holds what is ready, up to the size of the largest single answer.
struct Answers {
    receiver: mpsc::UnboundedReceiver<Result<Answer, ConnectError>>,
    unread: Arc<Unread>,
    share: Arc<Share>,
    /// What did not fit into the last message, or ends the stream.
    held_back: Option<Result<Answer, ConnectError>>,
    /// Of the last message: it is held until the next one is asked for.
    bytes_on_their_way: usize,
    message_bytes_max: usize,
    members_index: Box<dyn Fn() -> u64 + Send>,
    /// What the client was told of it.
    told_members_index: u64,
}

impl Answers {
    /// The index to tell the client, once.
    fn news_of_members(&mut self) -> u64 {
        let index = (self.members_index)();
        if std::mem::replace(&mut self.told_members_index, index) == index { 0 } else { index }
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Answer, ConnectError>>> {
        match self.held_back.take() {
            Some(answer) => Poll::Ready(Some(answer)),
            None => self.receiver.poll_recv(cx),
        }
    }
}

impl Stream for Answers {
    type Item = Result<v1::PipelineResponse, ConnectError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let sent = std::mem::take(&mut self.bytes_on_their_way);
        self.unread.bytes.fetch_sub(sent, Ordering::Relaxed);
        self.share.shrink(sent);
        let mut message = v1::PipelineResponse::default();
        let mut message_bytes = 0;
        loop {
            match self.poll_answer(cx) {
                Poll::Ready(Some(Ok((response, bytes)))) => {
                    if !message.responses.is_empty() && message_bytes + bytes > self.message_bytes_max {
                        self.held_back = Some(Ok((response, bytes)));
                        break;
                    }
                    self.unread.count.fetch_sub(1, Ordering::Relaxed);
                    message_bytes += bytes;
                    message.responses.push(response);
                }
                Poll::Ready(Some(Err(error))) if message.responses.is_empty() => {
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Ready(Some(Err(error))) => {
                    self.held_back = Some(Err(error));
                    break;
                }
                Poll::Ready(None) if message.responses.is_empty() => return Poll::Ready(None),
                Poll::Pending if message.responses.is_empty() => return Poll::Pending,
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        self.bytes_on_their_way = message_bytes;
        message.membership_index = self.news_of_members();
        Poll::Ready(Some(Ok(message)))
    }
}
