//! `grpc.health.v1.Health`: whether this server may be sent requests, for load balancers and for clients that choose a server.

use std::sync::Arc;

use connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use futures::{StreamExt, stream};
use raftmap_proto::health;
use raftmap_proto::health::health_check_response::ServingStatus;
use raftmap_proto::health::{HealthCheckRequest, HealthCheckResponse};
use raftmap_proto::v1::{CLUSTER_SERVICE_NAME, MAP_SERVICE_NAME};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::api::{Code, Failure};
use crate::front::convert::excerpt;
use crate::front::status;

/// What may be asked for: the server as a whole, and its services. They are well or not together.
const SERVICES: [&str; 3] = ["", MAP_SERVICE_NAME, CLUSTER_SERVICE_NAME];

/// How this server is, for whoever asks.
pub(super) struct Health {
    server: Server,
    watches: Arc<Semaphore>,
    watches_max: usize,
}

/// What is known of this server.
#[derive(Clone)]
struct Server {
    ready: watch::Receiver<bool>,
    stop: CancellationToken,
}

impl Health {
    pub(super) fn new(ready: watch::Receiver<bool>, watches_max: usize, stop: CancellationToken) -> Self {
        let watches = Arc::new(Semaphore::new(watches_max));
        Self { server: Server { ready, stop }, watches, watches_max }
    }
}

impl Server {
    /// How `service` is now; [`Self::changed`] tells of what is new from here on.
    fn status(&mut self, service: &str) -> ServingStatus {
        let ready = *self.ready.borrow_and_update();
        if !SERVICES.contains(&service) {
            ServingStatus::SERVICE_UNKNOWN
        } else if ready && !self.stop.is_cancelled() {
            ServingStatus::SERVING
        } else {
            ServingStatus::NOT_SERVING
        }
    }

    async fn changed(&mut self) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            changed = self.ready.changed() => if changed.is_err() {
                // The node has ended, and told so.
                self.stop.cancelled().await;
            },
        }
    }

    /// The next status of `service` that is another one than `told`; none, if the server stops and that was told. What changes
    /// back before it is told is not told.
    async fn next(&mut self, service: &str, told: Option<ServingStatus>) -> Option<ServingStatus> {
        loop {
            let status = self.status(service);
            if told != Some(status) {
                return Some(status);
            }
            if self.stop.is_cancelled() {
                return None;
            }
            self.changed().await;
        }
    }
}

#[allow(refining_impl_trait, reason = "the messages themselves are what is answered")]
impl health::Health for Health {
    async fn check(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, HealthCheckRequest>,
    ) -> ServiceResult<HealthCheckResponse> {
        match self.server.clone().status(request.service) {
            ServingStatus::SERVICE_UNKNOWN => {
                let reason = format!("there is no service {} to tell of", excerpt(request.service));
                Err(ConnectError::not_found(reason))
            }
            status => Ok(Response::new(HealthCheckResponse { status: status.into() })),
        }
    }

    async fn watch(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, HealthCheckRequest>,
    ) -> ServiceResult<ServiceStream<HealthCheckResponse>> {
        let place = Arc::clone(&self.watches).try_acquire_owned().map_err(|_| {
            let reason = "this server tells as many streams how it is as it may at once";
            let failure = Failure::not_applied(Code::Overloaded, reason).over_limit(self.watches_max as u64);
            status::error(&failure)
        })?;
        let watch = (self.server.clone(), request.service.to_owned(), None, place);
        let statuses = stream::unfold(watch, |(mut server, service, told, place)| async move {
            let status = server.next(&service, told).await?;
            Some((status, (server, service, Some(status), place)))
        });
        let messages = statuses.map(|status| Ok(HealthCheckResponse { status: status.into() }));
        Ok(Response::new(Box::pin(messages)))
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    /// A node that has ended tells nothing any more, and whoever watches waits, and does not spin.
    #[tokio::test]
    async fn a_watch_outlives_the_node_that_it_is_about() {
        let (telling, ready) = watch::channel(true);
        let stop = CancellationToken::new();
        let mut server = Server { ready, stop: stop.clone() };
        assert_eq!(server.next("", None).await, Some(ServingStatus::SERVING));
        telling.send_replace(false);
        drop(telling);
        assert_eq!(server.next("", Some(ServingStatus::SERVING)).await, Some(ServingStatus::NOT_SERVING));
        let rest = server.next("", Some(ServingStatus::NOT_SERVING));
        let mut rest = std::pin::pin!(rest);
        assert_eq!(rest.as_mut().now_or_never(), None);
        stop.cancel();
        assert_eq!(rest.await, None);
    }

    /// Nobody is told twice in a row that it is as it was.
    #[tokio::test]
    async fn what_changes_back_before_it_is_told_is_not_told() {
        let (telling, ready) = watch::channel(true);
        let mut server = Server { ready, stop: CancellationToken::new() };
        let told = server.next("", None).await;
        telling.send_replace(false);
        telling.send_replace(true);
        assert_eq!(server.next("", told).now_or_never(), None);
        telling.send_replace(false);
        assert_eq!(server.next("", told).await, Some(ServingStatus::NOT_SERVING));
    }
}
