//! Answers that are lost, and writes that are sent again.

use std::time::Duration;

use raftmap::local_cluster::{CLIENT, LocalMember, Proxy};
use raftmap_client::{Client, Expected, Operation, Tls, TxnAnswer};

use crate::support::load::{must_get, must_put};
use crate::support::{PATIENCE, World, soon, until};

/// How long a client waits for one answer before it sends the request again.
const ATTEMPT: Duration = Duration::from_millis(700);

const ROUNDS: u64 = 8;

/// A client that reaches each server through a proxy, and what is needed to see what becomes of its writes.
struct Lossy {
    proxies: Vec<Proxy>,
    tls: Tls,
    observer: Client,
}

impl Lossy {
    async fn to(world: &World) -> Self {
        let before = |member: &LocalMember| Proxy::before(member.client_listen).unwrap();
        let proxies: Vec<Proxy> = world.plan().members.iter().map(before).collect();
        let observer = world.client().await.unwrap();
        must_put(&observer, "counter", "0").await;
        Self { proxies, tls: world.tls(CLIENT).unwrap(), observer }
    }

    /// A client with a session, and with connections to all servers: a handshake has answers, too.
    async fn client(&self) -> Client {
        let addresses = self.proxies.iter().map(|proxy| proxy.address.to_string());
        let builder = Client::builder(addresses, self.tls.clone()).discover(false);
        let client = builder.timeout(PATIENCE).attempt_timeout(ATTEMPT).connect().await.unwrap();
        must_put(&client, "warm", "the session is open").await;
        for _ in &self.proxies {
            client.get("warm").stale().await.unwrap();
        }
        client
    }

    /// Counts up from `value`. The answer is lost; `meanwhile` happens when the write was applied, then the way is free
    /// again. Gives the answer of a later attempt, and the revision of the write.
    async fn count(&self, value: u64, meanwhile: impl AsyncFnOnce()) -> (TxnAnswer, u64) {
        let next = (value + 1).to_string();
        let client = self.client().await;
        let count = client
            .txn()
            .when("counter", Expected::Value(value.to_string().into()))
            .then(Operation::put("counter", next.clone()))
            .otherwise(Operation::get("counter"));
        self.proxies.iter().for_each(|proxy| proxy.link.hold_answers());
        let lose = async {
            let counter = until("the write to be applied", async || {
                let entry =
                    self.observer.get("counter").timeout(PATIENCE).await.unwrap().expect("it was put");
                (entry.value == next).then_some(entry)
            });
            let counter = counter.await;
            meanwhile().await;
            for proxy in &self.proxies {
                // What lies on the way is lost with its connection.
                proxy.link.cut();
                proxy.link.open();
            }
            counter.revision
        };
        let (answer, revision) = soon("a retry to be answered", async { tokio::join!(count, lose) }).await;
        (answer.unwrap(), revision)
    }
}

/// Promise 7; scenario 45.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_answer_was_lost_is_applied_once() {
    let world = World::start().await;
    let lossy = Lossy::to(&world).await;
    for value in 0..ROUNDS {
        let (answer, revision) = lossy.count(value, async || {}).await;
        assert!(answer.succeeded, "counting on from {value} was applied again: {answer:?}");
        assert_eq!(answer.revision, revision, "the answer is not that of the attempt that was applied");
        let previous = answer.results[0].previous.as_ref().expect("it was put");
        assert_eq!(
            previous.value,
            value.to_string(),
            "the answer is not that of the attempt that was applied"
        );
    }
    assert_eq!(must_get(&lossy.observer, "counter").await, Some(ROUNDS.to_string()));
}

/// Promise 7; scenario 45: what the session remembers is replicated, and is there after a failover and after restarts.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_answer_was_lost_with_its_leader_is_applied_once() {
    let mut world = World::start().await;
    let lossy = Lossy::to(&world).await;
    for value in 0..ROUNDS {
        let leader = world.leader().await.unwrap();
        let fail_over = async || match value % 3 {
            0 => world.kill(leader).unwrap(),
            1 => {
                world.kill_all().unwrap();
                world.start_all().await.unwrap();
            }
            // What was applied is then read back, and not applied again from the log.
            _ => {
                world.stop_all().await.unwrap();
                world.start_all().await.unwrap();
            }
        };
        let (answer, revision) = lossy.count(value, fail_over).await;
        assert!(answer.succeeded, "counting on from {value} was applied again: {answer:?}");
        assert_eq!(answer.revision, revision, "the answer is not that of the attempt that was applied");
        world.start_all().await.unwrap();
    }
    assert_eq!(must_get(&lossy.observer, "counter").await, Some(ROUNDS.to_string()));
}
