//! The directories of state machines in a data directory: the one that the log names, and snapshots that wait beside it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use raftmap_raft::StateId;

const PREFIX: &str = "state-";
/// Where a state machine goes that lost something.
const LOST: &str = "lost-state-";
/// How many of those are kept: the newest ones.
const LOST_MAX: usize = 2;
/// Says that the state machine failed when the server last ran.
const SUSPECT: &str = "state-suspect";

/// The directories of state machines, `state-0`, `state-1` and so on. A number is used once in the life of a server, but for
/// snapshots that never became its state.
#[derive(Clone, Debug)]
pub(crate) struct StateDirs {
    data_dir: PathBuf,
}

impl StateDirs {
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self { data_dir: data_dir.to_owned() }
    }

    pub(crate) fn path(&self, state: StateId) -> PathBuf {
        self.data_dir.join(format!("{PREFIX}{state}"))
    }

    pub(crate) fn exists(&self, state: StateId) -> io::Result<bool> {
        self.path(state).try_exists()
    }

    /// The number after all that are there.
    ///
    /// # Errors
    /// If the disk fails.
    pub(crate) fn next(&self) -> io::Result<StateId> {
        let last = self.numbers(PREFIX)?.into_iter().max();
        Ok(last.map_or(StateId(0), |last| StateId(last + 1)))
    }

    /// Removes all but the one that the log names: what was never named, or is not any more.
    ///
    /// # Errors
    /// If the disk fails.
    pub(crate) fn keep_only(&self, named: StateId) -> io::Result<()> {
        for number in self.numbers(PREFIX)? {
            if StateId(number) != named {
                self.remove(StateId(number))?;
            }
        }
        Ok(())
    }

    /// Removes one that is of no use, if it is there.
    ///
    /// # Errors
    /// If the disk fails.
    pub(crate) fn remove(&self, state: StateId) -> io::Result<()> {
        match fs::remove_dir_all(self.path(state)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.sync(),
        }
    }

    /// Moves one that lost something out of the way, for somebody to look at. Gives where it is now.
    ///
    /// # Errors
    /// If the disk fails.
    pub(crate) fn set_aside(&self, state: StateId) -> io::Result<PathBuf> {
        let mut kept = self.numbers(LOST)?;
        kept.sort_unstable();
        for old in &kept[..(kept.len() + 1).saturating_sub(LOST_MAX)] {
            fs::remove_dir_all(self.data_dir.join(format!("{LOST}{old}")))?;
        }
        let number = kept.last().map_or(1, |last| last + 1);
        let aside = self.data_dir.join(format!("{LOST}{number}"));
        fs::rename(self.path(state), &aside)?;
        self.sync()?;
        Ok(aside)
    }

    /// Notes that the state machine failed: its files are read, all of them, before it is used again.
    ///
    /// # Errors
    /// If the disk fails.
    pub(crate) fn suspect(&self) -> io::Result<()> {
        File::create(self.data_dir.join(SUSPECT))?;
        self.sync()
    }

    pub(crate) fn is_suspect(&self) -> io::Result<bool> {
        self.data_dir.join(SUSPECT).try_exists()
    }

    /// Its files were read, or it is not there any more.
    ///
    /// # Errors
    /// If the disk fails.
    pub(crate) fn clear(&self) -> io::Result<()> {
        match fs::remove_file(self.data_dir.join(SUSPECT)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.sync(),
        }
    }

    fn numbers(&self, prefix: &str) -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.data_dir)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix(prefix)?.parse::<u64>().ok());
            numbers.extend(number);
        }
        Ok(numbers)
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.data_dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_log_names_stays_and_what_is_lost_is_kept_twice() {
        let folder = tempfile::tempdir().unwrap();
        let dirs = StateDirs::new(folder.path());
        assert_eq!(dirs.next().unwrap(), StateId(0));
        for state in [0, 1, 2, 10] {
            fs::create_dir(dirs.path(StateId(state))).unwrap();
        }
        fs::create_dir(folder.path().join("group-1")).unwrap();
        assert_eq!(dirs.next().unwrap(), StateId(11));
        dirs.keep_only(StateId(2)).unwrap();
        assert_eq!(dirs.numbers(PREFIX).unwrap(), [2]);
        assert!(folder.path().join("group-1").exists());
        for _ in 0..4 {
            dirs.set_aside(StateId(2)).unwrap();
            assert!(!dirs.exists(StateId(2)).unwrap());
            fs::create_dir(dirs.path(StateId(2))).unwrap();
        }
        let mut lost = dirs.numbers(LOST).unwrap();
        lost.sort_unstable();
        assert_eq!(lost, [3, 4]);
        dirs.remove(StateId(7)).unwrap();
    }

    #[test]
    fn a_suspicion_stays_until_it_is_cleared_and_is_no_state() {
        let folder = tempfile::tempdir().unwrap();
        let dirs = StateDirs::new(folder.path());
        dirs.clear().unwrap();
        assert!(!dirs.is_suspect().unwrap());
        dirs.suspect().unwrap();
        dirs.suspect().unwrap();
        dirs.keep_only(StateId(0)).unwrap();
        assert!(dirs.is_suspect().unwrap());
        assert_eq!(dirs.next().unwrap(), StateId(0));
        dirs.clear().unwrap();
        assert!(!dirs.is_suspect().unwrap());
    }
}
