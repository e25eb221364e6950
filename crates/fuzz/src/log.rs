//! A data directory of which any byte may be another, with checksums that fit or do not.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use raftmap_log::{FoundingMember, Identity, Log, LogOptions, MemDisk, MemDiskOptions, OpenError, Recovered};
use raftmap_raft::{
    Base, Entry, HardState, LogIndex, LogPosition, Membership, NodeId, Payload, StateId, Term, Write, WriteId,
};

const DIR: &str = "/data";
const BLOCK_BYTES: usize = 4096;
/// One change: which file, which block, where in it, what is there then, and whether the checksum is made to fit.
const CHANGE_BYTES: usize = 7;

fn options() -> LogOptions {
    LogOptions { segment_bytes: 64 << 10, entry_bytes_max: 32 << 10, ..LogOptions::default() }
}

/// Opens a data directory after changes that `bytes` tell, seven bytes each: a start gives a log that can be read to its
/// end, or an error. If bytes are left over at the end, the segments before the log's base are gone.
pub fn data_directory(bytes: &[u8]) {
    let disk = MemDisk::new(MemDiskOptions::default());
    fill(&disk, !bytes.len().is_multiple_of(CHANGE_BYTES));
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
        let found = |recovered: &Recovered| (recovered.base.clone(), recovered.last);
        assert_eq!(found(&again), found(&recovered), "a second start finds another log than the first");
        read_to_the_end(&log, again.last.index);
    }
}

fn open(disk: &MemDisk) -> Result<(Log<MemDisk>, Recovered), OpenError> {
    Log::open(disk.restart(), Path::new(DIR), &options())
}

fn read_to_the_end(log: &Log<MemDisk>, last: LogIndex) {
    let (mut reader, mut next) = (log.reader(), log.base().index.next());
    while next <= last {
        // An entry whose content no version has ever written is found here: a start passes over commands.
        let Ok(entries) = reader.entries(next, last, usize::MAX) else { return };
        next = entries.last().expect("at least one").index.next();
    }
}

/// A log of a few batches over two segments, with a mark, a truncation and two bases, the second of which leaves nothing of
/// the first segment; `cut`: that one is removed.
fn fill(disk: &MemDisk, cut: bool) {
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
    let base = |index| Base {
        position: LogPosition { term: Term(2), index: LogIndex(index) },
        membership: Membership::of_voters((1..=3).map(NodeId)),
        durable: LogIndex(index),
        state: StateId(1),
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
        Write { id: WriteId(5), base: Some(Box::new(base(5))), ..Write::default() },
        Write { id: WriteId(6), entries: vec![entry(8, 2, 100), entry(9, 2, 10)], ..Write::default() },
        Write {
            id: WriteId(7),
            base: Some(Box::new(base(7))),
            entries: vec![entry(10, 2, 9000)],
            ..Write::default()
        },
    ];
    for write in &writes {
        log.write(std::slice::from_ref(write)).expect("the disk is right");
        if write.id == WriteId(2) {
            log.mark().expect("the disk is right");
        }
    }
    if cut {
        let removal = log.cut().expect("the disk is right").expect("the first segment is needed no more");
        removal.run().expect("the disk is right");
    }
}
