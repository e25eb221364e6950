//! Histories that are wrong in subtle ways, each beside one that differs in little and is right.

use raftmap_lincheck::{Operation, Options, Request, Verdict, check, check_by_revision, check_by_search};

use crate::build::{
    bytes, delete, done_txn, exists, get, get_all, of_revision, of_value, put, put_all, record, scan,
    step_get, step_put, swap, txn, unknown, unknown_delete, unknown_put,
};

fn right(history: &[Operation]) {
    let options = Options::default();
    for verdict in
        [check(history, &options), check_by_revision(history, &options), check_by_search(history, &options)]
    {
        assert!(verdict.is_linearizable(), "{verdict}");
    }
}

fn wrong_by_revision(history: &[Operation]) {
    let verdict = check_by_revision(history, &Options::default());
    assert!(matches!(verdict, Verdict::NotLinearizable(_)), "{verdict}");
    assert!(matches!(check(history, &Options::default()), Verdict::NotLinearizable(_)));
}

fn wrong(history: &[Operation]) {
    wrong_by_revision(history);
    let verdict = check_by_search(history, &Options::default());
    assert!(matches!(verdict, Verdict::NotLinearizable(_)), "{verdict}");
}

#[test]
fn a_stale_read_after_a_failover() {
    let writes = [put(1, (0, 10), "k", "a", 1), put(1, (20, 30), "k", "b", 2)];
    let read_at = |call| get(2, (call, call + 10), "k", record("a", 1), 1);
    right(&[&writes[..], &[read_at(25)]].concat());
    wrong(&[&writes[..], &[read_at(31)]].concat());
}

#[test]
fn a_lost_update() {
    let first = put(1, (0, 10), "k", "a", 1);
    let second = done_txn(1, (20, 40), swap("k", 1, "b"), (true, &[record("a", 1)]), 2);
    let third = |succeeded, results: &[_]| done_txn(2, (20, 40), swap("k", 1, "c"), (succeeded, results), 3);
    right(&[first.clone(), second.clone(), third(false, &[])]);
    wrong(&[first, second, third(true, &[record("a", 1)])]);
}

#[test]
fn a_write_that_is_applied_twice_brings_an_older_value_back() {
    let writes = [put(1, (0, 10), "k", "a", 1), put(2, (20, 30), "k", "b", 2)];
    right(&[&writes[..], &[get(3, (40, 50), "k", record("b", 2), 2)]].concat());
    wrong(&[&writes[..], &[get(3, (40, 50), "k", record("a", 3), 3)]].concat());
}

#[test]
fn a_read_from_the_future() {
    let read = get(2, (0, 10), "k", record("a", 1), 1);
    right(&[read.clone(), put(1, (5, 30), "k", "a", 1)]);
    wrong(&[read, put(1, (20, 30), "k", "a", 1)]);
}

#[test]
fn a_value_that_nobody_wrote() {
    right(&[unknown_put(1, 0, "k", "a"), get(2, (20, 30), "k", record("a", 1), 1)]);
    wrong(&[unknown_put(1, 0, "k", "a"), get(2, (20, 30), "k", record("b", 1), 1)]);
}

#[test]
fn an_acknowledged_write_that_vanished() {
    let write = put(1, (0, 10), "k", "a", 1);
    right(&[write.clone(), delete(1, (12, 15), "k", 1, 2), get(2, (20, 30), "k", None, 2)]);
    right(&[write.clone(), unknown_delete(1, 12, "k"), get(2, (20, 30), "k", None, 2)]);
    wrong(&[write, get(2, (20, 30), "k", None, 1)]);
}

#[test]
fn an_unknown_write_that_comes_and_goes() {
    let begin = [put(1, (0, 10), "k", "a", 1), unknown_put(2, 12, "k", "b")];
    let reads = |found: [_; 3]| {
        let read = |(nth, (value, revision))| {
            let call = 20 + 20 * nth as u64;
            get(3, (call, call + 10), "k", record(value, revision), 1 + nth as u64)
        };
        found.into_iter().enumerate().map(read).collect::<Vec<_>>()
    };
    right(&[&begin[..], &reads([("a", 1), ("b", 2), ("b", 2)])].concat());
    wrong(&[&begin[..], &reads([("b", 2), ("a", 1), ("b", 2)])].concat());
}

