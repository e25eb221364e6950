//! The rows of the engine: keys that sort as they are read, values with fixed little-endian fields.

use std::num::NonZeroU64;

use bytes::{BufMut, Bytes, BytesMut};
use raftmap_raft::{GroupId, LogIndex, LogPosition, Membership, MembershipError, NodeId, Term};

use super::command::{decode_introduction, put_introduction};
use super::{DecodeError, Decoder};
use crate::answer::Record;
use crate::command::{Introduction, Member};
use crate::level::LEVEL_FIRST;

/// Keys of rows: one byte for the table, then what orders its rows, numbers big-endian.
pub(crate) mod table {
    use bytes::{BufMut, Bytes, BytesMut};
    use raftmap_raft::NodeId;

    use crate::format::DecodeError;
    use crate::request::SessionId;

    const APPLIED: u8 = 1;
    const MAP: u8 = 2;
    const DEADLINES: u8 = 3;
    const SESSIONS: u8 = 4;
    const ANSWERS: u8 = 5;
    const LARGE_ANSWERS: u8 = 6;
    const MEMBERS: u8 = 7;
    const MEMBERSHIP: u8 = 8;
    const REMOVED: u8 = 9;
    const INTRODUCTIONS: u8 = 10;
    const SCANNED: u8 = 12;

