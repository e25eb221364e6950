//! Names of files and folders, and which of them a power cut leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Folder,
    /// A file, by number.
    File(u64),
}

/// A change that is not synced.
#[derive(Clone, Debug)]
enum Change {
    Add(PathBuf, Node),
    Rename(PathBuf, PathBuf, Node),
    Remove(PathBuf),
}

impl Change {
    /// Whether syncing `dir` makes it durable. For a rename either folder will do: a journal keeps it in one piece.
    fn is_in(&self, dir: &Path) -> bool {
        match self {
            Self::Add(path, _) | Self::Remove(path) => path.parent() == Some(dir),
            Self::Rename(from, to, _) => from.parent() == Some(dir) || to.parent() == Some(dir),
        }
    }
}

/// All names, as programs see them and as the disk holds them.
#[derive(Debug, Default)]
pub(super) struct Names {
    seen: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<PathBuf, Node>,
    unsynced: Vec<Change>,
}

impl Names {
    pub(super) fn get(&self, path: &Path) -> io::Result<Node> {
        self.seen.get(path).copied().ok_or(io::ErrorKind::NotFound.into())
    }

    pub(super) fn file(&self, path: &Path) -> io::Result<u64> {
        match self.get(path)? {
            Node::File(number) => Ok(number),
            Node::Folder => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    /// Adds a name. The folder that it is in must be there; the root is.
    pub(super) fn add(&mut self, path: &Path, node: Node) -> io::Result<()> {
        if self.seen.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.check_folder_of(path)?;
        self.seen.insert(path.to_owned(), node);
        self.unsynced.push(Change::Add(path.to_owned(), node));
        Ok(())
    }

    fn check_folder_of(&self, path: &Path) -> io::Result<()> {
        let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        if folder.parent().is_some() && self.get(folder)? != Node::Folder {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(())
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        let node = Node::File(self.file(from)?);
        self.check_folder_of(to)?;
        self.seen.remove(from);
        self.seen.insert(to.to_owned(), node);
        self.unsynced.push(Change::Rename(from.to_owned(), to.to_owned(), node));
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.file(path)?;
        self.seen.remove(path);
        self.unsynced.push(Change::Remove(path.to_owned()));
        Ok(())
    }

    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        if dir.parent().is_some() && self.get(dir)? != Node::Folder {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
        Ok(self.seen.keys().filter(|path| path.parent() == Some(dir)).filter_map(name).collect())
    }

    /// Makes the changes in a folder durable.
    pub(super) fn sync(&mut self, dir: &Path) {
        let (now, later) =
            std::mem::take(&mut self.unsynced).into_iter().partition(|change| change.is_in(dir));
        self.unsynced = later;
        Vec::into_iter(now).for_each(|change| self.persist(change));
    }

    /// Loses each unsynced change, or keeps it, as `keep` says, and with each one those that need it.
    pub(super) fn cut_power(&mut self, mut keep: impl FnMut() -> bool) {
        for change in std::mem::take(&mut self.unsynced) {
            if keep() {
                self.persist(change);
            }
        }
        let folders_there = |durable: &BTreeMap<PathBuf, Node>, path: &Path| {
            path.ancestors()
                .skip(1)
                .filter(|folder| folder.parent().is_some())
                .all(|folder| durable.contains_key(folder))
        };
        let durable = &self.durable;
        self.seen = durable
            .iter()
            .filter(|(path, _)| folders_there(durable, path))
            .map(|(path, node)| (path.clone(), *node))
            .collect();
        self.durable = self.seen.clone();
    }

    fn persist(&mut self, change: Change) {
        match change {
            Change::Add(path, node) => {
                self.durable.insert(path, node);
            }
            Change::Rename(from, to, node) => {
                if self.durable.get(&from) == Some(&node) {
                    self.durable.remove(&from);
                    self.durable.insert(to, node);
                }
            }
            Change::Remove(path) => {
                self.durable.remove(&path);
            }
        }
    }

    /// All files that programs see.
    pub(super) fn seen_files(&self) -> impl Iterator<Item = (&PathBuf, u64)> {
        self.seen.iter().filter_map(|(path, node)| match node {
            Node::File(number) => Some((path, *number)),
            Node::Folder => None,
        })
    }

    /// The numbers of all files that have a name, or may have one again after a power cut.
    pub(super) fn files(&self) -> BTreeSet<u64> {
        let number = |node: &Node| match node {
            Node::File(number) => Some(*number),
            Node::Folder => None,
        };
        self.seen.values().chain(self.durable.values()).filter_map(number).collect()
    }
}
