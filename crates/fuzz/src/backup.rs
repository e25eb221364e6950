//! A backup of which any byte may be another, with checksums that fit or do not.

use bytes::Bytes;
use raftmap::backup::{BackupError, BackupHeader, BackupParts, BackupReader, BackupSummary, Origin};
use raftmap_raft::NodeId;
use raftmap_state::{MemoryEngine, MemoryIngest, SnapshotHeader, StateMachine};
use xxhash_rust::xxh3::xxh3_128;

use crate::snapshot::{chunks, content};

/// The first byte of an input whose other bytes are a file as it is; else they tell chunks, and the file around them fits.
const AS_IT_IS: u8 = 0;

/// Reads the backup that `bytes` tell, in pieces: what is taken is a state, of which a backup can be made and read again.
pub fn backup(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let file = if *kind == AS_IT_IS { rest.to_vec() } else { file_of(&chunks(rest)) };
    let read_all = read(&file, file.len().max(1));
    let in_pieces = read(&file, usize::from(*kind).max(1));
    let Ok((summary, machine)) = read_all else {
        assert!(in_pieces.is_err(), "a file is taken in pieces and not as one");
        return;
    };
    assert_eq!(summary.bytes, file.len() as u64, "all of it was read");
    let (summary_of_pieces, _) = in_pieces.expect("it was taken as one");
    assert_eq!(summary_of_pieces, summary, "pieces make no difference");
    let snapshot = machine.reader().snapshot().expect("a state that was read can be read");
    assert!(
        header_of(snapshot.header()).position == summary.header.position,
        "the state is another than the header's"
    );
    let again: Vec<Bytes> =
        BackupParts::new(&summary.header, &snapshot).map(|part| part.expect("it can be read")).collect();
    let (again, copy) = read(&again.concat(), 1000).expect("what was written can be read");
    assert_eq!((again.header, again.keys), (summary.header, summary.keys), "a backup survives its restore");
    assert_eq!(content(&copy), content(&machine), "a state survives its backup");
}

fn read(file: &[u8], piece: usize) -> Result<(BackupSummary, StateMachine<MemoryEngine>), BackupError> {
    let mut reader = BackupReader::new(MemoryIngest::default());
    for piece in file.chunks(piece) {
        reader.feed(piece)?;
    }
    let (summary, install) = reader.finish()?;
    let header = summary.header.position.index;
    let machine = install.finish().map_err(|source| BackupError::Chunk { at: header.0, source })?;
    Ok((summary, machine))
}

fn header_of(snapshot: &SnapshotHeader) -> BackupHeader {
    BackupHeader {
        made_at_ms: 1,
        program: "1".to_owned(),
        ..BackupHeader::of(snapshot, Origin::Cluster, 7, NodeId(1))
    }
}

/// A file as docs/format.md draws it.
fn file_of(chunks: &[Bytes]) -> Vec<u8> {
    let described = chunks.first().and_then(|first| SnapshotHeader::decode(first).ok());
    let header = described.map(|snapshot| header_of(&snapshot).encode()).unwrap_or_default();
    let mut file = [&header[..], &chunks.concat()].concat();
    let before = file.len() as u64;
    file.extend(b"raftmapE");
    file.extend(before.to_le_bytes());
    file.extend(xxh3_128(&file).to_le_bytes());
    file
}
