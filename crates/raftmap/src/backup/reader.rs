//! Takes in a file as its bytes come, and believes nothing of it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use bytes::{Bytes, BytesMut};
use raftmap_raft::GroupId;
use raftmap_state::{CHUNK_HEAD_BYTES, EngineError, Ingest, SnapshotError, SnapshotInstall, chunk_bytes};
use xxhash_rust::xxh3::Xxh3;

use super::header::{BackupHeader, END_BYTES, END_DIGEST_AT, FIXED_BYTES, encode_end};

/// Why a file is refused. Places are bytes from its beginning.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// It is something else.
    #[error("it does not begin as a backup does")]
    NotABackup,
    /// A newer program wrote it.
    #[error("it is of format version {0}, which this version of raftmap does not know: a newer one wrote it")]
    UnknownVersion(u8),
    /// The header is not as it was written.
    #[error("its header is damaged")]
    Header,
    /// A part of the state is not as it was written.
    #[error("it is damaged: in the part that begins at byte {at}: {source}")]
    Chunk {
        /// Where the part begins.
        at: u64,
        /// What is wrong with it.
        source: SnapshotError,
    },
    /// The header speaks of another state.
    #[error("its header and its state contradict each other")]
    Contradiction,
    /// The end is not as it was written.
    #[error("it is damaged: its end, at byte {at}, is not what was written")]
    End {
        /// Where the end begins.
        at: u64,
    },
    /// Each part is what some backup had, and together they are not this one.
    #[error("it is damaged: its digest is {found:032x}, and its end says {written:032x}")]
    Digest {
        /// Of the bytes as they are.
        found: u128,
        /// As it was written.
        written: u128,
    },
    /// The file was not written to its end.
    #[error("it ends at byte {at}, before its end: it was cut off")]
    Truncated {
        /// How long it is.
        at: u64,
    },
    /// Something follows the end.
    #[error("it goes on behind its end, at byte {at}")]
    Trailing {
        /// Where the end ends.
        at: u64,
    },
    /// It was refused before.
    #[error("it was refused before")]
    Refused,
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// What it is to become cannot be written.
    #[error(transparent)]
    Store(EngineError),
}

impl BackupError {
    /// Whether the file itself is to blame, and not a disk that fails.
    pub fn is_of_file(&self) -> bool {
        !matches!(self, Self::Io(_) | Self::Store(_))
    }
}

/// What a whole file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupSummary {
    /// What it says of itself.
    pub header: BackupHeader,
    /// How many keys there are, those among them that have expired and are not removed yet.
    pub keys: u64,
    /// How long it is.
    pub bytes: u64,
    /// XXH3 (128 bits) of all of it but the last 16 bytes, which are this number.
    pub digest: u128,
}

/// A file on its way in. What it holds goes into an [`Ingest`].
pub struct BackupReader<I: Ingest> {
    stage: Stage<I>,
    header: Option<BackupHeader>,
    /// What came and is not taken in yet: less than a part, between two calls.
    buffer: BytesMut,
    /// Where the buffer begins, in the file.
    at: u64,
    hash: Xxh3,
}

enum Stage<I: Ingest> {
    Header(I),
    /// The first chunk.
    State(I),
    Chunks(Box<SnapshotInstall<I>>),
    Done(Box<SnapshotInstall<I>>, u128),
    Refused,
}

impl<I: Ingest> BackupReader<I> {
    /// A reader of a file that goes into `ingest`.
    pub fn new(ingest: I) -> Self {
        let (buffer, hash) = (BytesMut::new(), Xxh3::new());
        Self { stage: Stage::Header(ingest), header: None, buffer, at: 0, hash }
    }

    /// What the file says of itself, once that came.
    pub fn header(&self) -> Option<&BackupHeader> {
        self.header.as_ref()
    }

    /// Whether all of the file came, and is as it was written.
    pub fn is_complete(&self) -> bool {
        matches!(self.stage, Stage::Done(..))
    }

