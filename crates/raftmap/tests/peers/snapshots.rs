//! Snapshots from one server to another, over connections that break, stop and lie.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use metrics_exporter_prometheus::PrometheusBuilder;
use raftmap::peers::{FetchError, PeersConfig, Security, Transport};
use raftmap_raft::{GroupId, LogIndex, NodeId};
use raftmap_state::{DiskOptions, SnapshotHeader};
use tokio::time::timeout;

use crate::logs::Logs;
use crate::servers::{Certificates, PATIENCE, Server, batch, config, eventually, forward, listener, member};
use crate::states::{Source, State, standing_in};
use crate::tap::Tap;

const MIB: u64 = 1 << 20;

/// What HTTP/2 lets a sender have under way.
const WINDOW: u64 = MIB;

/// Server 1 has a state; server 2 needs it, and reaches server 1 through a tap. The stream between the two goes past it, since
/// server 1 dials.
struct World {
    sender: Server,
    receiver: Server,
    source: Source,
    tap: Tap,
    receiver_at: std::net::SocketAddr,
    folder: tempfile::TempDir,
}

impl World {
    async fn new(state: &State, security: [Security; 2], change: impl Fn(&mut PeersConfig)) -> Self {
        let [(one, one_at), (two, two_at)] = [listener().await, listener().await];
        let (tap, source) = (Tap::start(one_at).await, state.source());
        let [first, second] = security;
        let (mut from, mut to) = (config(1, first, &[(2, two_at)]), config(2, second, &[(1, tap.address)]));
        for config in [&mut from, &mut to] {
            config.limits.snapshot_chunk_bytes = 64 << 10;
            change(config);
        }
        let mut sender = Server::with_state(from, one, source.clone());
        let mut receiver = Server::start(to, two);
        assert_eq!(sender.connected().await.0, member(2));
        assert_eq!(receiver.connected().await.0, member(1));
        Self { sender, receiver, source, tap, receiver_at: two_at, folder: tempfile::tempdir().unwrap() }
    }

    async fn plaintext(state: &State, change: impl Fn(&mut PeersConfig)) -> Self {
        Self::new(state, [Security::insecure(), Security::insecure()], change).await
    }

    fn dir(&self) -> PathBuf {
        self.folder.path().join("state-1")
    }

    fn fetch(
        &self,
        at_least: u64,
    ) -> impl Future<Output = Result<SnapshotHeader, FetchError>> + Send + use<> {
        let (group, options) = (GroupId::DEFAULT, DiskOptions::default());
        self.receiver.peers.fetch_snapshot(NodeId(1), LogIndex(at_least), group, self.dir(), options)
    }

    async fn fetched(&self, at_least: u64) -> Result<SnapshotHeader, FetchError> {
        timeout(PATIENCE, self.fetch(at_least)).await.expect("an end in time")
    }

    /// What arrived is `state`.
    fn expect(&self, header: &SnapshotHeader, state: &State) {
        assert_eq!(header.applied.position.index.0, state.index());
        assert_eq!(standing_in(&self.dir()), state.standing());
    }
}

#[tokio::test]
async fn a_snapshot_arrives_whole_while_the_stream_goes_on() {
    let logs = Logs::capture();
    let (state, certificates) = (State::of(5000), Certificates::new("demo"));
    let security = [certificates.of_node(1), certificates.of_node(2)];
    let mut world = World::new(&state, security, |_| {}).await;
    world.tap.change(|plan| plan.hold_at = Some(MIB));
    let fetching = tokio::spawn(world.fetch(state.index()));
    eventually("the snapshot is in the middle", || world.tap.bytes() >= MIB).await;
    assert_eq!(world.source.held(), 2, "what lies under the view is held while it is read");
    for number in 1..=100 {
        world.sender.peers.send(NodeId(2), batch(vec![forward(number, 1000)]));
        world.receiver.peers.send(NodeId(1), batch(vec![forward(number, 1000)]));
        assert_eq!(world.receiver.sequences_until(number).await, [number]);
        assert_eq!(world.sender.sequences_until(number).await, [number]);
    }
    assert!(!fetching.is_finished());
    world.tap.change(|plan| plan.hold_at = None);
    let header = timeout(PATIENCE, fetching).await.unwrap().unwrap().unwrap();
    world.expect(&header, &state);
    assert!(world.receiver.is_idle() && world.sender.is_idle(), "the stream was not disturbed");
    logs.expect(&["fetching a snapshot", "peer=1"]).await;
    logs.expect(&["a snapshot is here", "bytes=", "seconds=", "mib_per_second="]).await;
}

