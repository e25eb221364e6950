//! `Pipeline`: many requests over one stream, each answered when it is ready.
//!
//! Three tasks share the work of a stream: the library's reader takes messages off the connection, the driver here
//! starts their requests and gathers the answers, and the connection's own task sends what is there. What is there when
//! the connection can send becomes one message: a batch is what piled up meanwhile, and nothing waits for a timer. The
//! writes of a message reach the replica together, so that a batch of the client's is one of the log's.
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
use raftmap_state::Answer as WriteAnswer;
use raftmap_state::validate::InvalidRequest;
use tokio::sync::mpsc;

use super::access::Caller;
use super::arrival::Arrival;
use super::behalf::Allowed;
use super::budget::Share;
use super::calls::{Calls, unsent};
use super::meters::{Held, Kind};
use super::sizes::Counted;
use super::{PipelineLimits, convert, status};
use crate::api::{Code, Failure, ReadAndWrite};
use crate::users::Rights;

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
    let (caller, share) = (caller.clone(), Arc::clone(share));
    let answers = Answers {
        receiver,
        unread: Arc::clone(&unread),
        share: Arc::clone(&share),
        held_back: None,
        bytes_on_their_way: 0,
        message_bytes_max,
        members_index: Box::new(calls.node.members_index()),
        told_members_index: 0,
    };
    let (written, answers_to_writes) = mpsc::unbounded_channel();
    let driver = Driver {
        calls,
        caller,
        sender,
        unread,
        share,
        bytes_in_flight: 0,
        writes_in_flight: 0,
        written,
        stopping: false,
    };
    tokio::spawn(driver.run(requests, answers_to_writes));
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

/// How many answers are taken at once.
const ANSWERS_MAX: usize = 1024;

struct Driver<N> {
    calls: Arc<Calls<N>>,
    caller: Caller,
    /// Unbounded in itself: `unread` is what bounds it.
    sender: mpsc::UnboundedSender<Result<Answer, ConnectError>>,
    unread: Arc<Unread>,
    /// Of the budget: what runs and what is not sent yet.
    share: Arc<Share>,
    bytes_in_flight: usize,
    writes_in_flight: usize,
    /// Where answers to writes go first.
    written: mpsc::UnboundedSender<Written>,
    stopping: bool,
}

/// A request that may run.
struct Admitted {
    tag: u64,
    bytes: usize,
    arrival: Arrival,
}

/// A request that is answered.
struct Done {
    tag: u64,
    kind: Kind,
    bytes: usize,
    result: Result<Response, Failure>,
}

/// A write that is under way.
struct Writing {
    tag: u64,
    kind: Kind,
    bytes: usize,
    request_id: String,
    arrival: Arrival,
}

/// A write, and what became of it.
type Written = (Writing, Result<WriteAnswer, Failure>);

/// A request that was taken in.
enum Begun {
    Get(Admitted, v1::GetRequest),
    Write(Writing, Result<Allowed, Failure>),
}

