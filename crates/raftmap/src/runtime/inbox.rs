//! What reaches the replica thread, and how much of it may wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Instant;

use raftmap_replica::{Event, Failure, ReplicaStatus, RequestKind};
use raftmap_state::Answer;
use tokio::sync::oneshot;

use crate::peers::{PeerEvent, PeerSink, SinkClosed};

/// One thing for the replica thread.
#[derive(Debug)]
pub(crate) enum Inbound {
    Submission(Submission),
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
    pub(crate) reply: Reply,
}

/// Who waits. If it is dropped without an answer, the node has ended.
#[derive(Debug)]
pub(crate) enum Reply {
    Write(oneshot::Sender<Result<Answer, Failure>>),
    Read(oneshot::Sender<Result<(), Failure>>),
}

/// The way to the replica thread. Requests are bounded here; what its own workers report is bounded by what it asked
/// them to do; what peers send is bounded by the transport, which counts what is not taken in yet.
#[derive(Clone, Debug)]
pub(crate) struct Inbox {
    sender: Sender<Inbound>,
    requests: Arc<AtomicUsize>,
    requests_max: usize,
}

/// The replica thread's end of an [`Inbox`].
#[derive(Debug)]
pub(crate) struct Outbox {
    pub(crate) receiver: Receiver<Inbound>,
    requests: Arc<AtomicUsize>,
}

impl Inbox {
    pub(crate) fn new(requests_max: usize) -> (Self, Outbox) {
        let (sender, receiver) = mpsc::channel();
        let requests = Arc::new(AtomicUsize::new(0));
        (Self { sender, requests: Arc::clone(&requests), requests_max }, Outbox { receiver, requests })
    }

    /// Hands over a request.
    ///
    /// # Errors
    /// With the number that may wait, if so many do.
    pub(crate) fn submit(&self, submission: Submission) -> Result<(), usize> {
        if self.requests.fetch_add(1, Ordering::Relaxed) >= self.requests_max {
            self.requests.fetch_sub(1, Ordering::Relaxed);
            return Err(self.requests_max);
        }
        self.send(Inbound::Submission(submission));
        Ok(())
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

    /// When the replica thread has ended, what is sent is dropped, and with it the reply: its receiver sees that.
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
    /// Takes note that a request has left the queue.
    pub(crate) fn request_taken(&self) {
        self.requests.fetch_sub(1, Ordering::Relaxed);
    }
}