#[tokio::test]
async fn the_server_with_the_lower_id_fetches_one_too() {
    let (state, certificates) = (State::of(500), Certificates::new("demo"));
    let [(one, one_at), (two, two_at)] = [listener().await, listener().await];
    let mut one = Server::start(config(1, certificates.of_node(1), &[(2, two_at)]), one);
    let config = config(2, certificates.of_node(2), &[(1, one_at)]);
    let _two = Server::with_state(config, two, state.source());
    one.connected().await;
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("state-1");
    let (group, options) = (GroupId::DEFAULT, DiskOptions::default());
    let fetch = one.peers.fetch_snapshot(NodeId(2), LogIndex(1), group, dir.clone(), options);
    timeout(PATIENCE, fetch).await.unwrap().unwrap();
    assert_eq!(standing_in(&dir), state.standing());
    assert!(one.is_idle(), "the stream was not disturbed");
}

#[tokio::test]
async fn a_connection_that_is_cut_again_and_again_costs_what_was_under_way() {
    let logs = Logs::capture();
    let (state, certificates) = (State::of(5000), Certificates::new("demo"));
    let security = [certificates.of_node(1), certificates.of_node(2)];
    let world = World::new(&state, security, |_| {}).await;
    world.tap.change(|plan| plan.cut_at = Some(MIB / 2));
    let header = world.fetched(state.index()).await.unwrap();
    world.expect(&header, &state);
    let (connections, sent, needed) = (world.tap.connections(), world.tap.bytes(), state.snapshot_bytes());
    assert!(connections > needed / (MIB / 2), "{connections} connections");
    assert!(sent < needed + connections * (128 << 10), "{sent} bytes passed, and the snapshot has {needed}");
    assert_eq!(world.source.taken(), 1, "it was one snapshot all the time");
    logs.expect(&["a snapshot broke off, and is asked for again", "peer=1"]).await;
}

#[tokio::test]
async fn a_snapshot_that_is_not_kept_any_more_is_begun_anew() {
    let state = State::of(2000);
    let world = World::plaintext(&state, |config| {
        config.limits.snapshot_kept = Duration::ZERO;
        config.limits.redial_min = Duration::from_millis(500);
    })
    .await;
    world.tap.change(|plan| plan.cut_at = Some(MIB));
    let fetching = tokio::spawn(world.fetch(state.index()));
    eventually("it is cut off", || world.tap.bytes() >= MIB).await;
    world.tap.change(|plan| plan.cut_at = None);
    let header = timeout(PATIENCE, fetching).await.unwrap().unwrap().unwrap();
    world.expect(&header, &state);
    assert_eq!(world.source.taken(), 2);
    eventually("none is kept", || world.source.held() == 1).await;
}

#[tokio::test]
async fn a_sender_that_restarts_begins_anew_with_what_it_has_then() {
    let mut state = State::of(3000);
    let mut world = World::plaintext(&state, |_| {}).await;
    world.tap.change(|plan| plan.hold_at = Some(MIB));
    let fetching = tokio::spawn(world.fetch(state.index()));
    eventually("the snapshot is in the middle", || world.tap.bytes() >= MIB).await;

    world.sender.peers.stop().await;
    state.put(3000..4000);
    let (one, one_at) = listener().await;
    let mut restarted = config(1, Security::insecure(), &[(2, world.receiver_at)]);
    restarted.limits.snapshot_chunk_bytes = 64 << 10;
    world.sender = Server::with_state(restarted, one, world.source.clone());
    world.tap.change(|plan| (plan.to, plan.hold_at) = (one_at, None));

    let header = timeout(PATIENCE, fetching).await.unwrap().unwrap().unwrap();
    world.expect(&header, &state);
    assert_eq!(world.source.taken(), 2);
}

#[tokio::test]
async fn a_sender_that_has_nothing_new_enough_says_so() {
    let state = State::of(300);
    let world = World::plaintext(&state, |_| {}).await;
    let error = world.fetched(state.index() + 1).await.unwrap_err();
    assert!(matches!(error, FetchError::Behind { applied: LogIndex(3), .. }), "{error}");
    assert!(!world.dir().exists());

    let (three, three_at) = listener().await;
    let (four, four_at) = listener().await;
    let _three = Server::start(config(3, Security::insecure(), &[(4, four_at)]), three);
    let mut four = Server::start(config(4, Security::insecure(), &[(3, three_at)]), four);
    four.connected().await;
    let fetch = |from| {
        let (group, options) = (GroupId::DEFAULT, DiskOptions::default());
        four.peers.fetch_snapshot(NodeId(from), LogIndex(1), group, world.dir(), options)
    };
    let error = timeout(PATIENCE, fetch(3)).await.unwrap().unwrap_err();
    assert!(matches!(error, FetchError::NoState(NodeId(3))), "{error}");
    let error = fetch(9).await.unwrap_err();
    assert!(matches!(error, FetchError::Unknown(NodeId(9))), "{error}");
    assert!(!world.dir().exists());
}

