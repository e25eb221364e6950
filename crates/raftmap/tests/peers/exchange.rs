//! Batches get there, in order, and connections come back.

use std::time::Duration;

use raftmap::peers::{PeerEvent, Security, Transport};
use raftmap_raft::NodeId;

use crate::proxy::Proxy;
use crate::servers::{
    Certificates, Server, batch, config, eventually, forward, listener, member, pair, pair_with, sequence,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_exchange_batches_in_order() {
    let (mut one, mut two) = pair().await;
    for number in 1..=100 {
        one.peers.send(NodeId(2), batch(vec![forward(number, 10)]));
        two.peers.send(NodeId(1), batch(vec![forward(1000 + number, 10)]));
    }
    assert_eq!(two.sequences_until(100).await, (1..=100).collect::<Vec<_>>());
    assert_eq!(one.sequences_until(1100).await, (1001..=1100).collect::<Vec<_>>());

    one.peers.send(NodeId(2), batch(vec![forward(7, 3), forward(8, 0)]));
    let (from, received) = two.received().await;
    assert_eq!((from, received), (NodeId(1), batch(vec![forward(7, 3), forward(8, 0)])));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_reach_each_other_and_say_who_they_are() {
    let certificates = Certificates::new("demo");
    let listeners = [listener().await, listener().await, listener().await];
    let addresses: Vec<_> = (1..).zip(listeners.iter().map(|listener| listener.1)).collect();
    let mut servers: Vec<_> = (1..)
        .zip(listeners)
        .map(|(id, (listener, _))| {
            let mut config = config(id, certificates.of_node(id), &addresses);
            config.damaged = id == 3;
            Server::start(config, listener)
        })
        .collect();
    for (id, server) in (1..).zip(&mut servers) {
        let mut found = [server.connected().await, server.connected().await];
        found.sort_by_key(|found| found.0.node_id);
        let others = (1..=3).filter(|other| *other != id);
        for (other, (who, info)) in others.zip(found) {
            assert_eq!(who, member(other));
            assert_eq!(info.client_address, format!("clients-of-{other}:1"));
            assert_eq!(info.version, env!("CARGO_PKG_VERSION"));
            assert_eq!(info.level, raftmap_state::LEVEL);
            assert_eq!(info.damaged, other == 3);
        }
    }
    for (from, to) in [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)] {
        servers[from - 1].peers.send(NodeId(to as u64), batch(vec![forward(from as u64, 1)]));
        let (sender, received) = servers[to - 1].received().await;
        assert_eq!(sender, NodeId(from as u64));
        assert_eq!(received, batch(vec![forward(from as u64, 1)]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_small_batches_arrive_in_order() {
    const COUNT: u64 = 100_000;
    let (one, mut two) = pair().await;
    let receiving = tokio::spawn(async move { two.sequences_until(COUNT).await });
    for number in 1..=COUNT {
        one.peers.send(NodeId(2), batch(vec![forward(number, 10)]));
        if number % 1000 == 0 {
            eventually("the queue has room", || one.peers.status()[0].queued_bytes < 1 << 20).await;
        }
    }
    assert_eq!(receiving.await.unwrap(), (1..=COUNT).collect::<Vec<_>>());
    assert_eq!(one.peers.status()[0].dropped_batches, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_messages_and_large_batches_arrive_whole() {
    let (one, mut two) = pair().await;
    let messages = || vec![forward(1, 5 << 20), forward(2, 1), forward(3, 900 << 10), forward(4, 900 << 10)];
    one.peers.send(NodeId(2), batch(messages()));
    let mut received = Vec::new();
    while received.len() < 4 {
        received.extend(two.received().await.1.messages);
    }
    assert_eq!(received, messages());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_tls_servers_talk_all_the_same() {
    let (one, mut two) = pair_with([Security::insecure(), Security::insecure()], |_| {}).await;
    one.peers.send(NodeId(2), batch(vec![forward(1, 1)]));
    assert_eq!(two.received().await.1, batch(vec![forward(1, 1)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_sends_what_waits_and_is_lost_at_once() {
    let (one, mut two) = pair().await;
    for number in 1..=1000 {
        one.peers.send(NodeId(2), batch(vec![forward(number, 1000)]));
    }
    let stopping = tokio::spawn(async move {
        one.peers.stop().await;
        one
    });
    assert_eq!(two.sequences_until(1000).await, (1..=1000).collect::<Vec<_>>());
    assert_eq!(two.lost().await, NodeId(1));
    let one = stopping.await.unwrap();
    assert_eq!(one.peers.status()[0].connected, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_sink_is_gone_leaves_the_others() {
    let (one, mut two) = pair().await;
    let peers = one.without_sink();
    two.peers.send(NodeId(1), batch(vec![forward(1, 1)]));
    assert_eq!(two.lost().await, NodeId(1));
    // It does not come back, though nobody has stopped it yet.
    assert!(two.event_within(Duration::from_millis(300)).await.is_none());
    assert_eq!(peers.status()[0].connected, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_is_reported_on_both_sides_and_made_anew() {
    let certificates = Certificates::new("demo");
    let [(one, one_at), (two, two_at)] = [listener().await, listener().await];
    let proxy = Proxy::start(two_at).await;
    let mut one = Server::start(config(1, certificates.of_node(1), &[(2, proxy.address)]), one);
    let mut two = Server::start(config(2, certificates.of_node(2), &[(1, one_at)]), two);
    for round in 1..=3 {
        assert_eq!(one.connected().await.0, member(2));
        assert_eq!(two.connected().await.0, member(1));
        two.peers.send(NodeId(1), batch(vec![forward(round, 1)]));
        assert_eq!(one.received().await.1, batch(vec![forward(round, 1)]));
        proxy.cut(round);
        assert_eq!(one.lost().await, NodeId(2));
        assert_eq!(two.lost().await, NodeId(1));
    }
}

/// What was sent to a peer that is not connected is not sent later, when it means nothing any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_while_nobody_is_there_is_dropped_and_counted() {
    let certificates = Certificates::new("demo");
    let [(one, one_at), (two, two_at)] = [listener().await, listener().await];
    let mut one = Server::start(config(1, certificates.of_node(1), &[(2, two_at)]), one);
    one.peers.send(NodeId(2), batch(vec![forward(1, 1)]));
    one.peers.send(NodeId(9), batch(vec![forward(1, 1)]));
    assert_eq!(one.peers.status()[0].dropped_batches, 1);
    let mut two = Server::start(config(2, certificates.of_node(2), &[(1, one_at)]), two);
    one.connected().await;
    two.connected().await;
    one.peers.send(NodeId(2), batch(vec![forward(2, 1)]));
    assert_eq!(two.received().await.1, batch(vec![forward(2, 1)]));
}

/// The cable goes dead without a word: the dialer notices, as nothing comes, and dials again; the other side still takes
/// the old connection for alive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_connection_replaces_one_that_seems_alive() {
    let certificates = Certificates::new("demo");
    let [(one, one_at), (two, two_at)] = [listener().await, listener().await];
    let proxy = Proxy::start(two_at).await;
    let mut impatient = config(1, certificates.of_node(1), &[(2, proxy.address)]);
    impatient.limits.ping_interval = Duration::from_millis(200);
    let mut patient = config(2, certificates.of_node(2), &[(1, one_at)]);
    patient.limits.ping_interval = Duration::from_secs(3600);
    let (mut one, mut two) = (Server::start(impatient, one), Server::with_inbox(patient, two, 1));
    one.connected().await;
    two.connected().await;

    // The old connection still has batches to deliver when the new one comes: the inbox is full.
    for number in 1..=1000 {
        one.peers.send(NodeId(2), batch(vec![forward(number, 100 << 10)]));
    }
    eventually("the peer's windows are full", || one.peers.status()[0].queued_bytes > 0).await;
    proxy.kill(1);
    assert_eq!(one.lost().await, NodeId(2));
    assert_eq!(one.connected().await.0, member(2));
    one.peers.send(NodeId(2), batch(vec![forward(2000, 1)]));

    let mut order = Vec::new();
    while order.last() != Some(&2000) {
        match two.event().await {
            PeerEvent::Received { batch, .. } => order.extend(batch.messages.iter().map(sequence)),
            PeerEvent::Lost(_) => order.push(10_001),
            PeerEvent::Connected { .. } => order.push(10_002),
            PeerEvent::Refused { refusal, .. } => panic!("{refusal}"),
        }
    }
    assert!(order.ends_with(&[10_001, 10_002, 2000]), "{:?}", &order[order.len().saturating_sub(5)..]);
    let old = &order[..order.len() - 3];
    assert!(old.iter().copied().eq(1..=old.len() as u64), "a piece of what was sent, in order");
}

/// Any client of gRPC can speak to a server: the stream is what `peer.proto` says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generated_client_is_understood() {
    use connectrpc::Protocol;
    use connectrpc::client::{ClientConfig, Http2Connection};
    use raftmap_proto::peer::{PeerClient, PeerFrame, peer_frame::Frame};

    let (two, two_at) = listener().await;
    let mut two = Server::start(config(2, Security::insecure(), &[(1, two_at)]), two);
    let uri: http::Uri = format!("http://{two_at}").parse().unwrap();
    let connection = Http2Connection::lazy_plaintext(uri.clone()).shared(1);
    let client = PeerClient::new(connection, ClientConfig::new(uri).with_protocol(Protocol::Grpc));
    let (mut send, mut receive) = client.stream().await.unwrap().into_split();
    let hello = PeerFrame { frame: Some(Frame::Hello(crate::raw::hello(1, 2))) };
    send.send(hello).await.unwrap();
    let answer = receive.message().await.unwrap().unwrap().to_owned_message();
    assert!(matches!(answer.frame, Some(Frame::Hello(hello)) if hello.node_id == 2));
    two.connected().await;
    two.peers.send(NodeId(1), batch(vec![forward(1, 1)]));
    let answer = receive.message().await.unwrap().unwrap().to_owned_message();
    assert!(matches!(answer.frame, Some(Frame::Batch(batch)) if batch.messages.len() == 1));
    two.peers.stop().await;
    assert!(receive.message().await.unwrap().is_none(), "a clean end");
}
