//! Between HTTP and the calls: who may call what, within which limits and deadline; and that every error says why.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use connectrpc::dispatcher::{RequestStream, StreamingResult, UnaryResult};
use connectrpc::{
    CodecFormat, ConnectError, ConnectRpcBody, ConnectRpcService, Dispatcher, EncodedStream,
    IdempotencyLevel, Limits, MethodDescriptor, MethodKind, Payload, Protocol, RequestContext,
};
use futures::{FutureExt, StreamExt};
use http::header;
use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use tower_service::Service;

use super::access::Caller;
use super::answer::AnswerBody;
use super::budget::{Budget, Share};
use super::convert::excerpt;
use super::meters::Meters;
use super::{FrontDoorConfig, PIPELINE_ENVELOPE_BYTES, body, console, status, timeouts};
use crate::api::{Code, Failure, FailureOutcome, by_deadline};
use crate::users::Rights;

/// When the caller of a request stops waiting; among the extensions of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline(pub(super) Instant);

/// Bodies as they come, or one that was taken already.
type RequestBody = UnsyncBoxBody<Bytes, hyper::Error>;

/// Headers that announce a compressed message. None is taken: what it grows to cannot be told before.
const ENCODINGS: [&str; 3] = ["content-encoding", "grpc-encoding", "connect-content-encoding"];

/// Answers the requests of all connections.
pub(super) struct Gate<D> {
    service: ConnectRpcService<Detailed<D>>,
    config: Arc<FrontDoorConfig>,
    meters: Arc<Meters>,
    budget: Arc<Budget>,
    message_bytes_max: usize,
}

impl<D: Dispatcher> Gate<D> {
    /// A gate before `calls`, for messages of up to `message_bytes_max` bytes.
    pub(super) fn new(
        calls: D,
        message_bytes_max: usize,
        config: Arc<FrontDoorConfig>,
        meters: Arc<Meters>,
        budget: Arc<Budget>,
    ) -> Self {
        let bytes_max = message_bytes_max + PIPELINE_ENVELOPE_BYTES;
        let limits = Limits::default().with_max_request_body_size(bytes_max).with_max_message_size(bytes_max);
        let service = ConnectRpcService::new(Detailed(calls)).with_limits(limits);
        Self { service, config, meters, budget, message_bytes_max }
    }

    /// Answers one request.
    pub(super) async fn answer(&self, caller: Caller, request: Request<Incoming>) -> Response<AnswerBody> {
        let (mut parts, body) = request.into_parts();
        if let Some(page) = console::answer(&parts) {
            return page.map(|body| AnswerBody::new(ConnectRpcBody::Full(body), self.budget.share()));
        }
        let timeout = timeouts::take(&mut parts.headers).unwrap_or(self.config.request_timeout);
        let deadline = Instant::now() + timeout.min(self.config.request_timeout_max);
        let share = self.budget.share();
        let caller = match caller.of_request(&parts.headers) {
            Ok(caller) => caller,
            Err(failure) => {
                let refusal = self.refuse(&parts, &caller, &failure);
                return status_in_trailers(refusal).map(|body| AnswerBody::new(body, share));
            }
        };
        let admitted =
            by_deadline(deadline, FailureOutcome::NotApplied, self.admit(&parts, &caller, body, &share));
        let response = match admitted.await {
            Ok((body, rights)) => {
                parts.extensions.insert(caller);
                parts.extensions.insert(rights);
                parts.extensions.insert(Deadline(deadline));
                parts.extensions.insert(Arc::clone(&share));
                let headers = content_type(&parts.headers);
                let answered = self.service.clone().call(Request::from_parts(parts, body)).await;
                complete(answered.unwrap_or_else(|never| match never {}), &headers)
            }
            Err(failure) => self.refuse(&parts, &caller, &failure),
        };
        status_in_trailers(response).map(|body| AnswerBody::new(body, share))
    }

    fn refuse(&self, parts: &Parts, caller: &Caller, failure: &Failure) -> Response<ConnectRpcBody> {
        self.meters.refused(parts.uri.path(), caller, failure);
        status::error(failure).into_http_response(&parts.headers)
    }

    /// What of a request is passed on, and what its caller may do, if it is.
    async fn admit(
        &self,
        parts: &Parts,
        caller: &Caller,
        body: Incoming,
        share: &Share,
    ) -> Result<(RequestBody, Arc<Rights>), Failure> {
        let path = parts.uri.path();
        let path = path.strip_prefix('/').unwrap_or(path);
        let unsupported = |reason: String| Err(Failure::not_applied(Code::Unsupported, reason));
        let Some(method) = self.service.dispatcher().lookup(path) else {
            caller.check(path, true)?;
            return unsupported(format!("there is no call {}", excerpt(path)));
        };
        console::check_site(parts)?;
        let rights = caller.check(path, has_side_effects(&method))?;
        for name in ENCODINGS {
            if parts.headers.get(name).is_some_and(|encoding| encoding != "identity") {
                return unsupported(format!("compressed requests are not taken ({name})"));
            }
        }
        let protocol = Protocol::detect(&parts.headers);
        let framed = protocol.is_some_and(|protocol| protocol.is_streaming && !protocol.is_text_mode);
        if method.kind != MethodKind::BidiStreaming {
            let bytes_max = method.limits.map_or(self.message_bytes_max, |limits| limits.max_message_size());
            let taken = body::take(body, framed, bytes_max, share).await?;
            // A body may take a while to come: what its caller may do is asked for once more.
            let rights = caller.check(path, has_side_effects(&method))?;
            return Ok((Full::new(taken).map_err(|never| match never {}).boxed_unsync(), rights));
        }
        // Whatever else `connectrpc` refuses only after it has taken the whole body, without a deadline.
        if !framed || parts.method != Method::POST {
            return unsupported(format!("{path} is a stream: use gRPC, or a stream of Connect"));
        }
        Ok((body.boxed_unsync(), rights))
    }
}

