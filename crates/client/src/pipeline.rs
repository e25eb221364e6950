//! The stream to one server: what waits travels together, answers find their callers by tag.
//!
//! One task for each server. A message holds whatever piled up while the last one was on its way: no timer, no linger.
//! The task reads while it writes, since a server that cannot get rid of its answers takes no more requests.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use connectrpc::client::{BidiRecvHalf, BidiSendHalf, BidiStream};
use hyper::body::Incoming;
use raftmap_proto::v1::condition::Expected;
use raftmap_proto::v1::operation::Operation;
use raftmap_proto::v1::tagged_request::Request;
use raftmap_proto::v1::tagged_response::Response;
use raftmap_proto::v1::{
    DeleteRequest, GetRequest, PipelineRequest, PipelineResponse, PipelineResponseView, PutRequest,
    TaggedRequest, TaggedResponse, TxnRequest,
};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use crate::dial::with_causes;
use crate::link::{Call, Connection};
use crate::retry::Failed;

/// How many requests of one stream may be without an answer.
const IN_FLIGHT_MAX: usize = 4096;
/// How many requests travel in one message at most.
const BATCH_CALLS_MAX: usize = 1024;
/// A message is closed when its requests are as large as this. None of them is larger than [`STREAM_REQUEST_BYTES_MAX`].
const BATCH_BYTES: usize = 256 << 10;
/// Larger requests travel as calls of their own, so that a stream never exceeds a server's limit for one message, and a
/// request that is too large fails alone.
pub(crate) const STREAM_REQUEST_BYTES_MAX: usize = 256 << 10;
/// A server that owes answers and sends none for this long may have stopped: another one may lead by now.
const SILENCE: Duration = Duration::from_millis(250);
/// How long a full stream may go without an answer, or a message without being taken, until the stream counts as broken.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// About how many bytes the request takes on the wire.
pub(crate) fn request_bytes(request: &Request) -> usize {
    const EACH: usize = 16;
    let all = |keys: &[Bytes]| -> usize { keys.iter().map(|key| EACH + key.len()).sum() };
    match request {
        Request::Get(GetRequest { keys, .. }) | Request::Delete(DeleteRequest { keys, .. }) => all(keys),
        Request::Put(PutRequest { entries, .. }) => {
            entries.iter().map(|entry| EACH + entry.key.len() + entry.value.len()).sum()
        }
        Request::Txn(TxnRequest { conditions, then, otherwise, .. }) => {
            let conditions = conditions.iter().map(|condition| match &condition.expected {
                Some(Expected::Value(value)) => EACH + condition.key.len() + value.len(),
                _ => EACH + condition.key.len(),
            });
            let operations = then.iter().chain(otherwise).map(|operation| match &operation.operation {
                Some(Operation::Put(put)) => EACH + put.key.len() + put.value.len(),
                Some(Operation::Delete(key) | Operation::Get(key)) => EACH + key.len(),
                None => EACH,
            });
            conditions.sum::<usize>() + operations.sum::<usize>()
        }
    }
}

/// Serves the calls of one server until the client is dropped.
pub(crate) async fn run(connection: Arc<Connection>, mut queue: mpsc::Receiver<Call>) {
    let mut waiting = Vec::new();
    loop {
        if waiting.is_empty() && queue.recv_many(&mut waiting, BATCH_CALLS_MAX).await == 0 {
            return;
        }
        let calls = match connection.calls().await {
            Ok(calls) => calls,
            Err(failed) => {
                refuse_all(&mut waiting, &mut queue, &failed);
                continue;
            }
        };
        match calls.map.pipeline().await {
            Ok(opened) => {
                let stream = Stream::new(&connection);
                let end = stream.serve(opened, &mut waiting, &mut queue).await;
                stream.lose_all(&end);
            }
            Err(e) => {
                let failed = Failed::not_sent(connection.server(), with_causes(&e));
                refuse_all(&mut waiting, &mut queue, &failed);
            }
        }
        connection.discard(&calls).await;
    }
}

/// Ends all calls that wait: none of them was sent.
fn refuse_all(waiting: &mut Vec<Call>, queue: &mut mpsc::Receiver<Call>, failed: &Failed) {
    let queued = std::iter::from_fn(|| queue.try_recv().ok());
    for call in waiting.drain(..).chain(queued) {
        // A caller that is gone needs no answer.
        drop(call.reply.send(Err(failed.clone())));
    }
}

type Opened = BidiStream<Incoming, PipelineRequest, PipelineResponseView<'static>>;
type Reply = oneshot::Sender<Result<Response, Failed>>;

/// One stream, and the callers that wait for its answers.
struct Stream<'a> {
    server: &'a str,
    connection: &'a Connection,
    in_flight: Mutex<HashMap<u64, Reply>>,
    /// Told after every message of answers.
    answered: Notify,
    /// Messages of answers so far.
    heard: AtomicU64,
    /// Told after every message of requests.
    sent: Notify,
}

impl<'a> Stream<'a> {
    fn new(connection: &'a Connection) -> Self {
        Self {
            server: connection.server(),
            connection,
            in_flight: Mutex::default(),
            answered: Notify::new(),
            heard: AtomicU64::new(0),
            sent: Notify::new(),
        }
    }

    fn in_flight(&self) -> MutexGuard<'_, HashMap<u64, Reply>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes and reads until the stream ends, and says why it did. What was not sent by then is left in `waiting`.
    async fn serve(
        &self,
        opened: Opened,
        waiting: &mut Vec<Call>,
        queue: &mut mpsc::Receiver<Call>,
    ) -> Failed {
        let (requests, responses) = opened.into_split();
        tokio::select! {
            // Answers first: they make room.
            biased;
            end = self.read(responses) => end,
            end = self.write(requests, waiting, queue) => end,
            end = self.watch() => end,
        }
    }

