//! Disks that lose, change or forget.

use std::fs;
use std::time::Duration;

use raftmap::local_cluster::Network;
use raftmap_client::{Code, Error};
use raftmap_proto::v1::member_status::State;
use raftmap_raft::NodeId;
use tokio_util::task::AbortOnDropHandle;

use crate::support::load::{must_get, must_put};
use crate::support::segments::{BLOCK_BYTES, Block, blocks, last_batch};
use crate::support::world::PATIENCE;
use crate::support::{Load, World, until};

/// Larger than [`SEVERAL`] blocks.
const LARGE_VALUE_BYTES: usize = 40_000;

/// More blocks than any other batch of these tests has.
const SEVERAL: usize = 5;

/// How long one request at a server that may never answer may take.
const SHORT: Duration = Duration::from_secs(1);

/// Promise 8; scenario 50. What a crash in the middle of a write leaves on the disk: some blocks of the last batch, in any
/// order. The batch is one that nobody was told of, as its leader was alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_torn_tail_is_cut_and_the_server_starts() {
    let (mut world, network) = World::start_with_network().await;
    let client = world.client().await.unwrap();
    must_put(&client, "k", "acknowledged").await;
    // Which blocks reached the disk.
    let torn: [fn(usize) -> bool; 4] = [|part| part == 0, |part| part < 5, |part| part != 3, |part| part > 0];
    for reached in torn {
        let (old, key) = write_alone(&world, &network).await;
        world.kill(old).unwrap();
        tear(&world, old, reached);
        network.cut(old);
        network.heal();

        let mark = world.log_mark(old);
        world.start(old).await.unwrap();
        world.says(old, mark, "the last batch was cut short by a crash").await;
        let aside = fs::read_dir(world.group_dir(old).join("aside")).unwrap();
        let aside: Vec<_> = aside.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert!(aside.iter().any(|name| name.starts_with("torn-")), "no copy was kept: {aside:?}");
        must_put(&client, "k", "after a crash").await;
        world.agree(&world.ids()).await;
        assert_eq!(must_get(&client, &key).await, None, "a batch that was torn shows");
    }
}

/// Cuts the leader off, and lets it write a large batch that nobody else gets. Gives the leader and the batch's key.
async fn write_alone(world: &World, network: &Network) -> (NodeId, String) {
    loop {
        let old = world.leader().await.unwrap();
        // An earlier one that waited may have been written after all.
        let (at_old, key) = (world.warm_client_among(&[old]).await, format!("torn/{}", fastrand::u64(..)));
        world.agree(&world.ids()).await;
        network.isolate(old);
        let put = tokio::spawn({
            let key = key.clone();
            async move { at_old.put(key, vec![b'x'; LARGE_VALUE_BYTES]).timeout(PATIENCE).await }
        });
        let put = AbortOnDropHandle::new(put);
        let written = until("the batch to be in the log's file, or a leader no more", async || {
            if last_batch(&blocks(&world.group_dir(old))).0.len() > SEVERAL {
                return Some(true);
            }
            (world.status(old).await?.state != State::LEADER).then_some(false)
        })
        .await;
        if written {
            return (old, key);
        }
        // Commands of the leader's own were under way when it was cut off, and the batch waited for them in vain.
        drop(put);
        network.heal();
    }
}

/// Makes the last batch of a server's log as if only some of its blocks had reached the disk.
fn tear(world: &World, id: NodeId, reached: impl Fn(usize) -> bool) {
    let (batch, mark) = last_batch(&blocks(&world.group_dir(id)));
    assert!(batch.len() > SEVERAL, "the last batch is a small one: {batch:?}");
    // The mark comes after the batch's sync.
    mark.iter().for_each(Block::erase);
    for (part, block) in batch.iter().enumerate() {
        if !reached(part) {
            block.erase();
        }
    }
}

