//! The state machine: applies committed entries, in order, to the rows of an engine.

use bytes::{Bytes, BytesMut};
use raftmap_raft::{Entry, GroupId, LogIndex, LogPosition, Membership, Payload};

use crate::answer::{Answer, Outcome, Refusal};
use crate::command::{Body, Command, Introduction, Member, Write};
use crate::digest::{Digest, EntryDigest};
use crate::engine::Engine;
use crate::error::StateError;
use crate::expiry::Deadlines;
use crate::format::{
    Applied, RESULT_BYTES, RequestBytes, decode_member, encode_introduction, encode_member,
    encode_membership, encode_scanned, put_result, table,
};
use crate::map::MapStep;
use crate::overlay::Overlay;
use crate::reader::{Reader, read_membership, read_scanned};
use crate::sessions::{Admission, Sessions};
use crate::validate::check_possible;

/// A replica's state. Servers that applied the same entries hold the same rows and gave the same results, however the
/// entries were cut into batches and however often a server crashed on the way.
pub struct StateMachine<E: Engine> {
    engine: E,
    applied: Applied,
    sessions: Sessions,
    deadlines: Deadlines,
    membership: Option<(LogIndex, Membership)>,
    milestone: Option<(LogIndex, Digest)>,
    scanned_ms: Option<u64>,
    /// Where the rows of a batch are encoded.
    room: BytesMut,
    /// An error left memory and engine apart; nothing more is applied.
    stopped: bool,
}

/// Makes durable what a state machine had applied at one moment.
pub struct Persistence<E: Engine> {
    engine: E,
    position: LogPosition,
}

impl<E: Engine> Persistence<E> {
    /// Does it, and gives the position up to which the state machine is durable.
    ///
    /// # Errors
    /// If the engine fails: the node ends.
    pub fn run(self) -> Result<LogPosition, StateError> {
        self.engine.persist()?;
        Ok(self.position)
    }
}

/// How many entries stand between two milestones.
pub const MILESTONE_ENTRIES: u64 = 64;

/// Where a command is applied.
struct Step<'a, 'o, E: Engine> {
    overlay: &'a mut Overlay<'o, E>,
    index: LogIndex,
    log_time_ms: u64,
}

impl<E: Engine> StateMachine<E> {
    /// The state machine of `group` as the engine has it: after [`Self::applied`], from where the log is applied again.
    ///
    /// # Errors
    /// If the engine fails, holds another group's state, or holds what this version does not understand.
    pub fn open(engine: E, group: GroupId) -> Result<Self, StateError> {
        let snapshot = engine.snapshot();
        let applied = Applied::read(&snapshot, group)?;
        let sessions = Sessions::load(&snapshot)?;
        let deadlines = Deadlines::load(&snapshot)?;
        let (membership, scanned_ms) = (read_membership(&snapshot)?, read_scanned(&snapshot)?);
        Ok(Self {
            engine,
            applied,
            sessions,
            deadlines,
            membership,
            milestone: None,
            scanned_ms,
            room: BytesMut::new(),
            stopped: false,
        })
    }

    /// The last entry that was applied; index 0 before the first.
    pub fn applied(&self) -> LogPosition {
        self.applied.position
    }

    /// Log time, in milliseconds since the Unix epoch: the latest time that an applied entry was stamped with.
    pub fn log_time_ms(&self) -> u64 {
        self.applied.log_time_ms
    }

    /// The cluster's feature level: what its servers may use; see [`crate::LEVEL`].
    pub fn level(&self) -> u8 {
        self.applied.level
    }

    /// The running digest after the last applied entry.
    pub fn running_digest(&self) -> Digest {
        Digest(self.applied.running_digest)
    }

    /// The running digest after the last entry that was applied since the machine was opened and whose index is a multiple of
    /// [`MILESTONE_ENTRIES`]: there it can be compared with that of a server that applied the entries in other batches.
    pub fn milestone(&self) -> Option<(LogIndex, Digest)> {
        self.milestone
    }

    /// The members that the last applied entry of that kind put in force, and its index. `None`: there was none, and the
    /// founding members are in force.
    pub fn membership(&self) -> Option<(LogIndex, Membership)> {
        self.membership.clone()
    }

