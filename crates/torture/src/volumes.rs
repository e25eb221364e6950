//! Disks whose power can be cut: the data directory of each server is a file system of its own, in an image file.
//!
//! ```text
//! FOLDER/pool.img         a file system with copies that share blocks (XFS), mounted on
//! FOLDER/pool/node-N.img  the disk of server N, mounted on its data directory
//! ```
//!
//! To cut the power of a server that was just killed, its image is copied as it is and mounted again: what the server had
//! not synced stood in the page cache of the file system inside, and is not in the image. The kernel may have written some
//! of it back by itself, as on any machine.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use raftmap_raft::NodeId;

const POOL_BYTES: u64 = 64 << 30;
const IMAGE_BYTES: u64 = 4 << 30;
/// The least that `mkfs.xfs` makes.
const TRY_BYTES: u64 = 300 << 20;

/// The volumes of a cluster. Dropped, they are unmounted; the images stay.
#[derive(Debug)]
pub(crate) struct Volumes {
    pool: PathBuf,
    /// Where each is mounted.
    mounted: Vec<(NodeId, PathBuf)>,
}

impl Volumes {
    /// Makes a volume for each server and mounts it on its data directory, which is made and empty.
    ///
    /// # Errors
    /// What this machine does not offer: privileges, loop devices, `mkfs.xfs`, room.
    pub(crate) fn make(folder: &Path, data_dirs: &[(NodeId, PathBuf)]) -> io::Result<Self> {
        let pool = folder.join("pool");
        fs::create_dir_all(&pool)?;
        let image = folder.join("pool.img");
        make_image(&image, POOL_BYTES, &["-m", "reflink=1"])?;
        mount(&image, &pool)?;
        let mut volumes = Self { pool, mounted: Vec::new() };
        data_dirs.iter().try_for_each(|(id, dir)| volumes.add(*id, dir))?;
        Ok(volumes)
    }

    /// Makes a volume for one more server and mounts it on its data directory, which is made and empty.
    ///
    /// # Errors
    /// As [`Volumes::make`].
    pub(crate) fn add(&mut self, id: NodeId, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        make_image(&self.image(id), IMAGE_BYTES, &[])?;
        mount(&self.image(id), dir)?;
        self.mounted.push((id, dir.to_owned()));
        Ok(())
    }

    /// Takes the volume of a server that is gone away.
    ///
    /// # Errors
    /// If the system refuses.
    pub(crate) fn forget(&mut self, id: NodeId) -> io::Result<()> {
        run(Command::new("umount").arg(self.dir(id)?))?;
        self.mounted.retain(|(of, _)| *of != id);
        fs::remove_file(self.image(id))
    }

    fn image(&self, id: NodeId) -> PathBuf {
        self.pool.join(format!("node-{id}.img"))
    }

    fn dir(&self, id: NodeId) -> io::Result<&Path> {
        let found = self.mounted.iter().find(|(of, _)| *of == id);
        found.map(|(_, dir)| dir.as_path()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Takes from servers, all killed right before, what they had not synced.
    ///
    /// # Errors
    /// If the system refuses.
    pub(crate) fn cut_power(&self, ids: &[NodeId]) -> io::Result<()> {
        // All at once first: unmounting writes back.
        for id in ids {
            let copy = self.image(*id).with_extension("cut");
            run(Command::new("cp").arg("--reflink=always").arg(self.image(*id)).arg(copy))?;
        }
        for id in ids {
            run(Command::new("umount").arg(self.dir(*id)?))?;
            fs::rename(self.image(*id).with_extension("cut"), self.image(*id))?;
            mount(&self.image(*id), self.dir(*id)?)?;
        }
        Ok(())
    }

    /// Copies of all volumes as they are on their disks, mounted beside them: whoever opens a log may change it.
    ///
    /// # Errors
    /// If the system refuses.
    pub(crate) fn copies(&self) -> io::Result<Copies> {
        let mut copies = Copies { mounted: Vec::new(), images: Vec::new() };
        for (id, _) in &self.mounted {
            let (copy, dir) = (self.image(*id).with_extension("copy"), self.pool.join(format!("copy-{id}")));
            copies.images.push(copy.clone());
            run(Command::new("cp").arg("--reflink=always").arg(self.image(*id)).arg(&copy))?;
            fs::create_dir_all(&dir)?;
            // It has the same identity as the volume that it is a copy of, which is mounted, too.
            run(Command::new("mount").args(["-o", "loop,nouuid"]).arg(&copy).arg(&dir))?;
            copies.mounted.push((*id, dir));
        }
        Ok(copies)
    }

    /// Fills a server's volume up to a few bytes.
    ///
    /// # Errors
    /// If the system refuses.
    pub(crate) fn fill(&self, id: NodeId) -> io::Result<()> {
        let dir = self.dir(id)?;
        let space = rustix::fs::statvfs(dir)?;
        let bytes = (space.f_bavail * space.f_frsize).saturating_sub(1 << 20);
        if bytes == 0 {
            return Ok(());
        }
        run(Command::new("fallocate").arg("-l").arg(bytes.to_string()).arg(dir.join(FILLER)))
    }

    /// Makes room again.
    ///
    /// # Errors
    /// If the system refuses.
    pub(crate) fn empty(&self, id: NodeId) -> io::Result<()> {
        match fs::remove_file(self.dir(id)?.join(FILLER)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

const FILLER: &str = "filler";

/// Copies of volumes. Dropped, they are gone.
#[derive(Debug)]
pub(crate) struct Copies {
    mounted: Vec<(NodeId, PathBuf)>,
    images: Vec<PathBuf>,
}

impl Copies {
    /// Where each is mounted.
    pub(crate) fn dirs(&self) -> &[(NodeId, PathBuf)] {
        &self.mounted
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        for (_, dir) in &self.mounted {
            if let Err(error) = run(Command::new("umount").arg(dir)) {
                eprintln!("{} stays mounted: {error}", dir.display());
            }
        }
        for image in &self.images {
            // One that was not made cannot be removed, and that is all that can fail.
            let _gone = fs::remove_file(image);
        }
    }
}

impl Drop for Volumes {
    fn drop(&mut self) {
        for dir in self.mounted.iter().map(|(_, dir)| dir).chain([&self.pool]) {
            if let Err(error) = run(Command::new("umount").arg("--lazy").arg(dir)) {
                eprintln!("{} stays mounted: {error}", dir.display());
            }
        }
    }
}

/// Tries in `folder` whether disks in files can be made, mounted and copied here.
///
/// # Errors
/// What this machine does not offer.
pub(crate) fn try_out(folder: &Path) -> io::Result<()> {
    let (image, dir) = (folder.join("try.img"), folder.join("try"));
    fs::create_dir(&dir)?;
    make_image(&image, TRY_BYTES, &["-m", "reflink=1"])?;
    mount(&image, &dir)?;
    fs::write(dir.join("one"), "content")?;
    let copied = run(Command::new("cp").arg("--reflink=always").arg(dir.join("one")).arg(dir.join("two")));
    run(Command::new("umount").arg(&dir))?;
    copied
}

fn make_image(path: &Path, bytes: u64, options: &[&str]) -> io::Result<()> {
    fs::File::create(path)?.set_len(bytes)?;
    run(Command::new("mkfs.xfs").arg("-q").args(options).arg(path))
}

fn mount(image: &Path, dir: &Path) -> io::Result<()> {
    run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(dir))
}

/// Runs a command to its end; its last line is the error.
pub(crate) fn run(command: &mut Command) -> io::Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output =
        command.output().map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{name}: {}", said.trim().lines().next_back().unwrap_or("failed"))))
}
