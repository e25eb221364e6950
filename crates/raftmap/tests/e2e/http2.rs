//! HTTP/2 by hand, for those who do not keep to it.

use buffa::Message as _;
use raftmap_proto::v1;

// Kinds of frames, and their flags (RFC 9113, section 6).
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A literal of HPACK, without Huffman: the name is `name`, or that of the table's entry.
pub(crate) fn literal(head: &[u8], name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| {
        let mut bytes = vec![u8::try_from(text.len()).unwrap()];
        assert!(text.len() < 127, "a longer length takes more bytes");
        bytes.extend(text.as_bytes());
        bytes
    };
    let mut bytes = head.to_vec();
    if !name.is_empty() {
        bytes.extend(text(name));
    }
    bytes.extend(text(value));
    bytes
}

/// The head of a call, as HPACK has it.
pub(crate) fn head(path: &str) -> Vec<u8> {
    let mut head = vec![0x83, 0x87];
    head.extend(literal(&[0x04], "", path));
    head.extend(literal(&[0x01], "", "127.0.0.1"));
    head.extend(literal(&[0x0f, 0x10], "", "application/grpc"));
    head.extend(literal(&[0x00], "te", "trailers"));
    head
}

pub(crate) const GET: &str = "/raftmap.v1.Map/Get";

/// A get of one key, in the frame that gRPC puts around a message.
pub(crate) fn get(key: &str) -> Vec<u8> {
    let request =
        v1::GetRequest { keys: vec![key.to_owned().into()], ..v1::GetRequest::default() }.encode_to_vec();
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(request.len()).unwrap().to_be_bytes());
    bytes.extend(request);
    bytes
}
