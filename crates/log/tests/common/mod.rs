//! What the tests of the log share.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a helper of tests")]

pub(crate) mod history;
#[macro_use]
pub(crate) mod places;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use raftmap_log::{
    Disk, FoundingMember, Identity, Log, LogOptions, MemDisk, MemDiskOptions, OpenError, Recovered,
};
use raftmap_raft::{
    Base, Entry, HardState, LogIndex, LogPosition, Membership, NodeId, Payload, StateId, Term, Write, WriteId,
};

pub(crate) const BLOCK: u64 = 4096;

pub(crate) fn member(id: u64) -> FoundingMember {
    FoundingMember {
        node: NodeId(id),
        peer_address: format!("10.0.0.{id}:7001"),
        client_address: format!("10.0.0.{id}:7000"),
    }
}

/// Node 1 of a cluster of so many.
pub(crate) fn identity(members: u64) -> Identity {
    Identity::new(0xC1, NodeId(1), 77, (1..=members).map(member).collect()).unwrap()
}

/// Segments of 8 blocks, so that tests cross many of them.
pub(crate) fn tiny() -> LogOptions {
    LogOptions { segment_bytes: 8 * BLOCK, entry_bytes_max: 20_000, ..LogOptions::default() }
}

pub(crate) fn mem_disk(seed: u64) -> MemDisk {
    MemDisk::new(MemDiskOptions { seed, ..MemDiskOptions::default() })
}

pub(crate) fn dir() -> PathBuf {
    PathBuf::from("/data")
}

pub(crate) fn segment(number: u64) -> PathBuf {
    dir().join(format!("group-1/segment-{number:012}"))
}

pub(crate) fn hard_state_file() -> PathBuf {
    dir().join("group-1/hard-state")
}

/// A new data directory of node 1 of three, opened.
pub(crate) fn fresh(disk: &MemDisk) -> Log<MemDisk> {
    fresh_of(disk, 3, &tiny())
}

pub(crate) fn fresh_of(disk: &MemDisk, members: u64, options: &LogOptions) -> Log<MemDisk> {
    Log::init(disk, &dir(), &identity(members), options).unwrap();
    Log::open(disk.clone(), &dir(), options).unwrap().0
}

pub(crate) fn reopen(disk: &MemDisk) -> Result<(Log<MemDisk>, Recovered), OpenError> {
    Log::open(disk.clone(), &dir(), &tiny())
}

pub(crate) fn entry(index: u64, term: u64, text: &str) -> Entry {
    let payload = Payload::Command(Bytes::copy_from_slice(text.as_bytes()));
    Entry { term: Term(term), index: LogIndex(index), payload }
}

/// An entry of so many bytes.
pub(crate) fn large(index: u64, term: u64, bytes: usize) -> Entry {
    entry(index, term, &"x".repeat(bytes))
}

pub(crate) fn term(id: u64, term: u64) -> Write {
    let hard_state = HardState { term: Term(term), ..HardState::default() };
    Write { id: WriteId(id), hard_state: Some(hard_state), ..Write::default() }
}

pub(crate) fn append(id: u64, entries: Vec<Entry>) -> Write {
    Write { id: WriteId(id), entries, ..Write::default() }
}

/// A base of a state that is durable as far as that.
pub(crate) fn base(index: u64, term: u64) -> Base {
    Base {
        position: LogPosition { term: Term(term), index: LogIndex(index) },
        membership: Membership::of_voters((1..=3).map(NodeId)),
        durable: LogIndex(index),
        state: StateId(term),
    }
}

pub(crate) fn rebase(id: u64, base: Base) -> Write {
    Write { id: WriteId(id), base: Some(Box::new(base)), ..Write::default() }
}

/// Removes what the log needs no more; gives the numbers of the segments.
pub(crate) fn cut<D: Disk>(log: &mut Log<D>) -> Vec<u64> {
    let Some(cut) = log.cut().unwrap() else { return Vec::new() };
    let numbers = cut.numbers().to_vec();
    cut.run().unwrap();
    numbers
}

/// All entries of a log.
pub(crate) fn entries<D: Disk>(log: &Log<D>) -> Vec<Entry> {
    let (first, last) = (log.base().index.next(), log.last().index);
    if last < first {
        return Vec::new();
    }
    log.reader().entries(first, last, usize::MAX).unwrap()
}

pub(crate) fn indexes<D: Disk>(log: &Log<D>) -> Vec<u64> {
    entries(log).iter().map(|entry| entry.index.0).collect()
}

/// A file of the real disk, with a bit of it flipped.
pub(crate) fn flip_real(path: &Path, bit: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[bit / 8] ^= 1 << (bit % 8);
    std::fs::write(path, bytes).unwrap();
}

/// What a log that was never cut may hold while `write` is under way.
pub(crate) fn steps(before: &[Entry], write: &Write) -> Vec<Vec<Entry>> {
    let before = history::Content { base: None, entries: before.to_vec() };
    before.steps(write).into_iter().map(|content| content.entries).collect()
}