impl<N: ReadAndWrite> Driver<N> {
    async fn run(
        mut self,
        mut requests: InboundStream<v1::PipelineRequest>,
        mut written: mpsc::UnboundedReceiver<Written>,
    ) {
        let _counted = Held::new(&self.calls.meters.pipelines);
        let stop = self.calls.stop.clone();
        let answers = self.sender.clone();
        let (mut reads, mut done) = (FuturesUnordered::new(), Vec::new());
        let mut open = true;
        let mut error = None;
        while (open && !self.stopping) || !reads.is_empty() || self.writes_in_flight > 0 {
            tokio::select! {
                Some(done) = reads.next() => self.finish(done),
                _ = written.recv_many(&mut done, ANSWERS_MAX) => {
                    done.drain(..).for_each(|written| self.finish_write(written));
                }
                message = requests.next(), if open => match message {
                    Some(Ok(message)) => {
                        // Anew for each message: a stream may last longer than what its caller may do.
                        let rights = self.caller.rights();
                        let gets = self.take_in(message.to_owned_message(), reads.len(), &rights);
                        reads.extend(gets.into_iter().map(|(admitted, get)| {
                            read(Arc::clone(&self.calls), self.caller.clone(), rights.clone(), admitted, get)
                        }));
                    }
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

    /// Has the writes of a message begin, and gives its gets, which are to be.
    fn take_in(
        &mut self,
        message: v1::PipelineRequest,
        reading: usize,
        rights: &Result<Arc<Rights>, Failure>,
    ) -> Vec<(Admitted, v1::GetRequest)> {
        let (mut gets, mut writes) = (Vec::new(), Vec::new());
        for tagged in message.requests {
            match self.admit(tagged, reading + gets.len() + self.writes_in_flight) {
                Ok((admitted, request)) => match self.begin(admitted, request, rights) {
                    Begun::Get(admitted, get) => gets.push((admitted, get)),
                    Begun::Write(writing, Ok(write)) => {
                        let written = self.written.clone();
                        // If the stream is gone, nobody waits.
                        writes.push((write, move |result| drop(written.send((writing, result)))));
                    }
                    Begun::Write(writing, Err(failure)) => self.finish_write((writing, Err(failure))),
                },
                Err(refused) => self.refuse(refused),
            }
            if self.is_flooded() {
                break;
            }
        }
        if !writes.is_empty() {
            self.calls.node.submit_writes(writes);
        }
        gets
    }

    fn begin(
        &mut self,
        admitted: Admitted,
        request: Request,
        rights: &Result<Arc<Rights>, Failure>,
    ) -> Begun {
        let arrival = &admitted.arrival;
        let (kind, request_id, input) = match request {
            Request::Get(get) => return Begun::Get(admitted, get),
            Request::Put(put) => (Kind::Put, put.request_id.clone(), convert::write_put(put, arrival)),
            Request::Delete(delete) => {
                (Kind::Delete, delete.request_id.clone(), convert::write_delete(delete, arrival))
            }
            Request::Txn(txn) => (Kind::Txn, txn.request_id.clone(), convert::write_txn(txn, arrival)),
        };
        let Admitted { tag, bytes, arrival } = admitted;
        self.writes_in_flight += 1;
        let writing = Writing { tag, kind, bytes, request_id, arrival };
        let allowed = input.and_then(|input| {
            let rights = rights.as_ref().map_err(Clone::clone)?;
            self.calls.node.on_behalf(rights).check_write(input)
        });
        Begun::Write(writing, allowed)
    }

    fn finish_write(&mut self, (writing, result): Written) {
        let Writing { tag, kind, bytes, request_id, arrival } = writing;
        self.writes_in_flight -= 1;
        self.calls.observe(kind, &self.caller, &request_id, &arrival, result.as_ref().err());
        let result = result.map(|answer| convert::write_response(request_id, answer));
        self.finish(Done { tag, kind, bytes, result });
    }

    fn limits(&self) -> PipelineLimits {
        self.calls.config.pipeline
    }

    fn is_flooded(&self) -> bool {
        self.unread.count.load(Ordering::Relaxed) > 2 * self.limits().in_flight_max
    }

    /// Whether a request may run beside `running` others.
    fn admit(
        &mut self,
        tagged: v1::TaggedRequest,
        running: usize,
    ) -> Result<(Admitted, Request), (u64, Failure)> {
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
        let deadline = Instant::now() + timeout;
        let arrival = Arrival::new(&self.calls.config.tracer, deadline, || None, request_id(&request));
        Ok((Admitted { tag, bytes, arrival }, request))
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

async fn read<N: ReadAndWrite>(
    calls: Arc<Calls<N>>,
    caller: Caller,
    rights: Result<Arc<Rights>, Failure>,
    admitted: Admitted,
    get: v1::GetRequest,
) -> Done {
    let Admitted { tag, bytes, arrival } = admitted;
    let id = get.request_id.clone();
    let read = async { calls.get(&*rights?, get, &arrival).await };
    let result = calls.observed(Kind::Get, &caller, &id, &arrival, read).await;
    Done { tag, kind: Kind::Get, bytes, result: result.map(Response::Get) }
}

/// What its client calls it.
fn request_id(request: &Request) -> &str {
    match request {
        Request::Get(get) => &get.request_id,
        Request::Put(put) => &put.request_id,
        Request::Delete(delete) => &delete.request_id,
        Request::Txn(txn) => &txn.request_id,
    }
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
