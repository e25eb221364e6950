//! Random histories: clusters of one to five nodes under lost, doubled, late and reordered messages, partitions, slow disks,
//! crashes and damaged disks. After each step the harness checks what Raft promises; at the end everything heals, and
//! then the cluster must come to rest with every request ended and every node at the same point, and must go on.
//!
//! `RAFT_SEED=7 cargo test --test random -- --nocapture` draws one history; `RAFT_SEEDS=1000..9000 cargo test --test
//! random -- --ignored` runs many.

#![allow(clippy::unwrap_used, reason = "a harness of tests may")]

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use fastrand::Rng;
use raftmap_raft::{Config, Input, LogIndex, NodeId, Raft};

use harness::cluster::Cluster;
use harness::node::{Held, Node};

mod harness;

#[test]
fn random_histories_keep_every_promise() {
    match std::env::var("RAFT_SEED") {
        Ok(seed) => History::new(seed.parse().expect("a number"), true).run(),
        Err(_) => run_all(0..400),
    }
}

#[test]
#[ignore = "as long as one likes: RAFT_SEEDS=from..to"]
fn many_random_histories_keep_every_promise() {
    let seeds = std::env::var("RAFT_SEEDS").unwrap_or_else(|_| "0..10000".into());
    let (from, to) = seeds.split_once("..").expect("from..to");
    run_all(from.parse().expect("a number")..to.parse().expect("a number"));
}

fn run_all(seeds: Range<u64>) {
    let failed: Vec<u64> = seeds
        .filter(|seed| {
            let failed = catch_unwind(AssertUnwindSafe(|| History::new(*seed, false).run())).is_err();
            if failed {
                eprintln!("RAFT_SEED={seed} failed");
            }
            failed
        })
        .take(20)
        .collect();
    assert!(failed.is_empty(), "failed: {failed:?}");
}

/// How rough one history is: chances in a thousand, drawn anew for each.
#[derive(Debug)]
struct Climate {
    lose: u32,
    double: u32,
    reorder: u32,
    cut: u32,
    crash: u32,
    restart: u32,
    damage: u32,
    campaign: u32,
    coup: u32,
    transfer: u32,
    /// A connection breaks, perhaps that to a leader which is well.
    disconnect: u32,
    /// The members change.
    change: u32,
    /// A log lets go of its beginning.
    compact: u32,
    /// A node that crashes loses its state machine.
    lose_state: u32,
    request: u32,
    tick: u32,
    /// How many messages may be delivered in one step; with more of them, all else is rarer.
    deliver: u32,
    /// Not to be done at once.
    held: Held,
}

impl Climate {
    fn new(rng: &mut Rng) -> Self {
        let mut one_of = |chances: &[u32]| chances[rng.usize(..chances.len())];
        let mut climate = Self {
            lose: one_of(&[0, 20, 100]),
            double: one_of(&[0, 20, 100]),
            reorder: one_of(&[0, 20, 500]),
            cut: one_of(&[0, 5, 20]),
            crash: one_of(&[0, 3, 10, 20]),
            restart: one_of(&[20, 100]),
            damage: one_of(&[0, 200, 800]),
            campaign: one_of(&[0, 10, 40]),
            coup: one_of(&[0, 5, 20]),
            transfer: one_of(&[0, 5, 40]),
            disconnect: one_of(&[0, 5, 40]),
            change: one_of(&[0, 0, 10, 40]),
            compact: one_of(&[0, 5, 40]),
            lose_state: one_of(&[0, 0, 100]),
            request: one_of(&[20, 60]),
            tick: one_of(&[50, 200, 500]),
            deliver: one_of(&[2, 4, 8]),
            held: Held {
                syncs: one_of(&[0, 1]) == 1,
                applies: one_of(&[0, 1]) == 1,
                fetches: one_of(&[0, 1]) == 1,
                snapshots: one_of(&[0, 1]) == 1,
            },
        };
        // Which of the voters may be damaged at once is not reckoned for voters that change.
        if climate.change > 0 {
            (climate.damage, climate.lose_state) = (0, 0);
        }
        climate
    }
}

struct History {
    rng: Rng,
    climate: Climate,
    cluster: Cluster,
    proposed: u64,
    /// A node whose clock hardly moves: it does not notice that it leads no more.
    slow: Option<NodeId>,
}

