//! Random commands against the model, on both engines, cut into batches at random, with restarts and crashes between.

use std::num::NonZeroU64;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use raftmap_raft::{Membership, NodeId, Payload};
use raftmap_state::{
    Answer, Body, Command, Condition, Damage, Delete, DiskEngine, DiskOptions, Engine, Expected, Get, LEVEL,
    LEVEL_FIRST, Member, MemoryEngine, Operation, Put, PutEntry, Refusal, Scan, SessionId, SessionLimits,
    SessionTag, StateMachine, TraceContext, Txn, Write, WriteRequest,
};

use crate::common::{ANSWER_BYTES_MAX, Outcomes, Server, content_digest, open, scan_all};
use crate::model::Model;

/// One step of a history. What depends on what came before is chosen by number and looked up when it is run.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Write {
        request: WriteRequest,
        time: Time,
        small_answer: bool,
        tag: Option<Tag>,
    },
    /// Sends a write again that was sent before with a tag.
    Repeat {
        which: usize,
        time: Time,
    },
    OpenSession {
        limits: SessionLimits,
        time: Time,
    },
    TimePasses {
        time: Time,
    },
    RecordMember(Member),
    RaiseLevel(u8),
    Noop,
    /// Of so many voters.
    Membership(u64),
}

/// The leader's clock: it may go back, and may not be stamped.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Time {
    Unstamped,
    Forward(u64),
    Back(u64),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Tag {
    /// Among those that were opened; beyond them: one that never was.
    session: usize,
    sequence: u64,
    acknowledges: u64,
}

fn key() -> impl Strategy<Value = Bytes> {
    prop_oneof!["[a-d]", "[a-b]{2}", Just("\u{0}".to_string())].prop_map(Bytes::from)
}

fn value() -> impl Strategy<Value = Bytes> {
    prop_oneof![4 => vec(any::<u8>(), 0..4), 1 => vec(any::<u8>(), 100..200)].prop_map(Bytes::from)
}

fn put_entry() -> impl Strategy<Value = PutEntry> {
    let ttl = prop_oneof![2 => Just(None), 3 => (1u64..60).prop_map(NonZeroU64::new)];
    (key(), value(), ttl).prop_map(|(key, value, ttl_ms)| PutEntry { key, value, ttl_ms })
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        put_entry().prop_map(Operation::Put),
        key().prop_map(Operation::Delete),
        key().prop_map(Operation::Get)
    ]
}

fn condition() -> impl Strategy<Value = Condition> {
    let expected = prop_oneof![
        any::<bool>().prop_map(Expected::Exists),
        (0u64..30).prop_map(|revision| Expected::Revision(raftmap_raft::LogIndex(revision))),
        value().prop_map(Expected::Value),
    ];
    (key(), expected).prop_map(|(key, expected)| Condition { key, expected })
}

fn request() -> impl Strategy<Value = WriteRequest> {
    let put = (vec(put_entry(), 1..4), any::<bool>()).prop_map(|(mut entries, return_previous)| {
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        entries.dedup_by(|a, b| a.key == b.key);
        WriteRequest::Put(Put { entries, return_previous })
    });
    let delete = (vec(key(), 1..4), any::<bool>()).prop_map(|(mut keys, return_previous)| {
        keys.sort();
        keys.dedup();
        WriteRequest::Delete(Delete { keys, return_previous })
    });
    let txn = (vec(condition(), 0..3), vec(operation(), 1..5), vec(operation(), 0..3))
        .prop_map(|(conditions, then, otherwise)| WriteRequest::Txn(Txn { conditions, then, otherwise }));
    prop_oneof![3 => put, 1 => delete, 2 => txn]
}

