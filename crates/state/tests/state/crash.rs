//! What a state machine is after its engine lost something.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use fjall::{Database, KeyspaceCreateOptions, PersistMode};
use raftmap_raft::{LogIndex, NodeId, Payload};
use raftmap_state::{
    Damage, Digest, DiskEngine, DiskOptions, DiskSnapshot, Engine, EngineError, Member, MemoryEngine,
    RowChange, SessionTag, Snapshot, StateError, StateMachine,
};

use crate::common::{
    Done, SMALL_SESSIONS, Server, at, bytes, content_digest, delete, entry, entry_with_ttl, open, put,
    put_with_ttl, tag, tagged, timeless, txn, write,
};
use raftmap_state::{Body, Operation, SessionId};

/// A log in which every table of the engine is used.
pub(crate) fn eventful_log(entries: u64) -> Server<MemoryEngine> {
    let mut server = Server::in_memory();
    server.append_command(&timeless(Body::OpenSession(SMALL_SESSIONS)));
    for n in 2..=entries {
        let key = format!("k{}", n % 13);
        let command = match n % 7 {
            0 => at(n * 10, write(put_with_ttl(&key, "temporary", 55))),
            1 => timeless(write(delete(&key))),
            2 => {
                let tag = SessionTag { acknowledged_below: n.saturating_sub(20), ..tag(SessionId(1), n) };
                at(n * 10, tagged(put(&key, &n.to_string()), tag))
            }
            3 => timeless(write(txn(
                vec![],
                vec![
                    Operation::Get(bytes(&key)),
                    Operation::Put(entry_with_ttl(&key, "t", 30)),
                    Operation::Put(entry("c", &key)),
                ],
                vec![],
            ))),
            4 => at(n * 10, Body::Time),
            _ => timeless(write(put(&key, &"v".repeat(usize::try_from(n % 50).unwrap())))),
        };
        server.append_command(&command);
        if n % 11 == 0 {
            server.append(Payload::Noop);
        }
    }
    server
}

/// What a server that never crashed has after each entry: its content and its running digest.
fn digests_by_index(log: &Server<MemoryEngine>) -> Vec<(Digest, Digest)> {
    let mut steady = Server::in_memory();
    let mut digests = vec![(content_digest(&steady.machine), steady.machine.running_digest())];
    for entry in &log.log {
        steady.machine.apply(std::slice::from_ref(entry)).unwrap();
        digests.push((content_digest(&steady.machine), steady.machine.running_digest()));
    }
    digests
}

/// The engine is exactly the state after the entry that it says, and the rest of the log leads to where the others are.
fn assert_whole_and_catch_up<E: Engine>(
    mut machine: StateMachine<E>,
    log: &Server<MemoryEngine>,
    digests: &[(Digest, Digest)],
) -> usize {
    let applied = usize::try_from(machine.applied().index.0).unwrap();
    let now = |machine: &StateMachine<E>| (content_digest(machine), machine.running_digest());
    assert_eq!(now(&machine), digests[applied], "the rows are not those of index {applied}");
    machine.apply(&log.log[applied..]).unwrap();
    assert_eq!(now(&machine), *digests.last().unwrap());
    applied
}

pub(crate) fn open_on_disk(directory: &Path) -> Result<StateMachine<DiskEngine>, StateError> {
    StateMachine::open(DiskEngine::open(directory, DiskOptions::default())?, raftmap_raft::GroupId::DEFAULT)
}

/// Scenario 27.
#[test]
fn committed_entries_are_applied_again_when_a_server_restarts() {
    let log = eventful_log(200);
    let digests = digests_by_index(&log);
    let directory = tempfile::tempdir().unwrap();
    let mut machine = open_on_disk(directory.path()).unwrap();
    machine.apply(&log.log[..50]).unwrap();
    machine.persist().unwrap();
    machine.apply(&log.log[50..120]).unwrap();
    drop(machine);
    let applied = assert_whole_and_catch_up(open_on_disk(directory.path()).unwrap(), &log, &digests);
    assert_eq!(applied, 50, "what was persisted, and nothing that is not known to be on disk");
}