    /// A log time in milliseconds before which no key expires. Once the clock passes it without traffic the leader
    /// proposes [`Body::Time`]; it may do so in vain once, since this can be earlier than the next real deadline, and
    /// many times while expired rows remain, since each entry removes a bounded number. `None`: no key expires.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.deadlines.earliest_ms()
    }

    /// The log time of the last [`Body::Scan`], in milliseconds. `None`: there was none.
    pub fn scanned_ms(&self) -> Option<u64> {
        self.scanned_ms
    }

    /// The store.
    pub fn into_engine(self) -> E {
        self.engine
    }

    /// A handle for reads from any thread.
    pub fn reader(&self) -> Reader<E> {
        Reader::new(self.engine.clone(), self.applied.group)
    }

    /// Applies entries that are committed and durable here, the next ones after [`Self::applied`], in one atomic step of
    /// the engine. Gives one outcome for each.
    ///
    /// # Errors
    /// Any error ends the node: nothing of these entries reached the engine, or all of it, and the machine applies
    /// nothing more.
    pub fn apply(&mut self, entries: &[Entry]) -> Result<Vec<Outcome>, StateError> {
        if self.stopped {
            return Err(StateError::Stopped);
        }
        let outcomes = self.apply_batch(entries);
        self.stopped = outcomes.is_err();
        outcomes
    }

    /// Makes durable what was applied so far and gives the position up to which it is; it blocks for as long as the disk
    /// takes.
    ///
    /// # Errors
    /// If the engine fails: the node ends.
    pub fn persist(&self) -> Result<LogPosition, StateError> {
        self.persistence().run()
    }

    /// What [`Self::persist`] does, to be done on any thread while more is applied.
    pub fn persistence(&self) -> Persistence<E> {
        Persistence { engine: self.engine.clone(), position: self.applied.position }
    }

    fn apply_batch(&mut self, entries: &[Entry]) -> Result<Vec<Outcome>, StateError> {
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let level_before = self.applied.level;
        let (engine, mut room) = (self.engine.clone(), std::mem::take(&mut self.room));
        let mut overlay = Overlay::new(&engine, &mut room);
        let mut outcomes = Vec::with_capacity(entries.len());
        for entry in entries {
            let result = self.apply_entry(&mut overlay, entry)?;
            outcomes.push(Outcome { index: entry.index, result });
        }
        let records_member = overlay.changes_any(table::MEMBERS_SPAN);
        overlay.set(Bytes::from_static(&table::APPLIED_KEY), self.applied.encode());
        self.engine.commit(overlay.into_batch())?;
        self.room = room;
        if records_member || self.applied.level > level_before {
            // Once for each member and each level, for ever: a server that starts must know the members before the log is applied
            // again, or a wiped disk could vote under a known id meanwhile. And no older program starts on this state any more.
            self.engine.persist()?;
        }
        Ok(outcomes)
    }

    fn apply_entry(
        &mut self,
        overlay: &mut Overlay<'_, E>,
        entry: &Entry,
    ) -> Result<Result<Answer, Refusal>, StateError> {
        let position = entry.position();
        let applied = self.applied.position;
        if position.index != applied.index.next() || position.term < applied.term {
            return Err(StateError::NotContiguous { applied, found: position });
        }
        let result = match &entry.payload {
            Payload::Noop => Ok(Answer::Done),
            Payload::Membership(membership) => {
                self.change_members(overlay, position.index, membership)?;
                Ok(Answer::Done)
            }
            Payload::Command(bytes) => self.command(overlay, position.index, bytes.clone())?,
        };
        self.deadlines.remove_expired(overlay, self.applied.log_time_ms)?;
        self.sessions.remove_expired(overlay, self.applied.log_time_ms);

        let mut digest =
            EntryDigest::new(self.running_digest(), position, self.applied.log_time_ms, self.applied.level);
        overlay.end_entry(|key, value| digest.row(key, value));
        let encoded = overlay.encode(RESULT_BYTES, |out| put_result(out, &result));
        self.applied.running_digest = digest.finish(&encoded).0;
        self.applied.position = position;
        if position.index.0.is_multiple_of(MILESTONE_ENTRIES) {
            self.milestone = Some((position.index, self.running_digest()));
        }
        Ok(result)
    }

    /// Puts a membership in force. Who is in it no more is remembered for ever: its id is never used again. A voter is always
    /// in the joint configuration before the one that leaves it out, and a learner came in by an entry, so that the one before
    /// names whoever goes.
    fn change_members(
        &mut self,
        overlay: &mut Overlay<'_, E>,
        index: LogIndex,
        membership: &Membership,
    ) -> Result<(), StateError> {
        let stays = membership.all();
        let before = self.membership.as_ref().map(|(_, before)| before.all()).unwrap_or_default();
        for gone in before.difference(&stays) {
            overlay.set(table::removed_key(*gone), Bytes::new());
            let introduction = table::introduction_key(*gone);
            if overlay.get(&introduction)?.is_some() {
                overlay.remove(introduction);
            }
        }
        overlay.set(Bytes::from_static(&table::MEMBERSHIP_KEY), encode_membership(index, membership));
        self.membership = Some((index, membership.clone()));
        Ok(())
    }

    fn command(
        &mut self,
        overlay: &mut Overlay<'_, E>,
        index: LogIndex,
        bytes: Bytes,
    ) -> Result<Result<Answer, Refusal>, StateError> {
        let decoded = Command::decode(bytes).map_err(|source| StateError::Command { index, source })?;
        check_possible(&decoded.command).map_err(|source| StateError::Impossible { index, source })?;
        // Log time never goes back, whatever the clocks of two leaders say.
        let stamped = decoded.command.stamped_time_ms.unwrap_or(0);
        self.applied.log_time_ms = self.applied.log_time_ms.max(stamped);
        let mut step = Step { overlay, index, log_time_ms: self.applied.log_time_ms };
        match decoded.command.body {
            Body::Write(write) => self.write(&mut step, write, &decoded.request),
            Body::OpenSession(limits) => {
                let opened = self.sessions.open(step.overlay, limits, index, step.log_time_ms);
                Ok(Ok(Answer::SessionOpened(opened)))
            }
            Body::Time => Ok(Ok(Answer::Done)),
            Body::RecordMember(member) => record_member(step.overlay, member),
            Body::IntroduceMember(introduction) => introduce_member(&mut step, &introduction),
            Body::RaiseLevel(level) => {
                self.applied.level = self.applied.level.max(level);
                Ok(Ok(Answer::Done))
            }
            Body::Scan => {
                self.scanned_ms = Some(step.log_time_ms);
                step.overlay.set(Bytes::from_static(&table::SCANNED_KEY), encode_scanned(step.log_time_ms));
                Ok(Ok(Answer::Done))
            }
        }
    }

    fn write(
        &mut self,
        step: &mut Step<'_, '_, E>,
        write: Write,
        request: &RequestBytes,
    ) -> Result<Result<Answer, Refusal>, StateError> {
        let Step { overlay, index, log_time_ms } = step;
        let (index, log_time_ms) = (*index, *log_time_ms);
        let tag = write.session.map(|tag| (tag, request.hash()));
        if let Some((tag, hash)) = tag {
            match self.sessions.admit(overlay, tag, hash, index, log_time_ms)? {
                Admission::New => {}
                Admission::Repeated(result) => return Ok(result),
                Admission::Refused(refusal) => return Ok(Err(refusal)),
            }
        }
        let before = overlay.mark();
        let mut map = MapStep { overlay, deadlines: &mut self.deadlines, index, log_time_ms };
        let result = map.write(write.request, write.answer_bytes_max)?;
        if let Some((tag, hash)) = tag {
            let encoded = overlay.encode(RESULT_BYTES, |out| put_result(out, &result));
            if let Err(refusal) = self.sessions.keep(overlay, tag, hash, &encoded)? {
                overlay.roll_back(before);
                return Ok(Err(refusal));
            }
        }
        Ok(result)
    }
}

