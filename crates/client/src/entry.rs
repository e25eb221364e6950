//! Entries, as callers see them.

use bytes::Bytes;
use raftmap_proto::v1;
use raftmap_proto::v1::GetResult;

/// Shorter keys and values are copied out of the message that they came in: one that is kept would otherwise keep all
/// that travelled with it, up to megabytes.
const COPY_BELOW_BYTES: usize = 4096;

/// A key and its value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// The value; empty in a scan of keys only.
    pub value: Bytes,
    /// The revision of the write that set it: its index in the log.
    pub revision: u64,
    /// The cluster's time, in milliseconds of Unix time, from which the key is absent; `None`: it stays.
    pub expires_at_ms: Option<u64>,
}

impl Entry {
    /// As it came, sharing the message's memory: for a page that is used as a whole.
    pub(crate) fn shared(entry: v1::Entry) -> Self {
        Self {
            key: entry.key,
            value: entry.value,
            revision: entry.revision,
            expires_at_ms: (entry.expires_at_ms > 0).then_some(entry.expires_at_ms),
        }
    }

    /// On its own, so that it may be kept.
    pub(crate) fn detached(entry: v1::Entry) -> Self {
        let entry = Self::shared(entry);
        Self { key: detach(entry.key), value: detach(entry.value), ..entry }
    }

    pub(crate) fn of_result(result: GetResult) -> Option<Self> {
        result.entry.into_option().map(Self::detached)
    }
}

fn detach(bytes: Bytes) -> Bytes {
    if bytes.len() < COPY_BELOW_BYTES { Bytes::copy_from_slice(&bytes) } else { bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_entry_that_is_kept_does_not_keep_the_message_that_it_came_in() {
        let message = Bytes::from(vec![7; 1 << 20]);
        let entry =
            |len| v1::Entry { key: message.slice(..1), value: message.slice(1..len), ..v1::Entry::default() };
        let shares = |bytes: &Bytes| message.as_ptr_range().contains(&bytes.as_ptr());
        let small = Entry::detached(entry(100));
        assert!(!shares(&small.key) && !shares(&small.value));
        assert!(shares(&Entry::detached(entry(1 << 19)).value), "a large value is not copied");
        assert!(shares(&Entry::shared(entry(100)).value));
    }
}
