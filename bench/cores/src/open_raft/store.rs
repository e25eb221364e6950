//! A log in memory, and a state machine that only counts.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::{Stream, TryStreamExt};
use openraft::alias::{EntryOf, LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf, VoteOf};
use openraft::storage::{EntryResponder, IOFlushed, RaftLogStorage, RaftStateMachine};
use openraft::{EntryPayload, LogState, OptionalSend, RaftLogReader, RaftSnapshotBuilder};

use super::Types;

/// A log; its copies are the same one.
#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<Stored>>);

#[derive(Default)]
struct Stored {
    vote: Option<VoteOf<Types>>,
    /// From index 0.
    entries: Vec<EntryOf<Types>>,
}

impl Log {
    fn stored(&self) -> MutexGuard<'_, Stored> {
        self.0.lock().expect("nobody panics with it")
    }
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> io::Result<Vec<EntryOf<Types>>> {
        let stored = self.stored();
        let place = |index: u64| usize::try_from(index).unwrap_or(usize::MAX).min(stored.entries.len());
        let from = match range.start_bound() {
            Bound::Included(from) => place(*from),
            Bound::Excluded(before) => place(before + 1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(to) => place(to + 1),
            Bound::Excluded(end) => place(*end),
            Bound::Unbounded => stored.entries.len(),
        };
        Ok(stored.entries[from.min(end)..end].to_vec())
    }

    async fn read_vote(&mut self) -> io::Result<Option<VoteOf<Types>>> {
        Ok(self.stored().vote)
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let last_log_id = self.stored().entries.last().map(|entry| entry.log_id);
        Ok(LogState { last_purged_log_id: None, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<Types>) -> io::Result<()> {
        self.stored().vote = Some(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = EntryOf<Types>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.stored().entries.extend(entries);
        callback.io_completed(Ok(()));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<Types>>) -> io::Result<()> {
        let kept = last.map_or(0, |last| last.index() + 1);
        self.stored().entries.truncate(usize::try_from(kept).unwrap_or(usize::MAX));
        Ok(())
    }

    async fn purge(&mut self, _: LogIdOf<Types>) -> io::Result<()> {
        unreachable!("no log is cut")
    }
}

/// A state machine; its copies are the same one.
#[derive(Clone, Default)]
pub(super) struct Machine(Arc<Counts>);

#[derive(Default)]
struct Counts {
    applied: AtomicU64,
    commands: AtomicUsize,
}

impl Machine {
    /// The last index that was applied.
    pub(super) fn applied(&self) -> u64 {
        self.0.applied.load(Ordering::Relaxed)
    }

    /// How many commands were applied.
    pub(super) fn commands(&self) -> usize {
        self.0.commands.load(Ordering::Relaxed)
    }
}

impl RaftStateMachine<Types> for Machine {
    type SnapshotData = ();
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogIdOf<Types>>, StoredMembershipOf<Types>)> {
        Ok((None, StoredMembershipOf::<Types>::default()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let is_command = matches!(entry.payload, EntryPayload::Normal(_));
            self.0.commands.fetch_add(usize::from(is_command), Ordering::Relaxed);
            self.0.applied.store(entry.log_id.index(), Ordering::Relaxed);
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, _: &SnapshotMetaOf<Types>, (): ()) -> io::Result<()> {
        unreachable!("no log is cut")
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<Types, ()>>> {
        Ok(None)
    }
}

impl RaftSnapshotBuilder<Types> for Machine {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<Types, ()>> {
        unreachable!("no log is cut")
    }
}
