//! What tools find out of the services that they were not told of.

use buffa::Message as _;
use buffa_descriptor::generated::descriptor::FileDescriptorProto;
use connectrpc::client::{CallOptions, call_bidi_stream};
use connectrpc::{ConnectError, Protocol, Spec, StreamType};
use http::StatusCode;
use raftmap_proto::reflection::server_reflection_request::MessageRequest;
use raftmap_proto::reflection::server_reflection_response::MessageResponse;
use raftmap_proto::reflection::{ExtensionRequest, ServerReflectionRequest, ServerReflectionResponse};
use raftmap_proto::v1::failure::Code;

use crate::support::{Certificates, Clients, Connection, House, code, failure, put, soon};

const SERVICES: [&str; 5] = [
    "raftmap.v1.Map",
    "raftmap.v1.Cluster",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

const NOT_FOUND: i32 = 5;

type Body = <Connection as connectrpc::client::ClientTransport>::ResponseBody;
type View = <ServerReflectionResponse as connectrpc::HasMessageView>::View<'static>;

/// A stream of questions.
struct Questions(connectrpc::BidiStream<Body, ServerReflectionRequest, View>);

impl Questions {
    async fn open(clients: &Clients) -> Self {
        Self(soon(clients.reflection.server_reflection_info()).await.unwrap())
    }

    /// By the name that clients know who are older than v1.
    async fn open_v1alpha(clients: &Clients) -> Self {
        let path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
        let spec = Spec::client(path, StreamType::BidiStream);
        let (connection, config) = &clients.transport;
        Self(soon(call_bidi_stream(connection, config, spec, CallOptions::default())).await.unwrap())
    }

    async fn ask(&mut self, question: MessageRequest) -> Result<MessageResponse, ConnectError> {
        let request = ServerReflectionRequest { host: "here".to_owned(), message_request: Some(question) };
        soon(self.0.send(request.clone())).await?;
        let answer = soon(self.0.message()).await?.expect("an answer").to_owned_message();
        assert_eq!(answer.valid_host, "here");
        assert_eq!(answer.original_request.as_option(), Some(&request));
        Ok(answer.message_response.unwrap())
    }

    /// The file that is the answer to a question.
    async fn file(&mut self, question: MessageRequest) -> FileDescriptorProto {
        match self.ask(question).await.unwrap() {
            MessageResponse::FileDescriptorResponse(files) => {
                assert_eq!(files.file_descriptor_proto.len(), 1);
                FileDescriptorProto::decode_from_slice(&files.file_descriptor_proto[0]).unwrap()
            }
            other => panic!("{other:?}"),
        }
    }

    /// What the server says of what there is not.
    async fn not_found(&mut self, question: MessageRequest) -> String {
        match self.ask(question).await.unwrap() {
            MessageResponse::ErrorResponse(error) => {
                assert_eq!(error.error_code, NOT_FOUND);
                error.error_message
            }
            other => panic!("{other:?}"),
        }
    }
}

fn symbol(name: &str) -> MessageRequest {
    MessageRequest::FileContainingSymbol(name.to_owned())
}

/// The way of a tool that knows nothing: which services there are, then what each one is; by both names, in both protocols.
#[tokio::test]
async fn a_tool_finds_all_services_and_their_calls() {
    let house = House::open().await;
    for protocol in [Protocol::Grpc, Protocol::Connect] {
        let clients = house.clients("client", protocol).await;
        for mut questions in [Questions::open(&clients).await, Questions::open_v1alpha(&clients).await] {
            let listed = questions.ask(MessageRequest::ListServices("*".to_owned())).await.unwrap();
            let MessageResponse::ListServicesResponse(listed) = listed else { panic!("{listed:?}") };
            let names: Vec<_> = listed.service.iter().map(|service| service.name.as_str()).collect();
            assert_eq!(names, SERVICES);
            for name in SERVICES {
                let file = questions.file(symbol(name)).await;
                let (package, service) = name.rsplit_once('.').unwrap();
                assert_eq!(file.package.as_deref(), Some(package));
                let declared = file.service.iter().find(|declared| declared.name.as_deref() == Some(service));
                let method = declared.unwrap().method[0].name.clone().unwrap();
                let by_method = questions.file(symbol(&format!(".{name}.{method}"))).await;
                assert_eq!(by_method, file);
                let by_name = MessageRequest::FileByFilename(file.name.clone().unwrap());
                assert_eq!(questions.file(by_name).await, file);
            }
        }
    }
}

#[tokio::test]
async fn what_there_is_not_is_said_so_and_the_stream_goes_on() {
    let house = House::open().await;
    let clients = house.clients("client", Protocol::Grpc).await;
    let mut questions = Questions::open(&clients).await;
    let reason = questions.not_found(symbol("raftmap.v1.Increment")).await;
    assert_eq!(reason, "there is no symbol \"raftmap.v1.Increment\"");
    questions.not_found(MessageRequest::FileByFilename("peer.proto".to_owned())).await;
    let extension =
        ExtensionRequest { containing_type: "raftmap.v1.Entry".to_owned(), extension_number: 100 };
    questions.not_found(MessageRequest::FileContainingExtension(extension)).await;
    questions.not_found(MessageRequest::AllExtensionNumbersOfType("raftmap.v1.Map".to_owned())).await;
    let none = questions.ask(MessageRequest::AllExtensionNumbersOfType("raftmap.v1.Entry".to_owned())).await;
    let MessageResponse::AllExtensionNumbersResponse(none) = none.unwrap() else { panic!("a list") };
    assert_eq!((none.base_type_name.as_str(), none.extension_number.len()), ("raftmap.v1.Entry", 0));
    questions.file(symbol("raftmap.v1.Entry")).await;
}

#[tokio::test]
async fn questions_that_are_none_end_the_stream_with_the_reason() {
    let house = House::open().await;
    let clients = house.clients("client", Protocol::Grpc).await;
    let mut questions = Questions::open(&clients).await;
    soon(questions.0.send(ServerReflectionRequest::default())).await.unwrap();
    let error = soon(questions.0.message()).await.map(|_| ()).unwrap_err();
    assert_eq!((code(&error), failure(&error).field.as_str()), (Code::INVALID, "message_request"));

    let mut questions = Questions::open(&clients).await;
    let error = questions.ask(symbol(&"x".repeat(8 << 10))).await.unwrap_err();
    assert_eq!(code(&error), Code::TOO_LARGE);

    let unframed = house.json_at("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "{}").await;
    assert_eq!(unframed.0, StatusCode::NOT_IMPLEMENTED);
    soon(clients.map.put(put("a", "1"))).await.unwrap();
}

#[tokio::test]
async fn who_may_not_use_the_map_is_told_nothing_of_it() {
    let house = House::open().await;
    let strangers = Certificates::signed_by_the_same_authority(&house.certificates, "theirs");
    let tls = strangers.credentials("client").dialler().unwrap();
    let clients = house.clients_with(tls, Protocol::Grpc).await.unwrap();
    for mut questions in [Questions::open(&clients).await, Questions::open_v1alpha(&clients).await] {
        let error = soon(questions.0.message()).await.map(|_| ()).unwrap_err();
        assert_eq!(code(&error), Code::DENIED);
    }
}

/// A server that stops does not wait for tools that keep their stream open.
#[tokio::test]
async fn streams_end_when_the_server_stops() {
    let house = House::open().await;
    let clients = house.clients("client", Protocol::Grpc).await;
    let mut questions = Questions::open(&clients).await;
    questions.file(symbol("raftmap.v1.Map")).await;
    let closing = tokio::spawn(house.door.close());
    assert!(soon(questions.0.message()).await.unwrap().is_none());
    soon(closing).await.unwrap();
}
