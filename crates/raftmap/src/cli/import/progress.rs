//! How far an import has come, in a file: one that broke off goes on from there.
//!
//! The first line says what the file is bound to: the content that is imported, and the cluster. Each further line is a mark: up to
//! which line everything is acknowledged. A mark is written after that, so that it never says too much; the last one of a machine
//! that lost its power may be torn, and does not count then.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use raftmap_client::{Client, MembersResponse};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::batches::Written;
use super::lines::Format;
use crate::cli::exit::Failure;

/// How often a mark is written at most.
const MARK_EVERY: Duration = Duration::from_millis(200);

/// What an import is of, and where it goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bound {
    /// The version of this format.
    raftmap_import: u32,
    /// Of the content.
    xxh3: String,
    format: Format,
    cluster: String,
}

impl Bound {
    pub(super) fn new(content: u128, format: Format, members: &MembersResponse) -> Self {
        let xxh3 = HEXLOWER.encode(&content.to_be_bytes());
        Self { raftmap_import: 1, xxh3, format, cluster: cluster(members) }
    }
}

/// The cluster, by its id and what it was founded with. Its members may all have changed since.
fn cluster(members: &MembersResponse) -> String {
    let mut text = HEXLOWER.encode(&members.cluster_id);
    for founder in &members.founding_members {
        text.push_str(&format!("\n{} {} {}", founder.id, founder.peer_address, founder.client_address));
    }
    if let Some(from) = members.restored_from.as_option() {
        text.push_str(&format!("\n{} {} {}", from.index, from.term, HEXLOWER.encode(&from.digest)));
    }
    HEXLOWER.encode(&xxh3_128(text.as_bytes()).to_be_bytes())
}

/// How far it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mark {
    /// Of all lines up to this one, those that count are written.
    pub(super) through: u64,
    /// Something that was written, by which the map is known again: a cluster that lost everything and was founded anew has the
    /// same id.
    pub(super) witness: Option<Witness>,
}

/// A key, and the revision at which it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Witness {
    pub(super) key_hex: String,
    pub(super) revision: u64,
}

impl Witness {
    pub(super) fn new(key: &[u8], revision: u64) -> Self {
        Self { key_hex: HEXLOWER.encode(key), revision }
    }
}

/// Why there is no going on.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProgressError {
    /// The disk failed.
    #[error("cannot {0} {path}: {2}", path = .1.display())]
    Io(&'static str, PathBuf, #[source] io::Error),
    /// Another import is at it.
    #[error("{} is in use: another import of the file runs", .0.display())]
    InUse(PathBuf),
    /// It is something else.
    #[error(
        "{} is there, and is no progress of an import that this program knows: remove it, or choose another place by --progress",
        .0.display()
    )]
    Foreign(PathBuf),
    /// The content is another one.
    #[error(
        "an import of another content broke off ({}): the file has changed since. To write all of it as it is now: --restart",
        .0.display()
    )]
    OtherContent(PathBuf),
    /// The lines mean something else.
    #[error(
        "an import of the file with another --format broke off ({}). To write all of it anew: --restart",
        .0.display()
    )]
    OtherFormat(PathBuf),
    /// The cluster is another one.
    #[error(
        "an import of the file into another cluster broke off ({}): is this the right one? To write all of it here: --restart",
        .0.display()
    )]
    OtherCluster(PathBuf),
    /// The map does not hold what was written.
    #[error(
        "an import of the file broke off ({}), and what it wrote last is not in the map as it wrote it: somebody changed it, \
         or the map was lost. To write all of it anew: --restart",
        .0.display()
    )]
    OtherMap(PathBuf),
}

impl From<ProgressError> for Failure {
    fn from(error: ProgressError) -> Self {
        let message = format!("{error}\nNothing was written.");
        match error {
            ProgressError::Io(..) | ProgressError::InUse(_) => Self::Failed(message),
            _ => Self::Usage(message),
        }
    }
}

/// The progress of an import that runs.
pub(super) struct Progress {
    path: PathBuf,
    file: File,
    mark: Mark,
    marked_at: Instant,
    /// Whether the last mark is in the file.
    is_marked: bool,
    /// The next request in the file's order that is not acknowledged, and those behind it that are.
    next: u64,
    waiting: BTreeMap<u64, (u64, Option<Witness>)>,
}

