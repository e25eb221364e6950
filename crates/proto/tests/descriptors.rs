//! What a server tells of its services by reflection, and that the standard ones are as the standard has them.
#![expect(clippy::unwrap_used, reason = "a test")]

use buffa::Message;
use buffa_descriptor::generated::descriptor::{DescriptorProto, FileDescriptorProto};
use raftmap_proto::descriptors::{FILES, file, file_with, is_message};

fn decoded(name: &str) -> FileDescriptorProto {
    FileDescriptorProto::decode_from_slice(file(name).unwrap().descriptor).unwrap()
}

#[test]
fn each_file_is_described_as_it_is() {
    for file in FILES {
        let described = decoded(file.name);
        assert_eq!(described.name.as_deref(), Some(file.name));
        let package = described.package.unwrap();
        let services: Vec<_> = described
            .service
            .iter()
            .map(|service| format!("{package}.{}", service.name.as_ref().unwrap()))
            .collect();
        assert_eq!(services, file.services);
        let locations = &described.source_code_info.as_option().expect("its comments are there").location;
        let comments = locations.iter().filter(|location| location.leading_comments.is_some());
        assert!(comments.count() > 0, "{}", file.name);
    }
    assert!(file("peer.proto").is_none(), "what servers say to each other is not told to clients");
}

#[test]
fn a_symbol_of_any_kind_is_found_in_its_file() {
    for (symbol, name) in [
        ("raftmap.v1.Map", "map.proto"),
        ("raftmap.v1.Map.Put", "map.proto"),
        ("raftmap.v1.PutRequest", "map.proto"),
        ("raftmap.v1.PutRequest.entries", "map.proto"),
        ("raftmap.v1.TaggedRequest.request", "map.proto"),
        ("raftmap.v1.Consistency", "map.proto"),
        ("raftmap.v1.STALE", "map.proto"),
        ("raftmap.v1.Failure.Code", "map.proto"),
        ("raftmap.v1.Failure.NO_LEADER", "map.proto"),
        ("raftmap.v1.Cluster.Backup", "cluster.proto"),
        ("raftmap.v1.Member.Role", "cluster.proto"),
        ("grpc.health.v1.HealthCheckResponse.ServingStatus", "grpc/health/v1/health.proto"),
        ("grpc.reflection.v1.ServerReflection", "grpc/reflection/v1/reflection.proto"),
        ("grpc.reflection.v1alpha.ServerReflection", "grpc/reflection/v1alpha/reflection.proto"),
    ] {
        assert_eq!(file_with(symbol).map(|file| file.name), Some(name), "{symbol}");
    }
    for nothing in
        ["", "raftmap", "raftmap.v1", "raftmap.v1.Map.", "raftmap.v1.Increment", "raftmap.peer.v1.Peer"]
    {
        assert!(file_with(nothing).is_none(), "{nothing:?}");
    }
    assert!(
        is_message("raftmap.v1.Failure") && !is_message("raftmap.v1.Map") && !is_message("raftmap.v1.STALE")
    );
}

/// The fields of a message, by name and number.
fn fields(message: &DescriptorProto) -> Vec<String> {
    let field = |name: &Option<String>, number: Option<i32>| {
        format!("{} = {}", name.clone().unwrap(), number.unwrap())
    };
    let enums = message.enum_type.iter().flat_map(|declared| &declared.value);
    let values = enums.map(|value| field(&value.name, value.number));
    message.field.iter().map(|one| field(&one.name, one.number)).chain(values).collect()
}

/// As github.com/grpc/grpc-proto has them: whoever speaks to any server of gRPC speaks to this one.
#[test]
fn the_standard_services_have_the_names_and_numbers_of_the_standard() {
    let messages = |name: &str| {
        let described = decoded(name);
        let fields = |message: &DescriptorProto| {
            format!("{}: {}", message.name.clone().unwrap(), fields(message).join(", "))
        };
        described.message_type.iter().map(fields).collect::<Vec<_>>()
    };
    assert_eq!(
        messages("grpc/health/v1/health.proto"),
        [
            "HealthCheckRequest: service = 1",
            "HealthCheckResponse: status = 1, UNKNOWN = 0, SERVING = 1, NOT_SERVING = 2, SERVICE_UNKNOWN = 3",
        ]
    );
    let mut reflection = messages("grpc/reflection/v1/reflection.proto");
    reflection.sort();
    assert_eq!(
        reflection,
        [
            "ErrorResponse: error_code = 1, error_message = 2",
            "ExtensionNumberResponse: base_type_name = 1, extension_number = 2",
            "ExtensionRequest: containing_type = 1, extension_number = 2",
            "FileDescriptorResponse: file_descriptor_proto = 1",
            "ListServiceResponse: service = 1",
            "ServerReflectionRequest: host = 1, file_by_filename = 3, file_containing_symbol = 4, \
             file_containing_extension = 5, all_extension_numbers_of_type = 6, list_services = 7",
            "ServerReflectionResponse: valid_host = 1, original_request = 2, file_descriptor_response = 4, \
             all_extension_numbers_response = 5, list_services_response = 6, error_response = 7",
            "ServiceResponse: name = 1",
        ]
    );
}

/// So calls by the earlier name are answered as those by the later one.
#[test]
fn both_versions_of_reflection_are_the_same_but_for_their_names() {
    let plain = |name: &str| {
        let mut described = decoded(name);
        described.source_code_info = Default::default();
        format!("{described:?}").replace("v1alpha", "v1")
    };
    assert_eq!(
        plain("grpc/reflection/v1/reflection.proto"),
        plain("grpc/reflection/v1alpha/reflection.proto")
    );
}