fn time() -> impl Strategy<Value = Time> {
    prop_oneof![
        20 => Just(Time::Unstamped),
        50 => (0u64..15).prop_map(Time::Forward),
        2 => (50u64..300).prop_map(Time::Forward),
        10 => (0u64..100).prop_map(Time::Back),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let sequence = prop_oneof![12 => 1u64..5, 1 => 31u64..34];
    let acknowledges = prop_oneof![20 => 0u64..4, 1 => 31u64..34];
    let tag = (prop_oneof![5 => Just(0usize), 2 => Just(1), 1 => 2usize..5], sequence, acknowledges)
        .prop_map(|(session, sequence, acknowledges)| Tag { session, sequence, acknowledges });
    let write = (request(), time(), prop::bool::weighted(0.2), prop::option::weighted(0.7, tag))
        .prop_map(|(request, time, small_answer, tag)| Step::Write { request, time, small_answer, tag });
    let limits = (20u64..400, 1u32..4, 40u64..300, 1u32..5).prop_map(
        |(idle_expiry_ms, in_flight_max, kept_bytes_max, sessions_max)| SessionLimits {
            idle_expiry_ms,
            in_flight_max,
            kept_bytes_max,
            sessions_max,
        },
    );
    let member = (1u64..3, 1u128..3, prop::bool::weighted(0.1)).prop_map(|(id, incarnation, stranger)| {
        Member { node_id: NodeId(id), incarnation, founding_hash: u128::from(stranger) }
    });
    prop_oneof![
        12 => write,
        3 => (any::<usize>(), time()).prop_map(|(which, time)| Step::Repeat { which, time }),
        2 => (limits, time()).prop_map(|(limits, time)| Step::OpenSession { limits, time }),
        2 => time().prop_map(|time| Step::TimePasses { time }),
        1 => member.prop_map(Step::RecordMember),
        1 => Just(Step::Noop),
        1 => (LEVEL_FIRST..=LEVEL).prop_map(Step::RaiseLevel),
        1 => (1u64..6).prop_map(Step::Membership),
    ]
}

/// Turns steps into log entries and what the model answers to them.
#[derive(Default)]
pub(crate) struct Scribe {
    pub(crate) model: Model,
    clock_ms: u64,
    sessions: Vec<SessionId>,
    tagged: Vec<Write>,
    pub(crate) expected: Outcomes,
}

impl Scribe {
    fn stamp(&mut self, time: Time) -> Option<u64> {
        match time {
            Time::Unstamped => None,
            Time::Forward(by) => {
                self.clock_ms += by;
                Some(self.clock_ms)
            }
            Time::Back(by) => Some(self.clock_ms.saturating_sub(by)),
        }
    }

    pub(crate) fn payload(&mut self, step: &Step) -> Payload {
        let (time, body) = match step {
            Step::Noop => {
                let result = self.model.skip();
                self.expected.push(result);
                return Payload::Noop;
            }
            Step::Membership(voters) => {
                let membership = Membership::of_voters((1..=*voters).map(NodeId));
                let result = self.model.change_membership(&membership);
                self.expected.push(result);
                return Payload::Membership(Box::new(membership));
            }
            Step::Write { request, time, small_answer, tag } => {
                let session = tag.map(|tag| SessionTag {
                    session_id: self.sessions.get(tag.session).copied().unwrap_or(SessionId(9999)),
                    sequence: tag.sequence.max(tag.acknowledges),
                    acknowledged_below: tag.acknowledges,
                });
                let answer_bytes_max = if *small_answer { 300 } else { ANSWER_BYTES_MAX };
                let write = Write { request: request.clone(), session, answer_bytes_max };
                if session.is_some() {
                    self.tagged.push(write.clone());
                }
                (*time, Body::Write(write))
            }
            Step::Repeat { which, time } if self.tagged.is_empty() => (*time, Body::Time),
            Step::Repeat { which, time } => {
                (*time, Body::Write(self.tagged[which % self.tagged.len()].clone()))
            }
            Step::OpenSession { limits, time } => (*time, Body::OpenSession(*limits)),
            Step::TimePasses { time } => (*time, Body::Time),
            Step::RecordMember(member) => (Time::Unstamped, Body::RecordMember(*member)),
            Step::RaiseLevel(level) => (Time::Unstamped, Body::RaiseLevel(*level)),
        };
        // What a command does, and its digest, never depend on its trace.
        let trace = NonZeroU64::new(self.expected.len() as u64 % 3)
            .map(|span_id| TraceContext::new(span_id.into(), span_id));
        let command = Command { stamped_time_ms: self.stamp(time), trace, body };
        let result = self.model.apply(&command);
        if let Ok(Answer::SessionOpened(opened)) = &result {
            // The newest first, so that most tags name a session that is still open.
            self.sessions.insert(0, opened.session_id);
        }
        self.expected.push(result);
        Payload::Command(command.encode())
    }
}

pub(crate) fn assert_same_state<E: Engine>(machine: &StateMachine<E>, model: &Model) {
    assert_eq!(machine.applied().index.0, model.index);
    assert_eq!(machine.log_time_ms(), model.log_time_ms);
    assert_eq!(machine.level(), model.level.max(LEVEL_FIRST));
    assert_eq!(scan_all(machine, &Scan::default()), model.records());
    let mut reversed = model.records();
    reversed.reverse();
    assert_eq!(scan_all(machine, &Scan { reverse: true, ..Scan::default() }), reversed);
    let keys: Vec<Bytes> = ["a", "b", "c", "d", "aa", "ab", "ba", "bb"].map(Bytes::from).into();
    let got = machine.reader().get(&Get { keys: keys.clone() }, ANSWER_BYTES_MAX).unwrap();
    assert_eq!(got.revision.0, model.index);
    assert_eq!(got.records, keys.iter().map(|key| model.get(key)).collect::<Vec<_>>());
    assert_eq!(machine.membership(), model.membership);
    assert_eq!(machine.reader().membership().unwrap(), model.membership);
    assert_eq!(machine.reader().members().unwrap(), model.members.values().copied().collect::<Vec<_>>());
}

pub(crate) fn results<E: Engine>(server: &mut Server<E>, batch_max: usize) -> Outcomes {
    server.catch_up(batch_max).into_iter().map(|outcome| outcome.result).collect()
}

/// A stretch of history that is in the log before the next is applied, how it is cut, and how the server ends it.
#[derive(Clone, Debug)]
pub(crate) struct Stretch {
    pub(crate) steps: Vec<Step>,
    pub(crate) batch_max: usize,
    persists: bool,
    crash_seed: Option<u64>,
}

pub(crate) fn history(stretches: usize) -> impl Strategy<Value = Vec<Stretch>> {
    let stretch =
        (vec(step(), 1..25), 1usize..9, prop::bool::weighted(0.3), prop::option::of(any::<u64>())).prop_map(
            |(steps, batch_max, persists, crash_seed)| Stretch { steps, batch_max, persists, crash_seed },
        );
    vec(stretch, 1..stretches)
}

pub(crate) fn cases(default: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(default) }
}

