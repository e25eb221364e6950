//! The client: what it holds, and how a read and a write go through their attempts.

use std::sync::Arc;
use std::time::Duration;

use buffa::MessageField;
use raftmap_proto::v1::tagged_request::Request;
use raftmap_proto::v1::tagged_response::Response;
use raftmap_proto::v1::{OpenSessionRequest, OpenSessionResponse, SessionTag, StatusRequest, StatusResponse};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::attempts::{Attempts, call_alone};
use crate::cluster::{Cluster, Whom};
use crate::config::{Builder, Config, Security};
use crate::error::{Error, SetupError};
use crate::retry::{Failed, Next};
use crate::session::{Sequence, Sessions};

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

    /// A place in a session, which is opened first, or waited for.
    async fn sequence(&self, attempts: &mut Attempts<'_>) -> Result<Sequence, Error> {
        loop {
            let place = self.inner.sessions.sequence(|| open_session(self.cluster(), attempts.until()));
            match tokio::time::timeout_at(attempts.deadline, place).await {
                Ok(Ok(sequence)) => return Ok(sequence),
                Ok(Err(failed)) => attempts.follow(&failed).await?,
                Err(_) => return Err(attempts.give_up()),
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
            let sequence = match sessions.sequence_now() {
                Some(sequence) => sequence,
                None => Box::pin(self.sequence(&mut attempts)).await?,
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
        if failures.iter().all(Failed::stands) {
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

fn set_session(request: &mut Request, tag: SessionTag) {
    let session = match request {
        Request::Put(put) => &mut put.session,
        Request::Delete(delete) => &mut delete.session,
        Request::Txn(txn) => &mut txn.session,
        Request::Get(_) => unreachable!("a get is not written"),
    };
    *session = MessageField::some(tag);
}
