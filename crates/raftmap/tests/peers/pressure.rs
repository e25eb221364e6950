//! Peers that are slow, silent, or send rubbish.

use std::time::Duration;

use bytes::Bytes;
use raftmap::peers::{PeerEvent, PeersConfig, Security, Transport};
use raftmap_proto::peer;
use raftmap_proto::peer::peer_frame::Frame;
use raftmap_raft::NodeId;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::logs::Logs;
use crate::raw::{Raw, hello};
use crate::servers::{
    Certificates, PATIENCE, Server, batch, config, eventually, forward, listener, nowhere, pair_with,
    sequence,
};

/// A server 2 that expects server 1, in plaintext, so that a hand-made peer can talk to it.
async fn lonely(change: impl Fn(&mut PeersConfig)) -> (Server, std::net::SocketAddr) {
    let (two, two_at) = listener().await;
    let mut config = config(2, Security::insecure(), &[(1, nowhere().await)]);
    change(&mut config);
    (Server::start(config, two), two_at)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_takes_nothing_costs_a_bounded_queue_and_nobody_else() {
    const QUEUE: usize = 1 << 20;
    let certificates = Certificates::new("demo");
    let [(one, one_at), (two, two_at), (three, three_at)] =
        [listener().await, listener().await, listener().await];
    let mut sender = config(1, certificates.of_node(1), &[(2, two_at), (3, three_at)]);
    sender.limits.outbox_bytes_max = QUEUE;
    let mut one = Server::start(sender, one);
    let mut stuck = Server::with_inbox(config(2, certificates.of_node(2), &[(1, one_at)]), two, 1);
    let mut three = Server::start(config(3, certificates.of_node(3), &[(1, one_at)]), three);
    one.connected().await;
    one.connected().await;
    stuck.connected().await;
    three.connected().await;

    let dropped = |one: &Server| one.peers.status()[0].dropped_batches;
    let mut number = 0;
    while dropped(&one) < 100 {
        number += 1;
        one.peers.send(NodeId(2), batch(vec![forward(number, 10 << 10)]));
        assert!(one.peers.status()[0].queued_bytes <= QUEUE);
        if number % 100 == 0 {
            one.peers.send(NodeId(3), batch(vec![forward(number, 1)]));
            assert_eq!(three.received().await.1, batch(vec![forward(number, 1)]));
        }
    }
    assert!(number < 10_000, "{number} batches of 10 KiB were taken before one was dropped");

    // It wakes up: what was queued comes, in order, and what is sent from now on.
    let mut last = 0;
    while last == 0 || one.peers.status()[0].queued_bytes > 0 {
        for message in stuck.received().await.1.messages {
            let sequence = sequence(&message);
            assert!(sequence > last, "{sequence} after {last}");
            last = sequence;
        }
    }
    one.peers.send(NodeId(2), batch(vec![forward(1_000_000, 1)]));
    assert_eq!(stuck.sequences_until(1_000_000).await.last(), Some(&1_000_000));
}

/// HTTP/2 closes a connection on which too many small frames stay unread.
#[tokio::test]
async fn a_busy_replica_loses_no_connection_over_small_batches() {
    const WINDOW: usize = 1 << 20;
    let (two, two_at) = listener().await;
    let config = config(2, Security::insecure(), &[(1, nowhere().await)]);
    let mut busy = Server::with_inbox(config, two, 1);
    let mut raw = Raw::plaintext(two_at).await;
    raw.greet(1, 2).await;
    busy.connected().await;
    // The shortest frames, each on its own, as many as the window of HTTP/2 takes.
    let (mut count, mut sent) = (0, 0);
    while sent < WINDOW {
        count += 1;
        let running_digest = vec![0; 16].into();
        let batch = peer::Batch { group_id: 1, clock_ms: count, running_digest, ..Default::default() };
        sent += raw.frame(Frame::Batch(batch));
    }
    // For all of it to arrive. If less does, the test shows less.
    tokio::time::sleep(Duration::from_millis(500)).await;
    for clock_ms in 1..=count {
        assert_eq!(busy.received().await.1.clock_ms, clock_ms);
    }
    assert!(busy.is_idle(), "the connection stands");
}

/// What was received counts until the replica has taken it in, whatever the number of events.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_received_and_not_taken_in_is_bounded_in_bytes() {
    const INBOX: u32 = 1 << 20;
    const COUNT: u64 = 300;
    let security = [Security::insecure(), Security::insecure()];
    let (one, mut two) = pair_with(security, |config| config.limits.inbox_bytes_max = INBOX).await;
    for number in 1..=COUNT {
        one.peers.send(NodeId(2), batch(vec![forward(number, 100 << 10)]));
    }
    let (mut held, mut sequences) = (Vec::new(), Vec::new());
    while let Some(event) = two.event_within(Duration::from_millis(500)).await {
        let PeerEvent::Received { batch, .. } = &event else { panic!("{event:?}") };
        sequences.extend(batch.messages.iter().map(sequence));
        held.push(event);
    }
    assert!(!held.is_empty() && sequences.len() * (100 << 10) <= INBOX as usize, "{sequences:?} are held");
    eventually("the sender has to wait", || one.peers.status()[0].queued_bytes > 0).await;
    held.clear();
    sequences.extend(two.sequences_until(COUNT).await);
    assert_eq!(sequences, (1..=COUNT).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_frame_that_claims_to_be_larger_than_the_limit_is_refused() {
    let logs = Logs::capture();
    let (mut two, two_at) = lonely(|_| {}).await;
    let mut raw = Raw::plaintext(two_at).await;
    raw.greet(1, 2).await;
    two.connected().await;
    raw.bytes(Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]));
    let reason = raw.refusal().await;
    assert!(reason.contains("4294967295") && reason.contains("8388608"), "{reason}");
    assert_eq!(two.lost().await, NodeId(1));
    logs.expect(&["the peer is refused", &reason]).await;

    let mut raw = Raw::plaintext(two_at).await;
    raw.bytes(Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff]));
    assert!(raw.refusal().await.contains("4294967295"), "also as the first frame");
    let mut raw = Raw::plaintext(two_at).await;
    raw.greet(1, 2).await;
    two.connected().await;
}

