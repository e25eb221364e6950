//! The batch: what one write and one sync make durable.

use crate::block::BLOCK_CONTENT_BYTES;

/// What comes before the records of a batch, in its head block.
pub(crate) const BATCH_HEADER_BYTES: usize = 64;
/// What comes before the content of a record.
pub(crate) const RECORD_HEADER_BYTES: usize = 24;

/// How many blocks a batch takes whose records are `body_bytes` long.
pub(crate) fn blocks_for(body_bytes: usize) -> usize {
    (BATCH_HEADER_BYTES + body_bytes).div_ceil(BLOCK_CONTENT_BYTES)
}
