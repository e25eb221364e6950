//! The attempts of one call: each asks one server, in the stream that all calls share or in a call of its own.

use std::sync::Arc;
use std::time::Duration;

use connectrpc::ConnectError;
use connectrpc::client::CallOptions;
use raftmap_proto::v1::tagged_request::Request;
use raftmap_proto::v1::tagged_response::Response;
use tokio::time::Instant;

use crate::client::TIMEOUT_MAX;
use crate::cluster::{Cluster, Whom};
use crate::dial::Calls;
use crate::error::Error;
use crate::link::Link;
use crate::pipeline::{STREAM_REQUEST_BYTES_MAX, request_bytes, server_timeout};
use crate::retry::{Failed, History, Next};

/// The attempts of one call.
pub(crate) struct Attempts<'a> {
    cluster: &'a Cluster,
    timeout: Duration,
    pub(crate) deadline: Instant,
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
    pub(crate) async fn ask(&self, request: Request, whom: Whom) -> Result<Response, Failed> {
        let link = self.cluster.pick(whom);
        let until = self.until();
        let answer = if request_bytes(&request) > STREAM_REQUEST_BYTES_MAX {
            // Boxed, as whatever is rare: a call moves its future as a whole, room for what it hardly ever does included.
            Box::pin(ask_alone(&link, request, until)).await
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
        Box::pin(self.follow_slowly(failed)).await
    }

    async fn follow_slowly(&mut self, failed: &Failed) -> Result<Next, Error> {
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
