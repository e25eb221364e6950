//! `grpc.reflection.v1.ServerReflection`: what the services are, for tools that were not given the `.proto` files.
//!
//! Requests are answered one by one, as the client takes the answers; what is answered lies in the program.

use bytes::Bytes;
use connectrpc::{
    ConnectError, InboundStream, RequestContext, Response, ServiceResult, ServiceStream, StreamMessage,
};
use futures::StreamExt;
use raftmap_proto::descriptors::{self, File};
use raftmap_proto::reflection::server_reflection_request::MessageRequest;
use raftmap_proto::reflection::server_reflection_response::MessageResponse;
use raftmap_proto::reflection::{
    ErrorResponse, ExtensionNumberResponse, FileDescriptorResponse, ListServiceResponse, ServerReflection,
    ServerReflectionRequest, ServerReflectionResponse, ServiceResponse,
};
use raftmap_state::validate::InvalidRequest;
use tokio_util::sync::CancellationToken;

use crate::front::convert::excerpt;
use crate::front::status;

/// The status code of gRPC for what there is not.
const NOT_FOUND: i32 = 5;

/// What the services of the port for clients are.
pub(super) struct Reflection {
    stop: CancellationToken,
}

impl Reflection {
    pub(super) fn new(stop: CancellationToken) -> Self {
        Self { stop }
    }
}

#[allow(refining_impl_trait, reason = "the messages themselves are what is answered")]
impl ServerReflection for Reflection {
    async fn server_reflection_info(
        &self,
        _ctx: RequestContext,
        requests: InboundStream<ServerReflectionRequest>,
    ) -> ServiceResult<ServiceStream<ServerReflectionResponse>> {
        let answers = requests.map(answer).take_until(self.stop.clone().cancelled_owned());
        Ok(Response::new(Box::pin(answers)))
    }
}

fn answer(
    request: Result<StreamMessage<ServerReflectionRequest>, ConnectError>,
) -> Result<ServerReflectionResponse, ConnectError> {
    let request = request?.to_owned_message();
    let Some(asked) = &request.message_request else {
        let unset = InvalidRequest::Unset { field: "message_request" };
        return Err(status::error(&unset.into()));
    };
    let response = match asked {
        MessageRequest::FileByFilename(name) => {
            descriptors::file(name).map_or_else(|| not_found("file", name), described)
        }
        MessageRequest::FileContainingSymbol(symbol) => {
            let symbol = absolute(symbol);
            descriptors::file_with(symbol).map_or_else(|| not_found("symbol", symbol), described)
        }
        MessageRequest::FileContainingExtension(extension) => {
            not_found("extension of", &extension.containing_type)
        }
        MessageRequest::AllExtensionNumbersOfType(message) => no_extensions(absolute(message)),
        MessageRequest::ListServices(_) => services(),
    };
    Ok(ServerReflectionResponse {
        valid_host: request.host.clone(),
        message_response: Some(response),
        original_request: request.into(),
    })
}

/// The name without the dot before it, by which some say that it is the full one.
fn absolute(name: &str) -> &str {
    name.strip_prefix('.').unwrap_or(name)
}

fn described(file: &File) -> MessageResponse {
    let file_descriptor_proto = vec![Bytes::from_static(file.descriptor)];
    MessageResponse::FileDescriptorResponse(FileDescriptorResponse { file_descriptor_proto })
}

fn no_extensions(message: &str) -> MessageResponse {
    if !descriptors::is_message(message) {
        return not_found("message", message);
    }
    MessageResponse::AllExtensionNumbersResponse(ExtensionNumberResponse {
        base_type_name: message.to_owned(),
        extension_number: Vec::new(),
    })
}

fn services() -> MessageResponse {
    let names = descriptors::FILES.iter().flat_map(|file| file.services);
    let service = names.map(|name| ServiceResponse { name: (*name).to_owned() }).collect();
    MessageResponse::ListServicesResponse(ListServiceResponse { service })
}

fn not_found(what: &str, name: &str) -> MessageResponse {
    let error_message = format!("there is no {what} {}", excerpt(name));
    MessageResponse::ErrorResponse(ErrorResponse { error_code: NOT_FOUND, error_message })
}
