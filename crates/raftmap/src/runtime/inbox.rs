//! What reaches the driver of the replica, and how much of it may wait.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use raftmap_replica::{Event, Failure, ReplicaStatus, RequestKind};
use raftmap_state::{Answer, TraceContext};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;

use crate::peers::{PeerEvent, PeerSink, SinkClosed};

/// One thing for the driver.
#[derive(Debug)]
pub(crate) enum Inbound {
    /// Requests that came together.
    Submissions(Vec<Submission>),
    Event(Event),
    Peer(PeerEvent),
    Status(oneshot::Sender<ReplicaStatus>),
    Stop,
}

/// A request, and who waits for its answer.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) kind: RequestKind,
    pub(crate) deadline: Instant,
    pub(crate) trace: Option<TraceContext>,
    pub(crate) reply: Reply,
}

/// Who waits. If it is dropped without an answer, the node has ended.
#[derive(Debug)]
pub(crate) enum Reply {
    Write(oneshot::Sender<Result<Answer, Failure>>),
    Read(oneshot::Sender<Result<(), Failure>>),
    Callback(Callback),
}

/// Takes the answer to a write; `None`: the node has ended.
type TakeAnswer = Box<dyn FnOnce(Option<Result<Answer, Failure>>) + Send>;

/// Is called once: with an answer, or when it is dropped.
pub(crate) struct Callback(Option<TakeAnswer>);

impl Callback {
    pub(crate) fn new(take: impl FnOnce(Option<Result<Answer, Failure>>) + Send + 'static) -> Self {
        Self(Some(Box::new(take)))
    }

    pub(crate) fn answer(mut self, result: Result<Answer, Failure>) {
        if let Some(take) = self.0.take() {
            take(Some(result));
        }
    }
}

impl Drop for Callback {
    fn drop(&mut self) {
        if let Some(take) = self.0.take() {
            take(None);
        }
    }
}

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callback").finish_non_exhaustive()
    }
}

/// The way to the driver. Requests are bounded here; what its own workers report is bounded by what it asked
/// them to do; what peers send is bounded by the transport, which counts what is not taken in yet.
#[derive(Clone, Debug)]
pub(crate) struct Inbox {
    sender: UnboundedSender<Inbound>,
    requests: Arc<AtomicUsize>,
    requests_max: usize,
}

/// The driver's end of an [`Inbox`].
#[derive(Debug)]
pub(crate) struct Outbox {
    pub(crate) receiver: UnboundedReceiver<Inbound>,
    requests: Arc<AtomicUsize>,
}

impl Inbox {
    pub(crate) fn new(requests_max: usize) -> (Self, Outbox) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let requests = Arc::new(AtomicUsize::new(0));
        (Self { sender, requests: Arc::clone(&requests), requests_max }, Outbox { receiver, requests })
    }

    /// How many of `wanted` requests may be handed over; they are to be, with [`Self::submit`].
    pub(crate) fn admit(&self, wanted: usize) -> usize {
        let before = self.requests.fetch_add(wanted, Ordering::Relaxed);
        let admitted = self.requests_max.saturating_sub(before).min(wanted);
        self.requests.fetch_sub(wanted - admitted, Ordering::Relaxed);
        admitted
    }

    /// How many requests may wait.
    pub(crate) fn requests_max(&self) -> usize {
        self.requests_max
    }

    /// Hands over requests that were admitted.
    pub(crate) fn submit(&self, submissions: Vec<Submission>) {
        self.send(Inbound::Submissions(submissions));
    }

    pub(crate) fn event(&self, event: Event) {
        self.send(Inbound::Event(event));
    }

    pub(crate) fn status(&self) -> oneshot::Receiver<ReplicaStatus> {
        let (reply, status) = oneshot::channel();
        self.send(Inbound::Status(reply));
        status
    }

    pub(crate) fn stop(&self) {
        self.send(Inbound::Stop);
    }

    /// When the driver has ended, what is sent is dropped, and with it the reply: its receiver sees that.
    fn send(&self, inbound: Inbound) {
        let _ended = self.sender.send(inbound);
    }
}

impl PeerSink for Inbox {
    async fn deliver(&self, event: PeerEvent) -> Result<(), SinkClosed> {
        self.sender.send(Inbound::Peer(event)).map_err(|_| SinkClosed)
    }
}

impl Outbox {
    /// Takes note that requests have left the queue.
    pub(crate) fn requests_taken(&self, count: usize) {
        self.requests.fetch_sub(count, Ordering::Relaxed);
    }
}