    /// Notices a server that is silent although it owes answers, and gives it up as soon as it is known that another one
    /// leads instead: a leader whose machine stopped breaks no connection.
    async fn watch(&self) -> Failed {
        loop {
            if self.in_flight().is_empty() {
                self.sent.notified().await;
            }
            let heard = self.heard.load(Ordering::Relaxed);
            tokio::time::sleep(SILENCE).await;
            while !self.in_flight().is_empty() && self.heard.load(Ordering::Relaxed) == heard {
                self.connection.suspect();
                if tokio::time::timeout(SILENCE, self.connection.succeeded()).await.is_ok() {
                    return Failed::lost(self.server, "it is silent, and another server leads");
                }
            }
        }
    }

    async fn read(&self, mut responses: BidiRecvHalf<Incoming, PipelineResponseView<'static>>) -> Failed {
        loop {
            match responses.message().await {
                Ok(Some(message)) => self.answer(message.to_owned_message()),
                Ok(None) => return Failed::lost(self.server, "the server ended the stream"),
                Err(e) => {
                    let began = responses.headers().is_some();
                    return Failed::stream_status(self.server, began, &e);
                }
            }
        }
    }

    fn answer(&self, message: PipelineResponse) {
        let mut in_flight = self.in_flight();
        for TaggedResponse { tag, response } in message.responses {
            let Some(reply) = in_flight.remove(&tag) else { continue };
            let result = match response {
                Some(Response::Failure(failure)) => Err(Failed::refused(self.server, failure)),
                Some(response) => Ok(response),
                None => Err(Failed::lost(self.server, "the server answered with something unknown")),
            };
            // A caller that is gone needs no answer.
            drop(reply.send(result));
        }
        drop(in_flight);
        if message.membership_index > 0 {
            self.connection.members_changed();
        }
        self.heard.fetch_add(1, Ordering::Relaxed);
        self.answered.notify_one();
    }

    async fn write(
        &self,
        mut requests: BidiSendHalf<PipelineRequest>,
        waiting: &mut Vec<Call>,
        queue: &mut mpsc::Receiver<Call>,
    ) -> Failed {
        let mut next_tag = 1;
        loop {
            if waiting.is_empty() && queue.recv_many(waiting, BATCH_CALLS_MAX).await == 0 {
                return Failed::lost(self.server, "the client is shutting down");
            }
            // Callers whom the last answers woke are about to ask again: what they ask travels along. Without this the first of
            // them travels alone, and a server's batches are as small.
            tokio::task::yield_now().await;
            while waiting.len() < BATCH_CALLS_MAX
                && let Ok(call) = queue.try_recv()
            {
                waiting.push(call);
            }
            while self.in_flight().len() >= IN_FLIGHT_MAX {
                if tokio::time::timeout(STALL_TIMEOUT, self.answered.notified()).await.is_err() {
                    return Failed::lost(self.server, "the server stopped answering");
                }
            }
            let first_tag = next_tag;
            let batch = self.take_batch(waiting, &mut next_tag);
            if batch.requests.is_empty() {
                continue;
            }
            self.sent.notify_one();
            match tokio::time::timeout(STALL_TIMEOUT, requests.send(batch)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => {
                    let unsent = Failed::not_sent(self.server, "the server ended the stream");
                    self.end(first_tag..next_tag, &unsent);
                    return Failed::lost(self.server, "the server ended the stream");
                }
                Err(_) => return Failed::lost(self.server, "the server stopped reading"),
            }
        }
    }

    /// Takes from `waiting` what fits into one message, and registers who waits for the answers.
    fn take_batch(&self, waiting: &mut Vec<Call>, next_tag: &mut u64) -> PipelineRequest {
        let mut in_flight = self.in_flight();
        let mut bytes = 0;
        let fitting = waiting
            .iter()
            .take(IN_FLIGHT_MAX - in_flight.len())
            .take_while(|call| {
                let fits = bytes < BATCH_BYTES;
                bytes += request_bytes(&call.request);
                fits
            })
            .count();
        let now = Instant::now();
        let mut requests = Vec::with_capacity(fitting);
        for call in waiting.drain(..fitting) {
            if call.reply.is_closed() || !call.ticket.take() {
                continue;
            }
            in_flight.insert(*next_tag, call.reply);
            requests.push(TaggedRequest {
                tag: *next_tag,
                timeout_ms: timeout_ms(call.until - now),
                request: Some(call.request),
            });
            *next_tag += 1;
        }
        PipelineRequest { requests }
    }

    /// Ends the calls of these tags.
    fn end(&self, tags: Range<u64>, failed: &Failed) {
        let mut in_flight = self.in_flight();
        for reply in tags.filter_map(|tag| in_flight.remove(&tag)) {
            drop(reply.send(Err(failed.clone())));
        }
    }

    /// Ends all calls that still wait for an answer.
    fn lose_all(&self, end: &Failed) {
        for (_, reply) in self.in_flight().drain() {
            drop(reply.send(Err(end.clone())));
        }
    }
}

/// What a server is told of the time that is left: a little less, so that its answer comes back in time.
pub(crate) fn server_timeout(left: Duration) -> Duration {
    left.mul_f32(0.9)
}

fn timeout_ms(left: Duration) -> u32 {
    u32::try_from(server_timeout(left).as_millis()).unwrap_or(u32::MAX).max(1)
}
