//! Exactly-once writes.

use raftmap_raft::{LogIndex, Payload, Term};
use raftmap_state::{
    Answer, Body, Engine, MemoryEngine, Operation, PutAnswer, Refusal, SessionId, SessionLimits,
    SessionOpened, SessionTag, Snapshot, Write, WriteRequest,
};

use crate::common::{
    SMALL_SESSIONS, Server, at, bytes, content_digest, delete, entry, open, put, tag, tagged, timeless, txn,
};

fn put_at(revision: u64) -> Result<Answer, Refusal> {
    Ok(Answer::Put(PutAnswer { revision: LogIndex(revision), previous: vec![] }))
}

/// How many rows the sessions and their answers have in the engine.
fn session_rows(engine: &MemoryEngine) -> usize {
    engine.snapshot().range(&[4], &[7]).count()
}

#[test]
fn opening_a_session_names_it_after_its_entry_and_tells_its_limits() {
    let mut server = Server::in_memory();
    server.append(Payload::Noop);
    let answer = server.run(&timeless(Body::OpenSession(SMALL_SESSIONS)));
    let opened = SessionOpened { session_id: SessionId(2), idle_expiry_ms: 1000, in_flight_max: 3 };
    assert_eq!(answer, Ok(Answer::SessionOpened(opened)));
}

/// Scenario 45: a retry after failover, in the same batch, and after a restart.
#[test]
fn a_write_that_is_sent_again_gets_its_first_answer_and_is_applied_once() {
    let engine = MemoryEngine::new();
    let mut server = Server::on(engine.clone());
    let session = server.open_session(SMALL_SESSIONS);
    let first = timeless(tagged(put("a", "1"), tag(session, 1)));
    server.append_command(&first);
    server.append_command(&first);
    let outcomes = server.catch_up(usize::MAX);
    assert_eq!((&outcomes[0].result, &outcomes[1].result), (&put_at(2), &put_at(2)));

    server.write(put("a", "by another client")).unwrap();
    assert_eq!(server.run(&first), put_at(2));
    server.machine = open(engine);
    assert_eq!(server.run(&first), put_at(2));
    server.append(Payload::Noop);
    server.log.last_mut().unwrap().term = Term(2);
    server.append_command(&first);
    server.log.last_mut().unwrap().term = Term(2);
    assert_eq!(server.catch_up(usize::MAX)[1].result, put_at(2), "under a new leader");
    assert_eq!(server.value("a").as_deref(), Some("by another client"));
}

#[test]
fn without_a_tag_a_write_is_applied_as_often_as_it_is_sent() {
    let mut server = Server::in_memory();
    server.write(put("a", "1")).unwrap();
    server.write(put("a", "1")).unwrap();
    assert_eq!(server.get("a").unwrap().revision, LogIndex(2));
}

#[test]
fn an_unknown_session_is_refused_and_never_made() {
    let mut server = Server::in_memory();
    let session_id = SessionId(7);
    for _ in 0..2 {
        let refused = server.run(&timeless(tagged(put("a", "1"), tag(session_id, 1))));
        assert_eq!(refused, Err(Refusal::SessionUnknown { session_id }));
    }
    assert_eq!(server.get("a"), None);
}

#[test]
fn sequences_come_in_any_order_and_may_leave_gaps() {
    let mut server = Server::in_memory();
    let session = server.open_session(SMALL_SESSIONS);
    for (sequence, revision) in [(9, 2), (3, 3), (5, 4)] {
        assert_eq!(server.run(&timeless(tagged(put("a", "1"), tag(session, sequence)))), put_at(revision));
    }
    for (sequence, revision) in [(9, 2), (3, 3), (5, 4)] {
        assert_eq!(server.run(&timeless(tagged(put("a", "1"), tag(session, sequence)))), put_at(revision));
    }
}

#[test]
fn an_acknowledged_answer_is_forgotten_and_its_write_never_applied_again() {
    let mut server = Server::in_memory();
    let session = server.open_session(SMALL_SESSIONS);
    server.run(&timeless(tagged(put("a", "1"), tag(session, 1)))).unwrap();
    let acknowledging = SessionTag { acknowledged_below: 2, ..tag(session, 2) };
    server.run(&timeless(tagged(delete("a"), acknowledging))).unwrap();
    let refused = server.run(&timeless(tagged(put("a", "1"), tag(session, 1))));
    assert_eq!(refused, Err(Refusal::SequenceForgotten { sequence: 1, acknowledged_below: 2 }));
    assert_eq!(server.get("a"), None);
}