/// Promise 8; scenario 49: bit rot anywhere in the log is found at the next start, said with its place, and repaired by
/// the leader.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_anywhere_in_the_log_is_reported_with_its_place_and_repaired() {
    let mut world = World::start().await;
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut chance = fastrand::Rng::with_seed(seed);
    let load = Load::start(&world, 4).await;
    for _ in 0..8 {
        load.more(100).await;
        let id = *chance.choice(&world.ids()).unwrap();
        world.kill(id).unwrap();
        let written = blocks(&world.group_dir(id));
        // At a kill under load the last batch may never have been acknowledged.
        let (last, _) = last_batch(&written);
        let acknowledged: Vec<_> = written.iter().filter(|block| block.sequence < last[0].sequence).collect();
        let block = *chance.choice(&acknowledged).unwrap();
        block.flip(chance.usize(..BLOCK_BYTES));

        let mark = world.log_mark(id);
        world.start(id).await.unwrap();
        let place = format!("segment {} is damaged at offset {}:", block.segment, block.offset);
        world.says(id, mark, &place).await;
        world.says(id, mark, "what was lost on this disk is there again").await;
        world.status_when(id, "whole", |status| !status.damaged).await;
        load.more(50).await;
    }
    world.verify(&load.stop().await).await;
}

/// Promise 8: who may have forgotten what it acknowledged neither votes nor counts, until a leader has re-sent it.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_server_neither_votes_nor_counts_until_it_has_everything_again() {
    let mut world = World::start().await;
    let load = Load::start(&world, 4).await;
    load.more(200).await;
    let ledger = load.stop().await;
    world.agree(&world.ids()).await;
    let [damaged, whole, absent] = world.ids().try_into().unwrap();
    world.stop_all().await.unwrap();
    let written = blocks(&world.group_dir(damaged));
    written[written.len() / 2].flip(100);

    let (damaged_mark, whole_mark) = (world.log_mark(damaged), world.log_mark(whole));
    world.start(damaged).await.unwrap();
    world.start(whole).await.unwrap();
    world.status_when(damaged, "damaged", |status| status.damaged).await;
    world.says(whole, whole_mark, "asking around").await;
    let client = world.client_among(&[damaged, whole]).await;
    for _ in 0..3 {
        // Meanwhile it asks again and again, in vain.
        let error = client.put("k", "").timeout(SHORT).await.expect_err("there is no leader");
        assert!(matches!(error, Error::NotApplied(_)), "{error}");
        let status = world.status(whole).await.unwrap();
        assert_eq!(status.state, State::PRE_CANDIDATE, "{status:?}");
    }
    assert!(!world.said_since(whole, whole_mark).contains("elected"), "a damaged server voted");
    let said = world.said_since(damaged, damaged_mark);
    assert!(!said.contains("asking around") && !said.contains("elected"), "a damaged server campaigned");
    let status = world.status(damaged).await.unwrap();
    assert!(status.damaged && status.state == State::FOLLOWER, "{status:?}");

    world.start(absent).await.unwrap();
    world.says(damaged, damaged_mark, "what was lost on this disk is there again").await;
    world.verify(&ledger).await;
    // Now it counts: the two others are not enough without it.
    world.kill(absent).unwrap();
    must_put(&client, "k", "two are enough").await;
}

