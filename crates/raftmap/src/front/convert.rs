//! From the messages of `map.proto` to the vocabulary of [`crate::api`], and back.
//!
//! Here is refused what the vocabulary cannot say: an unknown map, a request id that is too long, an unset variant.
//! Sizes and counts are checked behind it. Keys and values move; they are never copied.

use std::num::NonZeroU64;
use std::time::Instant;

use buffa::Message as _;
use raftmap_proto::v1;
use raftmap_proto::v1::tagged_response::Response;
use raftmap_raft::{LogIndex, NodeId};
use raftmap_state::validate::{InvalidRequest, check_introduction};
use raftmap_state::{
    Answer, Condition, Delete, DeleteAnswer, Expected, Get, GetAnswer, Introduction, Operation,
    OperationResult, Put, PutAnswer, PutEntry, Record, Scan, SessionId, SessionOpened, SessionTag, Txn,
    TxnAnswer, WriteRequest,
};

use super::arrival::Arrival;
use crate::api::{
    Call, Code, Consistency, DeleteValueInput, Failure, GetValueInput, ProposeValueInput, ReadOptions,
    ScanInput, ScanPage, TransactInput, WriteInput,
};
use crate::observe::traces::Tracer;

/// The longest request id, in bytes.
pub(super) const REQUEST_ID_BYTES_MAX: usize = 128;

/// For fuzz tests: whatever clients send is a request or an error. The first byte says as what the others are sent: in
/// binary as in a pipeline, or as one call in JSON.
#[doc(hidden)]
pub fn fuzz_request(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let now = Instant::now();
    let arrival = &Arrival::new(&Tracer::off(), now, || None, "");
    let in_json = |error: serde_json::Error| drop(error.to_string());
    match kind % 6 {
        0 => {
            let Ok(message) = v1::PipelineRequest::decode_from_slice(bytes) else { return };
            for tagged in message.requests {
                match tagged.request {
                    Some(v1::tagged_request::Request::Get(request)) => drop(get(request, arrival)),
                    Some(v1::tagged_request::Request::Put(request)) => drop(put(request, arrival)),
                    Some(v1::tagged_request::Request::Delete(request)) => drop(delete(request, arrival)),
                    Some(v1::tagged_request::Request::Txn(request)) => drop(txn(request, arrival)),
                    None => {}
                }
            }
        }
        1 => serde_json::from_slice(bytes).map_or_else(in_json, |request| drop(get(request, arrival))),
        2 => serde_json::from_slice(bytes).map_or_else(in_json, |request| drop(put(request, arrival))),
        3 => serde_json::from_slice(bytes).map_or_else(in_json, |request| drop(delete(request, arrival))),
        4 => serde_json::from_slice(bytes).map_or_else(in_json, |request| drop(txn(request, arrival))),
        _ => serde_json::from_slice(bytes).map_or_else(in_json, |request| drop(scan(request, 1, arrival))),
    }
}

