//! The calls of `map.proto` and `cluster.proto`, from message to message.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use connectrpc::{InboundStream, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use futures::StreamExt;
use raftmap_proto::v1;
use raftmap_raft::NodeId;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::access::Caller;
use super::arrival::Arrival;
use super::behalf::Guarded;
use super::budget::Share;
use super::gate::Deadline;
use super::meters::{Kind, Meters};
use super::sizes::Counted;
use super::{FrontDoorConfig, backup, convert, pipeline, scan, status};
use crate::api::{Code, Failure, FailureOutcome, MembersChange, ReadAndWrite};
use crate::observe::traces::Tracer;
use crate::users::Rights;

/// What all calls share.
pub(super) struct Calls<N> {
    pub(super) node: Guarded<N>,
    pub(super) config: Arc<FrontDoorConfig>,
    pub(super) meters: Arc<Meters>,
    /// Scans that hold a snapshot.
    pub(super) scans: Arc<Semaphore>,
    /// Backups that hold a snapshot.
    pub(super) backups: Arc<Semaphore>,
    /// The server stops: streams take no more requests.
    pub(super) stop: CancellationToken,
}

impl<N: ReadAndWrite> Calls<N> {
    pub(super) async fn get(
        &self,
        rights: &Rights,
        request: v1::GetRequest,
        arrival: &Arrival,
    ) -> Result<v1::GetResponse, Failure> {
        let input = convert::get(request, arrival)?;
        let request_id = input.call.request_id.clone();
        Ok(convert::get_response(request_id, self.node.on_behalf(rights).get_value(input).await?))
    }

    pub(super) async fn put(
        &self,
        rights: &Rights,
        request: v1::PutRequest,
        arrival: &Arrival,
    ) -> Result<v1::PutResponse, Failure> {
        let input = convert::put(request, arrival)?;
        let request_id = input.call.request_id.clone();
        Ok(convert::put_response(request_id, self.node.on_behalf(rights).propose_value(input).await?))
    }

    pub(super) async fn delete(
        &self,
        rights: &Rights,
        request: v1::DeleteRequest,
        arrival: &Arrival,
    ) -> Result<v1::DeleteResponse, Failure> {
        let input = convert::delete(request, arrival)?;
        let request_id = input.call.request_id.clone();
        Ok(convert::delete_response(request_id, self.node.on_behalf(rights).delete_value(input).await?))
    }

    pub(super) async fn txn(
        &self,
        rights: &Rights,
        request: v1::TxnRequest,
        arrival: &Arrival,
    ) -> Result<v1::TxnResponse, Failure> {
        let input = convert::txn(request, arrival)?;
        let request_id = input.call.request_id.clone();
        Ok(convert::txn_response(request_id, self.node.on_behalf(rights).transact(input).await?))
    }

    /// One page, as large as an answer may be. Its snapshot is gone when this returns.
    async fn scan_page(
        &self,
        rights: &Rights,
        request: v1::ScanRequest,
        arrival: &Arrival,
    ) -> Result<v1::ScanResponse, Failure> {
        let input = convert::scan(request, self.node.limits().answer_bytes_max, arrival)?;
        let request_id = input.call.request_id.clone();
        let mut pages = self.node.on_behalf(rights).scan(input).await?;
        match pages.next().await {
            Some(page) => Ok(convert::scan_response(request_id, page?)),
            None => Err(Failure::not_applied(Code::Unspecified, "the scan ended without a page")),
        }
    }

    async fn open_session(
        &self,
        rights: &Rights,
        request: v1::OpenSessionRequest,
        arrival: &Arrival,
    ) -> Result<v1::OpenSessionResponse, Failure> {
        let call = convert::call(request.request_id, &request.map, arrival)?;
        let request_id = call.request_id.clone();
        Ok(convert::open_session_response(request_id, &self.node.on_behalf(rights).open_session(call).await?))
    }