proptest! {
    #![proptest_config(cases(96))]

    /// Scenarios 27 and 45 among them: after each stretch one server may crash and apply again what its engine lost; it
    /// gives the answers that it gave before, and ends where the one that never crashed ends.
    #[test]
    fn a_server_that_crashes_and_one_that_does_not_agree_with_the_model(history in history(8)) {
        let mut scribe = Scribe::default();
        let mut steady = Server::in_memory();
        let mut engine = MemoryEngine::new();
        let mut crashing = Server::on(engine.clone());
        for stretch in &history {
            for step in &stretch.steps {
                let payload = scribe.payload(step);
                steady.append(payload.clone());
                crashing.append(payload);
            }
            let from = scribe.expected.len() - stretch.steps.len();
            prop_assert_eq!(&results(&mut steady, usize::MAX)[..], &scribe.expected[from..]);
            prop_assert_eq!(&results(&mut crashing, stretch.batch_max)[..], &scribe.expected[from..]);
            if stretch.persists {
                crashing.machine.persist().unwrap();
            }
            if let Some(seed) = stretch.crash_seed {
                let persisted = if stretch.persists { scribe.expected.len() } else { 0 };
                engine = engine.crash(seed, Damage::None);
                crashing.machine = open(engine.clone());
                let from = usize::try_from(crashing.machine.applied().index.0).unwrap();
                prop_assert!(from >= persisted, "{from} of {persisted} that were persisted");
                prop_assert_eq!(&results(&mut crashing, stretch.batch_max)[..], &scribe.expected[from..]);
            }
            assert_same_state(&steady.machine, &scribe.model);
            assert_same_state(&crashing.machine, &scribe.model);
            prop_assert_eq!(crashing.machine.running_digest(), steady.machine.running_digest());
            prop_assert_eq!(content_digest(&crashing.machine), content_digest(&steady.machine));
        }
    }
}

