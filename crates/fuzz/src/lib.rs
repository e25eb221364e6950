//! What must hold of every decoder, whatever bytes it is given: no panic, no endless memory, and what decodes encodes to
//! something that decodes to the same.
//!
//! `fuzz/run TARGET` searches for bytes that break it, guided by coverage (libFuzzer). `corpus/TARGET` holds inputs to begin
//! with, up to a hundred of those that reach new places, and every input that once broke a rule; the tests replay them.

mod backup;
mod log;
mod rows;
mod snapshot;

use bytes::Bytes;
use raftmap_lincheck::{read_history, write_history};
use raftmap_raft::Payload;
use raftmap_state::{Command, decode_result, encode_result};

pub use backup::backup;
pub use log::data_directory;
pub use rows::state_rows;
pub use snapshot::snapshot;

/// A target by the name of its corpus.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 10] = [
    ("command", command),
    ("answer", answer),
    ("payload", payload),
    ("peer_frame", peer_frame),
    ("client_request", client_request),
    ("data_directory", data_directory),
    ("state_rows", state_rows),
    ("snapshot", snapshot),
    ("backup", backup),
    ("history", history),
];

/// A command as it stands in a log entry.
pub fn command(bytes: &[u8]) {
    let Ok(decoded) = Command::decode(Bytes::copy_from_slice(bytes)) else { return };
    let again = decoded.command.encode();
    assert_eq!(again, bytes, "a command has one encoding");
}

/// An answer as it stands in a session's row.
pub fn answer(bytes: &[u8]) {
    let Ok(result) = decode_result(Bytes::copy_from_slice(bytes)) else { return };
    let again = encode_result(&result);
    assert_eq!(decode_result(again), Ok(result), "an answer survives its encoding");
}

/// The payload of a log entry; the first byte is its kind.
pub fn payload(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let Ok(payload) = Payload::decode(*kind, Bytes::copy_from_slice(bytes)) else { return };
    let again = Payload::decode(payload.kind(), payload.to_bytes());
    assert_eq!(again, Ok(payload), "a payload survives its encoding");
}

/// What one server sends another.
pub fn peer_frame(bytes: &[u8]) {
    raftmap::peers::fuzz_frame(bytes);
}

/// What a client sends.
pub fn client_request(bytes: &[u8]) {
    raftmap::front::fuzz_request(bytes);
}

/// A recorded history.
pub fn history(bytes: &[u8]) {
    let Ok(history) = read_history(bytes) else { return };
    let mut written = Vec::new();
    write_history(&mut written, &history).expect("memory takes all");
    let again = read_history(&written[..]).expect("what was written can be read");
    assert_eq!(again, history, "a history survives its encoding");
}
