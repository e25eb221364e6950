//! A library that is preloaded into a real server and makes its calls to the system fail, take long, or tell another time.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = include_str!("shim.c");

/// What a preloaded server can be told to suffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// `fdatasync` fails with EIO.
    Sync,
    /// `pwrite` fails with EIO.
    Write,
    /// `pwrite` fails with ENOSPC.
    Full,
    /// `pwrite` writes half.
    Short,
    /// `fdatasync` takes so many milliseconds longer.
    Slow(u64),
    /// The wall clock is wrong by so many milliseconds.
    Clock(i64),
}

impl Wrong {
    fn file(self) -> (&'static str, String) {
        match self {
            Self::Sync => ("fdatasync", String::new()),
            Self::Write => ("pwrite", String::new()),
            Self::Full => ("full", String::new()),
            Self::Short => ("short", String::new()),
            Self::Slow(ms) => ("slow", ms.to_string()),
            Self::Clock(ms) => ("clock", ms.to_string()),
        }
    }
}

/// The built library, and a folder for each server that is preloaded with it.
#[derive(Clone, Debug)]
pub struct Shim {
    folder: PathBuf,
}

impl Shim {
    /// Builds the library in `folder`, which is made. Needs the C compiler `cc`.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if there is no compiler; what it says if it fails.
    pub fn build(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let shim = Self { folder: folder.to_owned() };
        let source = folder.join("shim.c");
        fs::write(&source, SOURCE)?;
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-O1", "-o"]).arg(shim.library()).arg(&source).arg("-ldl");
        let output = compile.output()?;
        if output.status.success() {
            Ok(shim)
        } else {
            Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))
        }
    }

    fn library(&self) -> PathBuf {
        self.folder.join("shim.so")
    }

    fn faults(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Preloads the library into a process that is about to be started, which is called `name` here.
    ///
    /// # Errors
    /// If its folder cannot be made.
    pub fn preload(&self, name: &str, command: &mut Command) -> io::Result<()> {
        fs::create_dir_all(self.faults(name))?;
        command.env("LD_PRELOAD", self.library()).env("FAULTS", self.faults(name));
        Ok(())
    }

    /// Makes something go wrong in that process from now on.
    ///
    /// # Errors
    /// If the process is not there, or the disk fails.
    pub fn begin(&self, name: &str, wrong: Wrong) -> io::Result<()> {
        let (file, content) = wrong.file();
        fs::write(self.faults(name).join(file), content)
    }

    /// Lets all go right again in that process, if it was ever started.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn end(&self, name: &str) -> io::Result<()> {
        let folder = self.faults(name);
        if !folder.exists() {
            return Ok(());
        }
        for entry in fs::read_dir(folder)? {
            fs::remove_file(entry?.path())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times of the wall clock before and after, as a process sees them that is told to be an hour late.
    #[test]
    fn a_process_is_told_a_wrong_time_and_the_right_one_again() {
        let folder = tempfile::tempdir().unwrap();
        let shim = match Shim::build(folder.path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                eprintln!("SKIPPED: there is no C compiler `cc`");
                return;
            }
            built => built.unwrap(),
        };
        let now = || {
            let mut date = Command::new("date");
            date.arg("+%s");
            shim.preload("date", &mut date).unwrap();
            let text = String::from_utf8(date.output().unwrap().stdout).unwrap();
            text.trim().parse::<i64>().unwrap()
        };
        let right = now();
        shim.begin("date", Wrong::Clock(-3_600_500)).unwrap();
        let late = now();
        assert!((3_000..4_000).contains(&(right - late)), "{right} {late}");
        shim.end("date").unwrap();
        assert!(now() >= right);
    }
}