#[test]
fn an_acknowledgement_is_never_taken_back() {
    let mut server = Server::in_memory();
    let session = server.open_session(SMALL_SESSIONS);
    let acknowledging = SessionTag { acknowledged_below: 5, ..tag(session, 5) };
    server.run(&timeless(tagged(put("a", "1"), acknowledging))).unwrap();
    let refused =
        server.run(&timeless(tagged(put("a", "2"), SessionTag { acknowledged_below: 1, ..tag(session, 4) })));
    assert_eq!(refused, Err(Refusal::SequenceForgotten { sequence: 4, acknowledged_below: 5 }));
}

#[test]
fn a_sequence_with_other_content_is_refused() {
    let mut server = Server::in_memory();
    let session = server.open_session(SMALL_SESSIONS);
    server.run(&timeless(tagged(put("a", "1"), tag(session, 1)))).unwrap();
    let others = [
        put("a", "2"),
        put("b", "1"),
        delete("a"),
        txn(vec![], vec![Operation::Put(entry("a", "1"))], vec![]),
    ];
    for other in others {
        let refused = server.run(&timeless(tagged(other, tag(session, 1))));
        assert_eq!(refused, Err(Refusal::SequenceReused { sequence: 1 }));
    }
    assert_eq!(server.get("a").unwrap().revision, LogIndex(2));
}

/// Time, limits and acknowledgement differ between two attempts through two leaders; the request does not.
#[test]
fn a_retry_through_another_server_is_the_same_write() {
    let mut server = Server::in_memory();
    let session = server.open_session(SMALL_SESSIONS);
    server.run(&at(10, tagged(put("a", "1"), tag(session, 2)))).unwrap();
    let session = Some(SessionTag { acknowledged_below: 1, ..tag(session, 2) });
    let retry = Body::Write(Write { request: put("a", "1"), session, answer_bytes_max: 5000 });
    assert_eq!(server.run(&at(20, retry)), put_at(2));
}

#[test]
fn a_session_with_too_many_answers_takes_no_more_until_they_are_acknowledged() {
    let mut server = Server::in_memory();
    let session = server.open_session(SMALL_SESSIONS);
    for sequence in 1..=3 {
        server.run(&timeless(tagged(put("a", "1"), tag(session, sequence)))).unwrap();
    }
    let fourth = |acknowledged_below| {
        timeless(tagged(put("a", "4"), SessionTag { acknowledged_below, ..tag(session, 4) }))
    };
    assert_eq!(server.run(&fourth(0)), Err(Refusal::TooManyInFlight { limit: 3 }));
    assert_eq!(server.value("a").as_deref(), Some("1"));
    assert_eq!(
        server.run(&timeless(tagged(put("a", "1"), tag(session, 3)))),
        put_at(4),
        "a kept answer is given"
    );
    assert!(server.run(&fourth(2)).is_ok());
    assert_eq!(server.value("a").as_deref(), Some("4"));
}

fn swallow(key: &str) -> WriteRequest {
    txn(vec![], vec![Operation::Get(bytes(key)), Operation::Put(entry("seen", "yes"))], vec![])
}

#[test]
fn a_write_whose_answer_the_session_cannot_keep_changes_nothing() {
    let mut server = Server::in_memory();
    server.write(put("big", &"x".repeat(600))).unwrap();
    let session = server.open_session(SMALL_SESSIONS);
    server.run(&timeless(tagged(swallow("big"), tag(session, 1)))).unwrap();
    server.write(delete("seen")).unwrap();
    let refused = server.run(&timeless(tagged(swallow("big"), tag(session, 2))));
    assert_eq!(refused, Err(Refusal::KeptAnswersFull { limit: 1000 }));
    assert_eq!(server.get("seen"), None);
    let acknowledging = SessionTag { acknowledged_below: 2, ..tag(session, 2) };
    assert!(server.run(&timeless(tagged(swallow("big"), acknowledging))).is_ok());
    assert_eq!(server.value("seen").as_deref(), Some("yes"));
}

