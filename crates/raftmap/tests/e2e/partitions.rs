//! Servers that do not reach each other, and servers that stand still.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use raftmap::local_cluster::{CLIENT, Network};
use raftmap_client::{Client, Entry, Error};
use raftmap_proto::v1::member_status::State;
use raftmap_raft::NodeId;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::support::load::{must_get, must_put};
use crate::support::{Load, PATIENCE, World, soon};

/// How long one request at a server that may never answer may take.
const SHORT: Duration = Duration::from_secs(1);

/// Promise 4; scenarios 43 and 46.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_does_not_reach_its_peers_acknowledges_nothing_and_serves_no_stale_read() {
    let (world, network) = World::start_with_network().await;
    let load = Load::start(&world, 2).await;
    for round in 0..3 {
        load.more(50).await;
        leave_the_leader_alone(&world, &network, &format!("counter/{round}")).await;
    }
    world.verify(&load.stop().await).await;
}

async fn leave_the_leader_alone(world: &World, network: &Network, key: &str) {
    let old = world.leader().await.unwrap();
    let at_old = world.warm_client_among(&[old]).await;
    let at_others = world.warm_client_among(&world.others(&[old])).await;
    must_put(&at_others, key, "0").await;
    network.isolate(old);

    let (floor, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let read_at_old = async {
        while !done.load(Ordering::Relaxed) {
            let acknowledged = floor.load(Ordering::SeqCst);
            if let Ok(entry) = at_old.get(key.to_owned()).timeout(SHORT).await {
                let entry = entry.expect("it was put");
                let value: u64 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
                assert!(value >= acknowledged, "{acknowledged} was acknowledged, then {value} was read");
            }
        }
    };
    let write_at_old = async {
        while !done.load(Ordering::Relaxed) {
            let put = at_old.put("alone", "by a leader without peers").timeout(SHORT).await;
            put.expect_err("a leader without peers acknowledges nothing");
        }
    };
    let write_at_others = async {
        for value in 1..=100 {
            must_put(&at_others, key, &value.to_string()).await;
            floor.store(value, Ordering::SeqCst);
        }
        world.status_when(old, "no leader any more", |status| status.state != State::LEADER).await;
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(read_at_old, write_at_old, write_at_others);

    let new = world.leader().await.unwrap();
    assert_ne!(new, old);
    network.heal();
    let term = world.status(new).await.unwrap().term;
    world.status_when(old, "in the others' term", |status| status.term >= term).await;
}

/// Promises 4 and 6; scenarios 42 and 43: the others have another leader, and nothing tells the old one. While it stood still
/// it could not even count the time without an answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_wakes_up_alone_and_believes_that_it_leads_serves_no_stale_read() {
    let (mut world, network) = World::start_with_network().await;
    for round in 0..3 {
        let key = format!("asleep/{round}");
        let old = world.agree(&world.ids()).await;
        let at_others = world.warm_client_among(&world.others(&[old])).await;
        let clients = patient_clients(&world, old, &key).await;
        network.isolate(old);
        world.pause(old).unwrap();
        must_put(&at_others, &key, "new").await;
        let reads = read_soon(clients, &key).await;
        world.resume(old).unwrap();
        world.status_when(old, "no leader any more", |status| status.state != State::LEADER).await;
        network.heal();
        no_read_is_old(reads).await;
    }
}

/// Promise 6; scenarios 15 and 20.
#[tokio::test(flavor = "multi_thread")]
async fn entries_that_were_never_committed_are_replaced_when_their_leader_returns() {
    let (mut world, network) = World::start_with_network().await;
    let client = world.client().await.unwrap();
    for round in 0..3 {
        let old = world.leader().await.unwrap();
        let others = world.others(&[old]);
        let at_old = world.warm_client_among(&[old]).await;
        world.agree(&world.ids()).await;
        network.isolate(old);
        let before = world.status(old).await.unwrap().last_log_index;
        let lonely = format!("lonely/{round}");
        let write = async {
            let put = at_old.put(lonely.clone(), "never committed").timeout(SHORT).await;
            let error = put.expect_err("a leader without peers acknowledges nothing");
            assert!(error.maybe_applied(), "it is in a log: {error}");
        };
        let written = world.status_when(old, "durable", |status| status.last_log_index > before);
        tokio::join!(write, written);

        world.kill(old).unwrap();
        // What it sent before it died is not to arrive later.
        network.cut(old);
        network.heal();
        for number in 0..10 {
            must_put(&client, &format!("others/{round}/{number}"), "committed").await;
        }
        let mark = world.log_mark(old);
        world.start(old).await.unwrap();
        // It says only what was committed, from its first answer on.
        let (lonely, returned) = (&lonely, AtomicBool::new(false));
        let at_old = world.client_among(&[old]).await;
        let read_stale = async {
            while !returned.load(Ordering::Relaxed) {
                let entry = at_old.get(lonely.clone()).stale().await.unwrap();
                assert_eq!(entry, None, "what was never committed shows");
            }
        };
        let follow = async {
            world.says(old, mark, "entries that were never committed are replaced").await;
            world.agree(&world.ids()).await;
            returned.store(true, Ordering::Relaxed);
        };
        tokio::join!(read_stale, follow);
        assert_eq!(must_get(&world.client_among(&others).await, lonely).await, None);
        assert_eq!(must_get(&at_old, &format!("others/{round}/9")).await.as_deref(), Some("committed"));
    }
}

/// Promise 6; scenario 42.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_paused_serves_no_stale_read_when_it_wakes_up() {
    let mut world = World::start().await;
    for round in 0..6 {
        let key = format!("paused/{round}");
        let old = world.leader().await.unwrap();
        let others = world.client_among(&world.others(&[old])).await;
        let clients = patient_clients(&world, old, &key).await;
        world.pause(old).unwrap();
        must_put(&others, &key, "new").await;
        let reads = read_soon(clients, &key).await;
        world.resume(old).unwrap();
        no_read_is_old(reads).await;
    }
    world.agree(&world.ids()).await;
}

