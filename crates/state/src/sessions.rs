//! Sessions: a write that is sent again is applied once (Raft dissertation, section 6.3).
//!
//! A session belongs to one client and is opened through the log. It keeps the result of each of its writes until the
//! client says that it has it. Everything here is decided by the entry alone: its index, its tag, and log time (scenario
//! 45: a session never expires on replay if it did not the first time).
//!
//! When a write with a tag comes by, in this order:
//! 1. An unknown or expired session is refused, never made on the fly: its answers are gone, and the write may have been
//!    applied already.
//! 2. The session counts as used, and answers below `acknowledged_below` are forgotten, whatever becomes of the write.
//! 3. A sequence that is forgotten is refused; one that is kept gets its first result again, if the content is the same.
//! 4. A new one is refused, unapplied, if the session keeps as many answers as it may.
//!
//! Nothing is evicted from a session that is in use: its client would see a write applied twice or lose an answer. It is
//! the session that goes, when it was idle for too long, or as the one that was idle for longest when too many are open.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use raftmap_raft::LogIndex;

use crate::answer::{Answer, Refusal, SessionOpened};
use crate::command::SessionLimits;
use crate::engine::{Engine, Snapshot};
use crate::error::StateError;
use crate::format::{SessionRow, table};
use crate::kept::KeptAnswers;
use crate::limits::EXPIRED_SESSION_ROWS_PER_ENTRY;
use crate::overlay::Overlay;
use crate::request::{SessionId, SessionTag};

/// All sessions. Their rows are in the engine; what decides is here as well, without large answers.
#[derive(Default)]
pub(crate) struct Sessions {
    open: BTreeMap<SessionId, Session>,
    /// The one that was unused for longest comes first.
    by_use: BTreeSet<(LogIndex, SessionId)>,
    /// The one that expires next comes first.
    by_deadline: BTreeSet<(u64, SessionId)>,
}

struct Session {
    row: SessionRow,
    kept: KeptAnswers,
}

/// What becomes of a write with a tag.
pub(crate) enum Admission {
    /// It is to be carried out, and its result kept.
    New,
    /// It was carried out before, with this result.
    Repeated(Result<Answer, Refusal>),
    /// It is not carried out.
    Refused(Refusal),
}

impl Session {
    fn deadline_ms(&self) -> u64 {
        self.row.last_used_ms.saturating_add(self.row.idle_expiry_ms)
    }
}

impl Sessions {
    /// Reads them back after a start.
    pub(crate) fn load(snapshot: &impl Snapshot) -> Result<Self, StateError> {
        let mut sessions = Self::default();
        let (start, end) = table::SESSIONS_SPAN;
        for row in snapshot.range(&start, &end) {
            let (key, value) = row?;
            let row = SessionRow::decode(value)?;
            sessions.add(table::decode_session_key(&key)?, row);
        }
        let (start, end) = table::ANSWERS_SPAN;
        for row in snapshot.range(&start, &end) {
            let (key, value) = row?;
            let (session, first) = sessions.owner(&key)?;
            session.kept.load_group(first, value, session.row.acknowledged_below)?;
        }
        let (start, end) = table::LARGE_ANSWERS_SPAN;
        for row in snapshot.range(&start, &end) {
            let (key, value) = row?;
            let (session, sequence) = sessions.owner(&key)?;
            session.kept.load_large(sequence, value)?;
        }
        Ok(sessions)
    }

    /// Whose answers a row holds, and their first sequence.
    fn owner(&mut self, row_key: &Bytes) -> Result<(&mut Session, u64), StateError> {
        let (id, sequence) = table::decode_answers_key(row_key)?;
        match self.open.get_mut(&id) {
            Some(session) => Ok((session, sequence)),
            None => Err(StateError::Inconsistent("an answer without its session")),
        }
    }

    fn add(&mut self, id: SessionId, row: SessionRow) {
        let session = Session { row, kept: KeptAnswers::default() };
        self.by_use.insert((row.last_used, id));
        self.by_deadline.insert((session.deadline_ms(), id));
        self.open.insert(id, session);
    }

    /// Opens the session that has this entry's index as its id.
    pub(crate) fn open<E: Engine>(
        &mut self,
        overlay: &mut Overlay<'_, E>,
        limits: SessionLimits,
        index: LogIndex,
        log_time_ms: u64,
    ) -> SessionOpened {
        while self.open.len() >= limits.sessions_max as usize
            && let Some(id) = self.least_needed(log_time_ms)
        {
            self.close(overlay, id);
        }
        let session_id = SessionId(index.0);
        let row = SessionRow {
            idle_expiry_ms: limits.idle_expiry_ms,
            in_flight_max: limits.in_flight_max,
            kept_bytes_max: limits.kept_bytes_max,
            acknowledged_below: 0,
            last_used_ms: log_time_ms,
            last_used: index,
        };
        set_row(overlay, session_id, &row);
        self.add(session_id, row);
        SessionOpened {
            session_id,
            idle_expiry_ms: limits.idle_expiry_ms,
            in_flight_max: limits.in_flight_max,
        }
    }

