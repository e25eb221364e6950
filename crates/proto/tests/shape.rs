//! What other crates rely on: JSON as the contract says, shared bytes, unset variants told apart.

use buffa::Message;
use bytes::Bytes;
use raftmap_proto::v1::{GetRequest, PipelineRequest, PutEntry, PutRequest, TaggedRequest, tagged_request};

#[test]
fn json_has_bytes_in_base64_and_takes_what_curl_sends() {
    let request: GetRequest = serde_json::from_str(r#"{"keys":["YQ=="]}"#).unwrap();
    assert_eq!(request.keys, [Bytes::from_static(b"a")]);
    assert_eq!(serde_json::to_string(&request).unwrap(), r#"{"keys":["YQ=="]}"#);
}

#[test]
fn decoded_bytes_are_slices_of_the_buffer_that_they_came_in() {
    let request = PutRequest {
        entries: vec![PutEntry { key: "k".into(), value: vec![7; 1024].into(), ttl_ms: 0 }],
        ..PutRequest::default()
    };
    let buffer = request.encode_to_bytes();
    let decoded = PutRequest::decode(&mut buffer.clone()).unwrap();
    assert_eq!(decoded, request);
    let value = decoded.entries[0].value.as_ptr();
    assert!(buffer.as_ptr_range().contains(&value), "the value was copied");
}

#[test]
fn an_unset_variant_is_none() {
    let tagged = TaggedRequest { tag: 1, ..TaggedRequest::default() };
    let bytes = PipelineRequest { requests: vec![tagged] }.encode_to_bytes();
    let decoded = PipelineRequest::decode(&mut bytes.clone()).unwrap();
    assert!(decoded.requests[0].request.is_none());
    let get = tagged_request::Request::Get(GetRequest::default());
    assert_ne!(decoded.requests[0].request, Some(get));
}
