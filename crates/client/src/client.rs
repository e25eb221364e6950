//! The client: one call is a few attempts, each at one server, until one of them brings the answer.

use std::sync::Arc;
use std::time::Duration;

use buffa::MessageField;
use connectrpc::ConnectError;
use connectrpc::client::CallOptions;
use raftmap_proto::v1::failure::Code;
use raftmap_proto::v1::tagged_request::Request;
use raftmap_proto::v1::tagged_response::Response;
use raftmap_proto::v1::{OpenSessionRequest, OpenSessionResponse, SessionTag, StatusRequest, StatusResponse};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::cluster::{Cluster, Whom};
use crate::config::{Builder, Config, Security};
use crate::dial::Calls;
use crate::error::{Error, SetupError};
use crate::link::Link;
use crate::pipeline::{STREAM_REQUEST_BYTES_MAX, request_bytes, server_timeout};
use crate::retry::{Failed, History, Next};
use crate::session::Sessions;

/// How many scans may be open at once. Each may hold one stream's window of what was not read yet, and all of them
/// together must leave room in the connection's.
pub const SCANS_MAX: usize = 8;

/// The longest time that a call may take: longer ones are cut to it.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// A client of one cluster. Cheap to clone; all clones share connections and the session.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    cluster: Arc<Cluster>,
    sessions: Sessions,
    scans: Arc<Semaphore>,
    refresher: JoinHandle<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.refresher.abort();
    }
}

impl Client {
    /// A client of the cluster of which `endpoints` (each `host:port`) are servers. Waits until one of them answered.
    ///
    /// # Errors
    /// See [`Builder::connect`].
    pub async fn connect<E: Into<String>>(
        endpoints: impl IntoIterator<Item = E>,
        security: impl Into<Security>,
    ) -> Result<Self, SetupError> {
        Self::builder(endpoints, security).connect().await
    }

    /// As [`Client::connect`], with more to set.
    pub fn builder<E: Into<String>>(
        endpoints: impl IntoIterator<Item = E>,
        security: impl Into<Security>,
    ) -> Builder {
        Builder::new(endpoints.into_iter().map(Into::into).collect(), security.into())
    }

    pub(crate) async fn start(config: Config) -> Result<Self, SetupError> {
        let timeout = config.timeout.min(TIMEOUT_MAX);
        let cluster = Arc::new(Cluster::new(config));
        reach(&cluster, timeout).await?;
        let refresher = tokio::spawn(Arc::clone(&cluster).keep_fresh());
        let inner = Inner {
            cluster,
            sessions: Sessions::default(),
            scans: Arc::new(Semaphore::new(SCANS_MAX)),
            refresher,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// How the members are, as one server sees it: the leader if it is known, as it knows most.
    ///
    /// # Errors
    /// [`Error::NotApplied`] if no server answered in time.
    pub async fn status(&self) -> Result<StatusResponse, Error> {
        let mut attempts = Attempts::new(self.cluster(), self.timeout(None));
        loop {
            let link = self.cluster().pick(Whom::Leader);
            let status = call_alone(&link, attempts.until(), async |calls, options| {
                calls.cluster.status_with_options(StatusRequest::default(), options).await
            });
            match status.await {
                Ok(status) => return Ok(status.into_owned()),
                Err(failed) => {
                    attempts.learn(&link, &failed);
                    attempts.follow(&failed.of_read()).await?;
                }
            }
        }
    }

    pub(crate) fn cluster(&self) -> &Arc<Cluster> {
        &self.inner.cluster
    }

    pub(crate) fn scans(&self) -> &Arc<Semaphore> {
        &self.inner.scans
    }

    /// The default if a call does not say otherwise.
    pub(crate) fn timeout(&self, timeout: Option<Duration>) -> Duration {
        timeout.unwrap_or(self.cluster().config().timeout).min(TIMEOUT_MAX)
    }

    /// Asks until a server answers. A read may be sent as often as one likes.
    pub(crate) async fn read(
        &self,
        request: Request,
        whom: Whom,
        timeout: Option<Duration>,
    ) -> Result<Response, Error> {
        let mut attempts = Attempts::new(self.cluster(), self.timeout(timeout));
        loop {
            match attempts.ask(request.clone(), whom).await {
                Ok(response) => return Ok(response),
                Err(failed) => attempts.follow(&failed.of_read()).await?,
            };
        }
    }

    /// Writes, in a session, so that it is applied once however often it is sent.
    pub(crate) async fn write(
        &self,
        mut request: Request,
        timeout: Option<Duration>,
    ) -> Result<Response, Error> {
        let sessions = &self.inner.sessions;
        let mut attempts = Attempts::new(self.cluster(), self.timeout(timeout));
        loop {
            let place = sessions.sequence(|| open_session(self.cluster(), attempts.until()));
            let sequence = match tokio::time::timeout_at(attempts.deadline, place).await {
                Ok(Ok(sequence)) => sequence,
                Ok(Err(failed)) => {
                    attempts.follow(&failed).await?;
                    continue;
                }
                Err(_) => return Err(attempts.give_up()),
            };
            loop {
                set_session(&mut request, sequence.tag());
                let failed = match attempts.ask(request.clone(), Whom::Leader).await {
                    Ok(response) => return Ok(response),
                    Err(failed) => failed,
                };
                if failed.next == Next::NewSession {
                    sessions.forget(&sequence);
                }
                if attempts.follow(&failed).await? == Next::NewSession {
                    break;
                }
            }
        }
    }
}

/// The attempts of one call.
pub(crate) struct Attempts<'a> {
    cluster: &'a Cluster,
    timeout: Duration,
    deadline: Instant,
    history: History,
}

impl<'a> Attempts<'a> {
    pub(crate) fn new(cluster: &'a Cluster, timeout: Duration) -> Self {
        Self { cluster, timeout, deadline: Instant::now() + timeout, history: History::default() }
    }