/// By what the `.proto` file says of it. What says nothing has side effects.
fn has_side_effects(method: &MethodDescriptor) -> bool {
    method.spec.is_none_or(|spec| spec.idempotency_level != IdempotencyLevel::NoSideEffects)
}

/// What tells the protocol of a request.
fn content_type(headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::new();
    if let Some(value) = headers.get(header::CONTENT_TYPE) {
        kept.insert(header::CONTENT_TYPE, value.clone());
    }
    kept
}

/// The same answer; an error of Connect that came without a detail gets one. `connectrpc` makes some before it calls the
/// dispatcher: malformed queries of GET, unknown versions of the protocol, media types and methods of HTTP that it does
/// not take. Those of gRPC are found by [`Gate::admit`].
fn complete(response: Response<ConnectRpcBody>, request_headers: &HeaderMap) -> Response<ConnectRpcBody> {
    let (parts, body) = response.into_parts();
    match body {
        ConnectRpcBody::Full(body) if parts.status != StatusCode::OK => {
            let Some(error) = bare_error(&body, parts.status) else {
                return Response::from_parts(parts, ConnectRpcBody::Full(body));
            };
            let mut response = status::with_detail(error).into_http_response(request_headers);
            *response.status_mut() = parts.status;
            for name in [header::ALLOW, HeaderName::from_static("accept-post")] {
                if let Some(value) = parts.headers.get(&name) {
                    response.headers_mut().insert(name, value.clone());
                }
            }
            response
        }
        body => Response::from_parts(parts, body),
    }
}

/// The error in a body, if it has no detail. An empty body is what `connectrpc` says of unknown methods and media types.
fn bare_error(body: &Full<Bytes>, status: StatusCode) -> Option<ConnectError> {
    let bytes = body.clone().collect().now_or_never()?.ok()?.to_bytes();
    if bytes.is_empty() {
        let reason = status.canonical_reason().unwrap_or("refused");
        return Some(ConnectError::unimplemented(format!("{reason}: see the headers of this answer")));
    }
    serde_json::from_slice(&bytes).ok().filter(|error: &ConnectError| error.details.is_empty())
}

/// The same answer; an error of gRPC has its status in its trailers alone. `connectrpc` puts it into the head, too, but
/// not its details, and clients that find a status in the head, its own among them, look no further.
fn status_in_trailers(mut response: Response<ConnectRpcBody>) -> Response<ConnectRpcBody> {
    response.headers_mut().remove("grpc-status");
    response.headers_mut().remove("grpc-message");
    response
}

/// Calls whose errors all have a detail, those of decoding included.
struct Detailed<D>(D);

impl<D: Dispatcher> Dispatcher for Detailed<D> {
    fn lookup(&self, path: &str) -> Option<MethodDescriptor> {
        self.0.lookup(path)
    }

    fn call_unary(
        &self,
        path: &str,
        ctx: RequestContext,
        request: Payload,
        format: CodecFormat,
    ) -> UnaryResult {
        unary(self.0.call_unary(path, ctx, request, format))
    }

    fn call_server_streaming(
        &self,
        path: &str,
        ctx: RequestContext,
        request: Bytes,
        format: CodecFormat,
    ) -> StreamingResult {
        streaming(self.0.call_server_streaming(path, ctx, request, format))
    }

    fn call_client_streaming(
        &self,
        path: &str,
        ctx: RequestContext,
        requests: RequestStream,
        format: CodecFormat,
    ) -> UnaryResult {
        unary(self.0.call_client_streaming(path, ctx, requests, format))
    }

    fn call_bidi_streaming(
        &self,
        path: &str,
        ctx: RequestContext,
        requests: RequestStream,
        format: CodecFormat,
    ) -> StreamingResult {
        streaming(self.0.call_bidi_streaming(path, ctx, requests, format))
    }
}

fn unary(call: UnaryResult) -> UnaryResult {
    Box::pin(async move { call.await.map_err(status::with_detail) })
}

fn streaming(call: StreamingResult) -> StreamingResult {
    Box::pin(async move {
        let response = call.await.map_err(status::with_detail)?;
        Ok(response.map_body(|messages| -> EncodedStream {
            Box::pin(messages.map(|message| message.map_err(status::with_detail)))
        }))
    })
}
