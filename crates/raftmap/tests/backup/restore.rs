//! Data directories that are made of a backup.

use std::fs;
use std::path::{Path, PathBuf};

use raftmap::backup::{BackupError, RestoreError, RestorePlan, restore};
use raftmap::node::{self, NodeId, cluster_id};
use raftmap_log::{Identity, Log, LogOptions, OpenError, RealDisk, Recovered};
use raftmap_raft::{GroupId, Membership};
use raftmap_state::{DiskEngine, DiskOptions, MemoryEngine, StateMachine};

use crate::support::{file, members, state, write};

fn plan(cluster: &str, id: u64) -> RestorePlan {
    RestorePlan { cluster: cluster.parse().unwrap(), node: NodeId(id), members: members(1..=3) }
}

fn open(data: &Path) -> (Log<RealDisk>, Recovered) {
    Log::open(RealDisk, data, &LogOptions::default()).unwrap()
}

struct Place {
    folder: tempfile::TempDir,
    file: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let file = write(folder.path(), "file", &file());
        Self { folder, file }
    }

    fn data(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn restore(&self, name: &str, id: u64) -> Result<Identity, RestoreError> {
        restore(&self.file, &self.data(name), plan("new", id), |_| {}).map(|(identity, _)| identity)
    }
}

#[test]
fn what_is_restored_goes_on_where_the_backup_ends_and_knows_the_new_members_alone() {
    let place = Place::new();
    let identity = place.restore("data", 2).unwrap();
    let (_, recovered) = open(&place.data("data"));
    let original = state();
    let base = recovered.base.clone().unwrap();
    assert_eq!((base.position, recovered.last), (original.applied(), original.applied()));
    assert_eq!(base.membership, Membership::of_voters((1..=3).map(NodeId)));
    assert_eq!(recovered.hard_state.term, original.applied().term);
    assert_eq!(recovered.identity, identity);
    assert_eq!((identity.cluster(), identity.node()), (cluster_id(&"new".parse().unwrap()), NodeId(2)));
    assert_eq!(identity.restored_from().unwrap().position, original.applied());

    let engine = DiskEngine::open(&place.data("data").join("state-0"), DiskOptions::default()).unwrap();
    let machine = StateMachine::open(engine, GroupId::DEFAULT).unwrap();
    let stands = (machine.applied(), machine.log_time_ms(), machine.running_digest());
    assert_eq!(stands, (original.applied(), original.log_time_ms(), original.running_digest()));
    assert_eq!(machine.next_deadline_ms(), original.next_deadline_ms());
    let reader = machine.reader();
    assert_eq!(machine.membership(), None);
    assert!(reader.members().unwrap().is_empty() && reader.removed().unwrap().is_empty());
    assert!(!original.reader().removed().unwrap().is_empty(), "there was something to leave out");
}

#[test]
fn servers_that_were_restored_from_two_files_or_not_at_all_are_of_two_clusters() {
    let place = Place::new();
    let one = place.restore("1", 1).unwrap().founding_hash();
    assert_eq!(place.restore("2", 2).unwrap().founding_hash(), one);
    let mut later = crate::support::header(&state());
    later.made_at_ms += 1;
    let snapshot = state().reader().snapshot().unwrap();
    let parts = raftmap::backup::BackupParts::new(&later, &snapshot).map(Result::unwrap);
    fs::write(&place.file, parts.collect::<Vec<_>>().concat()).unwrap();
    assert_ne!(place.restore("3", 3).unwrap().founding_hash(), one);
    let empty = node::init(&place.data("4"), &"new".parse().unwrap(), NodeId(3), members(1..=3)).unwrap();
    assert_ne!(empty.founding_hash(), one);
}

#[test]
fn nothing_is_made_of_a_file_that_is_not_whole() {
    let place = Place::new();
    let mut bytes = file();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&place.file, &bytes).unwrap();
    let error = place.restore("data", 1).unwrap_err();
    assert!(matches!(error, RestoreError::Backup(BackupError::Digest { .. })), "{error}");
    fs::write(&place.file, &bytes[..last - 100]).unwrap();
    assert!(matches!(place.restore("data", 1), Err(RestoreError::Backup(BackupError::Truncated { .. }))));
    assert!(!place.data("data").exists());
}

/// The file is read twice: what changes in between is found, and the directory is none.
#[test]
fn a_file_that_changes_meanwhile_leaves_no_data_directory() {
    let place = Place::new();
    let mut reads = 0;
    let result = restore(&place.file, &place.data("data"), plan("new", 1), |_| {
        reads += 1;
        if reads == 1 {
            let mut bytes = file();
            bytes[400] ^= 1;
            fs::write(&place.file, bytes).unwrap();
        }
    });
    assert!(matches!(result, Err(RestoreError::Backup(BackupError::Chunk { .. }))));
    let opened = Log::open(RealDisk, &place.data("data"), &LogOptions::default());
    assert!(matches!(opened.map(drop), Err(OpenError::InitCutShort(_))));
    fs::write(&place.file, file()).unwrap();
    assert!(place.restore("data", 1).unwrap_err().to_string().contains("cut short here"));
}

#[test]
fn what_no_server_could_go_on_with_is_refused() {
    let place = Place::new();
    for (group, applied, part) in
        [(GroupId(2), true, "of group 2"), (GroupId::DEFAULT, false, "use `raftmap init`")]
    {
        let mut machine = StateMachine::open(MemoryEngine::new(), group).unwrap();
        if applied {
            machine.apply(&crate::support::log()).unwrap();
        }
        fs::write(&place.file, crate::support::parts(&machine).concat()).unwrap();
        let error = place.restore("data", 1).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
        assert!(!place.data("data").exists());
    }
}

#[test]
fn the_old_clusters_name_a_stranger_and_a_directory_in_use_are_refused() {
    let place = Place::new();
    let (machine, old) = (state(), "old".parse().unwrap());
    let mut header = crate::support::header(&machine);
    header.cluster = cluster_id(&old);
    let snapshot = machine.reader().snapshot().unwrap();
    let parts = raftmap::backup::BackupParts::new(&header, &snapshot).map(Result::unwrap);
    fs::write(&place.file, parts.collect::<Vec<_>>().concat()).unwrap();
    let restored =
        |name: &str, id| restore(&place.file, &place.data("data"), plan(name, id), |_| {}).map(drop);
    assert!(matches!(restored("old", 1), Err(RestoreError::SameCluster(_))));
    assert!(matches!(restored("new", 4), Err(RestoreError::Init(_))));
    assert!(!place.data("data").exists());
    restored("new", 1).unwrap();
    let again = restored("new", 1).unwrap_err().to_string();
    assert!(again.contains("is a data directory already, of node 1"), "{again}");
}
