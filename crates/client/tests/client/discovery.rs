//! How the client finds and follows the servers.

use raftmap_client::{Client, Code, Security, SetupError};

use crate::server::{Act, Incoming, Server};
use crate::world::not_applied;
use crate::{LONG, SHORT, TestCluster, eventually, members_of};

#[tokio::test]
async fn all_servers_of_a_cluster_may_be_replaced_one_after_the_other() {
    let cluster = TestCluster::start(1).await;
    let first = &cluster.servers[0];
    let second = Server::start(&cluster.world).await;
    let third = Server::start(&cluster.world).await;
    first.set_members(members_of(&[first, &second], 2, Some(0)));
    second.set_members(members_of(&[&second, &third], 3, Some(0)));
    third.set_members(members_of(&[&third], 4, Some(0)));

    let client = cluster.client().await;
    client.put("k", "1").await.unwrap();
    first.stop().await;
    client.put("k", "2").await.unwrap();
    // Until the members were asked for again, the client may know none but the first two.
    eventually("word of the third server", || third.was_asked_for_members()).await;
    second.stop().await;
    client.put("k", "3").await.unwrap();
    assert_eq!(cluster.puts("k"), 3);
    assert!(!third.received().is_empty());
}

#[tokio::test]
async fn without_discovery_only_the_given_servers_are_asked() {
    let cluster = TestCluster::start(2).await;
    let [first, second] = cluster.servers.as_slice() else { panic!() };
    let client = Client::builder([first.address()], Security::Insecure)
        .timeout(LONG)
        .discover(false)
        .connect()
        .await
        .unwrap();
    first.set_members(cluster.members(2, Some(1)));
    let hint = raftmap_proto::v1::Failure { leader: second.address(), ..not_applied(Code::NO_LEADER) };
    first.script_requests([Act::Fail(hint)]);
    client.put("k", "v").await.unwrap();
    assert!(second.received().is_empty() && !second.was_asked_for_members());
}

#[tokio::test]
async fn connecting_says_why_no_server_can_be_used() {
    let cluster = TestCluster::start(2).await;
    let addresses: Vec<String> = cluster.servers.iter().map(Server::address).collect();
    for server in &cluster.servers {
        server.stop().await;
    }
    let connecting = Client::builder(addresses.clone(), Security::Insecure).timeout(SHORT);
    let Err(SetupError::Unreachable(reason)) = connecting.connect().await else {
        panic!("no server is there")
    };
    for address in addresses {
        assert!(reason.contains(&address), "{reason}");
    }
}

#[tokio::test]
async fn connecting_ends_at_once_when_the_caller_is_refused() {
    let cluster = TestCluster::start(1).await;
    cluster.servers[0].script(|incoming| match incoming {
        Incoming::Members => Act::Fail(not_applied(Code::DENIED)),
        _ => Act::Apply,
    });
    let Err(SetupError::Unreachable(reason)) = cluster.builder().connect().await else { panic!("refused") };
    assert!(reason.contains("DENIED"), "{reason}");
}

#[tokio::test]
async fn connecting_waits_for_one_server_only() {
    let cluster = TestCluster::start(2).await;
    cluster.servers[1].script(|incoming| match incoming {
        Incoming::Members => Act::Ignore,
        _ => Act::Apply,
    });
    let client = cluster.client().await;
    client.put("k", "v").await.unwrap();
}

#[tokio::test]
async fn endpoints_are_checked() {
    let none = Client::connect(Vec::<String>::new(), Security::Insecure).await;
    assert_eq!(none.err(), Some(SetupError::NoEndpoint));
    let bad = Client::connect(["localhost"], Security::Insecure).await;
    assert!(matches!(bad.err(), Some(SetupError::BadEndpoint { .. })));
}