proptest! {
    #![proptest_config(cases(12))]

    /// The same history on disk and in memory, cut differently, with restarts of disk: the same answers, the same rows.
    #[test]
    fn disk_and_memory_agree_with_the_model(history in history(6)) {
        let directory = tempfile::tempdir().unwrap();
        let open_on_disk = || open(DiskEngine::open(directory.path(), DiskOptions::default()).unwrap());
        let mut scribe = Scribe::default();
        let mut memory = Server::in_memory();
        let mut machine = Some(open_on_disk());
        let mut log = Vec::new();
        for stretch in &history {
            for step in &stretch.steps {
                let payload = scribe.payload(step);
                memory.append(payload);
            }
            let from = log.len();
            log.clone_from(&memory.log);
            prop_assert_eq!(&results(&mut memory, 1)[..], &scribe.expected[from..]);
            let mut disk = Server { log: log.clone(), machine: machine.take().unwrap() };
            prop_assert_eq!(&results(&mut disk, stretch.batch_max)[..], &scribe.expected[from..]);
            if stretch.persists {
                disk.machine.persist().unwrap();
            }
            if stretch.crash_seed.is_some() {
                drop(disk.machine);
                disk.machine = open_on_disk();
                let from = usize::try_from(disk.machine.applied().index.0).unwrap();
                prop_assert!(!stretch.persists || from == log.len());
                prop_assert_eq!(&results(&mut disk, stretch.batch_max)[..], &scribe.expected[from..]);
            }
            assert_same_state(&disk.machine, &scribe.model);
            prop_assert_eq!(disk.machine.applied(), memory.machine.applied());
            prop_assert_eq!(disk.machine.running_digest(), memory.machine.running_digest());
            prop_assert_eq!(content_digest(&disk.machine), content_digest(&memory.machine));
            machine = Some(disk.machine);
        }
    }
}

/// The histories above must reach what they are there to compare.
#[test]
fn the_histories_reach_every_kind_of_result() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let mut seen = std::collections::BTreeMap::<&str, usize>::new();
    for _ in 0..60 {
        let mut scribe = Scribe::default();
        for stretch in history(8).new_tree(&mut runner).unwrap().current() {
            for step in &stretch.steps {
                scribe.payload(step);
            }
        }
        for result in &scribe.expected {
            *seen.entry(name(result)).or_default() += 1;
        }
    }
    for kind in ALL_KINDS {
        assert!(seen.get(kind).is_some_and(|times| *times >= 5), "{kind} is too rare: {seen:?}");
    }
}

const ALL_KINDS: [&str; 11] = [
    "put",
    "delete",
    "txn then",
    "txn otherwise",
    "session unknown",
    "forgotten",
    "reused",
    "in flight",
    "kept full",
    "too large",
    "mismatch",
];

fn name(result: &Result<Answer, Refusal>) -> &'static str {
    match result {
        Ok(Answer::Done) => "done",
        Ok(Answer::Put(_)) => "put",
        Ok(Answer::Delete(_)) => "delete",
        Ok(Answer::Txn(txn)) if txn.succeeded => "txn then",
        Ok(Answer::Txn(_)) => "txn otherwise",
        Ok(Answer::SessionOpened(_)) => "session opened",
        Err(Refusal::SessionUnknown { .. }) => "session unknown",
        Err(Refusal::SequenceForgotten { .. }) => "forgotten",
        Err(Refusal::SequenceReused { .. }) => "reused",
        Err(Refusal::TooManyInFlight { .. }) => "in flight",
        Err(Refusal::KeptAnswersFull { .. }) => "kept full",
        Err(Refusal::AnswerTooLarge { .. }) => "too large",
        Err(Refusal::MemberMismatch { .. }) => "mismatch",
    }
}