    async fn members(
        &self,
        rights: &Rights,
        request: v1::MembersRequest,
        arrival: &Arrival,
    ) -> Result<v1::MembersResponse, Failure> {
        let call = convert::cluster_call(request.request_id, arrival)?;
        let request_id = call.request_id.clone();
        Ok(v1::MembersResponse { request_id, ..self.node.on_behalf(rights).members(call).await? })
    }

    async fn status(
        &self,
        rights: &Rights,
        request: v1::StatusRequest,
        arrival: &Arrival,
    ) -> Result<v1::StatusResponse, Failure> {
        let call = convert::cluster_call(request.request_id, arrival)?;
        let request_id = call.request_id.clone();
        Ok(v1::StatusResponse { request_id, ..self.node.on_behalf(rights).status(call).await? })
    }

    async fn add_member(
        &self,
        rights: &Rights,
        request: v1::AddMemberRequest,
        arrival: &Arrival,
    ) -> Result<v1::AddMemberResponse, Failure> {
        let call = convert::cluster_call(request.request_id.clone(), arrival)?;
        let change = MembersChange::Add(convert::introduction(request)?);
        let request_id = call.request_id.clone();
        self.node.on_behalf(rights).change_members(change, call).await?;
        Ok(v1::AddMemberResponse { request_id })
    }

    async fn remove_member(
        &self,
        rights: &Rights,
        request: v1::RemoveMemberRequest,
        arrival: &Arrival,
    ) -> Result<v1::RemoveMemberResponse, Failure> {
        let call = convert::cluster_call(request.request_id, arrival)?;
        let request_id = call.request_id.clone();
        self.node.on_behalf(rights).change_members(MembersChange::Remove(NodeId(request.id)), call).await?;
        Ok(v1::RemoveMemberResponse { request_id })
    }

    /// What is known of a call before it runs.
    fn arrival(&self, ctx: &RequestContext, request_id: &str) -> Arrival {
        let traceparent = || ctx.headers().get("traceparent").and_then(|value| value.to_str().ok());
        Arrival::new(&self.config.tracer, deadline(ctx), traceparent, request_id)
    }

    /// Runs a request, counts and logs it.
    pub(super) async fn observed<T>(
        &self,
        kind: Kind,
        caller: &Caller,
        request_id: &str,
        arrival: &Arrival,
        request: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let mut waited_for =
            WaitedFor { tracer: &self.config.tracer, kind, request_id, arrival: Some(arrival) };
        let result = request.await;
        waited_for.arrival = None;
        self.observe(kind, caller, request_id, arrival, result.as_ref().err());
        result
    }

    /// Counts and logs a request that ran, and ends its span.
    pub(super) fn observe(
        &self,
        kind: Kind,
        caller: &Caller,
        request_id: &str,
        arrival: &Arrival,
        failure: Option<&Failure>,
    ) {
        match failure {
            None => self.meters.answered(kind, caller, request_id, arrival.since),
            Some(failure) => self.meters.failed(kind, caller, request_id, failure),
        }
        arrival.answered(&self.config.tracer, kind.name(), request_id, failure);
    }

    /// Runs a request that only an operator may make, and puts it into the audit log.
    async fn audited<T>(
        &self,
        kind: Kind,
        ctx: &RequestContext,
        request_id: &str,
        about: String,
        request: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let result = request.await;
        self.meters.admin(kind, caller(ctx), request_id, &about, result.as_ref().err());
        result
    }

    /// [`Self::observed`], as a call of its own. Its answer is held until it is sent.
    async fn unary<T: Counted>(
        &self,
        kind: Kind,
        ctx: &RequestContext,
        request_id: &str,
        arrival: &Arrival,
        request: impl Future<Output = Result<T, Failure>>,
    ) -> ServiceResult<T> {
        let held = async {
            let answer = request.await?;
            share(ctx).grow(answer.counted_bytes()).map_err(|failure| unsent(kind, failure))?;
            Ok(answer)
        };
        let result = self.observed(kind, caller(ctx), request_id, arrival, held).await;
        result.map(Response::new).map_err(|failure| status::error(&failure))
    }
}

