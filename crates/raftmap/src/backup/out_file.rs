//! A file that is there whole, or not at all.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A file that is being written, under another name: FILE.partial. Dropped before it is put in place, that is removed.
#[derive(Debug)]
pub struct OutFile {
    path: PathBuf,
    partial: PathBuf,
    force: bool,
    file: BufWriter<File>,
    placed: bool,
}

/// Why a file was not written.
#[derive(Debug, thiserror::Error)]
pub enum OutFileError {
    /// There is one of that name.
    #[error("{} is there already; --force replaces it", .0.display())]
    Exists(PathBuf),
    /// Another process writes it.
    #[error("{} is being written by another process", .0.display())]
    InUse(PathBuf),
    /// The disk failed.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
}

impl OutFile {
    /// Begins to write what is to become `path`. One that is there is replaced only with `force`, and only at the end. What an
    /// earlier attempt left half written is overwritten.
    ///
    /// # Errors
    /// If there is one, another process writes it, or the disk fails.
    pub fn create(path: &Path, force: bool) -> Result<Self, OutFileError> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        let partial = path.with_file_name(name);
        free(path, force)?;
        // It holds the whole map.
        let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&partial);
        let file = opened.map_err(failed("create", &partial))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OutFileError::InUse(partial)),
            Err(TryLockError::Error(error)) => return Err(failed("lock", &partial)(error)),
        }
        if !is_at(&file, &partial) {
            // It was put in place, or given up, between its opening here and the lock: it is another one's, and perhaps whole.
            return Err(OutFileError::InUse(partial));
        }
        file.set_len(0).map_err(failed("write", &partial))?;
        Ok(Self { path: path.to_owned(), partial, force, file: BufWriter::new(file), placed: false })
    }

    /// Adds bytes at the end.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), OutFileError> {
        self.file.write_all(bytes).map_err(failed("write", &self.partial))
    }

    /// Begins anew.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn restart(&mut self) -> Result<(), OutFileError> {
        let begin = |file: &mut BufWriter<File>| -> io::Result<()> {
            file.flush()?;
            file.get_ref().set_len(0)?;
            io::Seek::rewind(file.get_mut())
        };
        begin(&mut self.file).map_err(failed("write", &self.partial))
    }

    /// Makes durable what was written, still under its other name.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn sync(&mut self) -> Result<(), OutFileError> {
        let synced = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        synced.map_err(failed("sync", &self.partial))
    }

    /// Makes it durable and gives it its name, durably.
    ///
    /// # Errors
    /// If there is one of that name by now, or the disk fails.
    pub fn place(mut self) -> Result<(), OutFileError> {
        self.sync()?;
        free(&self.path, self.force)?;
        fs::rename(&self.partial, &self.path).map_err(failed("rename", &self.partial))?;
        self.placed = true;
        let folder = folder_of(&self.path);
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync", folder))
    }
}

impl Drop for OutFile {
    fn drop(&mut self) {
        if !self.placed {
            // What stays is overwritten by the next attempt.
            let _stays = fs::remove_file(&self.partial);
        }
    }
}

/// The folder that a file is in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether `file` is the one that has this name now.
fn is_at(file: &File, path: &Path) -> bool {
    let which = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let named = fs::metadata(path).map(which).ok();
    named.is_some() && named == file.metadata().map(which).ok()
}

fn free(path: &Path, force: bool) -> Result<(), OutFileError> {
    match path.try_exists().map_err(failed("look at", path))? {
        true if !force => Err(OutFileError::Exists(path.to_owned())),
        _ => Ok(()),
    }
}

fn failed(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OutFileError + use<> {
    let path = path.to_owned();
    move |source| OutFileError::Io { operation, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let names =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_there_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b");
        let mut file = OutFile::create(&path, false).unwrap();
        file.write(b"half").unwrap();
        file.sync().unwrap();
        assert_eq!(fs::metadata(folder.path().join("b.partial")).unwrap().mode() & 0o777, 0o600);
        assert_eq!(names(folder.path()), ["b.partial"]);
        assert!(matches!(OutFile::create(&path, true), Err(OutFileError::InUse(_))));
        drop(file);
        assert_eq!(names(folder.path()), [""; 0]);

        fs::write(folder.path().join("b.partial"), "of an attempt that was killed").unwrap();
        let mut file = OutFile::create(&path, false).unwrap();
        file.write(b"of another server").unwrap();
        file.restart().unwrap();
        file.write(b"whole").unwrap();
        file.place().unwrap();
        assert_eq!(
            (names(folder.path()), fs::read(&path).unwrap()),
            (vec!["b".to_owned()], b"whole".to_vec())
        );
    }

    /// Somebody opened the unfinished file, and got its lock once it had its name.
    #[test]
    fn a_file_that_has_its_name_is_not_taken_for_an_unfinished_one() {
        let folder = tempfile::tempdir().unwrap();
        let (path, partial) = (folder.path().join("b"), folder.path().join("b.partial"));
        let mut file = OutFile::create(&path, false).unwrap();
        file.write(b"whole").unwrap();
        let opened = OpenOptions::new().write(true).open(&partial).unwrap();
        assert!(is_at(&opened, &partial));
        file.place().unwrap();
        opened.try_lock().unwrap();
        assert!(!is_at(&opened, &partial));
        fs::write(&partial, "another one").unwrap();
        assert!(!is_at(&opened, &partial));
    }

    #[test]
    fn a_file_that_is_there_is_replaced_by_force_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b");
        let late = OutFile::create(&path, false).unwrap();
        fs::write(&path, "precious").unwrap();
        assert!(matches!(late.place(), Err(OutFileError::Exists(_))), "it came meanwhile");
        assert!(matches!(OutFile::create(&path, false), Err(OutFileError::Exists(_))));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        let mut file = OutFile::create(&path, true).unwrap();
        file.write(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"precious", "until it is whole");
        file.place().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }
}