/// Promise 8: what a leader and a damaged server hold is not acknowledged, and what they say to each other confirms no
/// read.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_and_a_damaged_server_are_no_majority() {
    let mut world = World::found(|plan| {
        // Long enough for the damaged server to be back while the leader still leads.
        plan.serve_arguments = ["--election-timeout-ms", "4000"].map(Into::into).to_vec();
    })
    .await;
    world.start_all().await.unwrap();
    let leader = world.leader().await.unwrap();
    let at_leader = world.warm_client_among(&[leader]).await;
    must_put(&at_leader, "k", "by a majority").await;
    world.agree(&world.ids()).await;
    let [damaged, absent] = world.others(&[leader]).try_into().unwrap();
    world.pause(absent).unwrap();
    world.kill(damaged).unwrap();
    blocks(&world.group_dir(damaged))[0].flip(100);
    world.start(damaged).await.unwrap();
    until("the leader to have no majority", async || {
        let put = at_leader.put("k", "by a leader and a damaged server").timeout(SHORT).await;
        let read = at_leader.get("k").timeout(SHORT).await;
        read.expect_err("a damaged server confirmed a leader");
        let error = put.expect_err("a damaged server counted");
        matches!(error.cause().code, Some(Code::NO_QUORUM | Code::NO_LEADER)).then_some(())
    })
    .await;
    assert!(world.status(damaged).await.unwrap().damaged);
    world.resume(absent).unwrap();
    world.status_when(damaged, "whole", |status| !status.damaged).await;
    world.agree(&world.ids()).await;
}

/// Promise 8: a wiped disk has forgotten what it acknowledged, and its server is refused as long as it uses that id.
#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_data_directory_is_refused_under_its_known_id_with_the_reason_on_both_sides() {
    let mut world = World::start().await;
    // One entry of the leader for each term that had one, and one for each server that it has met.
    until("all members to be recorded", async || {
        let status = world.status(world.leader().await.unwrap()).await?;
        (status.applied_index >= status.term + 3).then_some(())
    })
    .await;
    let client = world.client().await.unwrap();
    must_put(&client, "k", "v").await;
    let leader = world.agree(&world.ids()).await;
    let at_leader = world.warm_client_among(&[leader]).await;
    let [wiped, other] = world.others(&[leader]).try_into().unwrap();
    world.stop(wiped).await.unwrap();
    world.wipe(wiped);

    let marks = world.ids().into_iter().map(|id| (id, world.log_mark(id))).collect::<Vec<_>>();
    world.start(wiped).await.unwrap();
    for (id, mark) in marks {
        let line = world.says(id, mark, "is known to the cluster with another data directory").await;
        assert!(line.contains(&format!("server {wiped}")), "{line}");
        assert!(line.contains("its disk was wiped or replaced"), "{line}");
    }
    // It counts for nothing: with it alone the leader has no majority.
    world.kill(other).unwrap();
    until("the leader to have no majority", async || {
        let put = at_leader.put("k", "by one of three").timeout(SHORT).await;
        let error = put.expect_err("a wiped server counted");
        (error.cause().code == Some(Code::NO_QUORUM)).then_some(())
    })
    .await;
    assert_eq!(world.status(wiped).await.unwrap().last_log_index, 0);
    world.start(other).await.unwrap();
    let got = client.get("k").timeout(PATIENCE).await.unwrap().expect("it was put");
    assert!(got.value == "v" || got.value == "by one of three", "{got:?}");
}

/// Without its hard state a server does not know whom it voted for: it does not start, and says what to do.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_hard_state_is_unreadable_does_not_start_and_says_what_to_do() {
    let mut world = World::start().await;
    let client = world.client().await.unwrap();
    let id = world.ids()[0];
    world.kill(id).unwrap();
    let path = world.group_dir(id).join("hard-state");
    let slots = fs::read(&path).unwrap();
    let spoilt = |places: &[usize]| {
        let mut slots = slots.clone();
        places.iter().for_each(|place| slots[*place] ^= 1);
        fs::write(&path, slots).unwrap();
    };
    // One slot is enough.
    spoilt(&[20]);
    world.start(id).await.unwrap();
    must_put(&client, "k", "v").await;
    world.kill(id).unwrap();
    spoilt(&[20, BLOCK_BYTES + 20]);
    let mark = world.log_mark(id);
    world.spawn(id, |_| {}).unwrap();
    assert!(!world.wait_exit(id).await.unwrap().success());
    let said = world.said_since(id, mark);
    assert!(said.contains("hard state") && said.contains("new"), "{said}");
    must_put(&client, "k", "the others go on").await;
}
