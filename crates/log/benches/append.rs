//! Entries a second into a log on a real disk, in the folder for temporary files (`TMPDIR`); an iteration appends one batch of
//! entries of 150 bytes and syncs it.

use std::thread::JoinHandle;

use bytes::Bytes;
use divan::Bencher;
use divan::counter::ItemsCount;
use raftmap_log::{FoundingMember, Identity, Log, LogOptions, RealDisk};
use raftmap_raft::{Entry, HardState, LogIndex, NodeId, Payload, Term, Write, WriteId};

const BATCHES: [usize; 3] = [1, 16, 64];

fn main() {
    divan::main();
}

#[divan::bench(args = BATCHES)]
fn append(bencher: Bencher, batch: usize) {
    let folder = tempfile::tempdir().expect("a folder");
    let directory = folder.path().join("log");
    let member = FoundingMember {
        node: NodeId(1),
        peer_address: "127.0.0.1:7001".to_owned(),
        client_address: "127.0.0.1:7000".to_owned(),
    };
    let identity = Identity::new(1, NodeId(1), 1, vec![member]).expect("a cluster of one");
    let options = LogOptions::default();
    Log::init(&RealDisk, &directory, &identity, &options).expect("an empty folder");
    let (mut log, _) = Log::open(RealDisk, &directory, &options).expect("a new log");
    let hard_state = HardState { term: Term(1), vote: Some(NodeId(1)), damaged: false };
    log.write(&[Write { id: WriteId(1), hard_state: Some(hard_state), ..Write::default() }])
        .expect("written");

    let payload = Payload::Command(Bytes::from(vec![7; 150]));
    let (mut last, mut id) = (LogIndex(0), WriteId(1));
    // Segments are prepared on a thread of their own, as the server does.
    let mut preparing: Option<JoinHandle<_>> = None;
    bencher.counter(ItemsCount::new(batch)).bench_local(|| {
        if let Some(preparation) = log.prepare().expect("a disk with room") {
            preparing = Some(std::thread::spawn(|| preparation.run()));
        }
        let next = |_| {
            last = last.next();
            Entry { term: Term(1), index: last, payload: payload.clone() }
        };
        let entries = (0..batch).map(next).collect();
        id = WriteId(id.0 + 1);
        log.write(&[Write { id, entries, ..Write::default() }]).expect("written");
    });
    if let Some(preparing) = preparing {
        preparing.join().expect("no panic").expect("a disk with room");
    }
}
