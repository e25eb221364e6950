//! The bytes of a snapshot, and that nothing but what was sent is installed.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use proptest::prelude::*;
use raftmap_raft::{GroupId, LogIndex};
use raftmap_state::{
    CHUNK_BYTES_MAX, DecodeError, EngineError, Ingest, LEVEL, MemoryEngine, MemoryIngest, SnapshotError,
    SnapshotHeader, SnapshotInstall, StateMachine,
};
use xxhash_rust::xxh3::xxh3_128;

use crate::common::{Server, put};
use crate::snapshots::{an_eventful_server, chunks_of, install};

/// A store that tells whether it was finished.
struct Watched(MemoryIngest, Rc<Cell<bool>>);

impl Ingest for Watched {
    type Engine = MemoryEngine;

    fn add(&mut self, key: Bytes, value: Bytes) -> Result<(), EngineError> {
        self.0.add(key, value)
    }

    fn finish(self) -> Result<MemoryEngine, EngineError> {
        self.1.set(true);
        self.0.finish()
    }
}

/// Why a stream is refused: somewhere on its way, or at its end; nothing is installed.
fn refused(header: &Bytes, chunks: &[Bytes]) -> SnapshotError {
    let finished = Rc::new(Cell::new(false));
    let installed = || -> Result<StateMachine<MemoryEngine>, SnapshotError> {
        let watched = Watched(MemoryIngest::default(), finished.clone());
        let mut install = SnapshotInstall::new(GroupId::DEFAULT, header, watched)?;
        for chunk in chunks {
            if let Err(error) = install.take(chunk) {
                assert!(matches!(install.take(chunk), Err(SnapshotError::Refused)), "it takes nothing more");
                assert!(matches!(install.finish(), Err(SnapshotError::Refused)));
                return Err(error);
            }
        }
        install.finish()
    };
    let error = installed().err().expect("it is refused");
    assert!(!finished.get(), "{error} after the store was finished");
    error
}

/// The header and the chunks of a small snapshot.
fn a_stream() -> (Bytes, Vec<Bytes>) {
    let server = an_eventful_server();
    let snapshot = server.machine.reader().snapshot().unwrap();
    let stream = (snapshot.header_bytes().clone(), chunks_of(&snapshot, 400));
    assert!(stream.1.len() > 4, "{}", stream.1.len());
    stream
}

fn flipped(bytes: &Bytes, at: usize, bit: usize) -> Bytes {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1 << bit;
    bytes.into()
}

#[test]
fn no_flipped_bit_is_installed() {
    let (header, chunks) = a_stream();
    for at in 0..header.len() {
        for bit in 0..8 {
            refused(&flipped(&header, at, bit), &chunks);
        }
    }
    for number in 0..chunks.len() {
        for at in 0..chunks[number].len() {
            let mut broken = chunks.clone();
            broken[number] = flipped(&chunks[number], at, at % 8);
            assert!(matches!(refused(&header, &broken), SnapshotError::Checksum { .. }));
        }
    }
    install(&header, &chunks, MemoryIngest::default()).unwrap();
}

#[test]
fn no_chunk_is_left_out_repeated_swapped_or_cut() {
    let (header, chunks) = a_stream();
    for number in 0..chunks.len() {
        let mut without = chunks.clone();
        without.remove(number);
        let error = refused(&header, &without);
        let is_last = number + 1 == chunks.len();
        assert!(
            matches!(error, SnapshotError::OutOfOrder { .. })
                || is_last && matches!(error, SnapshotError::Unfinished),
            "without chunk {number}: {error}"
        );
        let mut twice = chunks.clone();
        twice.insert(number, chunks[number].clone());
        let error = refused(&header, &twice);
        assert!(
            matches!(error, SnapshotError::OutOfOrder { .. })
                || is_last && matches!(error, SnapshotError::AfterTrailer),
            "chunk {number} twice: {error}"
        );
        for len in 0..chunks[number].len() {
            let mut cut = chunks.clone();
            cut[number].truncate(len);
            refused(&header, &cut);
        }
        let mut longer = chunks.clone();
        longer[number] = [&chunks[number][..], &[0]].concat().into();
        refused(&header, &longer);
        for other in 0..number {
            let mut swapped = chunks.clone();
            swapped.swap(number, other);
            assert!(matches!(refused(&header, &swapped), SnapshotError::OutOfOrder { .. }));
        }
    }
    for len in 0..header.len() {
        refused(&header.slice(..len), &chunks);
    }
}