impl Progress {
    /// Opens the file, or makes it, and takes it for this import alone. Goes on from what it says if that is of the same content, to
    /// the same cluster, unless it is to `restart`.
    ///
    /// # Errors
    /// If it cannot be read or written, is of something else, or another import has it.
    pub(super) fn open(path: &Path, bound: &Bound, restart: bool) -> Result<Self, ProgressError> {
        let failed = |operation| move |error| ProgressError::Io(operation, path.to_owned(), error);
        // It names keys.
        let opened =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let mut file = opened.map_err(failed("open"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(ProgressError::InUse(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(failed("lock")(error)),
        }
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(failed("read"))?;
        let earlier = if is_begun(&text, bound) { None } else { Some(read(&text, path)?) };
        let (mark, valid) = match earlier {
            Some((earlier, mark, valid)) if !restart => {
                check(&earlier, bound, path)?;
                (mark, valid)
            }
            _ => (Mark::default(), 0),
        };
        file.set_len(valid as u64).map_err(failed("write"))?;
        file.seek(SeekFrom::Start(valid as u64)).map_err(failed("write"))?;
        if valid == 0 {
            append(&mut file, bound).and_then(|()| file.sync_data()).map_err(failed("write"))?;
        }
        let path = path.to_owned();
        let (marked_at, waiting) = (Instant::now(), BTreeMap::new());
        Ok(Self { path, file, mark, marked_at, is_marked: true, next: 0, waiting })
    }

    /// Checks that the map holds what the earlier import wrote last.
    ///
    /// # Errors
    /// If it does not, or nobody says.
    pub(super) async fn recognize(&self, client: &Client) -> Result<(), Failure> {
        let Some(Witness { key_hex, revision }) = &self.mark.witness else { return Ok(()) };
        let foreign = |_| ProgressError::Foreign(self.path.clone());
        let key = HEXLOWER.decode(key_hex.as_bytes()).map_err(foreign)?;
        let entry = client.get(key).await.map_err(Failure::of_read)?;
        match entry {
            Some(entry) if entry.revision == *revision => Ok(()),
            _ => Err(ProgressError::OtherMap(self.path.clone()).into()),
        }
    }

    /// Up to which line an earlier import has come. Without a witness it has come nowhere: nothing that it wrote was to stay.
    pub(super) fn through(&self) -> u64 {
        self.mark.witness.as_ref().map_or(0, |_| self.mark.through)
    }

    /// A request is acknowledged. They are numbered from 0, in the order of the file.
    pub(super) fn acknowledge(&mut self, written: &Written) -> io::Result<()> {
        self.waiting.insert(written.request, (written.through, written.witness.clone()));
        while let Some((through, witness)) = self.waiting.remove(&self.next) {
            self.next += 1;
            self.is_marked = false;
            self.mark.through = through;
            // The latest in the log: a map that has lost any of what was written has lost this one.
            let known = self.mark.witness.as_ref().map_or(0, |known| known.revision);
            if let Some(witness) = witness.filter(|witness| witness.revision > known) {
                self.mark.witness = Some(witness);
            }
        }
        if self.marked_at.elapsed() < MARK_EVERY { Ok(()) } else { self.write() }
    }

    /// Writes a mark, if there is anything new.
    pub(super) fn write(&mut self) -> io::Result<()> {
        if !self.is_marked {
            append(&mut self.file, &self.mark)?;
            (self.is_marked, self.marked_at) = (true, Instant::now());
        }
        Ok(())
    }

    /// There is nothing to go on from any more.
    pub(super) fn remove(self) -> Result<(), Failure> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Failure::io("remove", &self.path, &error))
            }
            _ => Ok(()),
        }
    }
}

fn append(file: &mut File, line: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    // As a whole: whoever is killed has written all of a line, or nothing.
    file.write_all(&text)
}

/// Whether it says nothing yet: it is empty, or an import of the same was cut off while it wrote the first line.
fn is_begun(text: &[u8], bound: &Bound) -> bool {
    serde_json::to_vec(bound).is_ok_and(|line| line.starts_with(text))
}

/// What a file says: to what it is bound, the last mark, and how many bytes of it are whole lines.
fn read(text: &[u8], path: &Path) -> Result<(Bound, Mark, usize), ProgressError> {
    let foreign = || ProgressError::Foreign(path.to_owned());
    let mut lines = text.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
    let first = lines.next().ok_or_else(foreign)?;
    let bound: Bound = serde_json::from_slice(first).map_err(|_| foreign())?;
    let (mut mark, mut valid) = (Mark::default(), first.len());
    for line in lines {
        let Ok(next) = serde_json::from_slice(line) else { break };
        mark = next;
        valid += line.len();
    }
    Ok((bound, mark, valid))
}

