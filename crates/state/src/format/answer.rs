//! The bytes of an answer or refusal: what a session keeps, and what the running digest takes in.

use std::num::NonZeroU64;

use bytes::{BufMut, Bytes, BytesMut};
use raftmap_raft::{LogIndex, NodeId};

use super::{DecodeError, Decoder, put_bytes, put_list, put_varint};
use crate::answer::{
    Answer, DeleteAnswer, OperationResult, PutAnswer, Record, Refusal, SessionOpened, TxnAnswer,
};
use crate::request::SessionId;

const DONE: u8 = 0;
const PUT: u8 = 1;
const DELETE: u8 = 2;
const TXN: u8 = 3;
const SESSION_OPENED: u8 = 4;

const SESSION_UNKNOWN: u8 = 65;
const SEQUENCE_FORGOTTEN: u8 = 66;
const SEQUENCE_REUSED: u8 = 67;
const TOO_MANY_IN_FLIGHT: u8 = 68;
const KEPT_ANSWERS_FULL: u8 = 69;
const ANSWER_TOO_LARGE: u8 = 70;
const MEMBER_MISMATCH: u8 = 71;

/// Room for a usual result, in bytes.
pub(crate) const RESULT_BYTES: usize = 32;

const RESULT_PUT: u8 = 1;
const RESULT_DELETED: u8 = 2;
const RESULT_GOT: u8 = 3;

/// The bytes of what became of an entry: what a session keeps, what the running digest takes in, and what a leader
/// answers to a follower that passed a command on.
pub fn encode_result(result: &Result<Answer, Refusal>) -> Bytes {
    let mut out = BytesMut::with_capacity(RESULT_BYTES);
    put_result(&mut out, result);
    out.freeze()
}

/// Writes what [`encode_result`] gives.
pub(crate) fn put_result(out: &mut BytesMut, result: &Result<Answer, Refusal>) {
    match result {
        Ok(answer) => put_answer(out, answer),
        Err(refusal) => put_refusal(out, refusal),
    }
}

fn put_answer(out: &mut BytesMut, answer: &Answer) {
    match answer {
        Answer::Done => out.put_u8(DONE),
        Answer::Put(put) => {
            out.put_u8(PUT);
            put_varint(out, put.revision.0);
            put_list(out, &put.previous, put_record);
        }
        Answer::Delete(delete) => {
            out.put_u8(DELETE);
            put_varint(out, delete.revision.0);
            put_varint(out, delete.deleted);
            put_list(out, &delete.previous, put_record);
        }
        Answer::Txn(txn) => {
            out.put_u8(TXN);
            put_varint(out, txn.revision.0);
            out.put_u8(u8::from(txn.succeeded));
            put_list(out, &txn.results, put_operation_result);
        }
        Answer::SessionOpened(session) => {
            out.put_u8(SESSION_OPENED);
            put_varint(out, session.session_id.0);
            put_varint(out, session.idle_expiry_ms);
            put_varint(out, u64::from(session.in_flight_max));
        }
    }
}

fn put_operation_result(out: &mut BytesMut, result: &OperationResult) {
    let (kind, record) = match result {
        OperationResult::Put { previous } => (RESULT_PUT, previous),
        OperationResult::Deleted { previous } => (RESULT_DELETED, previous),
        OperationResult::Got(record) => (RESULT_GOT, record),
    };
    out.put_u8(kind);
    put_record(out, record);
}

fn put_record(out: &mut BytesMut, record: &Option<Record>) {
    out.put_u8(u8::from(record.is_some()));
    if let Some(record) = record {
        put_bytes(out, &record.key);
        put_bytes(out, &record.value);
        put_varint(out, record.revision.0);
        put_varint(out, record.expires_at_ms.map_or(0, NonZeroU64::get));
    }
}

fn put_refusal(out: &mut BytesMut, refusal: &Refusal) {
    let (kind, numbers) = match refusal {
        Refusal::SessionUnknown { session_id } => (SESSION_UNKNOWN, [Some(session_id.0), None]),
        Refusal::SequenceForgotten { sequence, acknowledged_below } => {
            (SEQUENCE_FORGOTTEN, [Some(*sequence), Some(*acknowledged_below)])
        }
        Refusal::SequenceReused { sequence } => (SEQUENCE_REUSED, [Some(*sequence), None]),
        Refusal::TooManyInFlight { limit } => (TOO_MANY_IN_FLIGHT, [Some(u64::from(*limit)), None]),
        Refusal::KeptAnswersFull { limit } => (KEPT_ANSWERS_FULL, [Some(*limit), None]),
        Refusal::AnswerTooLarge { limit } => (ANSWER_TOO_LARGE, [Some(*limit), None]),
        Refusal::MemberMismatch { node_id } => (MEMBER_MISMATCH, [Some(node_id.0), None]),
    };
    out.put_u8(kind);
    for number in numbers.into_iter().flatten() {
        put_varint(out, number);
    }
}