#[test]
fn a_chunk_of_another_stream_is_refused() {
    let (header, mut chunks) = a_stream();
    let mut other = an_eventful_server();
    other.write(put("k1", "other")).unwrap();
    let snapshot = other.machine.reader().snapshot().unwrap();
    chunks[2] = chunks_of(&snapshot, 400)[2].clone();
    assert!(matches!(refused(&header, &chunks), SnapshotError::Chain { number: 3 }));
    assert!(matches!(refused(snapshot.header_bytes(), &chunks), SnapshotError::Chain { number: 1 }));
}

#[test]
fn a_stream_goes_on_from_every_chunk_with_the_same_bytes() {
    let server = an_eventful_server();
    let snapshot = server.machine.reader().snapshot().unwrap();
    let chunks = chunks_of(&snapshot, 400);
    for taken in 0..chunks.len() {
        let mut install =
            SnapshotInstall::new(GroupId::DEFAULT, snapshot.header_bytes(), MemoryIngest::default()).unwrap();
        chunks[..taken].iter().for_each(|chunk| install.take(chunk).unwrap());
        let rest: Vec<Bytes> = snapshot.resume(&install.token(), 400).unwrap().map(Result::unwrap).collect();
        assert_eq!(rest, chunks[taken..]);
        rest.iter().for_each(|chunk| install.take(chunk).unwrap());
        let machine = install.finish().unwrap();
        assert_eq!(machine.running_digest(), server.machine.running_digest());
    }
}

#[test]
fn a_token_is_good_for_its_own_snapshot_alone() {
    let mut server = an_eventful_server();
    let snapshot = server.machine.reader().snapshot().unwrap();
    let mut install =
        SnapshotInstall::new(GroupId::DEFAULT, snapshot.header_bytes(), MemoryIngest::default()).unwrap();
    install.take(&chunks_of(&snapshot, 400)[0]).unwrap();
    let token = install.token();
    for at in 0..token.len() {
        let unfit = snapshot.resume(&flipped(&token, at, at % 8), 400);
        assert!(matches!(unfit.err(), Some(SnapshotError::TokenUnfit)), "byte {at}");
        assert!(matches!(snapshot.resume(&token.slice(..at), 400).err(), Some(SnapshotError::TokenUnfit)));
    }
    server.write(put("later", "1")).unwrap();
    let later = server.machine.reader().snapshot().unwrap();
    assert!(matches!(later.resume(&token, 400).err(), Some(SnapshotError::TokenUnfit)));
    let same = an_eventful_server().machine.reader().snapshot().unwrap();
    assert!(same.resume(&token, 400).is_ok(), "another server at the same entry has the same stream");
}

/// Chunks as docs/format.md draws them, with checksums that fit, whatever is in them.
struct Forger {
    number: u64,
    chain: u128,
}

impl Forger {
    fn new() -> Self {
        Self { number: 0, chain: 0 }
    }

    fn seal(&mut self, version: u8, kind: u8, rows: u32, content: &[u8]) -> Bytes {
        self.seal_as_long(version, kind, rows, content, content.len())
    }

    fn seal_as_long(&mut self, version: u8, kind: u8, rows: u32, content: &[u8], len: usize) -> Bytes {
        let mut head = vec![version, kind, 0, 0];
        head.extend(self.number.to_le_bytes());
        head.extend(u32::try_from(len).unwrap().to_le_bytes());
        head.extend(rows.to_le_bytes());
        self.chain = xxh3_128(&[&self.chain.to_le_bytes()[..], &head, content].concat());
        self.number += 1;
        let checked = [&head[..], &self.chain.to_le_bytes(), content].concat();
        [&crc32c::crc32c(&checked).to_le_bytes()[..], &checked].concat().into()
    }
}

fn applied_row(group: u64, index: u64) -> Vec<u8> {
    let mut row = vec![1];
    for number in [group, 1, index, 1000] {
        row.extend(number.to_le_bytes());
    }
    row.extend(7u128.to_le_bytes());
    row
}

