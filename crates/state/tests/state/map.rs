//! Put, delete and transactions.

use bytes::Bytes;
use raftmap_raft::{LogIndex, Payload};
use raftmap_state::{
    Answer, Body, Delete, DeleteAnswer, Expected, Operation, OperationResult, Put, PutAnswer, Record,
    Refusal, TxnAnswer, Write, WriteRequest,
};

use crate::common::{Server, bytes, condition, delete, entry, put, record, timeless, txn, write};

fn succeeded(answer: Result<Answer, Refusal>) -> bool {
    match answer {
        Ok(Answer::Txn(txn)) => txn.succeeded,
        other => panic!("no answer to a txn: {other:?}"),
    }
}

#[test]
fn a_put_sets_all_its_keys_at_the_index_of_its_entry() {
    let mut server = Server::in_memory();
    server.append(Payload::Noop);
    let request = Put { entries: vec![entry("a", "1"), entry("b", "2")], return_previous: false };
    let answer = server.write(WriteRequest::Put(request));
    assert_eq!(answer, Ok(Answer::Put(PutAnswer { revision: LogIndex(2), previous: vec![] })));
    assert_eq!(server.get("a"), Some(record("a", "1", 2)));
    assert_eq!(server.get("b"), Some(record("b", "2", 2)));
    assert_eq!(server.get("c"), None);
}

#[test]
fn a_put_that_asks_gets_what_stood_there_before() {
    let mut server = Server::in_memory();
    server.write(put("a", "old")).unwrap();
    let request = Put { entries: vec![entry("a", "new"), entry("b", "new")], return_previous: true };
    let answer = server.write(WriteRequest::Put(request));
    let previous = vec![Some(record("a", "old", 1)), None];
    assert_eq!(answer, Ok(Answer::Put(PutAnswer { revision: LogIndex(2), previous })));
}

#[test]
fn a_delete_counts_the_keys_that_were_there() {
    let mut server = Server::in_memory();
    server.write(put("a", "1")).unwrap();
    let request = Delete { keys: vec![bytes("a"), bytes("b")], return_previous: true };
    let answer = server.write(WriteRequest::Delete(request));
    let previous = vec![Some(record("a", "1", 1)), None];
    assert_eq!(answer, Ok(Answer::Delete(DeleteAnswer { revision: LogIndex(2), deleted: 1, previous })));
    assert_eq!(server.get("a"), None);
    let again = server.write(delete("a"));
    assert_eq!(
        again,
        Ok(Answer::Delete(DeleteAnswer { revision: LogIndex(3), deleted: 0, previous: vec![] }))
    );
}

#[test]
fn a_value_may_be_empty_and_keys_may_be_any_bytes() {
    let mut server = Server::in_memory();
    for key in ["\u{0}", "\u{0}\u{0}", "\u{7f}", "é"] {
        server.write(put(key, "")).unwrap();
        assert_eq!(server.value(key), Some(String::new()));
    }
    assert_eq!(server.keys(), ["\u{0}", "\u{0}\u{0}", "\u{7f}", "é"]);
}

#[test]
fn each_condition_holds_exactly_when_it_says() {
    let mut server = Server::in_memory();
    server.write(put("a", "1")).unwrap();
    let cases = [
        ("a", Expected::Exists(true), true),
        ("a", Expected::Exists(false), false),
        ("b", Expected::Exists(true), false),
        ("b", Expected::Exists(false), true),
        ("a", Expected::Revision(LogIndex(1)), true),
        ("a", Expected::Revision(LogIndex(2)), false),
        ("a", Expected::Revision(LogIndex(0)), false),
        ("b", Expected::Revision(LogIndex(0)), true),
        ("b", Expected::Revision(LogIndex(1)), false),
        ("a", Expected::Value(bytes("1")), true),
        ("a", Expected::Value(bytes("2")), false),
        ("a", Expected::Value(Bytes::new()), false),
        ("b", Expected::Value(Bytes::new()), false),
    ];
    for (key, expected, holds) in cases {
        let answer = server.write(txn(
            vec![condition(key, expected.clone())],
            vec![Operation::Get(bytes("a"))],
            vec![],
        ));
        assert_eq!(succeeded(answer), holds, "{key} {expected:?}");
    }
    let both =
        |second| vec![condition("a", Expected::Exists(true)), condition("b", Expected::Exists(second))];
    assert!(succeeded(server.write(txn(both(false), vec![], vec![]))));
    assert!(!succeeded(server.write(txn(both(true), vec![], vec![]))), "every condition counts");
}