#[tokio::test]
async fn a_flipped_bit_is_found_and_all_begins_anew() {
    let logs = Logs::capture();
    let state = State::of(2000);
    let world = World::plaintext(&state, |_| {}).await;
    world.tap.change(|plan| plan.flip = Some((1, 300_000)));
    let header = world.fetched(state.index()).await.unwrap();
    world.expect(&header, &state);
    assert_eq!(world.source.taken(), 2);
    logs.expect(&["asked for again", "does not have the checksum that it names"]).await;
}

#[tokio::test]
async fn what_is_spoiled_each_time_is_never_installed() {
    let state = State::of(1000);
    let world = World::plaintext(&state, |_| {}).await;
    world.tap.change(|plan| plan.flip = Some((u64::MAX, 300_000)));
    let error = world.fetched(state.index()).await.unwrap_err();
    assert!(matches!(error, FetchError::Restarted { times: 5, .. }), "{error}");
    assert!(!error.ends_node());
    assert!(!world.dir().exists());
}

#[tokio::test]
async fn a_sender_that_falls_silent_is_given_up() {
    let state = State::of(2000);
    let world =
        World::plaintext(&state, |config| config.limits.snapshot_silence_max = Duration::from_secs(1)).await;
    world.tap.change(|plan| plan.hold_at = Some(MIB));
    let error = world.fetched(state.index()).await.unwrap_err();
    assert!(matches!(error, FetchError::Silent { .. }), "{error}");
    assert!(!world.dir().exists());
}

#[tokio::test]
async fn who_drops_the_future_leaves_nothing_behind() {
    let state = State::of(2000);
    let world = World::plaintext(&state, |_| {}).await;
    world.tap.change(|plan| plan.hold_at = Some(MIB));
    let fetching = tokio::spawn(world.fetch(state.index()));
    eventually("the snapshot is in the middle", || world.tap.bytes() >= MIB && world.dir().exists()).await;
    fetching.abort();
    eventually("the directory is gone", || !world.dir().exists()).await;
}

#[tokio::test]
async fn what_is_in_the_way_is_left_alone() {
    let state = State::of(100);
    let world = World::plaintext(&state, |_| {}).await;
    std::fs::create_dir(world.dir()).unwrap();
    let error = world.fetched(1).await.unwrap_err();
    assert!(matches!(error, FetchError::Exists(_)), "{error}");
    assert!(world.dir().exists());
}

#[tokio::test]
async fn a_slower_rate_takes_longer() {
    let state = State::of(3000);
    let mut took = Vec::new();
    for rate in [32 * MIB, 2 * MIB] {
        let world = World::plaintext(&state, |config| config.limits.snapshot_bytes_per_second = rate).await;
        let began = Instant::now();
        world.fetched(state.index()).await.unwrap();
        took.push(began.elapsed());
    }
    assert!(took[1] > 2 * took[0], "{took:?} at a sixteenth of the rate");
}

/// What is under way is bounded by HTTP/2's window and a chunk, whatever the size of the snapshot.
#[tokio::test]
async fn nothing_is_sent_ahead_of_a_receiver_that_takes_nothing() {
    const HELD: u64 = 256 << 10;
    let state = State::of(8000);
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    let recording = metrics::set_default_local_recorder(&recorder);
    let world = World::plaintext(&state, |_| {}).await;
    drop(recording);
    world.tap.change(|plan| plan.hold_at = Some(HELD));
    let fetching = tokio::spawn(world.fetch(state.index()));
    let sent = || {
        let name = "raftmap_peer_snapshot_bytes_total{peer=\"2\",direction=\"sent\"} ";
        let rendered = metrics.render();
        let value = rendered.lines().find_map(|line| line.strip_prefix(name));
        value.map_or(0, |value| value.parse::<u64>().unwrap())
    };
    eventually("as much is sent as may be under way", || sent() >= WINDOW / 2).await;
    let mut before = 0;
    while sent() != before {
        before = sent();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let bound = HELD + WINDOW + (128 << 10);
    assert!(before <= bound, "{before} bytes were sent, {HELD} arrived");
    world.tap.change(|plan| plan.hold_at = None);
    let header = timeout(PATIENCE, fetching).await.unwrap().unwrap().unwrap();
    world.expect(&header, &state);
    assert!(sent() >= state.snapshot_bytes());
    let rendered = metrics.render();
    for line in [
        "raftmap_peer_snapshots_begun_total{peer=\"2\",direction=\"sent\"} 1",
        "raftmap_peer_snapshots_finished_total{peer=\"2\",direction=\"sent\"} 1",
        "raftmap_peer_snapshots_begun_total{peer=\"1\",direction=\"received\"} 1",
        "raftmap_peer_snapshots_finished_total{peer=\"1\",direction=\"received\"} 1",
    ] {
        assert!(rendered.contains(line), "no {line} in {rendered}");
    }
}
