//! Reads at a leader (dissertation, section 6.4): all that wait share one round of heartbeats.

use crate::ids::{Ctx, LogIndex, NodeId};

/// Who waits for an index to read at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// A read at this node.
    Here(Ctx),
    /// The question `id` of a follower.
    At { node: NodeId, id: u64 },
}

/// Reads that wait. While a round is under way, later ones gather for the next.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    waiting: Vec<Reader>,
    confirming: Option<Confirming>,
}

#[derive(Debug)]
struct Confirming {
    round: u64,
    /// The commit index when the round began.
    index: LogIndex,
    readers: Vec<Reader>,
}

impl Reads {
    /// Adds a read, unless `max` wait already. A question that is asked again waits once.
    pub(crate) fn add(&mut self, reader: Reader, max: usize) -> bool {
        let confirming = self.confirming.as_ref().map_or(0, |confirming| confirming.readers.len());
        if self.waiting.len() + confirming >= max {
            return false;
        }
        if matches!(reader, Reader::Here(_)) || !self.waiting.contains(&reader) {
            self.waiting.push(reader);
        }
        true
    }

    /// Whether there are reads to begin a round for, and none is under way.
    pub(crate) fn wants_round(&self) -> bool {
        self.confirming.is_none() && !self.waiting.is_empty()
    }

    /// Lets all waiting reads share `round`, which begins now, while `index` is committed.
    pub(crate) fn begin(&mut self, round: u64, index: LogIndex) {
        assert!(self.confirming.is_none(), "one round of reads at a time");
        self.confirming = Some(Confirming { round, index, readers: std::mem::take(&mut self.waiting) });
    }

    /// The reads that `round` confirms, each with the index to read at.
    pub(crate) fn confirmed(&mut self, round: u64) -> impl Iterator<Item = (Reader, LogIndex)> + use<> {
        let done = self.confirming.take_if(|confirming| confirming.round <= round);
        done.into_iter()
            .flat_map(|confirmed| confirmed.readers.into_iter().map(move |reader| (reader, confirmed.index)))
    }

    /// All that wait, to be ended.
    pub(crate) fn into_readers(self) -> impl Iterator<Item = Reader> {
        self.confirming.into_iter().flat_map(|confirming| confirming.readers).chain(self.waiting)
    }
}