/// Clients of one server, which ask it and wait, however long it takes. They put "old".
async fn patient_clients(world: &World, id: NodeId, key: &str) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..8 {
        let builder = Client::builder([world.client_address(id)], world.tls(CLIENT).unwrap());
        let builder = builder.discover(false).timeout(PATIENCE).attempt_timeout(PATIENCE);
        let client = builder.connect().await.unwrap();
        must_put(&client, key, "old").await;
        clients.push(client);
    }
    clients
}

/// Begins reads that reach a server while it stands still: they are the first that it sees when it wakes up.
async fn read_soon(clients: Vec<Client>, key: &str) -> Vec<JoinHandle<Result<Option<Entry>, Error>>> {
    let read = |client: Client| {
        let key = key.to_owned();
        tokio::spawn(async move { client.get(key).await })
    };
    let reads = clients.into_iter().map(read).collect();
    // As long as it takes for the requests to lie in its sockets: the test is the weaker without it, not wrong.
    sleep(Duration::from_millis(100)).await;
    reads
}

async fn no_read_is_old(reads: Vec<JoinHandle<Result<Option<Entry>, Error>>>) {
    for read in reads {
        if let Ok(entry) = soon("a read at the old leader", read).await.unwrap() {
            assert_eq!(entry.expect("it was put").value, "new", "a stale read by a leader that was paused");
        }
    }
}

/// A machine that stops closes no connection: who waits for an answer of it has its silence and the word of the others.
#[tokio::test(flavor = "multi_thread")]
async fn calls_at_a_leader_that_stands_still_go_on_at_the_next_one() {
    let mut world = World::start().await;
    let addresses: Vec<_> = world.ids().iter().map(|id| world.client_address(*id)).collect();
    let builder = Client::builder(addresses, world.tls(CLIENT).unwrap());
    // No attempt ends by its timeout within the test.
    let client = builder.timeout(PATIENCE * 2).attempt_timeout(PATIENCE * 2).connect().await.unwrap();
    must_put(&client, "goes", "on").await;
    let old = world.agree(&world.ids()).await;
    world.pause(old).unwrap();
    soon("a put that the paused leader got", client.put("goes", "elsewhere").into_future()).await.unwrap();
    world.resume(old).unwrap();
    let entry = client.get("goes").await.unwrap().expect("it was put");
    assert_eq!(entry.value, "elsewhere");
}

/// Promises 1, 4 and 6 at once: links that are cut, one-sided or slow, and servers that are killed or paused, one after
/// the other in an order by chance.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_to_the_network_under_load_nothing_is_lost_and_no_read_is_stale() {
    let seed = fastrand::u64(..);
    eprintln!("seed {seed}");
    let mut chance = fastrand::Rng::with_seed(seed);
    let (mut world, network) = World::start_with_network().await;
    let load = Load::start(&world, 4).await;
    for _ in 0..10 {
        load.more(50).await;
        let ids = world.ids();
        let id = *chance.choice(&ids).unwrap();
        let other = *chance.choice(&world.others(&[id])).unwrap();
        match chance.u8(0..5) {
            0 => network.isolate(id),
            1 => network.mute(id, other),
            2 => network.slow(id, Duration::from_millis(chance.u64(1..200))),
            3 => network.cut(id),
            _ => {
                world.pause(id).unwrap();
                load.more(50).await;
                world.resume(id).unwrap();
            }
        }
        load.more(100).await;
        if chance.bool() {
            world.kill(id).unwrap();
            load.more(50).await;
            world.start(id).await.unwrap();
        }
        network.heal();
    }
    let ledger = load.stop().await;
    world.verify(&ledger).await;
}

/// Scenario 6, and why there is a pre-vote: a server that hears nothing asks around, and nobody's term moves.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hears_nothing_does_not_disturb_those_that_do() {
    let (world, network) = World::start_with_network().await;
    let client = world.client().await.unwrap();
    must_put(&client, "k", "before").await;
    let leader = world.agree(&world.ids()).await;
    let deaf = world.others(&[leader])[0];
    let term = world.status(leader).await.unwrap().term;
    let mark = world.log_mark(deaf);
    for id in world.others(&[deaf]) {
        network.mute(id, deaf);
    }
    world.says(deaf, mark, "asking around").await;
    for _ in 0..200 {
        // Meanwhile it asks again and again.
        must_put(&client, "k", "meanwhile").await;
        assert_eq!(world.status(deaf).await.unwrap().state, State::PRE_CANDIDATE);
    }
    let now = world.status(leader).await.unwrap();
    assert_eq!((now.term, now.state.as_known()), (term, Some(State::LEADER)), "the leader was disturbed");
    network.heal();
    world.agree(&world.ids()).await;
    assert_eq!(world.status(leader).await.unwrap().term, term, "the leader was disturbed");
}
