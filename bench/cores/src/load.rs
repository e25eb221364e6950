//! What each core is given to do.

use bytes::Bytes;

/// So many nodes, in one thread.
pub(crate) const NODES: u64 = 3;
/// A key of 16 bytes and a value of 128.
const COMMAND_BYTES: usize = 16 + 128;

/// Commands, made before the clock starts, and how many are proposed together.
pub(crate) struct Load {
    commands: Vec<Bytes>,
    batch: usize,
}

impl Load {
    pub(crate) fn new(entries: usize, batch: usize) -> Self {
        assert!(entries.is_multiple_of(batch), "whole batches");
        let command = |at: usize| {
            let mut bytes = format!("{at:016}").into_bytes();
            bytes.resize(COMMAND_BYTES, 7);
            bytes.into()
        };
        Self { commands: (0..entries).map(command).collect(), batch }
    }

    pub(crate) fn batches(&self) -> impl Iterator<Item = &[Bytes]> {
        self.commands.chunks(self.batch)
    }

    pub(crate) fn entries(&self) -> usize {
        self.commands.len()
    }
}