/// An engine on disk that makes each commit durable at once, and dies after some of them.
#[derive(Clone)]
struct Mortal {
    engine: DiskEngine,
    commits_left: Arc<AtomicU32>,
}

impl Engine for Mortal {
    type Snapshot = DiskSnapshot;

    fn snapshot(&self) -> DiskSnapshot {
        self.engine.snapshot()
    }

    fn commit(&self, batch: Vec<RowChange>) -> Result<(), EngineError> {
        let left =
            self.commits_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if left.is_err() {
            return Err(EngineError { doing: "commit", source: "the server died".into() });
        }
        self.engine.commit(batch)?;
        self.engine.persist()
    }

    fn persist(&self) -> Result<(), EngineError> {
        self.engine.persist()
    }
}

/// Scenario 47, on the real engine: between any two commits that reach the disk, the applied index is that of the rows.
#[test]
fn no_commit_leaves_the_applied_index_apart_from_the_rows() {
    let log = eventful_log(30);
    let digests = digests_by_index(&log);
    for commits in 0..6 {
        let directory = tempfile::tempdir().unwrap();
        let engine = DiskEngine::open(directory.path(), DiskOptions::default()).unwrap();
        let mut machine = open(Mortal { engine, commits_left: Arc::new(AtomicU32::new(commits)) });
        let died = log.log.chunks(3).any(|batch| machine.apply(batch).is_err());
        assert!(died);
        drop(machine);
        let applied = assert_whole_and_catch_up(open_on_disk(directory.path()).unwrap(), &log, &digests);
        assert_eq!(applied, 3 * usize::try_from(commits).unwrap(), "one commit for each batch");
    }
}

/// Scenario 47 again, while the engine writes out what it has at any moment between two commits.
#[test]
fn the_applied_index_that_comes_back_is_that_of_the_rows() {
    let log = eventful_log(1500);
    let digests = digests_by_index(&log);
    let directory = tempfile::tempdir().unwrap();
    let mut came_back = BTreeSet::from([0]);
    while came_back.last().is_some_and(|applied| *applied < 1200) {
        let engine = DiskEngine::open(directory.path(), DiskOptions::default()).unwrap();
        let mut machine = open(engine.clone());
        let from = usize::try_from(machine.applied().index.0).unwrap();
        assert_eq!((content_digest(&machine), machine.running_digest()), digests[from]);
        came_back.insert(from);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    engine.persist().unwrap();
                }
            });
            let _done = Done(&done);
            for (at, batch) in log.log[from..].chunks(3).take(100).enumerate() {
                machine.apply(batch).unwrap();
                if at == 50 {
                    engine.persist().unwrap();
                }
            }
        });
    }
    assert!(came_back.len() > 3, "{came_back:?}");
    assert_whole_and_catch_up(open_on_disk(directory.path()).unwrap(), &log, &digests);
}

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for item in fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        let target = to.join(item.file_name());
        if item.file_type().unwrap().is_dir() {
            copy(&item.path(), &target);
        } else {
            fs::copy(item.path(), target).unwrap();
        }
    }
}

/// What an earlier version of this program kept: a database of fjall, with tables, and with batches that are in its journal
/// alone. Those are in the log as well, and fjall's journal is not to be trusted: its checksums leave out sequence numbers.
fn earlier_database(log: &Server<MemoryEngine>, applied: usize, directory: &Path) {
    let now = directory.with_extension("now");
    let mut machine = open(DiskEngine::open(&now, DiskOptions::default()).unwrap());
    machine.apply(&log.log[..applied]).unwrap();
    machine.persist().unwrap();
    drop(machine);
    let rows = DiskEngine::open(&now, DiskOptions::default()).unwrap().snapshot();
    let database = Database::builder(directory).open().unwrap();
    let keyspace = database.keyspace("state", KeyspaceCreateOptions::default).unwrap();
    let mut tables = keyspace.start_ingestion().unwrap();
    for row in rows.range(&[], &[0xFF]) {
        let (key, value) = row.unwrap();
        tables.write(key, value).unwrap();
    }
    tables.finish().unwrap();
    for n in 0..150_u32 {
        keyspace.insert([&[2], &b"k1"[..]].concat(), format!("{n}").repeat(20)).unwrap();
    }
    database.persist(PersistMode::SyncAll).unwrap();
}

