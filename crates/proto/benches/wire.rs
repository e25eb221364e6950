//! Requests and entries a second into bytes and back: a message of a client's pipeline with so many puts, and a frame
//! between servers with so many entries. Keys are of 16 bytes, values of 128.

use buffa::Message;
use bytes::Bytes;
use divan::Bencher;
use divan::counter::ItemsCount;
use raftmap_proto::{peer, v1};

const COUNTS: [u64; 2] = [1, 64];

fn main() {
    divan::main();
}

/// What a client sends for `count` puts.
fn puts(count: u64) -> v1::PipelineRequest {
    let put = |tag| {
        let entry = v1::PutEntry {
            key: Bytes::from(format!("{tag:016}")),
            value: Bytes::from(vec![7; 128]),
            ..Default::default()
        };
        let session = v1::SessionTag { session_id: 1 << 32, sequence: tag, acknowledged_below: tag };
        let put =
            v1::PutRequest { entries: vec![entry], session: Some(session).into(), ..Default::default() };
        v1::TaggedRequest { tag, timeout_ms: 5000, request: Some(put.into()) }
    };
    v1::PipelineRequest { requests: (1..=count).map(put).collect() }
}

/// What a leader sends for `count` entries.
fn append(count: u64) -> peer::PeerFrame {
    let entry = |index| peer::LogEntry { term: 7, index, kind: 1, data: Bytes::from(vec![7; 176]) };
    let append = peer::Append {
        prev_index: 1 << 32,
        prev_term: 7,
        commit: 1 << 32,
        round: 1000,
        entries: (1..=count).map(|at| entry((1 << 32) + at)).collect(),
    };
    let message = peer::RaftMessage { term: 7, body: Some(append.into()) };
    let batch = peer::Batch {
        group_id: 1,
        clock_ms: 1_700_000_000_000,
        applied_index: 1 << 32,
        running_digest: Bytes::from(vec![7; 16]),
        messages: vec![peer::PeerMessage { message: Some(message.into()) }],
        ..Default::default()
    };
    peer::PeerFrame { frame: Some(batch.into()) }
}

fn encode<M: Message>(bencher: Bencher, count: u64, message: &M) {
    bencher.counter(ItemsCount::new(count)).bench_local(|| message.encode_to_bytes());
}

fn decode<M: Message>(bencher: Bencher, count: u64, message: &M) {
    let bytes = message.encode_to_bytes();
    bencher
        .counter(ItemsCount::new(count))
        .bench_local(|| M::decode(&mut bytes.clone()).expect("what was encoded"));
}

#[divan::bench(args = COUNTS)]
fn encode_puts(bencher: Bencher, count: u64) {
    encode(bencher, count, &puts(count));
}

#[divan::bench(args = COUNTS)]
fn decode_puts(bencher: Bencher, count: u64) {
    decode(bencher, count, &puts(count));
}

#[divan::bench(args = COUNTS)]
fn encode_append(bencher: Bencher, count: u64) {
    encode(bencher, count, &append(count));
}

#[divan::bench(args = COUNTS)]
fn decode_append(bencher: Bencher, count: u64) {
    decode(bencher, count, &append(count));
}
