//! What stops a server, and what is refused before it is proposed.

use std::num::{NonZeroU64, NonZeroU128};

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use raftmap_raft::{Entry, GroupId, LogIndex, NodeId, Payload, Term};
use raftmap_state::validate::{InvalidRequest, KEY_BYTES_CEILING, RequestLimits, VALUE_BYTES_CEILING};
use raftmap_state::{
    Body, Command, Condition, DecodeError, Delete, Engine, EngineError, Expected, FailureCode, Get,
    Introduction, Member, MemoryEngine, MemorySnapshot, Operation, Put, PutEntry, Refusal, RowChange, Scan,
    SessionId, SessionLimits, SessionTag, StateError, StateMachine, TraceContext, Txn, Write, WriteRequest,
};

use crate::common::{
    ANSWER_BYTES_MAX, SMALL_SESSIONS, Server, at, bytes, condition, content_digest, delete, entry,
    entry_with_ttl, introduction, open, put, tag, tagged, timeless, txn, write,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Bytes {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn one_of_each() -> Vec<(Command, &'static str)> {
    let all_operations = vec![
        Operation::Put(entry_with_ttl("a", "v", 300)),
        Operation::Delete(bytes("b")),
        Operation::Get(bytes("c")),
    ];
    let all_conditions = vec![
        condition("a", Expected::Exists(true)),
        condition("b", Expected::Revision(LogIndex(5))),
        condition("c", Expected::Value(bytes("v"))),
    ];
    let session = SessionTag { session_id: SessionId(7), sequence: 9, acknowledged_below: 8 };
    let put_two = Put { entries: vec![entry("a", "v"), entry_with_ttl("b", "", 5)], return_previous: true };
    let member = Member { node_id: NodeId(3), incarnation: 1 << 120, founding_hash: 2 };
    let trace = TraceContext::new(NonZeroU128::MIN | (1 << 127), NonZeroU64::new(2 | (0b11 << 62)).unwrap());
    let write = |request, session| Body::Write(Write { request, session, answer_bytes_max: 4 << 20 });
    vec![
        (
            at(1000, write(WriteRequest::Put(put_two), None)),
            "01 01 01 e807 80808002 01 02 0161 0176 00 0162 00 05",
        ),
        (
            Command { trace: Some(trace.clone()), ..at(1000, write(delete("a"), Some(session))) },
            "01 02 07 01000000000000000000000000000080 02000000000000c0 e807 80808002 07 09 08 00 01 0161",
        ),
        (
            Command { trace: Some(trace), ..timeless(Body::Time) },
            "01 05 04 01000000000000000000000000000080 02000000000000c0",
        ),
        (timeless(write(delete("a"), Some(session))), "01 02 02 80808002 07 09 08 00 01 0161"),
        (
            at(1, write(txn(all_conditions, all_operations, vec![]), Some(session))),
            "01 03 03 01 80808002 07 09 08 03 0161 01 01 0162 02 05 0163 03 0176 03 01 0161 0176 ac02 02 0162 03 0163 00",
        ),
        (timeless(Body::OpenSession(SMALL_SESSIONS)), "01 04 00 e807 03 e807 02"),
        (at(127, Body::Time), "01 05 01 7f"),
        (
            timeless(Body::RecordMember(member)),
            "01 06 00 03 00000000000000000000000000000001 02000000000000000000000000000000",
        ),
        (timeless(Body::IntroduceMember(introduction(4, Some(2)))), "01 07 00 04 03613a31 03613a32 02"),
        (timeless(Body::IntroduceMember(introduction(4, None))), "01 07 00 04 03613a31 03613a32 00"),
        (at(127, Body::RaiseLevel(2)), "01 08 01 7f 02"),
        (at(127, Body::Scan), "01 09 01 7f"),
    ]
}

/// The bytes of docs/format.md.
#[test]
fn commands_have_the_bytes_that_the_format_draws() {
    for (command, drawn) in one_of_each() {
        assert_eq!(hex(&command.encode()), hex(&unhex(drawn)), "{command:?}");
        assert_eq!(Command::decode(unhex(drawn)).unwrap().command, command);
    }
}

#[test]
fn keys_and_values_are_decoded_without_a_copy() {
    let encoded = timeless(write(put("key", "value"))).encode();
    let range = encoded.as_ptr_range();
    let Body::Write(Write { request: WriteRequest::Put(put), .. }) =
        Command::decode(encoded.clone()).unwrap().command.body
    else {
        panic!("not what was encoded")
    };
    assert!(range.contains(&put.entries[0].key.as_ptr()) && range.contains(&put.entries[0].value.as_ptr()));
}

/// A trace id, and no span.
const NO_TRACE: &str = "01 05 04 01000000000000000000000000000000 0000000000000000";

#[test]
fn a_command_of_a_newer_version_is_an_error() {
    let cases = [
        ("02 05 00", DecodeError::UnknownVersion { what: "command", version: 2 }),
        ("01 63 00", DecodeError::Unknown { what: "command kind", value: 0x63 }),
        ("01 08 00 04", DecodeError::TooNew { what: "raised level", level: 4 }),
        ("01 08 00 00", DecodeError::UnknownVersion { what: "raised level", version: 0 }),
        ("01 00 00", DecodeError::Unknown { what: "command kind", value: 0 }),
        ("01 05 08", DecodeError::Unknown { what: "command flags", value: 8 }),
        ("01 05 04", DecodeError::Truncated { what: "trace id" }),
        (NO_TRACE, DecodeError::Malformed { what: "trace" }),
        ("01 05 02", DecodeError::Unknown { what: "command flags", value: 2 }),
        ("01 01 00 00 02", DecodeError::Unknown { what: "put flags", value: 2 }),
        ("01 03 00 00 01 0161 04", DecodeError::Unknown { what: "condition", value: 4 }),
        ("01 03 00 00 01 0161 01 02", DecodeError::Unknown { what: "condition", value: 2 }),
        ("01 03 00 00 00 01 04", DecodeError::Unknown { what: "operation", value: 4 }),
        ("01 05 00 00", DecodeError::Trailing { what: "command", bytes: 1 }),
        ("01 05 01 8000", DecodeError::Number { what: "stamped time" }),
        ("01 04 00 00 8080808010 00 01", DecodeError::Number { what: "in-flight limit" }),
        ("", DecodeError::Truncated { what: "command" }),
    ];
    for (bytes, error) in cases {
        assert_eq!(Command::decode(unhex(bytes)), Err(error), "{bytes}");
    }
}

#[test]
fn every_cut_and_every_extra_byte_of_a_command_is_an_error() {
    for (command, _) in one_of_each() {
        let encoded = command.encode();
        for len in 0..encoded.len() {
            assert!(Command::decode(encoded.slice(..len)).is_err(), "{command:?} cut to {len}");
        }
        assert!(Command::decode([&encoded[..], &[0]].concat().into()).is_err(), "{command:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    /// Bytes from anywhere are an error or a command, never a panic; and a command has no other bytes than its own.
    #[test]
    fn random_bytes_are_an_error_or_exactly_one_command(mut random in vec(any::<u8>(), 0..60), kind in 1u8..9, flags in 0u8..8) {
        let _ = Command::decode(Bytes::from(random.clone()));
        random.splice(0..random.len().min(3), [1, kind, flags]);
        let random = Bytes::from(random);
        if let Ok(decoded) = Command::decode(random.clone()) {
            prop_assert_eq!(decoded.command.encode(), random);
        }
    }

    #[test]
    fn a_changed_byte_is_an_error_or_exactly_one_command(which in 0usize..one_of_each().len(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut encoded = one_of_each()[which].0.encode().to_vec();
        let at = at.index(encoded.len());
        encoded[at] = byte;
        let changed = Bytes::from(encoded);
        if let Ok(decoded) = Command::decode(changed.clone()) {
            prop_assert_eq!(decoded.command.encode(), changed);
        }
    }
}

/// Applies one more entry behind a put, expects an error, and that nothing of the batch reached the engine.
fn error_at(payload: Payload) -> StateError {
    let engine = MemoryEngine::new();
    let mut server = Server::on(engine.clone());
    server.write(put("a", "1")).unwrap();
    let before = (server.machine.applied(), content_digest(&server.machine));
    server.append_command(&timeless(write(put("a", "in the same batch"))));
    server.append(payload);
    let error = server.machine.apply(&server.log[1..]).unwrap_err();
    let again = server.machine.apply(&server.log[1..2]);
    assert!(matches!(again, Err(StateError::Stopped)), "it applies nothing more");
    let reopened = open(engine);
    assert_eq!((reopened.applied(), content_digest(&reopened)), before);
    error
}

#[test]
fn a_command_that_is_not_understood_stops_the_server() {
    for bytes in ["02 05 00", "01 63 00", "01 01 00", "01 08 00 04"] {
        let error = error_at(Payload::Command(unhex(bytes)));
        assert!(matches!(error, StateError::Command { index: LogIndex(3), .. }), "{bytes}: {error}");
    }
}

#[test]
fn a_command_that_no_server_may_have_proposed_stops_the_server() {
    let puts = |entries| write(WriteRequest::Put(Put { entries, return_previous: false }));
    let deletes = |keys| write(WriteRequest::Delete(Delete { keys, return_previous: false }));
    let member = Member { node_id: NodeId(0), incarnation: 1, founding_hash: 1 };
    let impossible = [
        puts(vec![]),
        puts(vec![entry("", "1")]),
        puts(vec![entry("a", "1"), entry("b", "1"), entry("a", "2")]),
        puts(vec![entry(&"k".repeat(KEY_BYTES_CEILING + 1), "1")]),
        deletes(vec![]),
        deletes(vec![bytes("a"), bytes("a")]),
        write(txn(vec![], vec![], vec![])),
        write(txn(vec![condition("", Expected::Exists(true))], vec![], vec![])),
        write(txn(vec![], vec![], vec![Operation::Get(Bytes::new())])),
        tagged(put("a", "1"), tag(SessionId(0), 1)),
        tagged(put("a", "1"), tag(SessionId(1), 0)),
        tagged(put("a", "1"), SessionTag { acknowledged_below: 3, ..tag(SessionId(1), 2) }),
        Body::OpenSession(SessionLimits { in_flight_max: 0, ..SMALL_SESSIONS }),
        Body::OpenSession(SessionLimits { sessions_max: 0, ..SMALL_SESSIONS }),
        Body::RecordMember(member),
        Body::IntroduceMember(introduction(0, None)),
        Body::IntroduceMember(introduction(4, Some(4))),
        Body::IntroduceMember(Introduction { peer_address: String::new(), ..introduction(4, None) }),
        Body::IntroduceMember(Introduction { client_address: "a b:1".to_owned(), ..introduction(4, None) }),
        Body::IntroduceMember(Introduction { client_address: "a".repeat(301), ..introduction(4, None) }),
    ];
    for body in impossible {
        let error = error_at(Payload::Command(timeless(body.clone()).encode()));
        assert!(matches!(error, StateError::Impossible { index: LogIndex(3), .. }), "{body:?}: {error}");
    }
}

#[test]
fn entries_that_do_not_follow_what_was_applied_stop_the_server() {
    let noop = |term, index| Entry { term: Term(term), index: LogIndex(index), payload: Payload::Noop };
    for wrong in [noop(2, 2), noop(2, 4), noop(2, 0), noop(1, 3)] {
        let mut machine = open(MemoryEngine::new());
        machine.apply(&[noop(1, 1), noop(2, 2)]).unwrap();
        let found = wrong.position();
        let error = machine.apply(&[wrong]).unwrap_err();
        assert!(matches!(error, StateError::NotContiguous { found: at, .. } if at == found), "{error}");
    }
    let mut machine = open(MemoryEngine::new());
    assert!(machine.apply(&[noop(1, 1), noop(1, 3)]).is_err(), "within a batch");
    assert_eq!(open(MemoryEngine::new()).apply(&[]).unwrap(), []);
}

#[test]
fn another_groups_engine_is_not_opened() {
    let engine = MemoryEngine::new();
    Server::on(engine.clone()).write(put("a", "1")).unwrap();
    let opened = StateMachine::open(engine, GroupId(9));
    assert!(matches!(opened, Err(StateError::WrongGroup { expected: GroupId(9), found: GroupId::DEFAULT })));
}

#[test]
fn an_engine_with_members_of_a_newer_version_is_not_opened() {
    let engine = MemoryEngine::new();
    let membership_of_version_9 = [&[0; 8][..], &[9]].concat();
    engine.commit(vec![(Bytes::from_static(&[8]), Some(membership_of_version_9.into()))]).unwrap();
    let opened = StateMachine::open(engine, GroupId::DEFAULT);
    assert!(matches!(opened, Err(StateError::Row(DecodeError::UnknownVersion { version: 9, .. }))));
}

#[test]
fn a_failed_engine_stops_the_server_and_its_reads() {
    let engine = MemoryEngine::new();
    let mut server = Server::on(engine.clone());
    server.write(put("a", "1")).unwrap();
    engine.fail();
    server.append_command(&timeless(write(put("a", "2"))));
    assert!(matches!(server.machine.apply(&server.log[1..]), Err(StateError::Engine(_))));
    assert!(matches!(server.machine.apply(&server.log[1..]), Err(StateError::Stopped)));
    assert!(server.machine.persist().is_err());
    let reader = server.machine.reader();
    assert!(reader.get(&Get { keys: vec![bytes("a")] }, ANSWER_BYTES_MAX).is_err());
    assert!(reader.scan(&Scan::default()).is_err());
    assert!(reader.applied().is_err());
}

/// An engine whose commits fail while its reads go on.
#[derive(Clone)]
struct ReadOnly(MemoryEngine);

impl Engine for ReadOnly {
    type Snapshot = MemorySnapshot;

    fn snapshot(&self) -> MemorySnapshot {
        self.0.snapshot()
    }

    fn commit(&self, _: Vec<RowChange>) -> Result<(), EngineError> {
        Err(EngineError { doing: "commit", source: "no space left".into() })
    }

    fn persist(&self) -> Result<(), EngineError> {
        Ok(())
    }
}

#[test]
fn after_a_failed_commit_nothing_is_applied_again_in_the_same_life() {
    let mut server = Server::on(ReadOnly(MemoryEngine::new()));
    server.append_command(&timeless(write(put("a", "1"))));
    assert!(matches!(server.machine.apply(&server.log), Err(StateError::Engine(_))));
    assert!(matches!(server.machine.apply(&server.log), Err(StateError::Stopped)));
}

#[test]
fn rows_that_contradict_each_other_stop_the_server() {
    let engine = MemoryEngine::new();
    let mut server = Server::on(engine.clone());
    server.run(&at(0, write(crate::common::put_with_ttl("a", "1", 50)))).unwrap();
    engine.commit(vec![(Bytes::from_static(b"\x02a"), None)]).unwrap();
    server.append_command(&at(50, Body::Time));
    assert!(matches!(server.machine.apply(&server.log[1..]), Err(StateError::Inconsistent(_))));
    let engine = MemoryEngine::new();
    engine
        .commit(vec![(Bytes::from([&[5][..], &[0; 16]].concat()), Some(Bytes::from(vec![0; 17])))])
        .unwrap();
    assert!(matches!(StateMachine::open(engine, GroupId::DEFAULT), Err(StateError::Inconsistent(_))));
}

const LIMITS: RequestLimits = RequestLimits {
    key_bytes_max: 4,
    value_bytes_max: 10,
    request_bytes_max: 30,
    answer_bytes_max: 1000,
    operations_max: 3,
};

fn check(request: WriteRequest) -> Result<(), InvalidRequest> {
    LIMITS.check_write(&request, None)
}

fn puts(entries: Vec<PutEntry>) -> WriteRequest {
    WriteRequest::Put(Put { entries, return_previous: false })
}

fn deletes(keys: &[&str]) -> WriteRequest {
    WriteRequest::Delete(Delete { keys: keys.iter().map(|key| bytes(key)).collect(), return_previous: false })
}

fn too_large(field: &'static str, actual: u64, limit: u64) -> Result<(), InvalidRequest> {
    let unit = if limit == 3 { "keys and operations" } else { "bytes" };
    Err(InvalidRequest::TooLarge { field, actual, limit, unit })
}

#[test]
fn requests_are_refused_with_field_and_limit() {
    let value = "0123456789";
    assert_eq!(check(puts(vec![entry("abcd", value), entry("b", value)])), Ok(()), "at every limit");
    assert_eq!(check(puts(vec![])), Err(InvalidRequest::Empty { field: "entries" }));
    assert_eq!(check(deletes(&[])), Err(InvalidRequest::Empty { field: "keys" }));
    assert_eq!(check(txn(vec![], vec![], vec![])), Err(InvalidRequest::Empty { field: "operations" }));
    let empty_key = |field, position| Err(InvalidRequest::EmptyKey { field, position });
    assert_eq!(check(puts(vec![entry("a", ""), entry("", "")])), empty_key("entries.key", 1));
    assert_eq!(check(deletes(&[""])), empty_key("keys", 0));
    assert_eq!(
        check(txn(vec![condition("", Expected::Exists(true))], vec![], vec![])),
        empty_key("conditions.key", 0)
    );
    let twice = |field, position| Err(InvalidRequest::KeyTwice { field, position });
    assert_eq!(check(puts(vec![entry("a", ""), entry("a", "")])), twice("entries.key", 1));
    assert_eq!(check(deletes(&["a", "b", "a"])), twice("keys", 2));
    assert_eq!(check(puts(vec![entry("abcde", "")])), too_large("entries.key", 5, 4));
    assert_eq!(check(puts(vec![entry("a", "0123456789a")])), too_large("entries.value", 11, 10));
    let three = ["a", "b", "c"].map(|key| entry(key, value)).to_vec();
    assert_eq!(check(puts(three)), too_large("request", 33, 30));
    assert_eq!(check(deletes(&["a", "b", "c", "d"])), too_large("keys", 4, 3));
    let gets = |count| vec![Operation::Get(bytes("a")); count];
    let exists = vec![condition("a", Expected::Exists(true))];
    assert_eq!(check(txn(exists.clone(), gets(1), gets(1))), Ok(()));
    assert_eq!(check(txn(exists, gets(1), gets(2))), too_large("operations", 4, 3));
}

#[test]
fn each_operation_of_a_txn_is_refused_under_its_own_field() {
    type Build = fn(Bytes) -> Txn;
    let long = bytes("abcde");
    let cases: [(&str, Build); 9] = [
        ("conditions.key", |key| Txn {
            conditions: vec![Condition { key, expected: Expected::Exists(true) }],
            ..Txn::default()
        }),
        ("then.put.key", |key| Txn {
            then: vec![Operation::Put(PutEntry { key, ..PutEntry::default() })],
            ..Txn::default()
        }),
        ("then.delete", |key| Txn { then: vec![Operation::Delete(key)], ..Txn::default() }),
        ("then.get", |key| Txn { then: vec![Operation::Get(key)], ..Txn::default() }),
        ("otherwise.put.key", |key| Txn {
            otherwise: vec![Operation::Put(PutEntry { key, ..PutEntry::default() })],
            ..Txn::default()
        }),
        ("otherwise.delete", |key| Txn { otherwise: vec![Operation::Delete(key)], ..Txn::default() }),
        ("otherwise.get", |key| Txn { otherwise: vec![Operation::Get(key)], ..Txn::default() }),
        ("conditions.value", |key| Txn {
            conditions: vec![Condition {
                key: bytes("a"),
                expected: Expected::Value([key.clone(), key.clone(), key].concat().into()),
            }],
            ..Txn::default()
        }),
        ("then.put.value", |key| Txn {
            then: vec![Operation::Put(PutEntry {
                key: bytes("a"),
                value: [key.clone(), key.clone(), key].concat().into(),
                ttl_ms: None,
            })],
            ..Txn::default()
        }),
    ];
    for (field, build) in cases {
        let refused = check(WriteRequest::Txn(build(long.clone()))).unwrap_err();
        assert_eq!((refused.field(), refused.code()), (field, FailureCode::TooLarge));
    }
}

#[test]
fn no_flag_goes_beyond_the_ceilings() {
    let boundless = RequestLimits {
        key_bytes_max: usize::MAX,
        value_bytes_max: usize::MAX,
        request_bytes_max: usize::MAX,
        ..RequestLimits::default()
    };
    let key = boundless.check_write(&put(&"k".repeat(KEY_BYTES_CEILING + 1), ""), None).unwrap_err();
    assert_eq!((key.field(), key.limit()), ("entries.key", Some(KEY_BYTES_CEILING as u64)));
    let value = PutEntry { value: vec![0; VALUE_BYTES_CEILING + 1].into(), ..entry("a", "") };
    let value = boundless.check_write(&puts(vec![value]), None).unwrap_err();
    assert_eq!((value.field(), value.limit()), ("entries.value", Some(VALUE_BYTES_CEILING as u64)));
    assert_eq!(boundless.check_write(&put(&"k".repeat(KEY_BYTES_CEILING), ""), None), Ok(()));
}

#[test]
fn session_tags_are_refused_with_their_field() {
    let check = |tag: SessionTag| {
        LIMITS.check_write(&put("a", ""), Some(&tag)).map_err(|error| (error.code(), error.field()))
    };
    let ok = SessionTag { session_id: SessionId(1), sequence: 2, acknowledged_below: 2 };
    assert_eq!(check(ok), Ok(()));
    let invalid = |field| Err((FailureCode::Invalid, field));
    assert_eq!(check(SessionTag { session_id: SessionId(0), ..ok }), invalid("session.session_id"));
    assert_eq!(check(SessionTag { sequence: 0, acknowledged_below: 0, ..ok }), invalid("session.sequence"));
    assert_eq!(check(SessionTag { acknowledged_below: 3, ..ok }), invalid("session.sequence"));
}

#[test]
fn reads_are_checked_too() {
    let get = |keys: &[&str]| LIMITS.check_get(&Get { keys: keys.iter().map(|key| bytes(key)).collect() });
    assert_eq!(get(&["a", "a"]), Ok(()), "a key may be read twice");
    assert_eq!(get(&[]), Err(InvalidRequest::Empty { field: "keys" }));
    assert_eq!(get(&["a", ""]), Err(InvalidRequest::EmptyKey { field: "keys", position: 1 }));
    assert_eq!(get(&["abcde"]), too_large("keys", 5, 4));
    assert_eq!(get(&["a"; 4]), too_large("keys", 4, 3));
    let scan = |start: &str, end: &str| {
        LIMITS.check_scan(&Scan { start: bytes(start), end: bytes(end), ..Scan::default() })
    };
    assert_eq!(scan("", ""), Ok(()));
    assert_eq!(scan("b", "a"), Ok(()), "an empty range has no entries");
    assert_eq!(scan("abcde", ""), too_large("start", 5, 4));
    assert_eq!(scan("", "abcde"), too_large("end", 5, 4));
}

#[test]
fn every_refusal_has_the_code_and_limit_of_the_contract() {
    let cases = [
        (Refusal::SessionUnknown { session_id: SessionId(1) }, FailureCode::SessionUnknown, 13, None),
        (
            Refusal::SequenceForgotten { sequence: 1, acknowledged_below: 2 },
            FailureCode::SequenceForgotten,
            14,
            None,
        ),
        (Refusal::SequenceReused { sequence: 1 }, FailureCode::SequenceReused, 15, None),
        (Refusal::TooManyInFlight { limit: 5 }, FailureCode::Overloaded, 3, Some(5)),
        (Refusal::KeptAnswersFull { limit: 6 }, FailureCode::Overloaded, 3, Some(6)),
        (Refusal::AnswerTooLarge { limit: 7 }, FailureCode::TooLarge, 2, Some(7)),
        (Refusal::MemberMismatch { node_id: NodeId(1) }, FailureCode::NodeUnfit, 9, None),
    ];
    for (refusal, code, number, limit) in cases {
        assert_eq!(
            (refusal.code(), refusal.code() as u8, refusal.limit()),
            (code, number, limit),
            "{refusal}"
        );
    }
    assert_eq!(FailureCode::Invalid as u8, 1);
}

#[test]
fn a_ttl_of_zero_is_no_ttl() {
    assert_eq!(entry_with_ttl("a", "1", 0).ttl_ms, None);
    assert_eq!(entry_with_ttl("a", "1", 1).ttl_ms, NonZeroU64::new(1));
}