#[test]
fn the_tables_of_an_earlier_version_are_taken_over_without_its_journal() {
    let log = eventful_log(300);
    let digests = digests_by_index(&log);
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("state");
    earlier_database(&log, 100, &directory);
    let names = |folder: &Path| -> BTreeSet<_> {
        fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect()
    };
    assert!(names(&directory).contains("0.jnl"), "{:?}", names(&directory));
    drop(open_on_disk(&directory).unwrap());
    assert_eq!(names(&directory), ["lock", "tree"].map(str::to_owned).into());
    assert_eq!(assert_whole_and_catch_up(open_on_disk(&directory).unwrap(), &log, &digests), 100);
}

#[test]
fn an_engine_in_memory_keeps_what_was_persisted_and_loses_a_random_rest() {
    let log = eventful_log(120);
    let digests = digests_by_index(&log);
    let engine = MemoryEngine::new();
    let mut machine = open(engine.clone());
    let mut came_back = BTreeSet::new();
    for (at, entry) in log.log.iter().enumerate() {
        machine.apply(std::slice::from_ref(entry)).unwrap();
        if at == 60 {
            assert_eq!(machine.persist().unwrap().index, LogIndex(61));
        }
    }
    for seed in 0..50 {
        let crashed = open(engine.crash(seed, Damage::None));
        let again = open(engine.crash(seed, Damage::None));
        assert_eq!(crashed.applied(), again.applied(), "a seed stands for one crash");
        came_back.insert(assert_whole_and_catch_up(crashed, &log, &digests));
    }
    assert!(came_back.first() >= Some(&61), "{came_back:?}");
    assert!(came_back.len() > 15, "{came_back:?}");
}

fn three_members_are_recorded_among_writes(engine: impl Engine) {
    let mut server = Server::on(engine);
    for id in 1..=3 {
        let member = Member { node_id: NodeId(id), incarnation: u128::from(id), founding_hash: 7 };
        server.append_command(&timeless(write(put("a", "before"))));
        server.append_command(&timeless(Body::RecordMember(member)));
        server.append_command(&timeless(write(put("a", "after"))));
        server.catch_up(2);
    }
}

/// Else a wiped disk could come back under a known id and vote, while a server that restarted applies its log again.
#[test]
fn members_are_known_after_any_crash_before_the_log_is_applied_again() {
    let ids = |machine: &StateMachine<_>| -> Vec<u64> {
        machine.reader().members().unwrap().iter().map(|member| member.node_id.0).collect()
    };
    let engine = MemoryEngine::new();
    three_members_are_recorded_among_writes(engine.clone());
    for seed in 0..20 {
        assert_eq!(ids(&open(engine.crash(seed, Damage::None))), [1, 2, 3]);
    }
    let directory = tempfile::tempdir().unwrap();
    three_members_are_recorded_among_writes(
        DiskEngine::open(directory.path(), DiskOptions::default()).unwrap(),
    );
    let members = open_on_disk(directory.path()).unwrap().reader().members().unwrap();
    assert_eq!(members.len(), 3);
}

#[test]
fn a_damaged_engine_is_empty_unreadable_or_found_by_its_content_digest() {
    let log = eventful_log(120);
    let engine = MemoryEngine::new();
    let mut machine = open(engine.clone());
    machine.apply(&log.log).unwrap();
    machine.persist().unwrap();
    assert_eq!(open(engine.crash(1, Damage::Emptied)).applied().index, LogIndex(0));
    let unreadable = StateMachine::open(engine.crash(1, Damage::Unreadable), raftmap_raft::GroupId::DEFAULT);
    assert!(matches!(unreadable, Err(StateError::Engine(_))));
    let mut found = 0;
    for seed in 0..40 {
        let damaged = engine.crash(seed, Damage::BitFlip);
        // A flip in a row that is read at the start may stop the server there; any other one is silent.
        let Ok(damaged) = StateMachine::open(damaged, raftmap_raft::GroupId::DEFAULT) else { continue };
        assert_ne!(content_digest(&damaged), content_digest(&machine), "seed {seed}");
        found += 1;
    }
    assert!(found > 20, "{found}");
}