impl History {
    fn new(seed: u64, drawn: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let climate = Climate::new(&mut rng);
        let nodes = [1, 2, 3, 3, 3, 4, 5, 5][rng.usize(..8)];
        let mut one_of = |sizes: &[usize]| sizes[rng.usize(..sizes.len())];
        let (election_ticks, heartbeat_ticks) = [(2, 1), (4, 1), (10, 1), (10, 3)][one_of(&[0, 1, 2, 3])];
        let config = Config {
            election_ticks,
            heartbeat_ticks,
            disk_stall_ticks: 40,
            max_append_bytes: one_of(&[1, 60, 10_000]),
            max_inflight_messages: one_of(&[1, 3, 64]),
            max_inflight_bytes: one_of(&[60, 10_000]),
            max_uncommitted_bytes: one_of(&[100, 10_000]),
            max_command_bytes: 30,
            max_apply_bytes: one_of(&[1, 60, 10_000]),
            cache_bytes: one_of(&[0, 60, 10_000]),
            max_reads: one_of(&[2, 1000]),
            max_promotion_lag: one_of(&[0, 3, 1000]) as u64,
            max_follower_lag: one_of(&[0, 2, 1000]) as u64,
            seed,
            ..Config::new(NodeId(0), seed)
        };
        let voters = if climate.change > 0 { rng.u64(1..=nodes) } else { nodes };
        let mut cluster = Cluster::new(nodes, voters, &config);
        cluster.trace.on = drawn;
        for node in cluster.nodes.values_mut() {
            node.held = climate.held;
        }
        Self { rng, climate, cluster, proposed: 0, slow: None }
    }

    fn run(mut self) {
        for _ in 0..2000 {
            self.step();
            self.draw();
        }
        self.heal();
        self.come_to_rest(600);
        self.go_on();
    }

    fn draw(&mut self) {
        for line in self.cluster.trace.take() {
            eprintln!("{line}");
        }
    }

    fn chance(&mut self, in_a_thousand: u32) -> bool {
        self.rng.u32(..1000) < in_a_thousand
    }

    fn any_node(&mut self) -> NodeId {
        let ids = self.cluster.ids();
        ids[self.rng.usize(..ids.len())]
    }

    fn step(&mut self) {
        if self.chance(self.climate.crash) {
            self.crash();
        }
        let id = self.any_node();
        if self.chance(self.climate.restart) && !self.cluster.is_up(id) {
            self.cluster.start(id);
        }
        if self.chance(self.climate.cut) {
            self.cut_or_heal();
        }
        if self.chance(self.climate.coup) {
            self.coup();
        }
        if self.chance(self.climate.campaign) {
            self.cluster.step(id, Input::Campaign);
        }
        if self.chance(self.climate.transfer) {
            let from = self.any_leader().unwrap_or(id);
            let to = self.any_node();
            self.cluster.step(from, Input::TransferLeadership { to });
        }
        if self.chance(self.climate.disconnect) {
            let peer = self.any_leader().unwrap_or(id);
            self.disconnect(id, peer);
        }
        if self.chance(self.climate.change) {
            self.change_members();
        }
        if self.chance(self.climate.compact) {
            let to = self.rng.u64(..=self.cluster.nodes[&id].applied.0);
            self.cluster.compact(id, LogIndex(to));
        }
        if self.chance(self.climate.request) {
            self.request();
        }
        if self.chance(self.climate.tick) && (self.slow != Some(id) || self.chance(100)) {
            self.cluster.step(id, Input::Tick);
        }
        for _ in 0..self.rng.u32(..3) {
            self.work();
        }
        for _ in 0..self.rng.u32(..=self.climate.deliver) {
            self.deliver();
        }
    }

    /// Does a piece of the work that waits at some node.
    fn work(&mut self) {
        let waits = |node: &&Node| {
            node.disk.unsynced() > 0
                || node.applying.is_some()
                || !node.fetches.is_empty()
                || node.asked.is_some()
        };
        let busy: Vec<NodeId> = self.cluster.nodes.values().filter(waits).map(|node| node.id).collect();
        let Some(id) = self.rng.choice(busy) else { return };
        match self.rng.u8(..5) {
            0 => self.cluster.finish_apply(id),
            1 => self.cluster.finish_fetch(id),
            2 => self.cluster.go_on_with_snapshot(id),
            _ => {
                let count = self.rng.usize(1..4);
                self.cluster.sync(id, count);
            }
        }
    }

    /// What is on its way between two nodes is lost, and both are told.
    fn disconnect(&mut self, id: NodeId, peer: NodeId) {
        let between = |from: NodeId, to: NodeId| (from, to) == (id, peer) || (from, to) == (peer, id);
        self.cluster.network.retain(|sent| !between(sent.from, sent.to));
        self.cluster.step(id, Input::PeerLost(peer));
        self.cluster.step(peer, Input::PeerLost(id));
    }