fn row(key: &[u8], value: &[u8]) -> Vec<u8> {
    let len = |bytes: &[u8]| u8::try_from(bytes.len()).ok().filter(|len| *len < 128).unwrap();
    [&[len(key)], key, &[len(value)], value].concat()
}

/// A stream of one chunk of rows behind the row of the applied position, and its trailer.
fn forged(rows: &[&[u8]]) -> (Bytes, Vec<Bytes>) {
    let mut forger = Forger::new();
    let header = forger.seal(1, 1, 0, &applied_row(1, 9));
    let applied = row(&[1], &applied_row(1, 9));
    let all = [&[&applied[..]], rows].concat();
    let content = all.concat();
    let count = u32::try_from(all.len()).unwrap();
    let chunk = forger.seal(1, 2, count, &content);
    let bytes = content.len() as u64 - 2 * u64::from(count);
    let trailer = forger.seal(1, 3, 0, &[u64::from(count).to_le_bytes(), bytes.to_le_bytes()].concat());
    (header, vec![chunk, trailer])
}

#[test]
fn the_stream_has_the_bytes_that_the_format_draws() {
    let (header, chunks) = forged(&[]);
    let forged = install(&header, &chunks, MemoryIngest::default()).unwrap();
    assert_eq!(forged.applied().index, LogIndex(9));
    let snapshot = forged.reader().snapshot().unwrap();
    assert_eq!(snapshot.header_bytes(), &header);
    assert_eq!(chunks_of(&snapshot, 1000), chunks);
    assert_eq!(SnapshotHeader::decode(&header).unwrap(), *snapshot.header());
}

#[test]
fn rows_that_are_none_are_refused() {
    let long_key = [b'k'; 100];
    let cases: [(&str, Vec<Vec<u8>>); 18] = [
        ("no table 0", vec![row(&[0], b"")]),
        ("no table 9", vec![row(&[9, 1], b"")]),
        ("an empty key", vec![row(b"", b"")]),
        ("a second applied position", vec![row(&[1, 0], &applied_row(1, 9))]),
        ("a short map row", vec![row(b"\x02a", &[0; 15])]),
        ("a short deadline", vec![row(&[3, 0, 0, 0], b"")]),
        ("a deadline with a value", vec![row(&[&[3][..], &[0; 8], b"a"].concat(), b"v")]),
        ("a short session", vec![row(&[&[4][..], &[0; 8]].concat(), &[0; 43])]),
        ("a long session", vec![row(&[&[4][..], &[0; 8]].concat(), &[0; 45])]),
        ("a session's long key", vec![row(&[&[4][..], &[0; 9]].concat(), &[0; 44])]),
        ("answers that end early", vec![row(&[&[5][..], &[0; 16]].concat(), &[0; 10])]),
        (
            "an answer of no kind",
            vec![row(&[&[5][..], &[0; 16]].concat(), &[&[0][..], &[0; 16], &[1, 50]].concat())],
        ),
        (
            "a large answer of no kind",
            vec![row(&[&[6][..], &[0; 16]].concat(), &[&[0; 16][..], &[50]].concat())],
        ),
        ("a short member", vec![row(&[7, 0, 0, 0, 0, 0, 0, 0, 1], &[0; 39])]),
        ("another member", vec![row(&[7, 0, 0, 0, 0, 0, 0, 0, 1], &[0; 40])]),
        ("a membership of version 9", vec![row(&[8], &[&[0; 8][..], &[9]].concat())]),
        ("the same key twice", vec![row(b"\x02a", &[0; 16]), row(b"\x02a", &[0; 16])]),
        ("keys that descend", vec![row(&[&[2], &long_key[..]].concat(), &[0; 16]), row(b"\x02a", &[0; 16])]),
    ];
    for (what, rows) in cases {
        let rows: Vec<&[u8]> = rows.iter().map(Vec::as_slice).collect();
        let (header, chunks) = forged(&rows);
        let error = refused(&header, &chunks);
        assert!(
            matches!(error, SnapshotError::Row { .. } | SnapshotError::RowOutOfOrder { .. }),
            "{what}: {error}"
        );
    }
    let (header, chunks) = forged(&[&row(b"\x02a", &[0; 16]), &row(b"\x02b", &[0; 16])]);
    install(&header, &chunks, MemoryIngest::default()).unwrap();
}