    /// One that expired, if there is one; else the one that was unused for longest.
    fn least_needed(&self, log_time_ms: u64) -> Option<SessionId> {
        let expired = self.by_deadline.first().filter(|(deadline_ms, _)| *deadline_ms <= log_time_ms);
        expired.map(|(_, id)| *id).or_else(|| self.by_use.first().map(|(_, id)| *id))
    }

    /// Decides about a write with a tag; steps 1 to 4 above.
    pub(crate) fn admit<E: Engine>(
        &mut self,
        overlay: &mut Overlay<'_, E>,
        tag: SessionTag,
        request_hash: u128,
        index: LogIndex,
        log_time_ms: u64,
    ) -> Result<Admission, StateError> {
        let session_id = tag.session_id;
        let sequence = tag.sequence;
        let Some(session) =
            self.open.get_mut(&session_id).filter(|session| session.deadline_ms() > log_time_ms)
        else {
            return Ok(Admission::Refused(Refusal::SessionUnknown { session_id }));
        };

        self.by_use.remove(&(session.row.last_used, session_id));
        self.by_deadline.remove(&(session.deadline_ms(), session_id));
        session.row.last_used = index;
        session.row.last_used_ms = log_time_ms;
        self.by_use.insert((index, session_id));
        self.by_deadline.insert((session.deadline_ms(), session_id));
        session.acknowledge(overlay, session_id, tag.acknowledged_below);
        set_row(overlay, session_id, &session.row);

        let acknowledged_below = session.row.acknowledged_below;
        if sequence < acknowledged_below {
            return Ok(Admission::Refused(Refusal::SequenceForgotten { sequence, acknowledged_below }));
        }
        if let Some(kept) = session.kept.request_hash(sequence) {
            if kept != request_hash {
                return Ok(Admission::Refused(Refusal::SequenceReused { sequence }));
            }
            return Ok(Admission::Repeated(session.kept.result(overlay, session_id, sequence)?));
        }
        let limit = session.row.in_flight_max;
        if session.kept.len() >= limit as usize {
            return Ok(Admission::Refused(Refusal::TooManyInFlight { limit }));
        }
        Ok(Admission::New)
    }

    /// Keeps the encoded result of a write that [`Self::admit`] let in. If the session may not keep that much more, the
    /// write is to be taken back.
    pub(crate) fn keep<E: Engine>(
        &mut self,
        overlay: &mut Overlay<'_, E>,
        tag: SessionTag,
        request_hash: u128,
        result: &[u8],
    ) -> Result<Result<(), Refusal>, StateError> {
        let Some(session) = self.open.get_mut(&tag.session_id) else {
            return Err(StateError::Inconsistent("a session closed while its write was carried out"));
        };
        let limit = session.row.kept_bytes_max;
        if !session.kept.has_room_for(result, limit) {
            return Ok(Err(Refusal::KeptAnswersFull { limit }));
        }
        session.kept.keep(overlay, tag.session_id, tag.sequence, request_hash, result);
        Ok(Ok(()))
    }

    /// Closes sessions that expired, the longest expired first, up to the limit of rows for one entry or all rows of one
    /// session.
    pub(crate) fn remove_expired<E: Engine>(&mut self, overlay: &mut Overlay<'_, E>, log_time_ms: u64) {
        let mut rows = 0;
        while rows < EXPIRED_SESSION_ROWS_PER_ENTRY
            && let Some(&(deadline_ms, id)) = self.by_deadline.first()
            && deadline_ms <= log_time_ms
        {
            rows += self.close(overlay, id);
        }
    }

    /// Forgets a session and gives the number of its rows.
    fn close<E: Engine>(&mut self, overlay: &mut Overlay<'_, E>, id: SessionId) -> usize {
        let Some(session) = self.open.remove(&id) else { return 0 };
        self.by_use.remove(&(session.row.last_used, id));
        self.by_deadline.remove(&(session.deadline_ms(), id));
        overlay.remove(table::session_key(id));
        1 + session.kept.remove_all(overlay, id)
    }
}

fn set_row<E: Engine>(overlay: &mut Overlay<'_, E>, id: SessionId, row: &SessionRow) {
    let key = overlay.encode(9, |out| table::put_session_key(out, id));
    let value = overlay.encode(SessionRow::BYTES, |out| row.put(out));
    overlay.set(key, value);
}

impl Session {
    fn acknowledge<E: Engine>(&mut self, overlay: &mut Overlay<'_, E>, id: SessionId, below: u64) {
        if below <= self.row.acknowledged_below {
            return;
        }
        self.row.acknowledged_below = below;
        self.kept.forget_below(overlay, id, below);
    }
}