/// Records who a member is, or confirms it. A node id stands for one data directory for ever, and all members come from
/// the same founding (STORAGE.md, "Identity").
fn record_member<E: Engine>(
    overlay: &mut Overlay<'_, E>,
    member: Member,
) -> Result<Result<Answer, Refusal>, StateError> {
    let key = table::member_key(member.node_id);
    let (start, end) = table::MEMBERS_SPAN;
    let known = overlay.get(&key)?.map(decode_member).transpose()?;
    let contradicts = if let Some(known) = known {
        known != member
    } else if let Some((_, other)) = overlay.first_rows(&start, &end, 1)?.pop() {
        decode_member(other)?.founding_hash != member.founding_hash
    } else {
        false
    };
    if contradicts {
        return Ok(Err(Refusal::MemberMismatch { node_id: member.node_id }));
    }
    if known.is_none() {
        overlay.set(key, encode_member(&member));
    }
    Ok(Ok(Answer::Done))
}

/// Says where a member is, or a server that is to become one; the latest word holds. One that was removed stays so.
fn introduce_member<E: Engine>(
    step: &mut Step<'_, '_, E>,
    introduction: &Introduction,
) -> Result<Result<Answer, Refusal>, StateError> {
    let (index, id) = (step.index, introduction.node_id);
    if step.overlay.get(&table::removed_key(id))?.is_none() {
        step.overlay.set(table::introduction_key(id), encode_introduction(index, introduction));
    }
    Ok(Ok(Answer::Done))
}