#[test]
fn a_key_beyond_what_engines_take_is_refused() {
    let mut forger = Forger::new();
    let header = forger.seal(1, 1, 0, &applied_row(1, 9));
    // 70,000 as a varint.
    let content = [&[0xf0, 0xa2, 0x04][..], &[2; 70_000], &[16], &[0; 16]].concat();
    let chunk = forger.seal(1, 2, 1, &content);
    assert!(matches!(refused(&header, &[chunk]), SnapshotError::Row { .. }));
}

#[test]
fn a_length_beyond_the_end_takes_no_memory() {
    const ALL_OF_IT: [u8; 10] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    for content in [ALL_OF_IT.to_vec(), [&[1, 1][..], &ALL_OF_IT].concat()] {
        let mut forger = Forger::new();
        let header = forger.seal(1, 1, 0, &applied_row(1, 9));
        let chunk = forger.seal(1, 2, u32::MAX, &content);
        assert!(matches!(refused(&header, &[chunk]), SnapshotError::Format(_)));
    }
    let mut members = applied_row(1, 9);
    members.extend([0; 8]);
    members.extend([1, 0xff, 0xff, 0xff, 0xff]);
    assert!(matches!(refused(&Forger::new().seal(1, 1, 0, &members), &[]), SnapshotError::Format(_)));
    let (header, _) = forged(&[]);
    let large = Bytes::from(vec![0; CHUNK_BYTES_MAX + 1]);
    assert!(matches!(refused(&header, &[large]), SnapshotError::TooLarge { limit: CHUNK_BYTES_MAX, .. }));
}

#[test]
fn what_is_not_known_or_contradicts_itself_is_refused() {
    let header = |version, kind, rows, content: &[u8]| Forger::new().seal(version, kind, rows, content);
    let row = applied_row(1, 9);
    assert!(matches!(refused(&header(2, 1, 0, &row), &[]), SnapshotError::Format(_)), "a newer version");
    let mut newer_rows = row.clone();
    newer_rows[0] = LEVEL + 1;
    let error = refused(&header(1, 1, 0, &newer_rows), &[]);
    let too_new = DecodeError::TooNew { what: "state machine", level: LEVEL + 1 };
    assert!(matches!(&error, SnapshotError::Format(found) if *found == too_new), "{error}");
    assert!(matches!(refused(&header(1, 4, 0, &row), &[]), SnapshotError::UnknownKind { value: 4 }));
    assert!(matches!(refused(&header(1, 2, 0, &row), &[]), SnapshotError::Malformed(_)), "no header");
    assert!(matches!(refused(&header(1, 1, 1, &row), &[]), SnapshotError::Malformed(_)), "rows in it");
    for len in [0, row.len() - 1, row.len() + 1] {
        let of_other_length = Forger::new().seal_as_long(1, 1, 0, &row, len);
        assert!(matches!(refused(&of_other_length, &[]), SnapshotError::Malformed(_)), "{len}");
    }
    for at in [6, 7] {
        let mut not_zero = header(1, 1, 0, &row).to_vec();
        not_zero[at] = 1;
        let checksum = crc32c::crc32c(&not_zero[4..]);
        not_zero[..4].copy_from_slice(&checksum.to_le_bytes());
        assert!(matches!(refused(&not_zero.into(), &[]), SnapshotError::Malformed(_)), "byte {at}");
    }
    let other = header(1, 1, 0, &applied_row(2, 9));
    assert!(matches!(
        refused(&other, &[]),
        SnapshotError::WrongGroup { expected: GroupId(1), found: GroupId(2) }
    ));
    let members = |index: u64| [&index.to_le_bytes()[..], &[1], &[0; 12]].concat();
    let later_members = header(1, 1, 0, &[&row[..], &members(10)].concat());
    assert!(matches!(refused(&later_members, &[]), SnapshotError::HeaderContradicted(_)));
}

/// A whole stream whose parts are right one by one.
fn of_parts(header: &[u8], content: &[u8], rows: u32, counts: [u64; 2]) -> (Bytes, Vec<Bytes>) {
    let mut forger = Forger::new();
    let header = forger.seal(1, 1, 0, header);
    let chunk = forger.seal(1, 2, rows, content);
    let trailer = forger.seal(1, 3, 0, &counts.map(u64::to_le_bytes).concat());
    (header, vec![chunk, trailer])
}