#[test]
fn a_scan_of_two_revisions() {
    let writes = [
        put_all(1, (0, 10), &[("k", "1"), ("l", "1")], 1),
        put_all(1, (20, 30), &[("k", "2"), ("l", "2")], 2),
    ];
    let found = |l| [("k", record("2", 2)), ("l", l)];
    right(&[&writes[..], &[scan(2, (15, 40), &found(record("2", 2)), 2)]].concat());
    wrong_by_revision(&[&writes[..], &[scan(2, (15, 40), &found(record("1", 1)), 2)]].concat());
}

#[test]
fn a_transaction_of_which_half_is_there() {
    let steps = vec![step_put("k", "2"), step_put("l", "2"), step_get("k")];
    let begin = [
        put_all(1, (0, 10), &[("k", "1"), ("l", "1")], 1),
        unknown(2, 12, txn(vec![of_value("k", "1"), of_revision("l", 1)], steps, Vec::new())),
    ];
    let found = |l| [("k", record("2", 2)), ("l", l)];
    right(&[&begin[..], &[get_all(3, (20, 30), &found(record("2", 2)), 2)]].concat());
    wrong(&[&begin[..], &[get_all(3, (20, 30), &found(record("1", 1)), 2)]].concat());
}

/// The removal could be at revision 2 or 3, which are alike; only at 2 there is room for the write behind it.
#[test]
fn an_unknown_write_that_must_leave_room_for_another() {
    let remove = Request::Delete { keys: vec![bytes("k"), bytes("l")] };
    let begin = [
        put_all(1, (0, 10), &[("k", "1"), ("l", "1")], 1),
        unknown(2, 12, remove),
        unknown_put(3, 12, "l", "2"),
        put(1, (20, 30), "m", "1", 4),
    ];
    let request = txn(vec![exists("l")], vec![step_put("k", "3")], Vec::new());
    let end = |revision| done_txn(1, (40, 50), request.clone(), (true, &[None]), revision);
    right(&[&begin[..], &[end(5)]].concat());
    let taken = put(4, (12, 30), "n", "1", 3);
    wrong_by_revision(&[&begin[..], &[taken, end(5)]].concat());
}

#[test]
fn an_order_of_revisions_against_that_of_time() {
    let read = get(3, (40, 50), "k", record("a", 2), 2);
    right(&[put(1, (0, 25), "k", "a", 2), put(2, (20, 30), "k", "b", 1), read.clone()]);
    wrong(&[put(1, (0, 10), "k", "a", 2), put(2, (20, 30), "k", "b", 1), read]);
}

#[test]
fn a_reader_that_goes_back() {
    let writes = [put(1, (0, 10), "k", "a", 1), put(1, (20, 90), "k", "b", 2)];
    let (older, newer) = (("a", 1), ("b", 2));
    let reads = |first: (&str, u64), second: (&str, u64)| {
        [
            get(2, (30, 40), "k", record(first.0, first.1), first.1),
            get(3, (50, 60), "k", record(second.0, second.1), second.1),
        ]
    };
    right(&[&writes[..], &reads(older, newer)].concat());
    wrong(&[&writes[..], &reads(newer, older)].concat());
}

/// What is wrong is shown by few operations, whatever else there was.
#[test]
fn the_part_that_is_wrong_is_small() {
    let mut history: Vec<Operation> = (0..200)
        .map(|nth| put(1, (10 * nth, 10 * nth + 5), &format!("k{}", nth % 7), &format!("v{nth}"), nth + 1))
        .collect();
    history.push(get(2, (3000, 3010), "k3", record("v3", 4), 4));
    for verdict in
        [check_by_revision(&history, &Options::default()), check_by_search(&history, &Options::default())]
    {
        let Verdict::NotLinearizable(violation) = verdict else { panic!("{verdict}") };
        let drawn = violation.to_string();
        assert!(drawn.contains("v3") && drawn.lines().count() < 12, "{drawn}");
    }
}