    /// Whose row a row is.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Table {
        Applied,
        Map,
        Deadlines,
        Sessions,
        Answers,
        LargeAnswers,
        Members,
        Membership,
        Removed,
        Introductions,
        Scanned,
    }

    /// The table of a row, by its key. A table of one row has one key.
    pub(crate) fn of(row_key: &Bytes) -> Result<Table, DecodeError> {
        let table = match row_key.first() {
            None => return Err(DecodeError::Truncated { what: "row key" }),
            Some(&APPLIED) => Table::Applied,
            Some(&MAP) => Table::Map,
            Some(&DEADLINES) => Table::Deadlines,
            Some(&SESSIONS) => Table::Sessions,
            Some(&ANSWERS) => Table::Answers,
            Some(&LARGE_ANSWERS) => Table::LargeAnswers,
            Some(&MEMBERS) => Table::Members,
            Some(&MEMBERSHIP) => Table::Membership,
            Some(&REMOVED) => Table::Removed,
            Some(&INTRODUCTIONS) => Table::Introductions,
            Some(&SCANNED) => Table::Scanned,
            Some(&value) => return Err(DecodeError::Unknown { what: "table", value }),
        };
        if matches!(table, Table::Applied | Table::Membership | Table::Scanned) {
            end(row_key, 1)?;
        }
        Ok(table)
    }

    /// The bytes before and after all rows of a table.
    pub(crate) type Span = ([u8; 1], [u8; 1]);

    pub(crate) const DEADLINES_SPAN: Span = ([DEADLINES], [DEADLINES + 1]);
    pub(crate) const SESSIONS_SPAN: Span = ([SESSIONS], [SESSIONS + 1]);
    pub(crate) const ANSWERS_SPAN: Span = ([ANSWERS], [ANSWERS + 1]);
    pub(crate) const LARGE_ANSWERS_SPAN: Span = ([LARGE_ANSWERS], [LARGE_ANSWERS + 1]);
    pub(crate) const MEMBERS_SPAN: Span = ([MEMBERS], [MEMBERS + 1]);
    pub(crate) const REMOVED_SPAN: Span = ([REMOVED], [REMOVED + 1]);
    pub(crate) const INTRODUCTIONS_SPAN: Span = ([INTRODUCTIONS], [INTRODUCTIONS + 1]);
    pub(crate) const ALL_SPAN: Span = ([0], [u8::MAX]);

    /// The one row of [`super::Applied`].
    pub(crate) const APPLIED_KEY: [u8; 1] = [APPLIED];

    /// The one row of [`super::encode_membership`].
    pub(crate) const MEMBERSHIP_KEY: [u8; 1] = [MEMBERSHIP];

    /// The one row of [`super::encode_scanned`].
    pub(crate) const SCANNED_KEY: [u8; 1] = [SCANNED];

    fn put_key(out: &mut BytesMut, table: u8, parts: &[&[u8]]) {
        out.put_u8(table);
        for part in parts {
            out.put_slice(part);
        }
    }

    fn key(table: u8, parts: &[&[u8]]) -> Bytes {
        let mut out = BytesMut::with_capacity(1 + parts.iter().map(|part| part.len()).sum::<usize>());
        put_key(&mut out, table, parts);
        out.freeze()
    }

    /// A key of the map; a whole range of them is `map_key(start)..map_key(end)`.
    pub(crate) fn map_key(key_: &[u8]) -> Bytes {
        key(MAP, &[key_])
    }

    /// Writes [`map_key`].
    pub(crate) fn put_map_key(out: &mut BytesMut, key_: &[u8]) {
        put_key(out, MAP, &[key_]);
    }

    /// Where the map ends.
    pub(crate) const MAP_END: [u8; 1] = [MAP + 1];

    /// The client's key in a row's key: what follows the table's byte.
    pub(crate) fn map_key_of_row(row_key: &Bytes) -> Bytes {
        row_key.slice(1..)
    }

    /// A key that expires; the row has no value.
    pub(crate) fn deadline_key(deadline_ms: u64, key_: &[u8]) -> Bytes {
        key(DEADLINES, &[&deadline_ms.to_be_bytes(), key_])
    }

    /// The deadline in milliseconds and the client's key in a row of [`deadline_key`].
    pub(crate) fn decode_deadline(row_key: &Bytes) -> Result<(u64, Bytes), DecodeError> {
        let (deadline_ms, _) = big_endian(row_key, 1)?;
        Ok((deadline_ms, row_key.slice(9..)))
    }

    pub(crate) fn session_key(id: SessionId) -> Bytes {
        key(SESSIONS, &[&id.0.to_be_bytes()])
    }

    /// Writes [`session_key`].
    pub(crate) fn put_session_key(out: &mut BytesMut, id: SessionId) {
        put_key(out, SESSIONS, &[&id.0.to_be_bytes()]);
    }

    pub(crate) fn decode_session_key(row_key: &Bytes) -> Result<SessionId, DecodeError> {
        let (id, next) = big_endian(row_key, 1)?;
        end(row_key, next)?;
        Ok(SessionId(id))
    }

    /// The small answers of the sequences from `first` on.
    pub(crate) fn answers_key(id: SessionId, first: u64) -> Bytes {
        key(ANSWERS, &[&id.0.to_be_bytes(), &first.to_be_bytes()])
    }

    /// Writes [`answers_key`].
    pub(crate) fn put_answers_key(out: &mut BytesMut, id: SessionId, first: u64) {
        put_key(out, ANSWERS, &[&id.0.to_be_bytes(), &first.to_be_bytes()]);
    }

    pub(crate) fn large_answer_key(id: SessionId, sequence: u64) -> Bytes {
        key(LARGE_ANSWERS, &[&id.0.to_be_bytes(), &sequence.to_be_bytes()])
    }

    /// The session and the sequence in a row of [`answers_key`] or [`large_answer_key`].
    pub(crate) fn decode_answers_key(row_key: &Bytes) -> Result<(SessionId, u64), DecodeError> {
        let (id, next) = big_endian(row_key, 1)?;
        let (sequence, next) = big_endian(row_key, next)?;
        end(row_key, next)?;
        Ok((SessionId(id), sequence))
    }

    pub(crate) fn member_key(id: NodeId) -> Bytes {
        key(MEMBERS, &[&id.0.to_be_bytes()])
    }

    /// A member that is none any more; the row has no value.
    pub(crate) fn removed_key(id: NodeId) -> Bytes {
        key(REMOVED, &[&id.0.to_be_bytes()])
    }

    pub(crate) fn introduction_key(id: NodeId) -> Bytes {
        key(INTRODUCTIONS, &[&id.0.to_be_bytes()])
    }

    /// The member of a row whose key is nothing but its id.
    pub(crate) fn decode_node_key(row_key: &Bytes) -> Result<NodeId, DecodeError> {
        let (id, next) = big_endian(row_key, 1)?;
        end(row_key, next)?;
        Ok(NodeId(id))
    }

    /// A longer key would be a second row of what may have one.
    fn end(row_key: &Bytes, at: usize) -> Result<(), DecodeError> {
        match row_key.len() - at {
            0 => Ok(()),
            bytes => Err(DecodeError::Trailing { what: "row key", bytes }),
        }
    }

    fn big_endian(row_key: &Bytes, at: usize) -> Result<(u64, usize), DecodeError> {
        match row_key.get(at..).and_then(|rest| rest.first_chunk()) {
            Some(bytes) => Ok((u64::from_be_bytes(*bytes), at + 8)),
            None => Err(DecodeError::Truncated { what: "row key" }),
        }
    }
}

