//! The bytes of a command: what a log entry holds.

use std::num::{NonZeroU64, NonZeroU128};

use bytes::{BufMut, Bytes, BytesMut};
use raftmap_raft::{LogIndex, NodeId};
use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::{DecodeError, Decoder, FLAG_0, FLAG_1, FLAG_2, put_bytes, put_list, put_varint};
use crate::command::{Body, Command, Introduction, Member, SessionLimits, Write};
use crate::level::{LEVEL_FIRST, LEVEL_OF_SCANS, LEVEL_OF_TRACES};
use crate::request::{
    Condition, Delete, Expected, Operation, Put, PutEntry, SessionId, SessionTag, Txn, WriteRequest,
};
use crate::trace::TraceContext;

const VERSION: u8 = 1;

const STAMPED: u8 = FLAG_0;
const TAGGED: u8 = FLAG_1;
const TRACED: u8 = FLAG_2;

const RETURN_PREVIOUS: u8 = FLAG_0;

const PUT: u8 = 1;
const DELETE: u8 = 2;
const TXN: u8 = 3;
const OPEN_SESSION: u8 = 4;
const TIME: u8 = 5;
const RECORD_MEMBER: u8 = 6;
const INTRODUCE_MEMBER: u8 = 7;
const RAISE_LEVEL: u8 = 8;
const SCAN: u8 = 9;

const EXPECT_EXISTS: u8 = 1;
const EXPECT_REVISION: u8 = 2;
const EXPECT_VALUE: u8 = 3;

/// A command, and what its request was written as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecodedCommand {
    /// The command; its keys and values are slices of the bytes that it came from.
    pub command: Command,
    /// The bytes of its request; empty if it is no write.
    pub request: RequestBytes,
}

/// What a client asked for, as it was written: without tag, time and limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestBytes {
    kind: u8,
    bytes: Bytes,
}

impl RequestBytes {
    /// Two attempts at the same write have the same hash. It guards a client that mixes up its sequences; against one
    /// that looks for collisions nothing is lost but its own answers.
    pub fn hash(&self) -> u128 {
        xxh3_128_with_seed(&self.bytes, u64::from(self.kind))
    }
}