fn check(earlier: &Bound, now: &Bound, path: &Path) -> Result<(), ProgressError> {
    let path = || path.to_owned();
    match () {
        () if earlier.raftmap_import != now.raftmap_import => Err(ProgressError::Foreign(path())),
        () if earlier.cluster != now.cluster => Err(ProgressError::OtherCluster(path())),
        () if earlier.xxh3 != now.xxh3 => Err(ProgressError::OtherContent(path())),
        () if earlier.format != now.format => Err(ProgressError::OtherFormat(path())),
        () => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use raftmap_client::MemberAddresses;

    use super::*;

    fn bound(content: u128, cluster: &'static [u8]) -> Bound {
        let founder = MemberAddresses { id: 1, ..MemberAddresses::default() };
        let members = MembersResponse {
            cluster_id: cluster.into(),
            founding_members: vec![founder],
            ..MembersResponse::default()
        };
        Bound::new(content, Format::Tsv, &members)
    }

    fn written(request: u64, through: u64, witness: Option<u64>) -> Written {
        let witness = witness.map(|revision| Witness::new(b"k", revision));
        Written { request, lines: 1, expired: 0, through, witness }
    }

    #[test]
    fn a_mark_stands_where_everything_before_it_is_acknowledged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p");
        let bound = bound(1, b"c");
        let mut progress = Progress::open(&path, &bound, false).unwrap();
        for (request, through, witness) in [(2, 30, Some(9)), (1, 20, None)] {
            progress.acknowledge(&written(request, through, witness)).unwrap();
        }
        assert_eq!(progress.mark.through, 0, "the first request may not be written");
        progress.acknowledge(&written(0, 10, Some(7))).unwrap();
        progress.acknowledge(&written(3, 40, None)).unwrap();
        progress.acknowledge(&written(5, 60, Some(12))).unwrap();
        progress.write().unwrap();
        drop(progress);
        let progress = Progress::open(&path, &bound, false).unwrap();
        let expected = Mark { through: 40, witness: Some(Witness::new(b"k", 9)) };
        assert_eq!((&progress.mark, progress.through()), (&expected, 40));
        progress.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn it_is_of_one_content_and_one_cluster() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p");
        let mut first = Progress::open(&path, &bound(1, b"c"), false).unwrap();
        first.acknowledge(&written(0, 10, Some(7))).unwrap();
        first.write().unwrap();
        let refused = |bound: &Bound| Progress::open(&path, bound, false).err().unwrap();
        assert!(matches!(refused(&bound(1, b"c")), ProgressError::InUse(_)));
        drop(first);
        assert!(matches!(refused(&bound(2, b"c")), ProgressError::OtherContent(_)));
        assert!(matches!(refused(&bound(1, b"d")), ProgressError::OtherCluster(_)));
        let other_format = Bound { format: Format::Jsonl, ..bound(1, b"c") };
        assert!(matches!(refused(&other_format), ProgressError::OtherFormat(_)));
        assert_eq!(Progress::open(&path, &bound(1, b"c"), false).unwrap().through(), 10);
        assert_eq!(Progress::open(&path, &bound(2, b"d"), true).unwrap().through(), 0);
        assert_eq!(
            Progress::open(&path, &bound(2, b"d"), false).unwrap().through(),
            0,
            "the old marks are gone"
        );
    }

    #[test]
    fn a_torn_mark_does_not_count_and_a_foreign_file_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p");
        let bound = bound(1, b"c");
        let mut progress = Progress::open(&path, &bound, false).unwrap();
        progress.acknowledge(&written(0, 10, Some(7))).unwrap();
        progress.write().unwrap();
        let whole = fs::read(&path).unwrap();
        drop(progress);
        for torn in [&b"{\"through\":99"[..], b"\0\0\0\0\n", b"\n"] {
            fs::write(&path, [&whole, torn].concat()).unwrap();
            assert_eq!(Progress::open(&path, &bound, false).unwrap().through(), 10);
            assert_eq!(fs::read(&path).unwrap(), whole, "what is added is not behind half a line");
        }
        let first = serde_json::to_vec(&bound).unwrap();
        for end in 0..=first.len() {
            fs::write(&path, &first[..end]).unwrap();
            assert_eq!(Progress::open(&path, &bound, false).unwrap().through(), 0, "cut off at {end}");
        }
        for foreign in ["apple\t3\n", "{}\n", "{\"raft\""] {
            fs::write(&path, foreign).unwrap();
            for restart in [false, true] {
                let refused = Progress::open(&path, &bound, restart);
                assert!(matches!(refused, Err(ProgressError::Foreign(_))), "{foreign}");
            }
            assert_eq!(fs::read_to_string(&path).unwrap(), foreign);
        }
    }
}