#[tokio::test]
async fn garbage_is_refused_and_the_server_goes_on() {
    let (mut two, two_at) = lonely(|_| {}).await;
    let gap = peer::Append {
        entries: [1, 3].map(|index| peer::LogEntry { index, ..Default::default() }).into(),
        ..Default::default()
    };
    let body = peer::raft_message::Body::Append(gap);
    let message = peer::peer_message::Message::Raft(peer::RaftMessage { term: 1, body: Some(body) });
    let batch = |group_id, message| {
        let messages = vec![peer::PeerMessage { message }];
        Frame::Batch(peer::Batch {
            group_id,
            running_digest: vec![0; 16].into(),
            messages,
            ..Default::default()
        })
    };
    let frames = [
        (Frame::Hello(hello(1, 2)), "a second hello"),
        (batch(1, None), "a message is unset or unknown: is the other server of another version?"),
        (batch(7, None), "group 7 is not hosted here"),
        (batch(1, Some(message)), "append with a gap: entry 3 where 2 belongs"),
    ];
    for (frame, expected) in frames {
        let mut raw = Raw::plaintext(two_at).await;
        raw.greet(1, 2).await;
        two.connected().await;
        raw.frame(frame);
        assert_eq!(raw.refusal().await, expected);
        assert_eq!(two.lost().await, NodeId(1));
    }
    for (bytes, expected) in [
        (&[0, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff][..], "a frame is malformed"),
        (&[0, 0, 0, 0, 0], "the frame is unset or unknown"),
        (&[1, 0, 0, 0, 1, 0], "a frame is compressed"),
    ] {
        let mut raw = Raw::plaintext(two_at).await;
        raw.greet(1, 2).await;
        two.connected().await;
        raw.bytes(bytes);
        let reason = raw.refusal().await;
        assert!(reason.contains(expected), "{reason}");
        assert_eq!(two.lost().await, NodeId(1));
    }
    let mut raw = Raw::plaintext(two_at).await;
    raw.frame(batch(1, None));
    assert_eq!(raw.refusal().await, "a message is unset or unknown: is the other server of another version?");
}

#[tokio::test]
async fn a_stream_that_ends_within_a_frame_is_lost() {
    let logs = Logs::capture();
    let (mut two, two_at) = lonely(|_| {}).await;
    let mut raw = Raw::plaintext(two_at).await;
    raw.greet(1, 2).await;
    two.connected().await;
    raw.send.send_data(Bytes::from_static(&[0, 0, 0, 0, 9, 1]), true).unwrap();
    assert_eq!(two.lost().await, NodeId(1));
    logs.expect(&["the connection is lost", "ended within a frame"]).await;
}

#[tokio::test]
async fn a_peer_that_hangs_up_is_lost_at_once() {
    let (mut two, two_at) = lonely(|_| {}).await;
    let mut raw = Raw::plaintext(two_at).await;
    raw.greet(1, 2).await;
    two.connected().await;
    drop(raw);
    assert_eq!(two.lost().await, NodeId(1));
}

#[tokio::test]
async fn a_peer_that_falls_silent_is_lost() {
    let logs = Logs::capture();
    let (mut two, two_at) = lonely(|config| config.limits.ping_interval = Duration::from_millis(50)).await;
    let proxy = crate::proxy::Proxy::start(two_at).await;
    let mut raw = Raw::plaintext(proxy.address).await;
    raw.greet(1, 2).await;
    two.connected().await;
    // It says nothing, and answers pings: that is a sign of life.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(two.is_idle());
    proxy.kill(1);
    assert_eq!(two.lost().await, NodeId(1));
    logs.expect(&["the connection is lost", "nothing was heard for 150ms"]).await;
}

#[tokio::test]
async fn strangers_who_say_nothing_are_closed() {
    let logs = Logs::capture();
    let (_two, two_at) = lonely(|config| config.limits.handshake_timeout = Duration::from_millis(300)).await;
    let mut silent = TcpStream::connect(two_at).await.unwrap();
    timeout(PATIENCE, silent.read_to_end(&mut Vec::new())).await.unwrap().unwrap();
    logs.expect(&["came to nothing", "not finished within 300ms"]).await;
}

#[tokio::test]
async fn strangers_do_not_keep_peers_out() {
    let logs = Logs::capture();
    let (mut two, two_at) = lonely(|config| {
        config.limits.handshakes_max = 2;
        config.limits.handshake_timeout = Duration::from_secs(3600);
    })
    .await;
    let mut strangers = Vec::new();
    for _ in 0..10 {
        strangers.push(TcpStream::connect(two_at).await.unwrap());
    }
    let mut peer = Raw::plaintext(two_at).await;
    peer.greet(1, 2).await;
    two.connected().await;
    for oldest in &mut strangers[..9] {
        timeout(PATIENCE, oldest.read_to_end(&mut Vec::new())).await.unwrap().unwrap();
    }
    logs.expect(&["came to nothing", "closed for newer connections", "more than 2"]).await;
    // The peer is no stranger any more, and stays.
    for _ in 0..10 {
        strangers.push(TcpStream::connect(two_at).await.unwrap());
    }
    two.peers.send(NodeId(1), batch(vec![forward(1, 1)]));
    assert!(matches!(peer.next().await, Some(Frame::Batch(_))));
    assert!(two.is_idle());
}