/// What a stranger wrote, as it may stand in a reason or a log: quoted, and not longer than a line.
pub(super) fn excerpt(text: &str) -> String {
    const CHARS_MAX: usize = 64;
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Name, deadline and trace of a request to the map that it names.
pub(super) fn call(request_id: String, map: &str, arrival: &Arrival) -> Result<Call, Failure> {
    if !map.is_empty() {
        let reason =
            format!("there is no map {}: this version has the default map alone, \"\"", excerpt(map));
        return Err(Failure::not_applied(Code::Unsupported, reason).in_field("map"));
    }
    cluster_call(request_id, arrival)
}

/// The server that is to come.
pub(super) fn introduction(request: v1::AddMemberRequest) -> Result<Introduction, Failure> {
    let Some(v1::MemberAddresses { id, peer_address, client_address, .. }) = request.member.into_option()
    else {
        return Err(InvalidRequest::Unset { field: "member" }.into());
    };
    let replaces = Some(NodeId(request.replaces)).filter(|id| id.0 > 0);
    let introduction = Introduction { node_id: NodeId(id), peer_address, client_address, replaces };
    check_introduction(&introduction)?;
    Ok(introduction)
}

/// Name, deadline and trace of a request to the cluster.
pub(super) fn cluster_call(request_id: String, arrival: &Arrival) -> Result<Call, Failure> {
    if request_id.len() > REQUEST_ID_BYTES_MAX {
        return Err(InvalidRequest::TooLarge {
            field: "request_id",
            actual: request_id.len() as u64,
            limit: REQUEST_ID_BYTES_MAX as u64,
            unit: "bytes",
        }
        .into());
    }
    Ok(Call { request_id, deadline: arrival.deadline, trace: arrival.trace() })
}

pub(super) fn get(request: v1::GetRequest, arrival: &Arrival) -> Result<GetValueInput, Failure> {
    let options = read_options(request.consistency, request.min_revision)?;
    let call = call(request.request_id, &request.map, arrival)?;
    Ok(GetValueInput { get: Get { keys: request.keys }, options, call })
}

pub(super) fn put(request: v1::PutRequest, arrival: &Arrival) -> Result<ProposeValueInput, Failure> {
    let call = call(request.request_id, &request.map, arrival)?;
    let entries = request.entries.into_iter().map(put_entry).collect();
    let put = Put { entries, return_previous: request.return_previous };
    Ok(ProposeValueInput { put, session: session_tag(request.session.into_option()), call })
}

pub(super) fn delete(request: v1::DeleteRequest, arrival: &Arrival) -> Result<DeleteValueInput, Failure> {
    let call = call(request.request_id, &request.map, arrival)?;
    let delete = Delete { keys: request.keys, return_previous: request.return_previous };
    Ok(DeleteValueInput { delete, session: session_tag(request.session.into_option()), call })
}

pub(super) fn txn(request: v1::TxnRequest, arrival: &Arrival) -> Result<TransactInput, Failure> {
    let call = call(request.request_id, &request.map, arrival)?;
    let operations = |operations: Vec<v1::Operation>, field| {
        operations.into_iter().map(|message| operation(message, field)).collect::<Result<_, _>>()
    };
    let txn = Txn {
        conditions: request.conditions.into_iter().map(condition).collect::<Result<_, _>>()?,
        then: operations(request.then, "then.operation")?,
        otherwise: operations(request.otherwise, "otherwise.operation")?,
    };
    Ok(TransactInput { txn, session: session_tag(request.session.into_option()), call })
}

pub(super) fn write_put(request: v1::PutRequest, arrival: &Arrival) -> Result<WriteInput, Failure> {
    let ProposeValueInput { put, session, call } = put(request, arrival)?;
    Ok(WriteInput { request: WriteRequest::Put(put), session, call })
}

pub(super) fn write_delete(request: v1::DeleteRequest, arrival: &Arrival) -> Result<WriteInput, Failure> {
    let DeleteValueInput { delete, session, call } = delete(request, arrival)?;
    Ok(WriteInput { request: WriteRequest::Delete(delete), session, call })
}

pub(super) fn write_txn(request: v1::TxnRequest, arrival: &Arrival) -> Result<WriteInput, Failure> {
    let TransactInput { txn, session, call } = txn(request, arrival)?;
    Ok(WriteInput { request: WriteRequest::Txn(txn), session, call })
}

/// The answer to any change.
pub(super) fn write_response(request_id: String, answer: Answer) -> Response {
    match answer {
        Answer::Put(answer) => Response::Put(put_response(request_id, answer)),
        Answer::Delete(answer) => Response::Delete(delete_response(request_id, answer)),
        Answer::Txn(answer) => Response::Txn(txn_response(request_id, answer)),
        other @ (Answer::Done | Answer::SessionOpened(_)) => {
            unreachable!("a write is answered as what it is, not by {other:?}")
        }
    }
}

pub(super) fn scan(
    request: v1::ScanRequest,
    page_bytes_max: u32,
    arrival: &Arrival,
) -> Result<ScanInput, Failure> {
    let options = read_options(request.consistency, request.min_revision)?;
    let call = call(request.request_id, &request.map, arrival)?;
    let scan = Scan {
        start: request.start,
        end: request.end,
        limit: request.limit,
        reverse: request.reverse,
        keys_only: request.keys_only,
    };
    Ok(ScanInput { scan, page_bytes_max, options, call })
}

fn read_options(
    consistency: buffa::EnumValue<v1::Consistency>,
    min_revision: u64,
) -> Result<ReadOptions, Failure> {
    let consistency = match consistency.as_known() {
        Some(v1::Consistency::LINEARIZABLE) => Consistency::Linearizable,
        Some(v1::Consistency::STALE) => Consistency::Stale,
        None => return Err(InvalidRequest::Unset { field: "consistency" }.into()),
    };
    Ok(ReadOptions { consistency, min_revision: LogIndex(min_revision) })
}

fn session_tag(message: Option<v1::SessionTag>) -> Option<SessionTag> {
    message.map(|tag| SessionTag {
        session_id: SessionId(tag.session_id),
        sequence: tag.sequence,
        acknowledged_below: tag.acknowledged_below,
    })
}

fn put_entry(message: v1::PutEntry) -> PutEntry {
    PutEntry { key: message.key, value: message.value, ttl_ms: NonZeroU64::new(message.ttl_ms) }
}

fn condition(message: v1::Condition) -> Result<Condition, Failure> {
    let expected = match message.expected {
        Some(v1::condition::Expected::Exists(exists)) => Expected::Exists(exists),
        Some(v1::condition::Expected::Revision(index)) => Expected::Revision(LogIndex(index)),
        Some(v1::condition::Expected::Value(value)) => Expected::Value(value),
        None => return Err(InvalidRequest::Unset { field: "conditions.expected" }.into()),
    };
    Ok(Condition { key: message.key, expected })
}

fn operation(message: v1::Operation, field: &'static str) -> Result<Operation, Failure> {
    match message.operation {
        Some(v1::operation::Operation::Put(entry)) => Ok(Operation::Put(put_entry(entry))),
        Some(v1::operation::Operation::Delete(key)) => Ok(Operation::Delete(key)),
        Some(v1::operation::Operation::Get(key)) => Ok(Operation::Get(key)),
        None => Err(InvalidRequest::Unset { field }.into()),
    }
}

pub(super) fn get_response(request_id: String, answer: GetAnswer) -> v1::GetResponse {
    v1::GetResponse { request_id, revision: answer.revision.0, results: get_results(answer.records) }
}

pub(super) fn put_response(request_id: String, answer: PutAnswer) -> v1::PutResponse {
    v1::PutResponse { request_id, revision: answer.revision.0, previous: get_results(answer.previous) }
}

pub(super) fn delete_response(request_id: String, answer: DeleteAnswer) -> v1::DeleteResponse {
    v1::DeleteResponse {
        request_id,
        revision: answer.revision.0,
        deleted: answer.deleted,
        previous: get_results(answer.previous),
    }
}

pub(super) fn txn_response(request_id: String, answer: TxnAnswer) -> v1::TxnResponse {
    v1::TxnResponse {
        request_id,
        revision: answer.revision.0,
        succeeded: answer.succeeded,
        results: answer.results.into_iter().map(operation_result).collect(),
    }
}

pub(super) fn scan_response(request_id: String, page: ScanPage) -> v1::ScanResponse {
    v1::ScanResponse {
        request_id,
        revision: page.answer.revision.0,
        entries: page.answer.records.into_iter().map(entry).collect(),
        done: page.last,
        more: page.answer.more,
    }
}

pub(super) fn open_session_response(request_id: String, answer: &SessionOpened) -> v1::OpenSessionResponse {
    v1::OpenSessionResponse {
        request_id,
        session_id: answer.session_id.0,
        idle_expiry_ms: answer.idle_expiry_ms,
        max_in_flight: answer.in_flight_max,
    }
}

fn get_results(records: Vec<Option<Record>>) -> Vec<v1::GetResult> {
    records.into_iter().map(|record| v1::GetResult { entry: record.map(entry).into() }).collect()
}

fn operation_result(result: OperationResult) -> v1::OperationResult {
    match result {
        OperationResult::Got(record) => {
            v1::OperationResult { entry: record.map(entry).into(), ..Default::default() }
        }
        OperationResult::Put { previous } => {
            v1::OperationResult { previous: previous.map(entry).into(), ..Default::default() }
        }
        OperationResult::Deleted { previous } => v1::OperationResult {
            deleted: previous.is_some(),
            previous: previous.map(entry).into(),
            ..Default::default()
        },
    }
}

fn entry(record: Record) -> v1::Entry {
    v1::Entry {
        key: record.key,
        value: record.value,
        revision: record.revision.0,
        expires_at_ms: record.expires_at_ms.map_or(0, NonZeroU64::get),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_short_and_quoted() {
        assert_eq!(excerpt("a\nb"), r#""a\nb""#);
        let long = excerpt(&"é".repeat(1000));
        assert_eq!(long, format!("\"{}\"...", "é".repeat(64)));
    }
}
