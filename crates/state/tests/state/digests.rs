//! Running and content digests.

use proptest::prelude::*;
use raftmap_state::{Digest, DiskEngine, DiskOptions, Engine, MemoryEngine};

use crate::common::{
    SMALL_SESSIONS, Server, at, content_digest, delete, open, put, put_with_ttl, tag, tagged, timeless, write,
};
use raftmap_raft::{Membership, NodeId, Payload};
use raftmap_state::{Body, SessionId};

fn a_history() -> Server<MemoryEngine> {
    let mut server = Server::in_memory();
    server.append(Payload::Noop);
    server.append_command(&at(1000, Body::OpenSession(SMALL_SESSIONS)));
    server.append_command(&at(1001, tagged(put("a", "1"), tag(SessionId(2), 1))));
    server.append_command(&at(1001, tagged(put("a", "1"), tag(SessionId(2), 1))));
    server.append_command(&at(1002, tagged(put("a", "2"), tag(SessionId(3), 1))));
    for n in 0..30 {
        server.append_command(&timeless(write(put_with_ttl(&format!("k{n}"), "x", 1 + n % 4))));
    }
    server.append_command(&at(1004, Body::Time));
    server.append_command(&timeless(write(delete("a"))));
    server
}

/// The format in one number: if this fails, servers of two versions would disagree about the same log. Then the version
/// of the format goes up, and this number changes with it.
#[test]
fn the_same_history_has_the_same_digests_in_every_version() {
    let mut server = a_history();
    server.catch_up(usize::MAX);
    assert_eq!(server.machine.running_digest().to_string(), "48557d9261eb2fb75cc6bf406f185bc3");
    assert_eq!(content_digest(&server.machine).to_string(), "4ba6fbab1b3eacb40eab00d9f4ce8d93");
    server.append(Payload::Membership(Box::new(Membership::of_voters([NodeId(1), NodeId(2)]))));
    server.catch_up(usize::MAX);
    assert_eq!(server.machine.running_digest().to_string(), "034f3b6f158cde38dd98fcbf0d0d82c8");
    assert_eq!(content_digest(&server.machine).to_string(), "8ae6ddf292d4d4c42f2d164d512c31f9");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn how_entries_are_cut_into_batches_makes_no_difference(cuts in prop::collection::vec(1usize..8, 40)) {
        let mut one_by_one = a_history();
        let expected = one_by_one.catch_up(1);
        let mut cut = a_history();
        let mut outcomes = Vec::new();
        for size in cuts {
            let from = usize::try_from(cut.machine.applied().index.0).unwrap();
            let to = cut.log.len().min(from + size);
            outcomes.extend(cut.machine.apply(&cut.log[from..to]).unwrap());
        }
        prop_assert_eq!(outcomes, expected);
        prop_assert_eq!(cut.machine.running_digest(), one_by_one.machine.running_digest());
        prop_assert_eq!(content_digest(&cut.machine), content_digest(&one_by_one.machine));
    }
}

/// One entry differs, and is the same again afterwards: the content heals, the running digest remembers.
#[test]
fn a_divergence_stays_in_the_running_digest() {
    let run = |value: &str, index_of_change: usize| {
        let mut server = Server::in_memory();
        for n in 0..5 {
            let value = if n == index_of_change { value } else { "same" };
            server.write(put("a", value)).unwrap();
        }
        (server.machine.running_digest(), content_digest(&server.machine))
    };
    let (running, _) = run("same", 2);
    assert_ne!(running, run("other", 2).0);
    assert_ne!(running, run("other", 4).0);
    assert_eq!(running, run("same", 3).0);
}

#[test]
fn a_result_alone_makes_a_difference() {
    let run = |expected: bool| {
        let mut server = Server::in_memory();
        let condition = crate::common::condition("a", raftmap_state::Expected::Exists(expected));
        server.write(crate::common::txn(vec![condition], vec![], vec![])).unwrap();
        server.machine.running_digest()
    };
    assert_ne!(run(true), run(false));
}

fn content_in_steps<E: Engine>(server: &Server<E>, bytes_max: u64) -> (Digest, usize) {
    let mut digest = server.machine.reader().content_digest().unwrap();
    let mut steps = 1;
    loop {
        match digest.advance(bytes_max).unwrap() {
            Some(digest) => return (digest, steps),
            None => steps += 1,
        }
    }
}

#[test]
fn a_content_digest_may_be_read_slowly_and_is_that_of_the_moment_it_began() {
    let mut server = a_history();
    server.catch_up(usize::MAX);
    let (whole, steps) = content_in_steps(&server, u64::MAX);
    assert_eq!(steps, 1);
    let (slow, steps) = content_in_steps(&server, 50);
    assert!(steps > 5, "{steps}");
    assert_eq!(slow, whole);
    let mut begun = server.machine.reader().content_digest().unwrap();
    assert_eq!(begun.advance(10).unwrap(), None);
    server.write(put("a", "changed")).unwrap();
    assert_eq!(begun.advance(u64::MAX).unwrap(), Some(whole));
}

#[test]
fn both_engines_have_the_same_content() {
    let directory = tempfile::tempdir().unwrap();
    let mut memory = a_history();
    memory.catch_up(usize::MAX);
    let engine = DiskEngine::open(directory.path(), DiskOptions::default()).unwrap();
    let mut disk = Server { log: memory.log.clone(), machine: open(engine) };
    disk.catch_up(4);
    assert_eq!(content_digest(&disk.machine), content_digest(&memory.machine));
    disk.machine.persist().unwrap();
    assert_eq!(content_digest(&disk.machine), content_digest(&memory.machine), "from table files");
}