/// A request under way. Its caller may give up, which drops it: its span ends then, too.
struct WaitedFor<'a> {
    tracer: &'a Tracer,
    kind: Kind,
    request_id: &'a str,
    arrival: Option<&'a Arrival>,
}

impl Drop for WaitedFor<'_> {
    fn drop(&mut self) {
        if let Some(arrival) = self.arrival {
            arrival.given_up(self.tracer, self.kind.name(), self.request_id);
        }
    }
}

/// Which server is to be taken in, for the audit log.
fn added(request: &v1::AddMemberRequest) -> String {
    let Some(member) = request.member.as_option() else { return String::new() };
    let replaced =
        if request.replaces > 0 { format!(" in place of {}", request.replaces) } else { String::new() };
    let (peers, clients) = (convert::excerpt(&member.peer_address), convert::excerpt(&member.client_address));
    format!("server {} at {peers}, {clients}{replaced}", member.id)
}

/// `failure`, because of which the answer to a request that ran is dropped. It can be asked again; a write with its
/// session tag.
pub(super) fn unsent(kind: Kind, failure: Failure) -> Failure {
    let outcome = if kind.is_read() { FailureOutcome::NotApplied } else { FailureOutcome::Unknown };
    Failure { outcome, ..failure }
}

/// The other end of the connection that a request came on.
fn caller(ctx: &RequestContext) -> &Caller {
    ctx.extensions().get().expect("the gate puts the caller into every request")
}

/// What who made a request may do.
fn rights(ctx: &RequestContext) -> &Rights {
    let rights: &Arc<Rights> = ctx.extensions().get().expect("the gate puts rights into every request");
    rights
}

/// What the request and its answer hold of the budget.
fn share(ctx: &RequestContext) -> &Arc<Share> {
    ctx.extensions().get().expect("the gate puts a share into every request")
}

fn deadline(ctx: &RequestContext) -> Instant {
    let Deadline(deadline) = ctx.extensions().get().expect("the gate puts a deadline into every request");
    *deadline
}

/// The calls as `connectrpc` serves them.
pub(super) struct Service<N>(pub(super) Arc<Calls<N>>);

impl<N> Clone for Service<N> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[allow(refining_impl_trait, reason = "the messages themselves are what is answered")]
impl<N: ReadAndWrite> v1::Map for Service<N> {
    async fn get(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, v1::GetRequest>,
    ) -> ServiceResult<v1::GetResponse> {
        let arrival = &self.0.arrival(&ctx, request.request_id);
        let call = self.0.get(rights(&ctx), request.to_owned_message(), arrival);
        self.0.unary(Kind::Get, &ctx, request.request_id, arrival, call).await
    }

    async fn put(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, v1::PutRequest>,
    ) -> ServiceResult<v1::PutResponse> {
        let arrival = &self.0.arrival(&ctx, request.request_id);
        let call = self.0.put(rights(&ctx), request.to_owned_message(), arrival);
        self.0.unary(Kind::Put, &ctx, request.request_id, arrival, call).await
    }

    async fn delete(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, v1::DeleteRequest>,
    ) -> ServiceResult<v1::DeleteResponse> {
        let arrival = &self.0.arrival(&ctx, request.request_id);
        let call = self.0.delete(rights(&ctx), request.to_owned_message(), arrival);
        self.0.unary(Kind::Delete, &ctx, request.request_id, arrival, call).await
    }

    async fn txn(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, v1::TxnRequest>,
    ) -> ServiceResult<v1::TxnResponse> {
        let arrival = &self.0.arrival(&ctx, request.request_id);
        let call = self.0.txn(rights(&ctx), request.to_owned_message(), arrival);
        self.0.unary(Kind::Txn, &ctx, request.request_id, arrival, call).await
    }