#[test]
fn a_session_keeps_one_answer_however_large() {
    let mut server = Server::in_memory();
    server.write(put("big", &"x".repeat(5000))).unwrap();
    let session = server.open_session(SMALL_SESSIONS);
    let command = timeless(tagged(swallow("big"), tag(session, 1)));
    let first = server.run(&command);
    assert!(first.is_ok());
    assert_eq!(server.run(&command), first);
}

/// What was refused stays refused: an earlier copy of the write that comes late must not be applied after all.
#[test]
fn a_refusal_that_the_write_itself_earned_is_kept_as_its_result() {
    let mut server = Server::in_memory();
    server.write(put("big", &"x".repeat(600))).unwrap();
    let session = server.open_session(SMALL_SESSIONS);
    let limited = Write { request: swallow("big"), session: Some(tag(session, 1)), answer_bytes_max: 500 };
    let command = timeless(Body::Write(limited));
    let refused = Err(Refusal::AnswerTooLarge { limit: 500 });
    assert_eq!(server.run(&command), refused);
    server.write(delete("big")).unwrap();
    assert_eq!(server.run(&command), refused);
    assert_eq!(server.get("seen"), None);
}

#[test]
fn a_session_expires_by_log_time_since_its_last_use() {
    let mut server = Server::in_memory();
    let session = server.open_session(SMALL_SESSIONS);
    let mut use_at = |time, sequence| {
        server.run(&at(
            time,
            tagged(put("a", "1"), SessionTag { acknowledged_below: sequence, ..tag(session, sequence) }),
        ))
    };
    assert!(use_at(999, 1).is_ok());
    assert!(use_at(1998, 2).is_ok());
    let session_id = session;
    assert_eq!(use_at(2998, 3), Err(Refusal::SessionUnknown { session_id }), "to the millisecond");
}

#[test]
fn a_refused_write_uses_its_session_too() {
    let mut server = Server::in_memory();
    let session = server.open_session(SMALL_SESSIONS);
    server.run(&at(0, tagged(put("a", "1"), tag(session, 1)))).unwrap();
    assert_eq!(
        server.run(&at(900, tagged(put("a", "2"), tag(session, 1)))),
        Err(Refusal::SequenceReused { sequence: 1 })
    );
    assert_eq!(server.run(&at(1800, tagged(put("a", "1"), tag(session, 1)))), put_at(2));
}

/// Scenario 45: on replay a session expires at the same entry, whatever the clock says meanwhile and wherever the engine
/// came back.
#[test]
fn a_session_that_lived_the_first_time_lives_on_replay() {
    let mut steady = Server::in_memory();
    let session = steady.open_session(SMALL_SESSIONS);
    for (time, sequence) in [(500, 1), (1400, 2), (2300, 3), (4000, 4)] {
        steady.append_command(&at(time, tagged(put("a", "1"), tag(session, sequence))));
    }
    let first: Vec<_> = steady.catch_up(usize::MAX).into_iter().map(|outcome| outcome.result).collect();
    assert_eq!(first[..3], [put_at(2), put_at(3), put_at(4)]);
    assert_eq!(first[3], Err(Refusal::SessionUnknown { session_id: session }));
    for survived in 0..steady.log.len() {
        let engine = MemoryEngine::new();
        let mut machine = open(engine.clone());
        machine.apply(&steady.log[..survived]).unwrap();
        let mut machine = open(engine);
        let replayed = machine.apply(&steady.log[survived..]).unwrap();
        for outcome in replayed.iter().filter(|outcome| outcome.index > LogIndex(1)) {
            let at = usize::try_from(outcome.index.0).unwrap() - 2;
            assert_eq!(outcome.result, first[at], "after a restart at {survived}");
        }
        assert_eq!(machine.running_digest(), steady.machine.running_digest());
        assert_eq!(content_digest(&machine), content_digest(&steady.machine));
    }
}

#[test]
fn the_session_that_was_unused_for_longest_makes_room_for_a_new_one() {
    let mut server = Server::in_memory();
    let first = server.open_session(SMALL_SESSIONS);
    let second = server.open_session(SMALL_SESSIONS);
    server.run(&timeless(tagged(put("a", "1"), tag(first, 1)))).unwrap();
    let third = server.open_session(SMALL_SESSIONS);
    for (session_id, known) in [(first, true), (second, false), (third, true)] {
        let result = server.run(&timeless(tagged(put("a", "1"), tag(session_id, 1))));
        assert_eq!(result.is_ok(), known, "{session_id:?}: {result:?}");
    }
}