    /// Lets a leader add a learner, make one a voter, remove a voter, or try anything at all.
    fn change_members(&mut self) {
        let Some(leader) = self.any_leader() else { return };
        let Some(raft) = &self.cluster.nodes[&leader].raft else { return };
        let membership = raft.membership();
        let (mut voters, mut learners) = (membership.voters.clone(), membership.learners.clone());
        let strangers = self.cluster.ids().into_iter().filter(|id| !membership.all().contains(id));
        let stranger = self.rng.choice(strangers.collect::<Vec<_>>());
        match self.rng.u8(..8) {
            0..2 => learners.extend(stranger),
            2..5 => voters.append(&mut learners),
            5..7 => {
                let out = self.rng.choice(voters.iter().copied().collect::<Vec<_>>());
                voters.retain(|id| Some(*id) != out);
            }
            _ => {
                let ids = self.cluster.ids();
                voters = ids.iter().copied().filter(|_| self.rng.bool()).collect();
                learners = ids.into_iter().filter(|id| !voters.contains(id) && self.rng.bool()).collect();
            }
        }
        self.cluster.change_members(leader, voters, learners);
    }

    fn crash(&mut self) {
        let any = self.any_node();
        let id = if self.rng.bool() { self.any_leader().unwrap_or(any) } else { any };
        if !self.cluster.is_up(id) {
            return;
        }
        let kept = self.rng.usize(..=self.cluster.nodes[&id].disk.unsynced());
        let applied = self.rng.u64(..=self.cluster.nodes[&id].applied.0);
        self.cluster.crash(id, kept, LogIndex(applied));
        if self.chance(self.climate.disconnect * 10) {
            for other in self.cluster.ids() {
                self.cluster.step(other, Input::PeerLost(id));
            }
        }
        let nodes = self.cluster.nodes.values();
        let unfit = |node: &&Node| {
            let state_lost = node.applied < node.disk.base().index;
            node.id != id && (node.disk.hard_state().damaged || state_lost)
        };
        if 2 * (nodes.filter(unfit).count() + 1) >= self.cluster.nodes.len() {
            return;
        }
        let last = self.cluster.nodes[&id].disk.last().index.0;
        if last > 0 && self.chance(self.climate.damage) {
            let from = self.rng.u64(1..=last);
            self.cluster.damage(id, LogIndex(from), true);
        }
        if self.chance(self.climate.lose_state) {
            self.cluster.lose_state(id);
        }
    }

    /// The leader has proposals on their way, is cut off or loses power, and another node stands for election, since the
    /// others have heard of no leader for long enough. This is how logs come to differ.
    fn coup(&mut self) {
        let Some(leader) = self.any_leader() else { return };
        self.request();
        for _ in 0..self.rng.u32(..6) {
            self.deliver();
        }
        if self.rng.bool() {
            self.crash();
        } else {
            self.cluster.cut.clear();
            self.slow = Some(leader);
            self.cut_off(Some(leader));
        }
        let ticks = self.cluster.nodes[&leader].config.election_ticks;
        for id in self.cluster.ids().into_iter().filter(|id| *id != leader) {
            (0..ticks).for_each(|_| self.cluster.step(id, Input::Tick));
        }
        let next = self.any_node();
        self.cluster.step(next, Input::Campaign);
    }

    fn cut_or_heal(&mut self) {
        if self.rng.bool() {
            self.cluster.cut.clear();
            self.slow = None;
        } else {
            let leader = if self.rng.bool() { self.any_leader() } else { None };
            self.slow = leader;
            self.cut_off(leader);
        }
    }

    /// Cuts some nodes off from the others: with a leader named, that and few more.
    fn cut_off(&mut self, leader: Option<NodeId>) {
        let ids = self.cluster.ids();
        let few = if leader.is_some() { 4 } else { 2 };
        let mut inside: Vec<NodeId> = ids.iter().copied().filter(|_| self.rng.u8(..few) == 0).collect();
        inside.extend(leader);
        let one_way = self.rng.u8(..4) == 0;
        for from in &ids {
            for to in ids.iter().filter(|to| inside.contains(from) && !inside.contains(to)) {
                self.cluster.cut.insert((*from, *to));
                if !one_way {
                    self.cluster.cut.insert((*to, *from));
                }
            }
        }
    }