impl Command {
    /// Its bytes, made once: the same ones go to the log, to every peer and to the state machine.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64 + self.size_estimate());
        let tagged = matches!(&self.body, Body::Write(Write { session: Some(_), .. }));
        out.put_u8(VERSION);
        out.put_u8(self.body.kind());
        let flag = |set, flag| if set { flag } else { 0 };
        out.put_u8(
            flag(self.stamped_time_ms.is_some(), STAMPED)
                | flag(tagged, TAGGED)
                | flag(self.trace.is_some(), TRACED),
        );
        if let Some(trace) = &self.trace {
            out.put_u128_le(trace.trace_id().get());
            out.put_u64_le(trace.span_id().get());
        }
        if let Some(time) = self.stamped_time_ms {
            put_varint(&mut out, time);
        }
        match &self.body {
            Body::Write(write) => put_write(&mut out, write),
            Body::OpenSession(limits) => {
                put_varint(&mut out, limits.idle_expiry_ms);
                put_varint(&mut out, u64::from(limits.in_flight_max));
                put_varint(&mut out, limits.kept_bytes_max);
                put_varint(&mut out, u64::from(limits.sessions_max));
            }
            Body::Time | Body::Scan => {}
            Body::RecordMember(member) => {
                put_varint(&mut out, member.node_id.0);
                out.put_u128_le(member.incarnation);
                out.put_u128_le(member.founding_hash);
            }
            Body::IntroduceMember(introduction) => {
                put_varint(&mut out, introduction.node_id.0);
                put_introduction(&mut out, introduction);
            }
            Body::RaiseLevel(level) => out.put_u8(*level),
        }
        out.freeze()
    }

    fn size_estimate(&self) -> usize {
        const NUMBERS: usize = 16;
        let entry = |entry: &PutEntry| NUMBERS + entry.key.len() + entry.value.len();
        let operation = |operation: &Operation| match operation {
            Operation::Put(put) => entry(put),
            Operation::Delete(key) | Operation::Get(key) => NUMBERS + key.len(),
        };
        let condition = |condition: &Condition| {
            NUMBERS
                + condition.key.len()
                + if let Expected::Value(value) = &condition.expected { value.len() } else { 0 }
        };
        let Body::Write(write) = &self.body else { return 0 };
        match &write.request {
            WriteRequest::Put(put) => put.entries.iter().map(entry).sum(),
            WriteRequest::Delete(delete) => delete.keys.iter().map(|key| NUMBERS + key.len()).sum(),
            WriteRequest::Txn(txn) => {
                txn.conditions.iter().map(condition).sum::<usize>()
                    + txn.then.iter().chain(&txn.otherwise).map(operation).sum::<usize>()
            }
        }
    }

    /// Whether these are the bytes of a [`Body::Scan`].
    pub fn is_scan(bytes: &[u8]) -> bool {
        bytes.first_chunk() == Some(&[VERSION, SCAN])
    }

    /// The command that [`Self::encode`] wrote.
    ///
    /// # Errors
    /// If the version, the command or a part of it is unknown, or the bytes are malformed: the server stops.
    pub fn decode(bytes: Bytes) -> Result<DecodedCommand, DecodeError> {
        let mut decoder = Decoder::new(bytes);
        decoder.version("command", VERSION)?;
        let kind = decoder.u8("command kind")?;
        let write = matches!(kind, PUT | DELETE | TXN);
        let known = STAMPED | TRACED | if write { TAGGED } else { 0 };
        let flags = decoder.flags("command flags", known)?;
        let trace = if flags & TRACED == 0 { None } else { Some(decode_trace(&mut decoder)?) };
        let stamped_time_ms = if flags & STAMPED == 0 { None } else { Some(decoder.varint("stamped time")?) };
        let (body, bytes) = if write {
            let (write, request) = decode_write(&mut decoder, kind, flags & TAGGED != 0)?;
            (Body::Write(write), request)
        } else {
            (decode_other(&mut decoder, kind)?, Bytes::new())
        };
        decoder.end("command")?;
        Ok(DecodedCommand {
            command: Self { stamped_time_ms, trace, body },
            request: RequestBytes { kind, bytes },
        })
    }
}

impl Command {
    /// The feature level that a server must understand to apply the command with these bytes; see [`crate::LEVEL`]. The highest of
    /// all for bytes that this program does not know.
    pub fn level_of(bytes: &[u8]) -> u8 {
        let traced = if is_traced(bytes) { LEVEL_OF_TRACES } else { LEVEL_FIRST };
        Self::level_untraced(bytes).max(traced)
    }

    /// [`Self::level_of`] the same command without its trace.
    pub fn level_untraced(bytes: &[u8]) -> u8 {
        match *bytes {
            [VERSION, PUT..=INTRODUCE_MEMBER, ..] => LEVEL_FIRST,
            [VERSION, RAISE_LEVEL, .., level] => level,
            [VERSION, SCAN, ..] => LEVEL_OF_SCANS,
            _ => u8::MAX,
        }
    }

    /// Whose trace the command with these bytes belongs to. A look at a byte, for nearly all.
    pub fn trace_of(bytes: &[u8]) -> Option<TraceContext> {
        if !is_traced(bytes) {
            return None;
        }
        let (trace_id, rest) = bytes.get(HEAD_BYTES..)?.split_first_chunk()?;
        let trace_id = NonZeroU128::new(u128::from_le_bytes(*trace_id))?;
        let span_id = NonZeroU64::new(u64::from_le_bytes(*rest.first_chunk()?))?;
        Some(TraceContext::new(trace_id, span_id))
    }
}

/// Version, kind and flags.
const HEAD_BYTES: usize = 3;

fn is_traced(bytes: &[u8]) -> bool {
    matches!(*bytes, [VERSION, _, flags, ..] if flags & TRACED != 0)
}

