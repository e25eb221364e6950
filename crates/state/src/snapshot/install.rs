//! The receiver's end: a stream becomes a state machine.

use bytes::Bytes;
use raftmap_raft::GroupId;

use super::chunk::{Chunk, Kind};
use super::error::SnapshotError;
use super::header::SnapshotHeader;
use super::progress::Progress;
use super::rows::SeenRows;
use crate::engine::Ingest;
use crate::error::StateError;
use crate::format::{Applied, Decoder};
use crate::machine::StateMachine;

/// A snapshot on its way into an empty store.
pub struct SnapshotInstall<I> {
    ingest: I,
    header: SnapshotHeader,
    header_chain: u128,
    progress: Progress,
    seen: SeenRows,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Rows,
    /// The trailer came, and all is as it says.
    Complete,
    Refused,
}

impl<I: Ingest> SnapshotInstall<I> {
    /// Begins with the first chunk of a snapshot of `group`, for a store that is empty.
    ///
    /// # Errors
    /// If the header cannot be understood, or is that of another group.
    pub fn new(group: GroupId, header_bytes: &Bytes, ingest: I) -> Result<Self, SnapshotError> {
        let (header, header_chain) = SnapshotHeader::read(header_bytes)?;
        if header.group != group {
            return Err(SnapshotError::WrongGroup { expected: group, found: header.group });
        }
        let (progress, seen) = (Progress::start(header_chain), SeenRows::default());
        Ok(Self { ingest, header, header_chain, progress, seen, phase: Phase::Rows })
    }

    /// What state it is to become.
    pub fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    /// Takes the next chunk.
    ///
    /// # Errors
    /// If it is not the next chunk, undamaged and sensible, or the store fails. Then nothing more is taken.
    pub fn take(&mut self, chunk: &Bytes) -> Result<(), SnapshotError> {
        match self.phase {
            Phase::Rows => {}
            Phase::Complete => {
                self.phase = Phase::Refused;
                return Err(SnapshotError::AfterTrailer);
            }
            Phase::Refused => return Err(SnapshotError::Refused),
        }
        let taken = self.take_next(chunk);
        if taken.is_err() {
            self.phase = Phase::Refused;
        }
        taken
    }

    /// Whether the trailer came, and with it everything.
    pub fn is_complete(&self) -> bool {
        self.phase == Phase::Complete
    }

    /// How many keys of the map were taken in, those among them that have expired and are not removed yet.
    pub fn keys(&self) -> u64 {
        self.seen.keys
    }

    /// What the sender needs to go on behind the last chunk that was taken, over another connection: see
    /// [`super::SnapshotReader::resume`].
    pub fn token(&self) -> Bytes {
        self.progress.token(self.header_chain)
    }

    /// Makes the store durable and opens the state machine that it holds, at the snapshot's position.
    ///
    /// # Errors
    /// If the trailer did not come, the store fails, or the rows contradict each other. The store is to be removed.
    pub fn finish(self) -> Result<StateMachine<I::Engine>, SnapshotError> {
        match self.phase {
            Phase::Complete => {}
            Phase::Rows => return Err(SnapshotError::Unfinished),
            Phase::Refused => return Err(SnapshotError::Refused),
        }
        let engine = self.ingest.finish()?;
        StateMachine::open(engine, self.header.group).map_err(|error| match error {
            StateError::Engine(error) => SnapshotError::Engine(error),
            error => SnapshotError::RowsContradict(error),
        })
    }

    fn take_next(&mut self, bytes: &Bytes) -> Result<(), SnapshotError> {
        let number = self.progress.number + 1;
        let chunk = Chunk::read(bytes, number, self.progress.chain)?;
        match chunk.kind {
            Kind::Header => return Err(SnapshotError::Malformed("a second header")),
            Kind::Rows => self.take_rows(chunk.content, chunk.rows)?,
            Kind::Trailer => self.take_trailer(chunk.content, chunk.rows)?,
        }
        self.progress.number = number;
        self.progress.chain = chunk.chain;
        Ok(())
    }

    fn take_rows(&mut self, content: Bytes, claimed: u32) -> Result<(), SnapshotError> {
        let before = self.progress.rows;
        let mut decoder = Decoder::new(content);
        while !decoder.rest().is_empty() {
            let key = decoder.bytes("row key")?;
            let value = decoder.bytes("row value")?;
            if key <= self.progress.last_key {
                return Err(SnapshotError::RowOutOfOrder { key });
            }
            if let Err(source) = self.seen.see(&key, &value) {
                return Err(SnapshotError::Row { key, source });
            }
            self.progress.add_row(&key, &value);
            self.ingest.add(key, value)?;
        }
        let rows = self.progress.rows - before;
        if rows == 0 || rows != u64::from(claimed) {
            return Err(SnapshotError::Malformed("a chunk has not as many rows as it says"));
        }
        Ok(())
    }

    fn take_trailer(&mut self, content: Bytes, rows_in_it: u32) -> Result<(), SnapshotError> {
        let mut decoder = Decoder::new(content);
        let (rows, bytes) = (decoder.u64_le("trailer")?, decoder.u64_le("trailer")?);
        decoder.end("trailer")?;
        if rows_in_it != 0 || (rows, bytes) != (self.progress.rows, self.progress.bytes) {
            return Err(SnapshotError::TrailerContradicted);
        }
        // Before the first entry there is no row at all.
        let at_start = (rows == 0).then_some(Applied::start(self.header.group));
        if self.seen.applied.or(at_start) != Some(self.header.applied_row()) {
            return Err(SnapshotError::HeaderContradicted("the applied position"));
        }
        if self.seen.membership != self.header.membership {
            return Err(SnapshotError::HeaderContradicted("the members"));
        }
        self.phase = Phase::Complete;
        Ok(())
    }
}
