//! One server: its connection, and the queue of the calls that travel to it together.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use raftmap_proto::v1::tagged_request::Request;
use raftmap_proto::v1::tagged_response::Response;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::config::Secured;
use crate::dial::{Calls, DialError, dial};
use crate::endpoint::Endpoint;
use crate::pipeline;
use crate::retry::Failed;

/// How many calls may wait for a server's stream; those beyond wait outside, each in its caller.
const QUEUE_CALLS_MAX: usize = 1024;
/// How long a server that failed is asked last.
const SET_ASIDE: Duration = Duration::from_secs(1);

/// A request on its way to a server's stream, and where its answer goes.
pub(crate) struct Call {
    pub(crate) request: Request,
    /// When the caller turns to another server.
    pub(crate) until: Instant,
    pub(crate) ticket: Ticket,
    pub(crate) reply: oneshot::Sender<Result<Response, Failed>>,
}

/// Settles between caller and stream whether the request leaves: whoever takes it first.
#[derive(Clone, Default)]
pub(crate) struct Ticket(Arc<AtomicBool>);

impl Ticket {
    /// Whether nobody took it before.
    pub(crate) fn take(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

/// A server, as the client knows it.
pub(crate) struct Link {
    connection: Arc<Connection>,
    queue: mpsc::Sender<Call>,
    aside_until: Mutex<Option<Instant>>,
}

impl Link {
    /// A link to `endpoint`. Nothing is connected until the first call. It asks for a look at the members by `stale`.
    pub(crate) fn start(endpoint: Endpoint, secured: Option<Arc<Secured>>, stale: Arc<Notify>) -> Arc<Self> {
        let (state, succeeded) = (tokio::sync::Mutex::default(), watch::Sender::new(false));
        let connection = Arc::new(Connection { endpoint, secured, state, succeeded, stale });
        let (queue, calls) = mpsc::channel(QUEUE_CALLS_MAX);
        tokio::spawn(pipeline::run(Arc::clone(&connection), calls));
        Arc::new(Self { connection, queue, aside_until: Mutex::new(None) })
    }

    pub(crate) fn server(&self) -> &str {
        self.connection.server()
    }

    /// The calls of the server's connection, for what does not travel in the stream.
    pub(crate) async fn calls(&self) -> Result<Arc<Calls>, Failed> {
        self.connection.calls().await
    }

    /// Sends `request` with whatever else waits, and waits for its answer until `until`.
    pub(crate) async fn ask(&self, request: Request, until: Instant) -> Result<Response, Failed> {
        let began = Instant::now();
        let ticket = Ticket::default();
        let (reply, answer) = oneshot::channel();
        let queued = self.queue.try_send(Call { request, until, ticket: ticket.clone(), reply });
        let answered = async {
            answer.await.unwrap_or_else(|_| Err(Failed::lost(self.server(), "the client is shutting down")))
        };
        let result = match queued {
            Ok(()) => tokio::time::timeout_at(until, answered).await,
            Err(TrySendError::Full(call)) => {
                let queued_and_answered = async {
                    match self.queue.send(call).await {
                        Ok(()) => answered.await,
                        Err(_) => Err(self.shut_down()),
                    }
                };
                tokio::time::timeout_at(until, Box::pin(queued_and_answered)).await
            }
            Err(TrySendError::Closed(_)) => return Err(self.shut_down()),
        };
        result.unwrap_or_else(|_| {
            let sent = !ticket.take();
            Err(Failed::timed_out(self.server(), sent, until - began))
        })
    }

    fn shut_down(&self) -> Failed {
        Failed::not_sent(self.server(), "the client is shutting down")
    }

    /// It failed: others are asked before it for a while.
    pub(crate) fn set_aside(&self) {
        *self.aside_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + SET_ASIDE);
    }

    /// It led, and another server does since, or it leads again.
    pub(crate) fn set_succeeded(&self, succeeded: bool) {
        self.connection.succeeded.send_replace(succeeded);
    }

    pub(crate) fn is_aside(&self) -> bool {
        let until = *self.aside_until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| Instant::now() < until)
    }
}

/// The connection to one server, made when it is needed and again when it was lost.
pub(crate) struct Connection {
    endpoint: Endpoint,
    secured: Option<Arc<Secured>>,
    state: tokio::sync::Mutex<State>,
    /// Whether it led, and another server does since.
    succeeded: watch::Sender<bool>,
    stale: Arc<Notify>,
}

#[derive(Default)]
struct State {
    calls: Option<Arc<Calls>>,
    /// When the last attempt to connect failed, and why: the answer for all who waited for it.
    failed: Option<(Instant, DialError)>,
}

impl Connection {
    pub(crate) fn server(&self) -> &str {
        self.endpoint.as_str()
    }

    pub(crate) async fn calls(&self) -> Result<Arc<Calls>, Failed> {
        let began = Instant::now();
        let mut state = self.state.lock().await;
        if let Some(calls) = &state.calls
            && !calls.transport.is_closed()
        {
            return Ok(Arc::clone(calls));
        }
        state.calls = None;
        if let Some((at, error)) = &state.failed
            && *at >= began
        {
            return Err(Failed::not_connected(self.server(), error));
        }
        match dial(&self.endpoint, self.secured.as_deref()).await {
            Ok(calls) => {
                let calls = Arc::new(calls);
                state.calls = Some(Arc::clone(&calls));
                Ok(calls)
            }
            Err(error) => {
                let failed = Failed::not_connected(self.server(), &error);
                state.failed = Some((Instant::now(), error));
                Err(failed)
            }
        }
    }

    /// It owes answers and is silent: perhaps another server leads by now.
    pub(crate) fn suspect(&self) {
        self.stale.notify_one();
    }

    /// Its server says that the members are new.
    pub(crate) fn members_changed(&self) {
        self.stale.notify_one();
    }

    /// Waits until another server leads instead of this one.
    pub(crate) async fn succeeded(&self) {
        let mut succeeded = self.succeeded.subscribe();
        succeeded.wait_for(|succeeded| *succeeded).await.expect("the sender lives as long as this");
    }

    /// `broken` does not work any more: the next call connects again.
    pub(crate) async fn discard(&self, broken: &Arc<Calls>) {
        let mut state = self.state.lock().await;
        if state.calls.as_ref().is_some_and(|calls| Arc::ptr_eq(calls, broken)) {
            state.calls = None;
        }
    }
}