    /// Takes the next bytes of the file, however many.
    ///
    /// # Errors
    /// At the first part that is not as it was written; nothing more is taken then.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        self.buffer.extend_from_slice(bytes);
        while let Some(len) = self.part_bytes()?.filter(|len| *len <= self.buffer.len()) {
            let part = self.buffer.split_to(len).freeze();
            let stage = std::mem::replace(&mut self.stage, Stage::Refused);
            self.stage = self.take(stage, part)?;
            self.at += len as u64;
        }
        Ok(())
    }

    /// What the file is, and the snapshot in it, to be finished.
    ///
    /// # Errors
    /// If it is not complete.
    pub fn finish(self) -> Result<(BackupSummary, SnapshotInstall<I>), BackupError> {
        let came = self.at + self.buffer.len() as u64;
        match (self.stage, self.header) {
            (Stage::Done(install, digest), Some(header)) => {
                let summary = BackupSummary { header, keys: install.keys(), bytes: came, digest };
                Ok((summary, *install))
            }
            (Stage::Refused, _) => Err(BackupError::Refused),
            _ => Err(BackupError::Truncated { at: came }),
        }
    }

    /// The length of the next part, if enough came to know it.
    fn part_bytes(&mut self) -> Result<Option<usize>, BackupError> {
        let buffer = &self.buffer;
        let known = match &self.stage {
            Stage::Header(_) => buffer.get(..FIXED_BYTES).map(BackupHeader::bytes_of).transpose(),
            Stage::Chunks(install) if install.is_complete() => Ok(Some(END_BYTES)),
            Stage::State(_) | Stage::Chunks(_) => buffer
                .first_chunk::<CHUNK_HEAD_BYTES>()
                .map(|head| chunk_bytes(head).map_err(|source| BackupError::Chunk { at: self.at, source }))
                .transpose(),
            Stage::Done(..) if buffer.is_empty() => Ok(None),
            Stage::Done(..) => Err(BackupError::Trailing { at: self.at }),
            Stage::Refused => Err(BackupError::Refused),
        };
        if known.is_err() {
            self.stage = Stage::Refused;
        }
        known
    }

    fn take(&mut self, stage: Stage<I>, part: Bytes) -> Result<Stage<I>, BackupError> {
        let at = self.at;
        let wrong = |source| match source {
            SnapshotError::Engine(error) => BackupError::Store(error),
            source => BackupError::Chunk { at, source },
        };
        match stage {
            Stage::Header(ingest) => {
                self.header = Some(BackupHeader::decode(&part)?);
                self.hash.update(&part);
                Ok(Stage::State(ingest))
            }
            Stage::State(ingest) => {
                self.hash.update(&part);
                let group = self.header.as_ref().map_or(GroupId::DEFAULT, |header| header.group);
                let install = SnapshotInstall::new(group, &part, ingest).map_err(wrong)?;
                match self.header.as_ref().is_some_and(|header| header.describes(install.header())) {
                    true => Ok(Stage::Chunks(Box::new(install))),
                    false => Err(BackupError::Contradiction),
                }
            }
            Stage::Chunks(mut install) if !install.is_complete() => {
                self.hash.update(&part);
                install.take(&part).map_err(wrong)?;
                Ok(Stage::Chunks(install))
            }
            Stage::Chunks(install) => Ok(Stage::Done(install, self.end(&part)?)),
            Stage::Done(..) | Stage::Refused => Err(BackupError::Refused),
        }
    }

    /// Checks the end, and gives the digest.
    fn end(&mut self, end: &[u8]) -> Result<u128, BackupError> {
        let (said, digest) = end.split_at(END_DIGEST_AT);
        if said != encode_end(self.at) {
            return Err(BackupError::End { at: self.at });
        }
        self.hash.update(said);
        let written = digest.try_into().map_or(0, u128::from_le_bytes);
        let found = self.hash.digest128();
        if found == written { Ok(found) } else { Err(BackupError::Digest { found, written }) }
    }
}

/// How much of a file is read at a time, in bytes.
const READ_BYTES: usize = 1 << 20;

/// Reads a file into `ingest`. `read` hears how many bytes were read, again and again.
///
/// # Errors
/// If it cannot be read, or is not whole.
pub fn read_file<I: Ingest>(
    path: &Path,
    ingest: I,
    mut read: impl FnMut(u64),
) -> Result<(BackupSummary, SnapshotInstall<I>), BackupError> {
    let mut file = File::open(path)?;
    let mut reader = BackupReader::new(ingest);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return reader.finish(),
            Ok(len) => {
                reader.feed(&buffer[..len])?;
                read(len as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}