#[test]
fn of_a_txn_one_list_runs_in_order_and_later_operations_see_earlier_ones() {
    let mut server = Server::in_memory();
    server.write(put("a", "1")).unwrap();
    let operations = vec![
        Operation::Put(entry("a", "2")),
        Operation::Get(bytes("a")),
        Operation::Put(entry("a", "3")),
        Operation::Delete(bytes("a")),
        Operation::Get(bytes("a")),
        Operation::Delete(bytes("a")),
        Operation::Put(entry("b", "4")),
    ];
    let answer = server.write(txn(vec![], operations, vec![Operation::Put(entry("never", "x"))]));
    let results = vec![
        OperationResult::Put { previous: Some(record("a", "1", 1)) },
        OperationResult::Got(Some(record("a", "2", 2))),
        OperationResult::Put { previous: Some(record("a", "2", 2)) },
        OperationResult::Deleted { previous: Some(record("a", "3", 2)) },
        OperationResult::Got(None),
        OperationResult::Deleted { previous: None },
        OperationResult::Put { previous: None },
    ];
    assert_eq!(answer, Ok(Answer::Txn(TxnAnswer { revision: LogIndex(2), succeeded: true, results })));
    assert_eq!(server.keys(), ["b"]);
}

#[test]
fn conditions_are_judged_before_any_operation_runs() {
    let mut server = Server::in_memory();
    let conditions = vec![condition("a", Expected::Exists(false))];
    let answer = server.write(txn(
        conditions.clone(),
        vec![Operation::Put(entry("a", "then"))],
        vec![Operation::Put(entry("a", "otherwise"))],
    ));
    assert!(succeeded(answer));
    assert_eq!(server.value("a").as_deref(), Some("then"));
    let answer = server.write(txn(conditions, vec![], vec![Operation::Put(entry("a", "otherwise"))]));
    assert!(!succeeded(answer));
    assert_eq!(server.value("a").as_deref(), Some("otherwise"));
}

#[test]
fn entries_of_one_batch_see_what_the_ones_before_them_did() {
    let mut server = Server::in_memory();
    let swap = |from: &str, to: &str| {
        let conditions = vec![condition("a", Expected::Value(bytes(from)))];
        timeless(write(txn(conditions, vec![Operation::Put(entry("a", to))], vec![])))
    };
    server.append_command(&timeless(write(put("a", "1"))));
    server.append_command(&swap("1", "2"));
    server.append_command(&swap("1", "3"));
    server.append_command(&timeless(write(delete("a"))));
    server.append_command(&timeless(write(delete("a"))));
    let outcomes = server.catch_up(usize::MAX);
    let deleted = |at: usize| match &outcomes[at].result {
        Ok(Answer::Delete(delete)) => delete.deleted,
        other => panic!("{other:?}"),
    };
    assert!(succeeded(outcomes[1].result.clone()));
    assert!(!succeeded(outcomes[2].result.clone()));
    assert_eq!((deleted(3), deleted(4)), (1, 0));
}

/// All three kinds of writes, each with an answer of one byte more than allowed, and of exactly what is allowed.
#[test]
fn a_write_whose_answer_would_be_too_large_changes_nothing() {
    let before = || vec![entry("a", &"x".repeat(500)), entry("b", &"y".repeat(500))];
    let both = || vec![bytes("a"), bytes("b")];
    let requests = [
        WriteRequest::Put(Put { entries: vec![entry("a", "1"), entry("b", "2")], return_previous: true }),
        WriteRequest::Delete(Delete { keys: both(), return_previous: true }),
        txn(vec![], vec![Operation::Put(entry("a", "1")), Operation::Delete(bytes("b"))], vec![]),
        txn(vec![], vec![Operation::Get(bytes("a")), Operation::Get(bytes("b"))], vec![]),
    ];
    for request in requests {
        let mut server = Server::in_memory();
        server.write(WriteRequest::Put(Put { entries: before(), return_previous: false })).unwrap();
        let size: u32 = 192 + 2 * (64 + 1 + 500);
        let limited = |answer_bytes_max| {
            timeless(Body::Write(Write { request: request.clone(), session: None, answer_bytes_max }))
        };
        let refused = server.run(&limited(size - 1));
        assert_eq!(refused, Err(Refusal::AnswerTooLarge { limit: u64::from(size) - 1 }), "{request:?}");
        let values = |server: &Server<_>| (server.get("a"), server.get("b"));
        let untouched =
            |key, value: &str| Some(Record { value: bytes(&value.repeat(500)), ..record(key, "", 1) });
        assert_eq!(values(&server), (untouched("a", "x"), untouched("b", "y")), "{request:?}");
        assert!(server.run(&limited(size)).is_ok(), "{request:?}");
    }
}

#[test]
fn an_answer_never_counts_less_than_its_protobuf_message() {
    // The largest that map.proto can make of one result: tags of one byte, lengths and numbers at their longest.
    let entry_fields = (1 + 5) + (1 + 5) + (1 + 10) + (1 + 10);
    let operation_result = (1 + 5) + (1 + 5) + entry_fields + (1 + 1);
    assert!(operation_result <= raftmap_state::limits::RESULT_BYTES);
    // Request id, revision, deleted or succeeded, and the flags of a scan's page.
    let base = (1 + 2 + 128) + (1 + 10) + (1 + 10) + 4;
    assert!(base <= raftmap_state::limits::ANSWER_BASE_BYTES);
}
