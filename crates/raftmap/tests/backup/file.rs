//! The bytes of a backup: that they stay what they are, and that nothing else is taken for them.

use raftmap::backup::{BackupError, BackupReader, BackupSummary};
use raftmap_raft::{GroupId, LogIndex};
use raftmap_state::{Discarded, MemoryEngine, MemoryIngest, StateMachine};

use crate::support::{file, header, parts, state};

fn read(bytes: &[u8]) -> Result<BackupSummary, BackupError> {
    let mut reader = BackupReader::new(Discarded);
    reader.feed(bytes)?;
    reader.finish().map(|(summary, _)| summary)
}

/// A file of format version 1, as it will be read for ever. Should the format change, this file stays, and one of the next
/// version comes beside it.
const VERSION_1: &[u8] = include_bytes!("version-1.backup");

#[test]
fn a_file_of_version_1_is_written_and_read_as_it_always_was() {
    let written = file();
    if written != VERSION_1 {
        let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("version-1.backup");
        std::fs::write(&path, written).unwrap();
        panic!("what is written is not of version 1 any more; it stands in {}", path.display());
    }
    let mut reader = BackupReader::new(MemoryIngest::default());
    reader.feed(VERSION_1).unwrap();
    let (summary, install) = reader.finish().unwrap();
    let original = state();
    assert_eq!(summary.header, header(&original));
    assert_eq!((summary.header.position, summary.keys), (original.applied(), 3));
    assert_eq!(summary.bytes, VERSION_1.len() as u64);
    let machine: StateMachine<MemoryEngine> = install.finish().unwrap();
    assert_eq!(machine.running_digest(), original.running_digest());
    let digest =
        |machine: &StateMachine<_>| machine.reader().content_digest().unwrap().advance(u64::MAX).unwrap();
    assert_eq!(digest(&machine), digest(&original));
}

#[test]
fn no_changed_byte_is_taken_and_its_place_is_told() {
    let whole = file();
    read(&whole).unwrap();
    let state_begins = parts(&state())[0].len();
    let end_begins = whole.len() - 32;
    for at in 0..whole.len() {
        for change in [1, 0x80, 0xFF] {
            let mut bytes = whole.clone();
            bytes[at] ^= change;
            let error = read(&bytes).expect_err("a changed byte was taken");
            assert!(error.is_of_file(), "{error}");
            let place = at as u64;
            match error {
                BackupError::NotABackup => assert!(at < 8),
                BackupError::UnknownVersion(_) => assert_eq!(at, 16),
                BackupError::Header => assert!((8..state_begins).contains(&at), "{at}"),
                // A length that grew may swallow what comes behind it.
                BackupError::Chunk { at: begins, .. } => assert!(begins <= place, "{place}: {error}"),
                BackupError::Truncated { .. } => assert!(at < end_begins, "{at}"),
                BackupError::End { at: begins } => assert!(begins <= place && at >= end_begins),
                BackupError::Digest { .. } => assert!(at >= end_begins),
                error => panic!("{at}: {error}"),
            }
        }
    }
}

#[test]
fn no_file_that_was_cut_off_or_goes_on_is_taken() {
    let whole = file();
    for len in 0..whole.len() {
        let error = read(&whole[..len]).expect_err("a part was taken for the whole");
        assert!(matches!(error, BackupError::Truncated { at } if at == len as u64), "{len}: {error}");
    }
    let longer = [&whole[..], &[0]].concat();
    assert!(matches!(read(&longer), Err(BackupError::Trailing { at }) if at == whole.len() as u64));
}

/// Each part has the checksum that it had in its own file.
#[test]
fn parts_of_two_files_make_none() {
    let (one, mut other) = (parts(&state()), state());
    let mut more = crate::support::log().pop().unwrap();
    more.index = LogIndex(9);
    other.apply(&[more]).unwrap();
    let other = parts(&other);
    assert_eq!(one.len(), other.len());
    for place in 0..one.len() {
        let mut mixed = one.clone();
        mixed[place] = other[place].clone();
        assert!(read(&mixed.concat()).is_err(), "part {place}");
    }
    let mut header = header(&state());
    header.made_at_ms += 1;
    let mut mixed = one;
    mixed[0] = header.encode();
    assert!(
        matches!(read(&mixed.concat()), Err(BackupError::Digest { .. })),
        "of the same state, made later"
    );
}

#[test]
fn a_file_may_come_in_pieces_of_any_size() {
    let whole = file();
    let summary = read(&whole).unwrap();
    for size in [1, 7, 100, 4096] {
        let mut reader = BackupReader::new(Discarded);
        for piece in whole.chunks(size) {
            assert!(!reader.is_complete());
            reader.feed(piece).unwrap();
        }
        assert!(reader.is_complete());
        assert_eq!(reader.finish().unwrap().0, summary);
    }
}

#[test]
fn after_an_error_nothing_is_taken() {
    let mut reader = BackupReader::new(Discarded);
    assert!(reader.feed(&[0; 200]).is_err());
    assert!(matches!(reader.feed(&file()), Err(BackupError::Refused)));
    assert!(matches!(reader.finish(), Err(BackupError::Refused)));
}

#[test]
fn the_state_before_the_first_entry_is_a_file_too() {
    let machine = StateMachine::open(MemoryEngine::new(), GroupId::DEFAULT).unwrap();
    let summary = read(&parts(&machine).concat()).unwrap();
    assert_eq!((summary.keys, summary.header.position.index), (0, LogIndex(0)));
}