    async fn scan(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, v1::ScanRequest>,
    ) -> ServiceResult<ServiceStream<v1::ScanResponse>> {
        let arrival = &self.0.arrival(&ctx, request.request_id);
        let call = scan::open(&self.0, caller(&ctx), request.to_owned_message(), arrival);
        let pages = self.0.observed(Kind::Scan, caller(&ctx), request.request_id, arrival, call).await;
        pages.map(Response::new).map_err(|failure| status::error(&failure))
    }

    async fn scan_page(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, v1::ScanRequest>,
    ) -> ServiceResult<v1::ScanResponse> {
        let arrival = &self.0.arrival(&ctx, request.request_id);
        let call = self.0.scan_page(rights(&ctx), request.to_owned_message(), arrival);
        self.0.unary(Kind::ScanPage, &ctx, request.request_id, arrival, call).await
    }

    async fn open_session(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, v1::OpenSessionRequest>,
    ) -> ServiceResult<v1::OpenSessionResponse> {
        let arrival = &self.0.arrival(&ctx, request.request_id);
        let call = self.0.open_session(rights(&ctx), request.to_owned_message(), arrival);
        self.0.unary(Kind::OpenSession, &ctx, request.request_id, arrival, call).await
    }

    async fn pipeline(
        &self,
        ctx: RequestContext,
        requests: InboundStream<v1::PipelineRequest>,
    ) -> ServiceResult<ServiceStream<v1::PipelineResponse>> {
        Ok(Response::new(pipeline::open(Arc::clone(&self.0), caller(&ctx), share(&ctx), requests)))
    }
}

#[allow(refining_impl_trait, reason = "the messages themselves are what is answered")]
impl<N: ReadAndWrite> v1::Cluster for Service<N> {
    async fn members(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, v1::MembersRequest>,
    ) -> ServiceResult<v1::MembersResponse> {
        let arrival = &self.0.arrival(&ctx, request.request_id);
        let call = self.0.members(rights(&ctx), request.to_owned_message(), arrival);
        self.0.unary(Kind::Members, &ctx, request.request_id, arrival, call).await
    }

    async fn status(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, v1::StatusRequest>,
    ) -> ServiceResult<v1::StatusResponse> {
        let arrival = &self.0.arrival(&ctx, request.request_id);
        let call = self.0.status(rights(&ctx), request.to_owned_message(), arrival);
        self.0.unary(Kind::Status, &ctx, request.request_id, arrival, call).await
    }
    async fn add_member(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, v1::AddMemberRequest>,
    ) -> ServiceResult<v1::AddMemberResponse> {
        let request_message = request.to_owned_message();
        let about = added(&request_message);
        let arrival = &self.0.arrival(&ctx, request.request_id);
        let call = self.0.add_member(rights(&ctx), request_message, arrival);
        let call = self.0.audited(Kind::AddMember, &ctx, request.request_id, about, call);
        self.0.unary(Kind::AddMember, &ctx, request.request_id, arrival, call).await
    }

    async fn remove_member(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, v1::RemoveMemberRequest>,
    ) -> ServiceResult<v1::RemoveMemberResponse> {
        let arrival = &self.0.arrival(&ctx, request.request_id);
        let call = self.0.remove_member(rights(&ctx), request.to_owned_message(), arrival);
        let about = format!("server {}", request.id);
        let call = self.0.audited(Kind::RemoveMember, &ctx, request.request_id, about, call);
        self.0.unary(Kind::RemoveMember, &ctx, request.request_id, arrival, call).await
    }

    async fn backup(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, v1::BackupRequest>,
    ) -> ServiceResult<ServiceStream<v1::BackupResponse>> {
        let arrival = &self.0.arrival(&ctx, request.request_id);
        let call = backup::open(&self.0, caller(&ctx), request.to_owned_message(), arrival);
        let call = self.0.audited(Kind::Backup, &ctx, request.request_id, String::new(), call);
        let parts = self.0.observed(Kind::Backup, caller(&ctx), request.request_id, arrival, call).await;
        parts.map(Response::new).map_err(|failure| status::error(&failure))
    }
}