    /// One of those that take themselves for the leader.
    fn any_leader(&mut self) -> Option<NodeId> {
        let leads = |node: &&Node| node.raft.as_ref().is_some_and(Raft::is_leader);
        let leaders: Vec<NodeId> = self.cluster.nodes.values().filter(leads).map(|node| node.id).collect();
        self.rng.choice(leaders)
    }

    /// A request, more often than not at a leader.
    fn request(&mut self) {
        let any = self.any_node();
        let id = if self.chance(800) { self.any_leader().unwrap_or(any) } else { any };
        if !self.cluster.is_up(id) {
            return;
        }
        if self.rng.bool() {
            self.cluster.read(id);
            return;
        }
        let commands = (0..self.rng.u64(1..5)).map(|_| self.command()).collect();
        self.cluster.propose(id, commands);
    }

    fn command(&mut self) -> Bytes {
        self.proposed += 1;
        let padding = self.rng.usize(..25);
        Bytes::from(format!("p{}{}", self.proposed, "x".repeat(padding)))
    }

    fn deliver(&mut self) {
        let count = self.cluster.network.len();
        if count == 0 {
            return;
        }
        // What has been on its way for very long is lost in the end.
        if count > 100 {
            self.cluster.network.remove(self.rng.usize(..count));
            return;
        }
        let at = if self.chance(self.climate.reorder) { self.rng.usize(..count) } else { 0 };
        if self.chance(self.climate.lose) {
            self.cluster.network.remove(at);
            return;
        }
        if self.chance(50) {
            let to = self.cluster.network[at].to;
            self.cluster.deliver_together(to);
            return;
        }
        if self.chance(self.climate.double) {
            let again = self.cluster.network[at].clone();
            self.cluster.network.push(again);
        }
        self.cluster.deliver(at);
    }

    /// From here on nothing fails.
    fn heal(&mut self) {
        self.cluster.cut.clear();
        for id in self.cluster.ids() {
            self.cluster.node(id).held = Held::default();
            if self.cluster.is_up(id) {
                self.cluster.sync(id, usize::MAX);
                self.cluster.finish_apply(id);
                self.cluster.finish_fetch(id);
                self.cluster.go_on_with_snapshot(id);
            } else {
                self.cluster.start(id);
            }
            self.draw();
        }
    }

    /// Lets time pass without a new request until all that was begun is done, on all nodes.
    fn come_to_rest(&mut self, ticks: u32) {
        for _ in 0..ticks {
            for id in self.cluster.ids() {
                self.cluster.step(id, Input::Tick);
            }
            let mut delivered = 0;
            while !self.cluster.network.is_empty() {
                self.cluster.deliver(0);
                delivered += 1;
                assert!(delivered < 20_000, "the network does not come to rest");
            }
            self.draw();
            if self.is_at_rest() {
                return;
            }
        }
        for id in self.cluster.ids() {
            eprintln!("{}", harness::draw::status(&self.cluster.status(id).unwrap()));
        }
        panic!("no rest after {ticks} ticks; {} requests wait", self.cluster.checks.waiting());
    }

    fn is_at_rest(&self) -> bool {
        let committed = self.cluster.checks.committed();
        let settled = |id| {
            let status = self.cluster.status(id).unwrap();
            status.applied == committed
                && status.last.index == committed
                && !status.damaged
                && !status.state_lost
                && status.leader.is_some()
                && status.handing_over_to.is_none()
        };
        // Who is no member any more may never hear of it.
        let leaders =
            self.cluster.nodes.values().filter_map(|node| node.raft.as_ref()).filter(|raft| raft.is_leader());
        let Some(leader) = leaders.max_by_key(|raft| raft.term()) else { return false };
        let members = leader.membership();
        self.cluster.checks.waiting() == 0
            && !members.is_joint()
            && members.voters.contains(&leader.id())
            && members.all().into_iter().all(settled)
    }

    /// A cluster that came to rest takes writes and reads everywhere.
    fn go_on(&mut self) {
        let leaders = self.cluster.nodes.values().filter(|node| node.raft.as_ref().unwrap().is_leader());
        let leader = leaders.max_by_key(|node| node.raft.as_ref().unwrap().term()).expect("a leader").id;
        let before = self.cluster.checks.committed();
        let command = self.command();
        self.cluster.propose(leader, vec![command]);
        for id in self.cluster.ids() {
            self.cluster.read(id);
        }
        self.come_to_rest(50);
        assert!(self.cluster.checks.committed() > before, "nothing was committed");
    }
}
