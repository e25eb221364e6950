//! What every engine promises, on both.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use raftmap_state::{DiskEngine, DiskOptions, Engine, MemoryEngine, Row, RowChange, Snapshot};

fn on_disk(directory: &tempfile::TempDir) -> DiskEngine {
    DiskEngine::open(directory.path(), DiskOptions::default()).unwrap()
}

fn all(snapshot: &impl Snapshot) -> Vec<Row> {
    snapshot.range(&[0], &[255]).map(Result::unwrap).collect()
}

fn set(key: &'static [u8], value: &'static [u8]) -> RowChange {
    (Bytes::from_static(key), Some(Bytes::from_static(value)))
}

fn key() -> impl Strategy<Value = Bytes> {
    vec(1u8..5, 1..3).prop_map(Bytes::from)
}

fn batch() -> impl Strategy<Value = BTreeMap<Bytes, Option<Bytes>>> {
    prop::collection::btree_map(
        key(),
        prop::option::weighted(0.7, vec(any::<u8>(), 0..5).prop_map(Bytes::from)),
        1..6,
    )
}

/// From both ends at once, as far as `pattern` says, then the rest.
fn zigzag(snapshot: &impl Snapshot, start: &[u8], end: &[u8], pattern: &[bool]) -> Vec<Row> {
    let mut rows = snapshot.range(start, end);
    let mut seen = Vec::new();
    for from_back in pattern {
        seen.extend(if *from_back { rows.next_back() } else { rows.next() });
    }
    seen.extend(rows);
    seen.into_iter().map(Result::unwrap).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn engines_hold_the_same_rows_in_the_same_order(
        batches in vec(batch(), 1..12),
        ranges in vec((key(), key(), vec(any::<bool>(), 0..6)), 4),
        persist_at in 0usize..12,
    ) {
        let directory = tempfile::tempdir().unwrap();
        let (disk, memory) = (on_disk(&directory), MemoryEngine::new());
        let mut model = BTreeMap::new();
        let mut snapshots = Vec::new();
        for (at, batch) in batches.into_iter().enumerate() {
            for (key, value) in &batch {
                match value {
                    Some(value) => model.insert(key.clone(), value.clone()),
                    None => model.remove(key),
                };
            }
            let batch: Vec<RowChange> = batch.into_iter().collect();
            disk.commit(batch.clone()).unwrap();
            memory.commit(batch).unwrap();
            if at == persist_at {
                disk.persist().unwrap();
                memory.persist().unwrap();
            }
            snapshots.push((disk.snapshot(), memory.snapshot(), model.clone()));
        }
        // Only now, when each but the last has been overwritten.
        for (disk, memory, model) in &snapshots {
            let expected: Vec<Row> = model.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
            prop_assert_eq!(&all(disk), &expected);
            prop_assert_eq!(&all(memory), &expected);
            for (start, end, pattern) in &ranges {
                prop_assert_eq!(zigzag(disk, start, end, pattern), zigzag(memory, start, end, pattern));
                prop_assert_eq!(disk.get(start).unwrap(), model.get(start).cloned());
                prop_assert_eq!(memory.get(start).unwrap(), model.get(start).cloned());
            }
        }
    }
}

fn a_range_that_ends_before_it_starts_is_empty(engine: &impl Engine) {
    engine.commit(vec![set(b"a", b"1"), set(b"b", b"2")]).unwrap();
    let snapshot = engine.snapshot();
    assert_eq!(snapshot.range(b"b", b"a").count(), 0);
    assert_eq!(snapshot.range(b"a", b"a").count(), 0);
    assert_eq!(snapshot.range(b"b", b"a").next_back().map(Result::unwrap), None);
}

#[test]
fn an_empty_range_has_no_rows_on_either_engine() {
    let directory = tempfile::tempdir().unwrap();
    a_range_that_ends_before_it_starts_is_empty(&on_disk(&directory));
    a_range_that_ends_before_it_starts_is_empty(&MemoryEngine::new());
}

#[test]
fn a_database_is_open_once_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let first = on_disk(&directory);
    let second = DiskEngine::open(directory.path(), DiskOptions::default());
    assert!(second.is_err_and(|error| error.doing == "lock directory"));
    drop(first);
    on_disk(&directory);
}

#[test]
fn a_database_that_was_half_made_when_the_server_died_is_made_again() {
    let directory = tempfile::tempdir().unwrap();
    drop(on_disk(&directory));
    std::fs::rename(directory.path().join("tree"), directory.path().join("new")).unwrap();
    std::fs::remove_file(directory.path().join("new/current")).unwrap();
    assert_eq!(all(&on_disk(&directory).snapshot()), []);
    assert!(!directory.path().join("new").exists());
}

/// It is not taken for a new one, which holds nothing.
#[test]
fn a_database_that_lost_what_names_its_tables_is_damaged() {
    let directory = tempfile::tempdir().unwrap();
    drop(on_disk(&directory));
    std::fs::remove_file(directory.path().join("tree/current")).unwrap();
    let opened = DiskEngine::open(directory.path(), DiskOptions::default());
    assert!(opened.is_err_and(|error| error.is_damage()));
}

