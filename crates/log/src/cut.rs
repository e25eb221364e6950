//! Removes segments that the log needs no more, off the thread that writes.
//!
//! The lowest goes first, and each removal is durable before the next one: whatever a crash leaves has no gap, and the next
//! start offers the same again.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use crate::disk::Disk;
use crate::error::LogError;
use crate::index::Index;
use crate::reader::Shared;
use crate::recovered::SegmentUse;

/// The segments on the disk up to the one in use.
pub(crate) struct Segments {
    /// Number and length in bytes, in ascending order.
    there: VecDeque<(u64, u64)>,
    /// Alive while a [`Cut`] is.
    cut: Weak<()>,
}

impl Segments {
    /// The segments that are there, by number and length in bytes, in ascending order.
    pub(crate) fn new(there: impl IntoIterator<Item = (u64, u64)>) -> Self {
        Self { there: there.into_iter().collect(), cut: Weak::new() }
    }

    /// One more is in use.
    pub(crate) fn add(&mut self, number: u64, bytes: u64) {
        self.there.push_back((number, bytes));
    }

    /// The length of those that a log with `index` needs, in bytes.
    pub(crate) fn bytes(&self, index: &Index) -> u64 {
        let first = self.there.partition_point(|(number, _)| *number < index.first_segment());
        self.there.range(first..).map(|(_, bytes)| bytes).sum()
    }

    /// What each of them holds of a log with `index`, but for those below `removed`.
    pub(crate) fn uses(&self, index: &Index, removed: u64) -> Vec<SegmentUse> {
        let of = |(number, bytes): &(u64, u64)| SegmentUse {
            number: *number,
            first: index.first_in(*number),
            bytes: *bytes,
        };
        self.there.iter().filter(|(number, _)| *number >= removed).map(of).collect()
    }

    /// The removal of those that a log with `shared` needs no more, unless there are none or one is under way. One that was
    /// dropped, or cut short, is offered again.
    pub(crate) fn cut<D: Disk>(&mut self, shared: &Arc<Shared<D>>, lock: &Arc<D::Lock>) -> Option<Cut<D>> {
        if self.cut.strong_count() > 0 {
            return None;
        }
        let (removed, needed) = (shared.removed_below(), shared.index().first_segment());
        self.there.drain(..self.there.partition_point(|(number, _)| *number < removed));
        let numbers: Vec<u64> =
            self.there.iter().map(|(number, _)| *number).take_while(|number| *number < needed).collect();
        if numbers.is_empty() {
            return None;
        }
        let alive = Arc::new(());
        self.cut = Arc::downgrade(&alive);
        Some(Cut { shared: shared.clone(), numbers, lock: lock.clone(), alive })
    }
}

/// The removal of segments that hold nothing of the log any more, to be run on any thread. Dropping it leaves them where they
/// are until the next one.
pub struct Cut<D: Disk> {
    shared: Arc<Shared<D>>,
    numbers: Vec<u64>,
    /// Until the last one is gone nobody else may open the log.
    lock: Arc<D::Lock>,
    alive: Arc<()>,
}

impl<D: Disk> Cut<D> {
    /// The numbers of the segments that it removes, in ascending order.
    pub fn numbers(&self) -> &[u64] {
        &self.numbers
    }

    /// Removes the segments.
    ///
    /// # Errors
    /// If the disk fails, or failed before. It is final for the log, too.
    pub fn run(self) -> Result<(), LogError> {
        let Self { shared, numbers, lock, alive } = self;
        for number in numbers {
            shared.check()?;
            let removed = shared.folder.remove(number).and_then(|()| shared.folder.sync());
            removed.map_err(|error| shared.fail(error))?;
            shared.set_removed(number);
        }
        drop((lock, alive));
        Ok(())
    }
}