fn decode_trace(decoder: &mut Decoder) -> Result<TraceContext, DecodeError> {
    let (trace_id, span_id) = (decoder.u128_le("trace id")?, decoder.u64_le("span id")?);
    match (NonZeroU128::new(trace_id), NonZeroU64::new(span_id)) {
        (Some(trace_id), Some(span_id)) => Ok(TraceContext::new(trace_id, span_id)),
        _ => Err(DecodeError::Malformed { what: "trace" }),
    }
}

impl Body {
    fn kind(&self) -> u8 {
        match self {
            Self::Write(write) => match &write.request {
                WriteRequest::Put(_) => PUT,
                WriteRequest::Delete(_) => DELETE,
                WriteRequest::Txn(_) => TXN,
            },
            Self::OpenSession(_) => OPEN_SESSION,
            Self::Time => TIME,
            Self::RecordMember(_) => RECORD_MEMBER,
            Self::IntroduceMember(_) => INTRODUCE_MEMBER,
            Self::RaiseLevel(_) => RAISE_LEVEL,
            Self::Scan => SCAN,
        }
    }
}

fn put_write(out: &mut BytesMut, write: &Write) {
    put_varint(out, u64::from(write.answer_bytes_max));
    if let Some(tag) = &write.session {
        put_varint(out, tag.session_id.0);
        put_varint(out, tag.sequence);
        put_varint(out, tag.acknowledged_below);
    }
    match &write.request {
        WriteRequest::Put(put) => {
            out.put_u8(if put.return_previous { RETURN_PREVIOUS } else { 0 });
            put_list(out, &put.entries, put_entry);
        }
        WriteRequest::Delete(delete) => {
            out.put_u8(if delete.return_previous { RETURN_PREVIOUS } else { 0 });
            put_list(out, &delete.keys, |out, key| put_bytes(out, key));
        }
        WriteRequest::Txn(txn) => {
            put_list(out, &txn.conditions, put_condition);
            put_list(out, &txn.then, put_operation);
            put_list(out, &txn.otherwise, put_operation);
        }
    }
}

fn put_entry(out: &mut BytesMut, entry: &PutEntry) {
    put_bytes(out, &entry.key);
    put_bytes(out, &entry.value);
    put_varint(out, entry.ttl_ms.map_or(0, NonZeroU64::get));
}

fn put_condition(out: &mut BytesMut, condition: &Condition) {
    put_bytes(out, &condition.key);
    match &condition.expected {
        Expected::Exists(exists) => {
            out.put_u8(EXPECT_EXISTS);
            out.put_u8(u8::from(*exists));
        }
        Expected::Revision(revision) => {
            out.put_u8(EXPECT_REVISION);
            put_varint(out, revision.0);
        }
        Expected::Value(value) => {
            out.put_u8(EXPECT_VALUE);
            put_bytes(out, value);
        }
    }
}

/// An operation starts with the kind of the request that does the same; a get has its own.
const GET: u8 = 3;

fn put_operation(out: &mut BytesMut, operation: &Operation) {
    match operation {
        Operation::Put(entry) => {
            out.put_u8(PUT);
            put_entry(out, entry);
        }
        Operation::Delete(key) => {
            out.put_u8(DELETE);
            put_bytes(out, key);
        }
        Operation::Get(key) => {
            out.put_u8(GET);
            put_bytes(out, key);
        }
    }
}

fn decode_write(decoder: &mut Decoder, kind: u8, tagged: bool) -> Result<(Write, Bytes), DecodeError> {
    let answer_bytes_max = decoder.varint_u32("answer limit")?;
    let session = if tagged { Some(decode_tag(decoder)?) } else { None };
    let request_bytes = decoder.rest().clone();
    let request = match kind {
        PUT => {
            let return_previous = decoder.flags("put flags", RETURN_PREVIOUS)? != 0;
            WriteRequest::Put(Put { entries: decoder.list("put entries", decode_entry)?, return_previous })
        }
        DELETE => {
            let return_previous = decoder.flags("delete flags", RETURN_PREVIOUS)? != 0;
            let keys = decoder.list("delete keys", |decoder| decoder.bytes("key"))?;
            WriteRequest::Delete(Delete { keys, return_previous })
        }
        _ => WriteRequest::Txn(Txn {
            conditions: decoder.list("txn conditions", decode_condition)?,
            then: decoder.list("txn operations", decode_operation)?,
            otherwise: decoder.list("txn operations", decode_operation)?,
        }),
    };
    Ok((Write { request, session, answer_bytes_max }, request_bytes))
}