#[test]
fn header_rows_and_trailer_must_agree() {
    let applied = row(&[1], &applied_row(1, 9));
    let refused_parts = |header: &[u8], content: &[u8], rows, counts| {
        let (header, chunks) = of_parts(header, content, rows, counts);
        refused(&header, &chunks)
    };
    let (header, chunks) = of_parts(&applied_row(1, 9), &applied, 1, [1, 50]);
    install(&header, &chunks, MemoryIngest::default()).unwrap();
    let contradicted = |error| matches!(error, SnapshotError::HeaderContradicted(_));
    assert!(contradicted(refused_parts(&applied_row(1, 8), &applied, 1, [1, 50])), "another index");
    let map_row = row(b"\x02a", &[0; 16]);
    assert!(contradicted(refused_parts(&applied_row(1, 9), &map_row, 1, [1, 18])), "no applied position");
    let mut start = vec![1];
    start.extend(1u64.to_le_bytes());
    start.extend([0; 40]);
    assert!(contradicted(refused_parts(&start, &map_row, 1, [1, 18])), "rows before the first entry");
    let members = [&4u64.to_le_bytes()[..], &[1], &[0; 12]].concat();
    let with_members = [&applied_row(1, 9)[..], &members].concat();
    assert!(contradicted(refused_parts(&with_members, &applied, 1, [1, 50])), "members in the header alone");
    let rows_with_members = [&applied[..], &row(&[8], &members)].concat();
    assert!(contradicted(refused_parts(&applied_row(1, 9), &rows_with_members, 2, [2, 72])), "in rows alone");
    let (header, chunks) = of_parts(&with_members, &rows_with_members, 2, [2, 72]);
    let machine = install(&header, &chunks, MemoryIngest::default()).unwrap();
    assert_eq!(machine.membership().unwrap().0, LogIndex(4));

    let trailer = |error| matches!(error, SnapshotError::TrailerContradicted);
    assert!(trailer(refused_parts(&applied_row(1, 9), &applied, 1, [2, 50])), "rows");
    assert!(trailer(refused_parts(&applied_row(1, 9), &applied, 1, [1, 51])), "bytes");
    let malformed = |error| matches!(error, SnapshotError::Malformed(_));
    assert!(malformed(refused_parts(&applied_row(1, 9), &applied, 2, [1, 50])), "rows in a chunk");
    assert!(malformed(refused_parts(&applied_row(1, 9), &[], 0, [0, 0])), "a chunk without rows");
    let mut forger = Forger::new();
    let header = forger.seal(1, 1, 0, &applied_row(1, 9));
    let second = forger.seal(1, 1, 0, &applied_row(1, 9));
    assert!(malformed(refused(&header, &[second])), "a second header");
}

/// Each row is right, and an answer has no session.
#[test]
fn rows_that_contradict_each_other_are_found_when_it_is_opened() {
    let answer = row(&[&[6][..], &[0; 16]].concat(), &[&[0; 16][..], &[0]].concat());
    let (header, chunks) = forged(&[&answer]);
    let installed = install(&header, &chunks, MemoryIngest::default());
    assert!(matches!(installed.err(), Some(SnapshotError::RowsContradict(_))));
}

#[test]
fn a_stream_of_another_servers_state_is_the_same_bytes() {
    let mut two = [Server::in_memory(), Server::in_memory()];
    let log = an_eventful_server().log;
    let streams = two.each_mut().map(|server| {
        server.log.clone_from(&log);
        server.catch_up(3);
        chunks_of(&server.machine.reader().snapshot().unwrap(), 500)
    });
    assert_eq!(streams[0], streams[1]);
}

proptest! {
    #![proptest_config(crate::differential::cases(256))]

    /// Bytes with a checksum that fits give an error or a state, whatever they are.
    #[test]
    fn any_content_is_refused_or_taken(content in prop::collection::vec(0u8..12, 0..60), rows in 0u32..4) {
        let (header, chunks) = of_parts(&applied_row(1, 9), &content, rows, [0, 0]);
        refused(&header, &chunks);
    }
}