    /// When an attempt that begins now must be over.
    pub(crate) fn until(&self) -> Instant {
        self.deadline.min(Instant::now() + self.cluster.config().attempt_timeout.min(TIMEOUT_MAX))
    }

    /// One attempt.
    async fn ask(&self, request: Request, whom: Whom) -> Result<Response, Failed> {
        let link = self.cluster.pick(whom);
        let until = self.until();
        let answer = if request_bytes(&request) > STREAM_REQUEST_BYTES_MAX {
            ask_alone(&link, request, until).await
        } else {
            link.ask(request, until).await
        };
        answer.inspect_err(|failed| self.learn(&link, failed))
    }

    /// Learns from a failed attempt, unless it failed because the whole call is over: that says nothing of the server.
    pub(crate) fn learn(&self, link: &Arc<Link>, failed: &Failed) {
        if Instant::now() < self.deadline {
            self.cluster.learn(link, failed);
        }
    }

    /// After a failed attempt: waits as long as is right and says how to go on, or ends the call.
    pub(crate) async fn follow(&mut self, failed: &Failed) -> Result<Next, Error> {
        if Instant::now() >= self.deadline {
            self.history.record_cut(failed);
            return Err(self.give_up());
        }
        let next = self.history.record(failed);
        if next == Next::End {
            return Err(std::mem::take(&mut self.history).end());
        }
        let next_attempt = Instant::now() + self.history.pause(failed, fastrand::f64());
        if next_attempt >= self.deadline {
            return Err(self.give_up());
        }
        tokio::time::sleep_until(next_attempt).await;
        Ok(next)
    }

    /// The error of a call whose time is over.
    pub(crate) fn give_up(&mut self) -> Error {
        std::mem::take(&mut self.history).give_up(self.timeout)
    }
}

/// Tries until a server answers or says that it never will.
async fn reach(cluster: &Arc<Cluster>, timeout: Duration) -> Result<(), SetupError> {
    const PAUSE: Duration = Duration::from_millis(100);
    let deadline = Instant::now() + timeout;
    let mut last = format!("no answer within {timeout:?}");
    while let Ok(reached) = tokio::time::timeout_at(deadline, cluster.reach()).await {
        let Err(failures) = reached else { return Ok(()) };
        let each: Vec<String> = failures.iter().map(|failed| failed.cause.to_string()).collect();
        last = each.join("; ");
        // A server that does not run yet may do so in a moment; a refusal stands.
        let stands =
            |failed: &Failed| failed.next == Next::End || failed.cause.code == Some(Code::UNAUTHENTICATED);
        if failures.iter().all(stands) {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(SetupError::Unreachable(last))
}

async fn open_session(cluster: &Cluster, until: Instant) -> Result<OpenSessionResponse, Failed> {
    let link = cluster.pick(Whom::Leader);
    let opened = call_alone(&link, until, async |calls, options| {
        calls.map.open_session_with_options(OpenSessionRequest::default(), options).await
    });
    let failed = match opened.await {
        Ok(opened) => return Ok(opened.into_owned()),
        Err(failed) => failed,
    };
    cluster.learn(&link, &failed);
    // A session that nobody knows of expires: it is as if it had not been opened.
    Err(Failed { maybe_applied: false, ..failed })
}

/// Sends a request as a call of its own.
async fn ask_alone(link: &Link, request: Request, until: Instant) -> Result<Response, Failed> {
    call_alone(link, until, async |calls, options| {
        let map = &calls.map;
        Ok(match request {
            Request::Get(get) => Response::Get(map.get_with_options(get, options).await?.into_owned()),
            Request::Put(put) => Response::Put(map.put_with_options(put, options).await?.into_owned()),
            Request::Delete(delete) => {
                Response::Delete(map.delete_with_options(delete, options).await?.into_owned())
            }
            Request::Txn(txn) => Response::Txn(map.txn_with_options(txn, options).await?.into_owned()),
        })
    })
    .await
}

/// Makes a call that does not travel in the stream, until `until`.
pub(crate) async fn call_alone<T>(
    link: &Link,
    until: Instant,
    call: impl AsyncFnOnce(&Calls, CallOptions) -> Result<T, ConnectError>,
) -> Result<T, Failed> {
    let began = Instant::now();
    let mut sent = false;
    let work = async {
        let calls = link.calls().await?;
        sent = true;
        let options = CallOptions::default().with_timeout(server_timeout(until - Instant::now()));
        call(&calls, options).await.map_err(|e| Failed::status(link.server(), &e))
    };
    match tokio::time::timeout_at(until, work).await {
        Ok(answer) => answer,
        Err(_) => Err(Failed::timed_out(link.server(), sent, until - began)),
    }
}

fn set_session(request: &mut Request, tag: SessionTag) {
    let session = match request {
        Request::Put(put) => &mut put.session,
        Request::Delete(delete) => &mut delete.session,
        Request::Txn(txn) => &mut txn.session,
        Request::Get(_) => unreachable!("a get is not written"),
    };
    *session = MessageField::some(tag);
}
