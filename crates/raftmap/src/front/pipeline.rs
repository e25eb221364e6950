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
use super::calls::Calls;
use super::meters::{Held, Kind};
use super::{PipelineLimits, status};
use crate::api::{Code, Failure, FailureOutcome, ReadAndWrite};

/// What a request, an answer, and each of their items count besides keys, values and texts: more than their encoding
/// needs for numbers and lengths.
const ITEM_BYTES: usize = 64;

/// Whoever is refused because a stream is full asks again when some of it may be done.
const RETRY_AFTER: Duration = Duration::from_millis(20);

/// Serves a stream of requests until it ends, the client is gone, or the server stops.
pub(super) fn open<N: ReadAndWrite>(
    calls: Arc<Calls<N>>,
    caller: Caller,
    requests: InboundStream<v1::PipelineRequest>,
) -> ServiceStream<v1::PipelineResponse> {
    let (sender, receiver) = mpsc::unbounded_channel();
    let unread = Arc::new(Unread::default());
    let message_bytes_max = calls.node.limits().answer_bytes_max as usize;
    let answers = Answers { receiver, unread: Arc::clone(&unread), held_back: None, message_bytes_max };
    let driver = Driver { calls, caller, sender, unread, bytes_in_flight: 0, stopping: false };
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
type Counted = (v1::TaggedResponse, usize);

struct Driver<N> {
    calls: Arc<Calls<N>>,
    caller: Caller,
    /// Unbounded in itself: `unread` is what bounds it.
    sender: mpsc::UnboundedSender<Result<Counted, ConnectError>>,
    unread: Arc<Unread>,
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
                            Ok(admitted) => running.push(run(Arc::clone(&self.calls), self.caller.clone(), admitted)),
                            Err((tag, failure)) => self.answer(tag, Response::Failure(status::message(&failure))),
                        }
                    },
                    Some(Err(broken)) => (open, error) = (false, Some(broken)),
                    None => open = false,
                },
                () = stop.cancelled(), if !self.stopping => self.stopping = true,
                () = answers.closed() => return,
            }
            if self.unread.count.load(Ordering::Relaxed) > 2 * self.limits().in_flight_max {
                error = Some(status::error(&Failure::unknown(Code::Overloaded, "answers are not taken")));
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
        let bytes = request_bytes(&request);
        if running > 0 && self.bytes_in_flight + bytes > limits.bytes_in_flight_max {
            return refused(overloaded("large requests", limits.bytes_in_flight_max));
        }
        self.bytes_in_flight += bytes;
        let timeout = match tagged.timeout_ms {
            0 => self.calls.config.request_timeout,
            millis => Duration::from_millis(millis.into()).min(self.calls.config.request_timeout_max),
        };
        Ok(Admitted { tag, request, bytes, deadline: Instant::now() + timeout })
    }

    /// Passes on the answer of a request that ran. An answer that the client would have to take and does not is dropped
    /// here: it can ask again, for a write with its session tag.
    fn finish(&mut self, done: Done) {
        self.bytes_in_flight -= done.bytes;
        let limit = self.limits().unread_bytes_max;
        let unread = self.unread.bytes.load(Ordering::Relaxed);
        let response = match done.result {
            Ok(response) if unread > 0 && unread + response_bytes(&response) > limit => {
                let outcome = match done.kind {
                    Kind::Get => FailureOutcome::NotApplied,
                    _ => FailureOutcome::Unknown,
                };
                let reason = "the answers of this stream are not taken fast enough";
                let failure = Failure::not_applied(Code::Overloaded, reason).over_limit(limit as u64);
                Response::Failure(status::message(&Failure { outcome, ..failure.retry_after(RETRY_AFTER) }))
            }
            Ok(response) => response,
            Err(failure) => Response::Failure(status::message(&failure)),
        };
        self.answer(done.tag, response);
    }

    fn answer(&self, tag: u64, response: Response) {
        let bytes = response_bytes(&response);
        self.unread.count.fetch_add(1, Ordering::Relaxed);
        self.unread.bytes.fetch_add(bytes, Ordering::Relaxed);
        let _client_gone =
            self.sender.send(Ok((v1::TaggedResponse { tag, response: Some(response) }, bytes)));
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

/// What a request counts while it is in flight, in bytes: its keys and values, and a share for the rest.
fn request_bytes(request: &Request) -> usize {
    let operation = |operation: &v1::Operation| match &operation.operation {
        Some(v1::operation::Operation::Put(entry)) => entry.key.len() + entry.value.len(),
        Some(v1::operation::Operation::Delete(key) | v1::operation::Operation::Get(key)) => key.len(),
        None => 0,
    };
    let condition = |condition: &v1::Condition| match &condition.expected {
        Some(v1::condition::Expected::Value(value)) => condition.key.len() + value.len(),
        _ => condition.key.len(),
    };
    let (items, content): (usize, usize) = match request {
        Request::Get(get) => (get.keys.len(), get.keys.iter().map(bytes::Bytes::len).sum()),
        Request::Delete(delete) => (delete.keys.len(), delete.keys.iter().map(bytes::Bytes::len).sum()),
        Request::Put(put) => {
            (put.entries.len(), put.entries.iter().map(|entry| entry.key.len() + entry.value.len()).sum())
        }
        Request::Txn(txn) => (
            txn.conditions.len() + txn.then.len() + txn.otherwise.len(),
            txn.conditions.iter().map(condition).sum::<usize>()
                + txn.then.iter().chain(&txn.otherwise).map(operation).sum::<usize>(),
        ),
    };
    ITEM_BYTES * (1 + items) + content
}

/// What an answer counts until it is sent, in bytes; the encoded message is not larger.
fn response_bytes(response: &Response) -> usize {
    let entry =
        |entry: Option<&v1::Entry>| ITEM_BYTES + entry.map_or(0, |entry| entry.key.len() + entry.value.len());
    let results = |results: &[v1::GetResult]| {
        results.iter().map(|result| entry(result.entry.as_option())).sum::<usize>()
    };
    let content: usize = match response {
        Response::Get(get) => get.request_id.len() + results(&get.results),
        Response::Put(put) => put.request_id.len() + results(&put.previous),
        Response::Delete(delete) => delete.request_id.len() + results(&delete.previous),
        Response::Txn(txn) => {
            let results = txn.results.iter();
            txn.request_id.len()
                + results
                    .map(|result| entry(result.entry.as_option()) + entry(result.previous.as_option()))
                    .sum::<usize>()
        }
        Response::Failure(failure) => failure.reason.len() + failure.leader.len() + failure.field.len(),
    };
    ITEM_BYTES + content
}

/// The stream of answers. Each message holds what is ready, up to the size of the largest single answer.
struct Answers {
    receiver: mpsc::UnboundedReceiver<Result<Counted, ConnectError>>,
    unread: Arc<Unread>,
    /// What did not fit into the last message, or ends the stream.
    held_back: Option<Result<Counted, ConnectError>>,
    message_bytes_max: usize,
}

impl Answers {
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Counted, ConnectError>>> {
        match self.held_back.take() {
            Some(answer) => Poll::Ready(Some(answer)),
            None => self.receiver.poll_recv(cx),
        }
    }
}

impl Stream for Answers {
    type Item = Result<v1::PipelineResponse, ConnectError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut message = v1::PipelineResponse::default();
        let mut message_bytes = 0;
        loop {
            match self.poll_answer(cx) {
                Poll::Ready(Some(Ok((response, bytes)))) => {
                    if message_bytes > 0 && message_bytes + bytes > self.message_bytes_max {
                        self.held_back = Some(Ok((response, bytes)));
                        break;
                    }
                    self.unread.count.fetch_sub(1, Ordering::Relaxed);
                    self.unread.bytes.fetch_sub(bytes, Ordering::Relaxed);
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
        Poll::Ready(Some(Ok(message)))
    }
}