fn decode_other(decoder: &mut Decoder, kind: u8) -> Result<Body, DecodeError> {
    match kind {
        OPEN_SESSION => Ok(Body::OpenSession(SessionLimits {
            idle_expiry_ms: decoder.varint("idle expiry")?,
            in_flight_max: decoder.varint_u32("in-flight limit")?,
            kept_bytes_max: decoder.varint("kept bytes limit")?,
            sessions_max: decoder.varint_u32("sessions limit")?,
        })),
        TIME => Ok(Body::Time),
        RECORD_MEMBER => Ok(Body::RecordMember(Member {
            node_id: NodeId(decoder.varint("node id")?),
            incarnation: decoder.u128_le("incarnation")?,
            founding_hash: decoder.u128_le("founding hash")?,
        })),
        INTRODUCE_MEMBER => {
            let node_id = NodeId(decoder.varint("node id")?);
            Ok(Body::IntroduceMember(decode_introduction(decoder, node_id)?))
        }
        RAISE_LEVEL => Ok(Body::RaiseLevel(decoder.level("raised level")?)),
        SCAN => Ok(Body::Scan),
        value => Err(DecodeError::Unknown { what: "command kind", value }),
    }
}

/// The parts of an introduction that its row has, too.
pub(super) fn put_introduction(out: &mut BytesMut, introduction: &Introduction) {
    put_bytes(out, introduction.peer_address.as_bytes());
    put_bytes(out, introduction.client_address.as_bytes());
    put_varint(out, introduction.replaces.map_or(0, |id| id.0));
}

pub(super) fn decode_introduction(
    decoder: &mut Decoder,
    node_id: NodeId,
) -> Result<Introduction, DecodeError> {
    let mut address = |what| {
        let bytes = decoder.bytes(what)?;
        String::from_utf8(bytes.into()).map_err(|_| DecodeError::Malformed { what })
    };
    let (peer_address, client_address) = (address("peer address")?, address("client address")?);
    let replaces = Some(NodeId(decoder.varint("replaced member")?)).filter(|id| id.0 > 0);
    Ok(Introduction { node_id, peer_address, client_address, replaces })
}

fn decode_tag(decoder: &mut Decoder) -> Result<SessionTag, DecodeError> {
    Ok(SessionTag {
        session_id: SessionId(decoder.varint("session id")?),
        sequence: decoder.varint("sequence")?,
        acknowledged_below: decoder.varint("acknowledged sequence")?,
    })
}

fn decode_entry(decoder: &mut Decoder) -> Result<PutEntry, DecodeError> {
    Ok(PutEntry {
        key: decoder.bytes("key")?,
        value: decoder.bytes("value")?,
        ttl_ms: NonZeroU64::new(decoder.varint("time to live")?),
    })
}

fn decode_condition(decoder: &mut Decoder) -> Result<Condition, DecodeError> {
    let key = decoder.bytes("key")?;
    let expected = match decoder.u8("condition")? {
        EXPECT_EXISTS => Expected::Exists(decoder.bool("condition")?),
        EXPECT_REVISION => Expected::Revision(LogIndex(decoder.varint("revision")?)),
        EXPECT_VALUE => Expected::Value(decoder.bytes("value")?),
        value => return Err(DecodeError::Unknown { what: "condition", value }),
    };
    Ok(Condition { key, expected })
}

fn decode_operation(decoder: &mut Decoder) -> Result<Operation, DecodeError> {
    match decoder.u8("operation")? {
        PUT => Ok(Operation::Put(decode_entry(decoder)?)),
        DELETE => Ok(Operation::Delete(decoder.bytes("key")?)),
        GET => Ok(Operation::Get(decoder.bytes("key")?)),
        value => Err(DecodeError::Unknown { what: "operation", value }),
    }
}
