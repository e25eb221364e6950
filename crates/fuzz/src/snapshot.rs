//! A snapshot of which any byte may be another, with checksums that fit or do not.

use bytes::{Bytes, BytesMut};
use raftmap_raft::GroupId;
use raftmap_state::{
    Digest, MemoryEngine, MemoryIngest, SnapshotError, SnapshotHeader, SnapshotInstall, StateMachine,
};
use xxhash_rust::xxh3::xxh3_128;

/// The group to which the snapshot belongs, or does not.
const GROUP: GroupId = GroupId(1);

const VERSION: u8 = 1;
/// The kind in the input that stands for bytes which are a chunk as they are.
const AS_IT_IS: u8 = u8::MAX;

/// Installs the snapshot that `bytes` tell: the result is a state, of which a snapshot can be taken and installed again, or
/// an error.
pub fn snapshot(bytes: &[u8]) {
    let chunks = chunks(bytes);
    let Some((header, rest)) = chunks.split_first() else { return };
    let decoded = SnapshotHeader::decode(header);
    let Ok(machine) = install(header, rest) else { return };
    let snapshot = machine.reader().snapshot().expect("a state that was installed can be read");
    assert_eq!(
        *snapshot.header(),
        decoded.expect("it was installed"),
        "the state is another than the header's"
    );
    let again: Vec<Bytes> = snapshot.chunks(100).map(|chunk| chunk.expect("it can be read")).collect();
    let again = install(snapshot.header_bytes(), &again).expect("what was sent can be installed");
    assert_eq!(content(&again), content(&machine), "a state survives its snapshot");
}

fn install(header: &Bytes, chunks: &[Bytes]) -> Result<StateMachine<MemoryEngine>, SnapshotError> {
    let mut install = SnapshotInstall::new(GROUP, header, MemoryIngest::default())?;
    for chunk in chunks {
        install.take(chunk)?;
    }
    install.finish()
}

pub(crate) fn content(machine: &StateMachine<MemoryEngine>) -> Option<Digest> {
    let mut digest = machine.reader().content_digest().expect("memory can be read");
    digest.advance(u64::MAX).expect("memory can be read")
}

/// A chunk is its kind, its rows (a byte each), the length of its content (two bytes) and the content; the last one may be
/// short. Its number and checksums are made to fit.
pub(crate) fn chunks(mut bytes: &[u8]) -> Vec<Bytes> {
    let mut chunks = Vec::new();
    let mut chain = 0u128;
    while let [kind, rows, len_low, len_high, rest @ ..] = bytes {
        let len = usize::from(u16::from_le_bytes([*len_low, *len_high]));
        let (content, rest) = rest.split_at(len.min(rest.len()));
        bytes = rest;
        if *kind == AS_IT_IS {
            chunks.push(Bytes::copy_from_slice(content));
        } else {
            let number = chunks.len() as u64;
            chunks.push(seal(*kind, number, *rows, content, &mut chain));
        }
    }
    chunks
}

/// A chunk as docs/format.md draws it.
fn seal(kind: u8, number: u64, rows: u8, content: &[u8], chain: &mut u128) -> Bytes {
    let mut head = vec![VERSION, kind, 0, 0];
    head.extend(number.to_le_bytes());
    head.extend(u32::try_from(content.len()).expect("two bytes tell it").to_le_bytes());
    head.extend(u32::from(rows).to_le_bytes());
    *chain = xxh3_128(&[&chain.to_le_bytes()[..], &head, content].concat());
    let checked = [&head[..], &chain.to_le_bytes(), content].concat();
    let mut chunk = BytesMut::from(&crc32c::crc32c(&checked).to_le_bytes()[..]);
    chunk.extend_from_slice(&checked);
    chunk.freeze()
}