/// How far the state machine is: in the same atomic batch as the rows that it speaks for (scenario 47).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Applied {
    /// The cluster's feature level: the version of all rows together, in the one row that is always read first.
    pub(crate) level: u8,
    pub(crate) group: GroupId,
    pub(crate) position: LogPosition,
    pub(crate) log_time_ms: u64,
    pub(crate) running_digest: u128,
}

impl Applied {
    /// The length of [`Self::encode`]'s answer.
    pub(crate) const BYTES: usize = 49;

    /// Before the first entry.
    pub(crate) fn start(group: GroupId) -> Self {
        Self {
            level: LEVEL_FIRST,
            group,
            position: LogPosition::default(),
            log_time_ms: 0,
            running_digest: 0,
        }
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(Self::BYTES);
        out.put_u8(self.level);
        out.put_u64_le(self.group.0);
        out.put_u64_le(self.position.term.0);
        out.put_u64_le(self.position.index.0);
        out.put_u64_le(self.log_time_ms);
        out.put_u128_le(self.running_digest);
        out.freeze()
    }

    pub(crate) fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        const WHAT: &str = "applied row";
        let mut decoder = Decoder::new(bytes);
        let applied = Self {
            level: decoder.level("state machine")?,
            group: GroupId(decoder.u64_le(WHAT)?),
            position: LogPosition {
                term: Term(decoder.u64_le(WHAT)?),
                index: LogIndex(decoder.u64_le(WHAT)?),
            },
            log_time_ms: decoder.u64_le(WHAT)?,
            running_digest: decoder.u128_le(WHAT)?,
        };
        decoder.end(WHAT)?;
        Ok(applied)
    }
}

/// A key's row: revision, deadline (0: none), value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MapRow {
    pub(crate) revision: LogIndex,
    pub(crate) expires_at_ms: Option<NonZeroU64>,
    pub(crate) value: Bytes,
}

impl MapRow {
    /// What stands before the value.
    pub(crate) const HEAD_BYTES: usize = 16;

    pub(crate) fn put(&self, out: &mut BytesMut) {
        out.put_u64_le(self.revision.0);
        out.put_u64_le(self.expires_at_ms.map_or(0, NonZeroU64::get));
        out.put_slice(&self.value);
    }

    /// The value is a slice of `bytes`.
    pub(crate) fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut decoder = Decoder::new(bytes);
        Ok(Self {
            revision: LogIndex(decoder.u64_le("map row")?),
            expires_at_ms: NonZeroU64::new(decoder.u64_le("map row")?),
            value: decoder.rest().clone(),
        })
    }

    /// Whether readers see it at this log time: a key is absent from its deadline on.
    pub(crate) fn is_live(&self, log_time_ms: u64) -> bool {
        self.expires_at_ms.is_none_or(|deadline| deadline.get() > log_time_ms)
    }

    pub(crate) fn into_record(self, key: Bytes) -> Record {
        Record { key, value: self.value, revision: self.revision, expires_at_ms: self.expires_at_ms }
    }
}

/// A session's row; its answers are rows of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionRow {
    pub(crate) idle_expiry_ms: u64,
    pub(crate) in_flight_max: u32,
    pub(crate) kept_bytes_max: u64,
    pub(crate) acknowledged_below: u64,
    pub(crate) last_used_ms: u64,
    pub(crate) last_used: LogIndex,
}