/// What [`encode_result`] wrote; keys and values are slices of `bytes`.
///
/// # Errors
/// If the bytes are malformed, or of a kind that this version does not know.
pub fn decode_result(bytes: Bytes) -> Result<Result<Answer, Refusal>, DecodeError> {
    let mut decoder = Decoder::new(bytes);
    let kind = decoder.u8("answer kind")?;
    let result = if kind < SESSION_UNKNOWN {
        Ok(decode_answer(&mut decoder, kind)?)
    } else {
        Err(decode_refusal(&mut decoder, kind)?)
    };
    decoder.end("answer")?;
    Ok(result)
}

fn decode_answer(decoder: &mut Decoder, kind: u8) -> Result<Answer, DecodeError> {
    Ok(match kind {
        DONE => Answer::Done,
        PUT => Answer::Put(PutAnswer {
            revision: LogIndex(decoder.varint("revision")?),
            previous: decoder.list("records", decode_record)?,
        }),
        DELETE => Answer::Delete(DeleteAnswer {
            revision: LogIndex(decoder.varint("revision")?),
            deleted: decoder.varint("deleted")?,
            previous: decoder.list("records", decode_record)?,
        }),
        TXN => Answer::Txn(TxnAnswer {
            revision: LogIndex(decoder.varint("revision")?),
            succeeded: decoder.bool("succeeded")?,
            results: decoder.list("results", decode_operation_result)?,
        }),
        SESSION_OPENED => Answer::SessionOpened(SessionOpened {
            session_id: SessionId(decoder.varint("session id")?),
            idle_expiry_ms: decoder.varint("idle expiry")?,
            in_flight_max: decoder.varint_u32("in-flight limit")?,
        }),
        value => return Err(DecodeError::Unknown { what: "answer kind", value }),
    })
}

fn decode_operation_result(decoder: &mut Decoder) -> Result<OperationResult, DecodeError> {
    Ok(match decoder.u8("result kind")? {
        RESULT_PUT => OperationResult::Put { previous: decode_record(decoder)? },
        RESULT_DELETED => OperationResult::Deleted { previous: decode_record(decoder)? },
        RESULT_GOT => OperationResult::Got(decode_record(decoder)?),
        value => return Err(DecodeError::Unknown { what: "result kind", value }),
    })
}

fn decode_record(decoder: &mut Decoder) -> Result<Option<Record>, DecodeError> {
    if !decoder.bool("record")? {
        return Ok(None);
    }
    Ok(Some(Record {
        key: decoder.bytes("key")?,
        value: decoder.bytes("value")?,
        revision: LogIndex(decoder.varint("revision")?),
        expires_at_ms: NonZeroU64::new(decoder.varint("expiry")?),
    }))
}

fn decode_refusal(decoder: &mut Decoder, kind: u8) -> Result<Refusal, DecodeError> {
    Ok(match kind {
        SESSION_UNKNOWN => Refusal::SessionUnknown { session_id: SessionId(decoder.varint("session id")?) },
        SEQUENCE_FORGOTTEN => Refusal::SequenceForgotten {
            sequence: decoder.varint("sequence")?,
            acknowledged_below: decoder.varint("acknowledged sequence")?,
        },
        SEQUENCE_REUSED => Refusal::SequenceReused { sequence: decoder.varint("sequence")? },
        TOO_MANY_IN_FLIGHT => Refusal::TooManyInFlight { limit: decoder.varint_u32("limit")? },
        KEPT_ANSWERS_FULL => Refusal::KeptAnswersFull { limit: decoder.varint("limit")? },
        ANSWER_TOO_LARGE => Refusal::AnswerTooLarge { limit: decoder.varint("limit")? },
        MEMBER_MISMATCH => Refusal::MemberMismatch { node_id: NodeId(decoder.varint("node id")?) },
        value => return Err(DecodeError::Unknown { what: "answer kind", value }),
    })
}
