//! What messages count in bytes while they are held: their keys, values and texts, and a share for each item. The
//! encoded message is never larger.

use bytes::Bytes;
use raftmap_proto::v1;
use raftmap_proto::v1::tagged_request::Request;
use raftmap_proto::v1::tagged_response::Response;

/// What a message and each of its items count besides keys, values and texts: more than their encoding needs for numbers
/// and lengths.
const ITEM_BYTES: usize = 64;

/// A message that is counted while it is held.
pub(super) trait Counted {
    /// What it counts, in bytes.
    fn counted_bytes(&self) -> usize;
}

impl Counted for Request {
    fn counted_bytes(&self) -> usize {
        let content: usize = match self {
            Self::Get(get) => keys(&get.keys) + get.request_id.len(),
            Self::Delete(delete) => keys(&delete.keys) + delete.request_id.len(),
            Self::Put(put) => put.entries.iter().map(put_entry).sum::<usize>() + put.request_id.len(),
            Self::Txn(txn) => {
                let operations = txn.then.iter().chain(&txn.otherwise).map(operation).sum::<usize>();
                txn.conditions.iter().map(condition).sum::<usize>() + operations + txn.request_id.len()
            }
        };
        ITEM_BYTES + content
    }
}

fn keys(keys: &[Bytes]) -> usize {
    keys.iter().map(|key| ITEM_BYTES + key.len()).sum()
}

fn put_entry(entry: &v1::PutEntry) -> usize {
    ITEM_BYTES + entry.key.len() + entry.value.len()
}

fn condition(condition: &v1::Condition) -> usize {
    let value = match &condition.expected {
        Some(v1::condition::Expected::Value(value)) => value.len(),
        _ => 0,
    };
    ITEM_BYTES + condition.key.len() + value
}

fn operation(operation: &v1::Operation) -> usize {
    match &operation.operation {
        Some(v1::operation::Operation::Put(entry)) => put_entry(entry),
        Some(v1::operation::Operation::Delete(key) | v1::operation::Operation::Get(key)) => {
            ITEM_BYTES + key.len()
        }
        None => ITEM_BYTES,
    }
}

impl Counted for Response {
    fn counted_bytes(&self) -> usize {
        match self {
            Self::Get(get) => get.counted_bytes(),
            Self::Put(put) => put.counted_bytes(),
            Self::Delete(delete) => delete.counted_bytes(),
            Self::Txn(txn) => txn.counted_bytes(),
            Self::Failure(failure) => {
                ITEM_BYTES + failure.reason.len() + failure.leader.len() + failure.field.len()
            }
        }
    }
}

impl Counted for v1::GetResponse {
    fn counted_bytes(&self) -> usize {
        ITEM_BYTES + self.request_id.len() + results(&self.results)
    }
}

impl Counted for v1::PutResponse {
    fn counted_bytes(&self) -> usize {
        ITEM_BYTES + self.request_id.len() + results(&self.previous)
    }
}

impl Counted for v1::DeleteResponse {
    fn counted_bytes(&self) -> usize {
        ITEM_BYTES + self.request_id.len() + results(&self.previous)
    }
}

impl Counted for v1::TxnResponse {
    fn counted_bytes(&self) -> usize {
        let result = |result: &v1::OperationResult| {
            optional(result.entry.as_option()) + optional(result.previous.as_option())
        };
        ITEM_BYTES + self.request_id.len() + self.results.iter().map(result).sum::<usize>()
    }
}

impl Counted for v1::ScanResponse {
    fn counted_bytes(&self) -> usize {
        ITEM_BYTES + self.request_id.len() + self.entries.iter().map(entry).sum::<usize>()
    }
}

impl Counted for v1::OpenSessionResponse {
    fn counted_bytes(&self) -> usize {
        ITEM_BYTES + self.request_id.len()
    }
}

impl Counted for v1::MembersResponse {
    fn counted_bytes(&self) -> usize {
        let member = |member: &v1::Member| {
            ITEM_BYTES + member.client_address.len() + member.peer_address.len() + member.version.len()
        };
        let founder = |founder: &v1::MemberAddresses| {
            ITEM_BYTES + founder.client_address.len() + founder.peer_address.len()
        };
        ITEM_BYTES
            + self.request_id.len()
            + self.members.iter().map(member).sum::<usize>()
            + self.founding_members.iter().map(founder).sum::<usize>()
    }
}

impl Counted for v1::AddMemberResponse {
    fn counted_bytes(&self) -> usize {
        ITEM_BYTES + self.request_id.len()
    }
}

impl Counted for v1::RemoveMemberResponse {
    fn counted_bytes(&self) -> usize {
        ITEM_BYTES + self.request_id.len()
    }
}

impl Counted for v1::StatusResponse {
    fn counted_bytes(&self) -> usize {
        let member = |member: &v1::MemberStatus| {
            2 * ITEM_BYTES + member.client_address.len() + member.version.len() + member.running_digest.len()
        };
        ITEM_BYTES + self.request_id.len() + self.members.iter().map(member).sum::<usize>()
    }
}

fn results(results: &[v1::GetResult]) -> usize {
    results.iter().map(|result| optional(result.entry.as_option())).sum()
}

fn optional(record: Option<&v1::Entry>) -> usize {
    record.map_or(ITEM_BYTES, entry)
}

fn entry(entry: &v1::Entry) -> usize {
    ITEM_BYTES + entry.key.len() + entry.value.len()
}

#[cfg(test)]
mod tests {
    use buffa::Message as _;

    use super::*;

    /// All numbers at their largest, all lists with two items.
    fn largest_entry() -> v1::Entry {
        v1::Entry {
            key: Bytes::from(vec![b'k'; 300]),
            value: Bytes::from(vec![b'v'; 70_000]),
            revision: u64::MAX,
            expires_at_ms: u64::MAX,
        }
    }

    #[test]
    fn what_is_counted_is_never_less_than_the_encoding() {
        let request_id = "r".repeat(128);
        let result = v1::GetResult { entry: largest_entry().into() };
        let get = v1::GetResponse {
            request_id: request_id.clone(),
            revision: u64::MAX,
            results: vec![result.clone(), v1::GetResult::default()],
        };
        let both = v1::OperationResult {
            entry: largest_entry().into(),
            deleted: true,
            previous: largest_entry().into(),
        };
        let txn = v1::TxnResponse {
            request_id: request_id.clone(),
            revision: u64::MAX,
            succeeded: true,
            results: vec![both, v1::OperationResult::default()],
        };
        let scan = v1::ScanResponse {
            request_id,
            revision: u64::MAX,
            entries: vec![largest_entry(), v1::Entry::default()],
            done: true,
            more: true,
        };
        assert!(get.counted_bytes() >= get.encode_to_vec().len());
        assert!(txn.counted_bytes() >= txn.encode_to_vec().len());
        assert!(scan.counted_bytes() >= scan.encode_to_vec().len());
        let tagged = v1::TaggedResponse { tag: u64::MAX, response: Some(Response::Get(get.clone())) };
        assert!(Response::Get(get).counted_bytes() >= tagged.encode_to_vec().len());
    }
}