#[test]
fn rows_outlast_flushes_and_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let value = Bytes::from(vec![7; 300_000]);
    let key = |n: u32| Bytes::copy_from_slice(&(n + 1_000_000_000).to_be_bytes());
    let engine = on_disk(&directory);
    for n in 0..150 {
        engine.commit(vec![(key(n), Some(value.clone())), (key(n / 2), Some(Bytes::new()))]).unwrap();
    }
    engine.check().unwrap();
    engine.persist().unwrap();
    drop(engine);
    let snapshot = on_disk(&directory).snapshot();
    let sizes: Vec<usize> = all(&snapshot).into_iter().map(|(_, value)| value.len()).collect();
    assert_eq!(sizes, [vec![0; 75], vec![300_000; 75]].concat());
}

#[test]
fn what_is_written_in_a_later_life_hides_what_was_written_before() {
    let directory = tempfile::tempdir().unwrap();
    for life in 0..5_u8 {
        let engine = on_disk(&directory);
        let expected = life.checked_sub(1).map(|before| Bytes::from(vec![before]));
        assert_eq!(engine.snapshot().get(b"each life").unwrap(), expected);
        let removed = (Bytes::from(vec![b'a' + life]), None);
        let each = (Bytes::from_static(b"each life"), Some(Bytes::from(vec![life])));
        let next = (Bytes::from(vec![b'b' + life]), Some(Bytes::new()));
        engine.commit(vec![removed, next, each]).unwrap();
        engine.persist().unwrap();
    }
    let keys: Vec<Bytes> = all(&on_disk(&directory).snapshot()).into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["each life", "f"]);
}

/// Views see one moment, whatever becomes of rows, layers and tables beside them.
#[test]
fn a_view_stays_as_it_is_while_rows_go_to_tables() {
    let directory = tempfile::tempdir().unwrap();
    let engine = on_disk(&directory);
    let writer = engine.clone();
    let done = Arc::new(AtomicBool::new(false));
    let ends = Arc::clone(&done);
    let commits = std::thread::spawn(move || {
        for n in 0..3000_u32 {
            let row = |key: u8| (Bytes::from(vec![key]), Some(Bytes::copy_from_slice(&n.to_be_bytes())));
            writer.commit((1..40).map(row).collect()).unwrap();
            if n % 100 == 0 {
                writer.persist().unwrap();
            }
        }
        ends.store(true, Ordering::Release);
    });
    let (mut last, mut goes_on) = (Bytes::new(), true);
    while goes_on {
        // Once more when all is committed.
        goes_on = !done.load(Ordering::Acquire);
        let view = engine.snapshot();
        let rows = all(&view);
        let Some((_, value)) = rows.first() else { continue };
        assert!(rows.len() == 39 && rows.iter().all(|row| row.1 == value), "{rows:?}");
        assert!((1..40).all(|key| view.get(&[key]).unwrap().as_ref() == Some(value)));
        assert!(*value >= last, "{value:?} after {last:?}");
        last = value.clone();
    }
    commits.join().unwrap();
    assert_eq!(last, 2999_u32.to_be_bytes()[..]);
}

/// More tables than may stay unmerged, so that some are merged.
#[test]
fn a_view_outlasts_merges() {
    let directory = tempfile::tempdir().unwrap();
    let engine = on_disk(&directory);
    let commit = |n: u8| {
        let row = (Bytes::from_static(b"row"), Some(Bytes::from(vec![n])));
        engine.commit(vec![row, (Bytes::from(vec![n]), n.is_multiple_of(2).then(Bytes::new))]).unwrap();
        engine.persist().unwrap();
    };
    (0..5).for_each(commit);
    let view = engine.snapshot();
    let before = all(&view);
    (0..60).for_each(commit);
    assert_eq!(all(&view), before);
    assert_eq!(view.get(b"row").unwrap(), Some(Bytes::from_static(&[4])));
    assert_eq!(engine.snapshot().get(b"row").unwrap(), Some(Bytes::from_static(&[59])));
}

/// So many views, each of two rows of a batch, that some fall into any moment of a commit.
#[test]
fn no_view_sees_a_part_of_a_batch() {
    let directory = tempfile::tempdir().unwrap();
    let engine = on_disk(&directory);
    let writer = engine.clone();
    let done = Arc::new(AtomicBool::new(false));
    let enough = Arc::clone(&done);
    let commits = std::thread::spawn(move || {
        for n in (0..u64::MAX).take_while(|_| !enough.load(Ordering::Acquire)) {
            let row = |key: u8| (Bytes::from(vec![key]), Some(Bytes::copy_from_slice(&n.to_be_bytes())));
            writer.commit((1..9).map(row).collect()).unwrap();
        }
    });
    for _ in 0..200_000 {
        let view = engine.snapshot();
        assert_eq!(view.get(&[8]).unwrap(), view.get(&[1]).unwrap());
    }
    done.store(true, Ordering::Release);
    commits.join().unwrap();
}

#[test]
fn a_failed_engine_fails_at_everything() {
    let engine = MemoryEngine::new();
    engine.commit(vec![set(b"a", b"1")]).unwrap();
    let before = engine.snapshot();
    engine.fail();
    assert!(engine.commit(vec![set(b"a", b"2")]).is_err());
    assert!(engine.persist().is_err());
    assert!(engine.snapshot().get(b"a").is_err());
    assert!(engine.snapshot().range(b"a", b"b").next().is_some_and(|row| row.is_err()));
    assert_eq!(all(&before).len(), 1);
}