impl SessionRow {
    /// What [`Self::put`] writes.
    pub(crate) const BYTES: usize = 44;

    pub(crate) fn put(&self, out: &mut BytesMut) {
        out.put_u64_le(self.idle_expiry_ms);
        out.put_u32_le(self.in_flight_max);
        out.put_u64_le(self.kept_bytes_max);
        out.put_u64_le(self.acknowledged_below);
        out.put_u64_le(self.last_used_ms);
        out.put_u64_le(self.last_used.0);
    }

    pub(crate) fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        const WHAT: &str = "session row";
        let mut decoder = Decoder::new(bytes);
        let row = Self {
            idle_expiry_ms: decoder.u64_le(WHAT)?,
            in_flight_max: decoder.u32_le(WHAT)?,
            kept_bytes_max: decoder.u64_le(WHAT)?,
            acknowledged_below: decoder.u64_le(WHAT)?,
            last_used_ms: decoder.u64_le(WHAT)?,
            last_used: LogIndex(decoder.u64_le(WHAT)?),
        };
        decoder.end(WHAT)?;
        Ok(row)
    }
}

pub(crate) fn encode_introduction(index: LogIndex, introduction: &Introduction) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u64_le(index.0);
    put_introduction(&mut out, introduction);
    out.freeze()
}

pub(crate) fn decode_introduction_row(
    row_key: &Bytes,
    value: Bytes,
) -> Result<(LogIndex, Introduction), DecodeError> {
    let mut decoder = Decoder::new(value);
    let index = LogIndex(decoder.u64_le("introduction")?);
    let introduction = decode_introduction(&mut decoder, table::decode_node_key(row_key)?)?;
    decoder.end("introduction")?;
    Ok((index, introduction))
}

pub(crate) fn encode_member(member: &Member) -> Bytes {
    let mut out = BytesMut::with_capacity(40);
    out.put_u64_le(member.node_id.0);
    out.put_u128_le(member.incarnation);
    out.put_u128_le(member.founding_hash);
    out.freeze()
}

pub(crate) fn decode_member(bytes: Bytes) -> Result<Member, DecodeError> {
    const WHAT: &str = "member row";
    let mut decoder = Decoder::new(bytes);
    let member = Member {
        node_id: NodeId(decoder.u64_le(WHAT)?),
        incarnation: decoder.u128_le(WHAT)?,
        founding_hash: decoder.u128_le(WHAT)?,
    };
    decoder.end(WHAT)?;
    Ok(member)
}

/// The log time of the last scan, in milliseconds.
pub(crate) fn encode_scanned(log_time_ms: u64) -> Bytes {
    Bytes::copy_from_slice(&log_time_ms.to_le_bytes())
}

pub(crate) fn decode_scanned(bytes: Bytes) -> Result<u64, DecodeError> {
    const WHAT: &str = "row of the last scan";
    let mut decoder = Decoder::new(bytes);
    let log_time_ms = decoder.u64_le(WHAT)?;
    decoder.end(WHAT)?;
    Ok(log_time_ms)
}

/// The members that an entry put in force, and that entry's index.
pub(crate) fn encode_membership(index: LogIndex, membership: &Membership) -> Bytes {
    let mut out = BytesMut::with_capacity(8 + membership.encoded_len());
    out.put_u64_le(index.0);
    out.put_slice(&membership.encode());
    out.freeze()
}

pub(crate) fn decode_membership(bytes: Bytes) -> Result<(LogIndex, Membership), DecodeError> {
    const WHAT: &str = "membership row";
    let mut decoder = Decoder::new(bytes);
    let index = LogIndex(decoder.u64_le(WHAT)?);
    let membership = Membership::decode(decoder.rest()).map_err(|error| match error {
        MembershipError::UnknownVersion(version) => DecodeError::UnknownVersion { what: WHAT, version },
        MembershipError::Malformed => DecodeError::Malformed { what: WHAT },
    })?;
    Ok((index, membership))
}
