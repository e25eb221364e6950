//! What can be set about a log.

use raftmap_raft::GroupId;

use crate::batch;
use crate::block::BLOCK_BYTES;
use crate::segment::SEGMENT_BYTES_MAX;

/// What can be set about a log. All of it may differ from one start to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// The Raft group whose log this is.
    pub group: GroupId,
    /// The size of new segments in bytes, a multiple of 4 KiB of at most 1 GiB. Also the limit of one batch. Older
    /// segments keep the size that they have.
    pub segment_bytes: u64,
    /// The largest content of an entry, in bytes. It must fit into a segment.
    pub entry_bytes_max: usize,
    /// Whether a cluster of one node starts although its log is damaged, without what was lost. Other clusters get it
    /// back from a leader, and ignore this.
    pub accept_loss: bool,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            group: GroupId::DEFAULT,
            segment_bytes: 16 << 20,
            entry_bytes_max: (4 << 20) + (64 << 10),
            accept_loss: false,
        }
    }
}

impl LogOptions {
    /// What is wrong with them, in words, if anything is.
    pub(crate) fn check(&self) -> Result<(), String> {
        let block = BLOCK_BYTES as u64;
        if !self.segment_bytes.is_multiple_of(block)
            || !(block..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes)
        {
            return Err(format!(
                "a segment of {} bytes: must be a multiple of {block}, at most {}",
                self.segment_bytes, SEGMENT_BYTES_MAX
            ));
        }
        let needed = batch::blocks_for(batch::RECORD_HEADER_BYTES + self.entry_bytes_max) as u64 * block;
        if needed > self.segment_bytes {
            return Err(format!(
                "an entry of {} bytes needs a segment of {needed}, not {}",
                self.entry_bytes_max, self.segment_bytes
            ));
        }
        Ok(())
    }
}
