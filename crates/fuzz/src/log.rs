//! A data directory of which any byte may be another, with checksums that fit or do not.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use raftmap_log::{FoundingMember, Identity, Log, LogOptions, MemDisk, MemDiskOptions, OpenError, Recovered};
use raftmap_raft::{Entry, HardState, LogIndex, NodeId, Payload, Term, Write, WriteId};

const DIR: &str = "/data";
const BLOCK_BYTES: usize = 4096;
/// One change: which file, which block, where in it, what is there then, and whether the checksum is made to fit.
const CHANGE_BYTES: usize = 7;

fn options() -> LogOptions {
    LogOptions { segment_bytes: 64 << 10, entry_bytes_max: 32 << 10, ..LogOptions::default() }
}

/// Opens a data directory after changes that `bytes` tell, seven bytes each: a start gives a log that can be read to its
/// end, or an error.
pub fn data_directory(bytes: &[u8]) {
    let disk = MemDisk::new(MemDiskOptions::default());
    fill(&disk);
    let files: Vec<PathBuf> = disk.files().into_iter().map(|(path, _)| path).collect();
    for change in bytes.chunks_exact(CHANGE_BYTES) {
        let path = &files[usize::from(change[0]) % files.len()];
        let mut content = disk.disk_bytes(path).expect("it is there");
        let blocks = content.len() / BLOCK_BYTES;
        if blocks == 0 {
            continue;
        }
        let begin = usize::from(change[1]) % blocks * BLOCK_BYTES;
        let block = &mut content[begin..][..BLOCK_BYTES];
        let at = usize::from(u16::from_le_bytes([change[2], change[3]])) % BLOCK_BYTES;
        let count = (usize::from(change[5]) % 8 + 1).min(BLOCK_BYTES - at);
        block[at..at + count].fill(change[4]);
        if change[6] % 4 > 0 {
            let checksum = crc32c::crc32c(&block[4..]);
            block[..4].copy_from_slice(&checksum.to_le_bytes());
        }
        disk.set_disk_bytes(path, begin as u64, block).expect("it is there");
    }
    // What the first start repairs, the second one must find in order.
    if let Ok((log, recovered)) = open(&disk) {
        drop(log);
        let (log, again) = open(&disk).expect("a second start finds what the first one left");
        assert_eq!(again.last, recovered.last, "a second start finds another log than the first");
        read_to_the_end(&log, again.last.index);
    }
}

fn open(disk: &MemDisk) -> Result<(Log<MemDisk>, Recovered), OpenError> {
    Log::open(disk.restart(), Path::new(DIR), &options())
}

fn read_to_the_end(log: &Log<MemDisk>, last: LogIndex) {
    let (mut reader, mut next) = (log.reader(), LogIndex(1));
    while next <= last {
        // An entry whose content no version has ever written is found here: a start passes over commands.
        let Ok(entries) = reader.entries(next, last, usize::MAX) else { return };
        next = entries.last().expect("at least one").index.next();
    }
}

/// A log of a few batches over two segments, with a mark, a truncation and a membership of its own.
fn fill(disk: &MemDisk) {
    let members = (1..=3).map(|id| FoundingMember {
        node: NodeId(id),
        peer_address: format!("server-{id}:7001"),
        client_address: format!("server-{id}:7000"),
    });
    let identity = Identity::new(1, NodeId(1), 7, members.collect()).expect("these members are right");
    Log::init(disk, Path::new(DIR), &identity, &options()).expect("the disk is new");
    let (mut log, _) = Log::open(disk.clone(), Path::new(DIR), &options()).expect("it was just made");
    let entry = |index, term, bytes: usize| Entry {
        term: Term(term),
        index: LogIndex(index),
        payload: Payload::Command(Bytes::from(vec![b'c'; bytes])),
    };
    let hard_state = Some(HardState { term: Term(2), vote: Some(NodeId(2)), damaged: false });
    let writes = [
        Write {
            id: WriteId(1),
            hard_state,
            entries: (1..=5).map(|at| entry(at, 1, 100)).collect(),
            ..Write::default()
        },
        Write { id: WriteId(2), entries: vec![entry(6, 1, 20_000)], ..Write::default() },
        Write {
            id: WriteId(3),
            truncate_to: Some(LogIndex(4)),
            entries: vec![Entry { term: Term(2), index: LogIndex(5), payload: Payload::Noop }],
            ..Write::default()
        },
        Write { id: WriteId(4), entries: vec![entry(6, 2, 30_000), entry(7, 2, 10)], ..Write::default() },
    ];
    for write in &writes {
        log.write(std::slice::from_ref(write)).expect("the disk is right");
        if write.id == WriteId(2) {
            log.mark().expect("the disk is right");
        }
    }
}
