//! Servers that come later than others began, and that move.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use raftmap::peers::{PeersConfig, Refusal, Security, Transport};
use raftmap_raft::NodeId;

use crate::servers::{Server, batch, config, forward, listener, member, nowhere, pair};

fn at(addresses: &[(u64, SocketAddr)]) -> BTreeMap<NodeId, String> {
    addresses.iter().map(|(id, address)| (NodeId(*id), address.to_string())).collect()
}

fn plain(id: u64, members: &[(u64, SocketAddr)]) -> PeersConfig {
    let mut config = config(id, Security::insecure(), members);
    config.limits.dial_patience = Duration::from_millis(50);
    config
}

/// Section 6 of the paper: a server hears also those that are not in its membership. Whoever leads may have come while it was
/// away; and it cannot dial whom it does not know, so that the other one does, whatever the ids.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_hears_one_that_it_does_not_know() {
    let [(one, one_at), (two, two_at)] = [listener().await, listener().await];
    let mut one = Server::start(plain(1, &[(1, one_at)]), one);
    let mut two = Server::start(plain(2, &[(1, one_at), (2, two_at)]), two);
    assert_eq!(one.connected().await.0, member(2));
    assert_eq!(two.connected().await.0, member(1));
    one.peers.send(NodeId(2), batch(vec![forward(1, 1)]));
    two.peers.send(NodeId(1), batch(vec![forward(2, 1)]));
    assert_eq!(one.sequences_until(2).await, [2]);
    assert_eq!(two.sequences_until(1).await, [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_dialed_where_the_log_says_that_it_is() {
    let [(one, one_at), (three, three_at)] = [listener().await, listener().await];
    let mut one = Server::start(plain(1, &[(1, one_at), (3, nowhere().await)]), one);
    // By its data directory it dials nobody: it waits to be called.
    let mut three = Server::start(plain(3, &[]), three);
    one.peers.locate(at(&[(1, one_at), (3, three_at)]));
    assert_eq!(one.connected().await.0, member(3));
    assert_eq!(three.connected().await.0, member(1));

    three.without_sink().stop().await;
    assert_eq!(one.lost().await, NodeId(3));
    let (again, again_at) = listener().await;
    let mut three = Server::start(plain(3, &[]), again);
    one.peers.locate(at(&[(1, one_at), (3, again_at)]));
    assert_eq!(one.connected().await.0, member(3));
    assert_eq!(three.connected().await.0, member(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_removed_is_told_so() {
    let (mut one, mut two) = pair().await;
    one.peers.locate(at(&[]));
    let refusal = Refusal { reason: "server 2 was removed".to_owned(), removed: true };
    one.peers.refuse(NodeId(2), refusal.clone());
    assert_eq!(two.lost().await, NodeId(1));
    assert_eq!(two.refusal().await, (NodeId(1), refusal));
    assert_eq!(one.lost().await, NodeId(2));
}