#[test]
fn an_expired_session_makes_room_before_one_that_lives() {
    let mut server = Server::in_memory();
    let patient = server.open_session(SessionLimits { idle_expiry_ms: 10_000, ..SMALL_SESSIONS });
    let hasty = server.open_session(SessionLimits { idle_expiry_ms: 10, ..SMALL_SESSIONS });
    server.run(&at(5, tagged(put("a", "1"), tag(hasty, 1)))).unwrap();
    server.run(&at(100, Body::OpenSession(SMALL_SESSIONS))).unwrap();
    assert!(server.run(&at(100, tagged(put("a", "1"), tag(patient, 1)))).is_ok());
}

#[test]
fn nothing_of_a_session_remains_when_it_is_gone() {
    let engine = MemoryEngine::new();
    let mut server = Server::on(engine.clone());
    let first = server.open_session(SMALL_SESSIONS);
    for sequence in 1..=3 {
        server.run(&timeless(tagged(put("a", "1"), tag(first, sequence)))).unwrap();
    }
    assert_eq!(session_rows(&engine), 2, "the session, and its answers together");
    server.write(put("big", &"x".repeat(600))).unwrap();
    let acknowledging = SessionTag { acknowledged_below: 3, ..tag(first, 4) };
    server.run(&timeless(tagged(swallow("big"), acknowledging))).unwrap();
    assert_eq!(session_rows(&engine), 3, "and a large answer");
    let acknowledging = SessionTag { acknowledged_below: 32, ..tag(first, 32) };
    server.run(&timeless(tagged(put("a", "1"), acknowledging))).unwrap();
    assert_eq!(session_rows(&engine), 2, "the session, and its answers from 32 on");
    let evicting = SessionLimits { sessions_max: 1, ..SMALL_SESSIONS };
    server.open_session(evicting);
    assert_eq!(session_rows(&engine), 1, "evicted");
    server.run(&at(5000, Body::Time)).unwrap();
    assert_eq!(session_rows(&engine), 0, "expired");
}

#[test]
fn many_expired_sessions_are_removed_a_few_at_an_entry_and_unknown_at_once() {
    const COUNT: u64 = 700;
    let engine = MemoryEngine::new();
    let mut server = Server::on(engine.clone());
    for _ in 0..COUNT {
        server.append_command(&timeless(Body::OpenSession(SessionLimits {
            sessions_max: 1000,
            ..SMALL_SESSIONS
        })));
    }
    server.catch_up(usize::MAX);
    server.run(&at(5000, Body::Time)).unwrap();
    assert_eq!(session_rows(&engine), 700 - 256);
    let session_id = SessionId(COUNT);
    let refused = server.run(&timeless(tagged(put("a", "1"), tag(session_id, 1))));
    assert_eq!(refused, Err(Refusal::SessionUnknown { session_id }));
    server.append(Payload::Noop);
    server.catch_up(1);
    assert_eq!(session_rows(&engine), 0);
}

/// Answers lie together in rows: what a row still says of a forgotten write is not believed after a restart either.
#[test]
fn what_was_forgotten_stays_forgotten_after_a_restart() {
    let engine = MemoryEngine::new();
    let mut server = Server::on(engine.clone());
    let session = server.open_session(SMALL_SESSIONS);
    for sequence in [30, 31, 33] {
        server.run(&timeless(tagged(put("a", "1"), tag(session, sequence)))).unwrap();
    }
    let acknowledging = SessionTag { acknowledged_below: 34, ..tag(session, 70) };
    server.run(&timeless(tagged(put("a", "1"), acknowledging))).unwrap();
    server.machine = open(engine.clone());
    for (sequence, kept) in [(31, false), (33, false), (70, true)] {
        let result = server.run(&timeless(tagged(put("a", "1"), tag(session, sequence))));
        let forgotten = Err(Refusal::SequenceForgotten { sequence, acknowledged_below: 34 });
        assert_eq!(result, if kept { put_at(5) } else { forgotten });
    }
    for sequence in 71..=72 {
        server.run(&timeless(tagged(put("a", "1"), tag(session, sequence)))).unwrap();
    }
    let full = server.run(&timeless(tagged(put("a", "1"), tag(session, 73))));
    assert_eq!(full, Err(Refusal::TooManyInFlight { limit: 3 }));
}
