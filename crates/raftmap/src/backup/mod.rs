//! Backups: a state machine at one revision as a file, and new clusters that are made of such files.
//!
//! ```text
//! a server's engine ─► SnapshotReader ─► BackupParts ─► Backup of cluster.proto ─► OutFile     (raftmap backup)
//! a survivor's directory, its log applied ──┘            └──────────────────────► OutFile     (raftmap recover)
//! file ─► BackupReader ─► SnapshotInstall ─► DiskEngine::fresh, a log with a base, an identity (raftmap restore)
//! ```
//!
//! A file is a header, the stream of a snapshot, and an end with a digest of all bytes before it; `docs/format.md` draws
//! them. Nothing of a file is believed: a [`BackupReader`] says of the first byte that is not as it was written where it
//! stands, in which chunk. One chunk is in memory at a time.

mod header;
mod out_file;
mod parts;
mod reader;
mod restore;

pub use self::header::{BackupHeader, Origin};
pub use self::out_file::{OutFile, OutFileError};
pub use self::parts::BackupParts;
pub use self::reader::{BackupError, BackupReader, BackupSummary, read_file};
pub use self::restore::{RestoreError, RestorePlan, restore};

/// The size of the chunks in a file, in bytes, unless a row alone takes more: that of chunks between servers.
pub const CHUNK_BYTES: usize = 256 << 10;
