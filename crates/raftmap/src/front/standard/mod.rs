//! The services that gRPC has for all servers, so that tools need to know nothing of this one: health and reflection.

mod health;
mod reflection;

use std::borrow::Cow;

use bytes::Bytes;
use connectrpc::dispatcher::{RequestStream, StreamingResult, UnaryResult};
use connectrpc::{Chain, CodecFormat, Dispatcher, Limits, MethodDescriptor, Payload, RequestContext};
use raftmap_proto::health::HealthServer;
use raftmap_proto::reflection::ServerReflectionServer;
use tokio_util::sync::CancellationToken;

use self::health::Health;
use self::reflection::Reflection;
use super::FrontDoorConfig;
use crate::api::ReadAndWrite;

/// The largest request, in bytes: it holds a name or two.
const REQUEST_BYTES_MAX: usize = 4 << 10;

/// The services, for the server of `node`, until `stop` comes.
pub(super) fn services<N: ReadAndWrite>(
    node: &N,
    config: &FrontDoorConfig,
    stop: &CancellationToken,
) -> impl Dispatcher {
    let health = HealthServer::new(Health::new(node.readiness(), config.watches_max, stop.clone()));
    let reflection = ServerReflectionServer::new(Reflection::new(stop.clone()));
    Standard(Chain(health, reflection))
}

/// Takes small requests alone, and calls by earlier names of a service, too.
struct Standard<D>(D);

/// The path of a call as it is called today. What changed is its name alone, and nothing on the wire.
fn current(path: &str) -> Cow<'_, str> {
    match path.strip_prefix("grpc.reflection.v1alpha.") {
        Some(call) => Cow::Owned(format!("grpc.reflection.v1.{call}")),
        None => Cow::Borrowed(path),
    }
}

impl<D: Dispatcher> Dispatcher for Standard<D> {
    fn lookup(&self, path: &str) -> Option<MethodDescriptor> {
        let limits = Limits::default().with_max_message_size(REQUEST_BYTES_MAX);
        self.0.lookup(&current(path)).map(|method| method.with_limits(limits))
    }

    fn call_unary(
        &self,
        path: &str,
        ctx: RequestContext,
        request: Payload,
        format: CodecFormat,
    ) -> UnaryResult {
        self.0.call_unary(&current(path), ctx, request, format)
    }

    fn call_server_streaming(
        &self,
        path: &str,
        ctx: RequestContext,
        request: Bytes,
        format: CodecFormat,
    ) -> StreamingResult {
        self.0.call_server_streaming(&current(path), ctx, request, format)
    }

    fn call_client_streaming(
        &self,
        path: &str,
        ctx: RequestContext,
        requests: RequestStream,
        format: CodecFormat,
    ) -> UnaryResult {
        self.0.call_client_streaming(&current(path), ctx, requests, format)
    }

    fn call_bidi_streaming(
        &self,
        path: &str,
        ctx: RequestContext,
        requests: RequestStream,
        format: CodecFormat,
    ) -> StreamingResult {
        self.0.call_bidi_streaming(&current(path), ctx, requests, format)
    }
}
