//! What a run is made of: the cluster, its climate and its faults, all drawn from one seed before it begins.
//!
//! Each seed chooses anew which kinds of fault there are and how usual they are (swarm testing): a run in which everything
//! goes wrong at once finds less than many in which a few things do.

mod told;

use std::collections::BTreeSet;

use fastrand::Rng;
use raftmap_raft::NodeId;

use crate::time::Time;

/// Kinds of fault, to be chosen by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Class {
    /// Processes are killed; what they wrote stays in the page cache.
    Kill,
    /// Power is cut: what was not synced is lost, in part or whole.
    Power,
    /// Disks change what they hold while a server is down.
    Rot,
    /// Disks lose or misplace a write and say nothing.
    Lies,
    /// Writes and syncs fail.
    DiskErrors,
    /// Disks are slow, or hang for a while.
    SlowDisks,
    /// Disks are nearly full for a while.
    FullDisks,
    /// The state machine's store comes back empty.
    EngineLoss,
    /// Links are cut, one way or both, in every shape.
    Partitions,
    /// Connections break.
    Disconnects,
    /// Messages of consensus are lost, doubled and overtaken.
    Chaos,
    /// Processes are stopped and go on later.
    Pauses,
    /// Clocks drift and jump.
    Clocks,
    /// Clients do not reach a server, or do not hear from it.
    Clients,
    /// Leaders are told to hand over.
    Handovers,
    /// Servers come in as learners, become voters, and go.
    Members,
    /// State machines apply an entry to another effect than others do.
    Divergence,
    /// Servers begin with an older program, and change it for the newer one.
    Upgrades,
}

/// All kinds of fault.
pub const CLASSES: [Class; 18] = [
    Class::Kill,
    Class::Power,
    Class::Rot,
    Class::Lies,
    Class::DiskErrors,
    Class::SlowDisks,
    Class::FullDisks,
    Class::EngineLoss,
    Class::Partitions,
    Class::Disconnects,
    Class::Chaos,
    Class::Pauses,
    Class::Clocks,
    Class::Clients,
    Class::Handovers,
    Class::Members,
    Class::Divergence,
    Class::Upgrades,
];

/// Whom a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// This server.
    Server(NodeId),
    /// Whoever leads then, or the first server if nobody does.
    Leader,
}

/// How a server goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crash {
    /// Its power is cut; else its process is killed.
    pub power: bool,
    /// In the middle of a write, if one is under way.
    pub mid_write: bool,
    /// A block of its log or hard state rots while it is down, where the budget allows it.
    pub rot: bool,
    /// Its state machine's store comes back empty.
    pub engine_lost: bool,
}

/// How the members are to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MembersChange {
    /// A server that never was a member becomes a learner, and a voter once it has caught up.
    Add {
        /// It takes the place of the voter at this place among them.
        replaces: Option<usize>,
    },
    /// A voter goes: the one at this place among them. Three stay in any case.
    Remove(usize),
}

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A server goes down and comes back later.
    Crash {
        /// Which.
        target: Target,
        /// How.
        how: Crash,
        /// For how long.
        down: Time,
    },
    /// All servers go down at the same moment and come back later, not quite together.
    CrashAll {
        /// How.
        how: Crash,
        /// For how long.
        down: Time,
    },
    /// The log of a server that runs rots, where the budget allows it.
    LogRot {
        /// Whose.
        target: Target,
        /// When it is read again.
        scrubbed_after: Time,
    },
    /// The next write to a log is lost or lands elsewhere, and nothing says so, where the budget allows it.
    LyingWrite {
        /// Whose.
        target: Target,
        /// It lands so many blocks further on; `None`: nowhere.
        blocks: Option<i64>,
    },
    /// One of the next operations on a disk fails: the server ends, and comes back later.
    DiskError {
        /// Whose disk.
        target: Target,
        /// Counted from the next operation.
        operation: u64,
        /// A write ends early; else it fails.
        short: bool,
    },
    /// A disk takes that much longer for everything.
    SlowDisk {
        /// Whose.
        target: Target,
        /// How much longer.
        by: Time,
        /// For how long.
        lasts: Time,
    },
    /// A disk says that it is nearly full.
    FullDisk {
        /// Whose.
        target: Target,
        /// For how long.
        lasts: Time,
    },
    /// Nothing goes from the first to the second server of each pair.
    Partition {
        /// The links that are cut.
        links: Vec<(NodeId, NodeId)>,
        /// For how long.
        lasts: Time,
    },
    /// The connection between two servers breaks.
    Disconnect {
        /// One end.
        a: NodeId,
        /// The other.
        b: NodeId,
    },
    /// A process is stopped and goes on later.
    Pause {
        /// Which.
        target: Target,
        /// For how long.
        lasts: Time,
    },
    /// A clock jumps.
    ClockJump {
        /// Whose.
        target: Target,
        /// How far, in milliseconds.
        by_ms: i64,
    },
    /// A server is told to let another one lead.
    HandOver {
        /// Which.
        target: Target,
        /// Who is to lead; `None`: it chooses.
        to: Option<NodeId>,
    },
    /// A state machine applies the next put to another effect than the others do, where the budget allows it.
    Misapply {
        /// Whose.
        target: Target,
    },
    /// The leader is told to change the members.
    Members(MembersChange),
    /// A server that began with an older program changes it for the newer one.
    Upgrade {
        /// Which.
        server: NodeId,
    },
    /// What clients and a server say to each other is lost.
    ClientsCut {
        /// Which server.
        target: Target,
        /// For how long.
        lasts: Time,
    },
}

/// A fault and its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// When it strikes.
    pub at: Time,
    /// What it is.
    pub fault: Fault,
    /// It does not happen after all.
    pub left_out: bool,
}

/// A duration drawn evenly between two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spread(pub Time, pub Time);

impl Spread {
    /// Draws one.
    pub fn draw(self, rng: &mut Rng) -> Time {
        Time(rng.u64(self.0.0..=self.1.0))
    }
}

/// What is usual in a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Climate {
    /// How long a message takes.
    pub network: Spread,
    /// Of a thousand messages of consensus, how many are lost, doubled, or overtaken, each.
    pub chaos: u32,
    /// How long a write and its sync take.
    pub disk: Spread,
    /// How long an apply takes.
    pub apply: Spread,
    /// How long an event waits until its server takes it in.
    pub processing: Spread,
    /// How far clocks run fast or slow, in millionths.
    pub drift_ppm: u32,
    /// How far clocks stand apart at the beginning, in milliseconds.
    pub skew_ms: u32,
    /// Bytes of a segment of the log.
    pub segment_bytes: u64,
    /// A log of this size lets go of its beginning, in bytes.
    pub log_bytes: u64,
    /// Bytes of a chunk of a snapshot.
    pub chunk_bytes: usize,
    /// Bytes of entries that a server keeps in memory.
    pub cache_bytes: usize,
    /// Bytes of entries in a message.
    pub append_bytes: usize,
    /// Messages under way to a follower.
    pub inflight: usize,
    /// Bytes of entries that are applied at a time.
    pub apply_bytes: usize,
    /// Batches of proposals under way.
    pub batches: usize,
    /// Clients.
    pub clients: u32,
    /// How long a client waits between two calls.
    pub think: Spread,
    /// Keys that clients use.
    pub keys: u32,
    /// Of a hundred calls, how many read.
    pub reads: u32,
    /// Of a hundred writes, how many have a session tag.
    pub tagged: u32,
    /// Sessions that may be open at once.
    pub sessions_max: u32,
    /// After how long unused they expire, in milliseconds.
    pub session_idle_ms: u64,
    /// How often all rows are hashed and compared.
    pub scan_ms: u64,
    /// The disks tear blocks at 512 bytes.
    pub tears_blocks: bool,
}

/// A run before it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Where everything comes from.
    pub seed: u64,
    /// Servers.
    pub nodes: u64,
    /// How many of them, the first ones, vote from the beginning. The others are no members until they are made so.
    pub voters: u64,
    /// When faults end and everything is healed.
    pub faults_end: Time,
    /// What is usual.
    pub climate: Climate,
    /// What goes wrong, in order of time.
    pub faults: Vec<Planned>,
}

/// What a user may fix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Servers; else mostly three.
    pub nodes: Option<u64>,
    /// Kinds of fault; empty: any.
    pub classes: BTreeSet<Class>,
}

impl Plan {
    /// Draws a run.
    pub fn draw(seed: u64, choice: &Choice) -> Self {
        let mut rng = Rng::with_seed(seed);
        let nodes = [3, 3, 3, 3, 3, 5, 5, 1, 2, 4][rng.usize(..10)];
        let nodes = choice.nodes.unwrap_or(nodes);
        let faults_end = Time::secs(50);
        let chosen: Vec<Class> = CLASSES
            .into_iter()
            .filter(|class| choice.classes.is_empty() || choice.classes.contains(class))
            .collect();
        let usual = rng.u32(1..=8);
        let chosen = chosen.into_iter().filter(|class| *class != Class::Upgrades);
        let classes: BTreeSet<Class> = chosen.filter(|_| rng.u32(..8) < usual).collect();
        let mut climate = climate(&mut rng);
        if !classes.contains(&Class::Chaos) {
            climate.chaos = 0;
        }
        if !classes.contains(&Class::Clocks) {
            climate.drift_ppm = 0;
            climate.skew_ms = 0;
        }
        // A cluster whose members change keeps three voters, and has a few servers to begin with that are none.
        let voters = nodes;
        let changes = classes.contains(&Class::Members) && voters >= 3;
        let nodes = if changes { voters + rng.u64(1..=3) } else { voters };
        let mut drawing = Drawing { rng: &mut rng, nodes };
        let mut faults = Vec::new();
        for class in classes.into_iter().filter(|class| *class != Class::Members || changes) {
            let every = Time::ms(drawing.rng.u64(500..20_000));
            let mut at = drawing.spread(Time(0), every);
            while at < faults_end {
                drawing.faults(class, at, &mut faults);
                at += drawing.spread(Time::ms(1), Time(2 * every.0));
            }
        }
        // From a stream of their own, and in half of the runs: what else goes wrong does not depend on it.
        if choice.classes.is_empty() || choice.classes.contains(&Class::Upgrades) {
            let mut rng = Rng::with_seed(seed ^ 0x1E_7E15);
            faults.extend(upgrades(&mut rng, nodes, faults_end));
        }
        faults.retain(|planned| planned.at < faults_end);
        faults.sort_by_key(|planned| planned.at);
        Self { seed, nodes, voters, faults_end, climate, faults }
    }
}

impl Plan {
    /// Leaves out all faults but those with these numbers. The others keep their numbers.
    pub fn keep_only(&mut self, only: &BTreeSet<usize>) {
        for (place, planned) in self.faults.iter_mut().enumerate() {
            planned.left_out |= !only.contains(&place);
        }
    }
}

fn upgrades(rng: &mut Rng, nodes: u64, until: Time) -> Vec<Planned> {
    let mixed = rng.bool();
    let old = (1..=nodes).map(NodeId).filter(|_| mixed && rng.u32(..3) > 0).collect::<Vec<_>>();
    let planned =
        |server| Planned { at: Time(rng.u64(..until.0)), fault: Fault::Upgrade { server }, left_out: false };
    old.into_iter().map(planned).collect()
}

fn climate(rng: &mut Rng) -> Climate {
    let spread = |rng: &mut Rng, choices: &[(u64, u64)]| {
        let (from, to) = choices[rng.usize(..choices.len())];
        Spread(Time(from), Time(to))
    };
    Climate {
        network: spread(rng, &[(50, 150), (100, 2_000), (500, 20_000), (10_000, 60_000)]),
        chaos: [1, 5, 20, 100][rng.usize(..4)],
        disk: spread(rng, &[(100, 400), (200, 3_000), (1_000, 30_000)]),
        apply: spread(rng, &[(10, 100), (100, 2_000), (1_000, 50_000)]),
        processing: spread(rng, &[(1, 20), (10, 500)]),
        drift_ppm: [0, 100, 10_000, 200_000][rng.usize(..4)],
        skew_ms: [0, 50, 2_000, 600_000][rng.usize(..4)],
        segment_bytes: [64 << 10, 128 << 10, 1 << 20][rng.usize(..3)],
        log_bytes: [1_000, 10_000, 100_000, 64 << 20][rng.usize(..4)],
        chunk_bytes: [1, 300, 3_000][rng.usize(..3)],
        cache_bytes: [1, 2_000, 1 << 20][rng.usize(..3)],
        append_bytes: [1, 500, 1 << 20][rng.usize(..3)],
        inflight: [1, 2, 64][rng.usize(..3)],
        apply_bytes: [1, 1_000, 1 << 20][rng.usize(..3)],
        batches: [1, 2, 4][rng.usize(..3)],
        clients: rng.u32(1..=12),
        think: spread(rng, &[(0, 50_000), (50_000, 500_000), (200_000, 2_000_000)]),
        keys: [1, 2, 5, 20][rng.usize(..4)],
        reads: [10, 40, 80][rng.usize(..3)],
        tagged: [0, 50, 100, 100][rng.usize(..4)],
        sessions_max: [2, 4, 100][rng.usize(..3)],
        session_idle_ms: [2_000, 20_000, 600_000][rng.usize(..3)],
        scan_ms: [1_000, 5_000, 20_000][rng.usize(..3)],
        tears_blocks: rng.u32(..8) == 0,
    }
}

struct Drawing<'a> {
    rng: &'a mut Rng,
    nodes: u64,
}

impl Drawing<'_> {
    fn spread(&mut self, from: Time, to: Time) -> Time {
        Spread(from, to.max(from)).draw(self.rng)
    }

    fn server(&mut self) -> NodeId {
        NodeId(self.rng.u64(1..=self.nodes))
    }

    fn target(&mut self) -> Target {
        if self.rng.u32(..3) == 0 { Target::Leader } else { Target::Server(self.server()) }
    }

    /// Mostly short, sometimes long.
    fn lasts(&mut self) -> Time {
        let longest = [200, 1_000, 4_000, 15_000][self.rng.usize(..4)];
        self.spread(Time::ms(1), Time::ms(longest))
    }

    fn crash(&mut self, power: bool, rot: bool, engine_lost: bool) -> Fault {
        let how = Crash { power, mid_write: self.rng.bool(), rot, engine_lost };
        let down = self.lasts();
        if !rot && self.rng.u32(..5) == 0 {
            Fault::CrashAll { how, down }
        } else {
            Fault::Crash { target: self.target(), how, down }
        }
    }

    fn faults(&mut self, class: Class, at: Time, faults: &mut Vec<Planned>) {
        let fault = match class {
            Class::Kill => self.crash(false, false, false),
            Class::Power => self.crash(true, false, false),
            Class::Rot if self.rng.bool() => Fault::LogRot {
                target: self.target(),
                scrubbed_after: self.spread(Time::ms(1), Time::secs(5)),
            },
            Class::Rot => self.crash(true, true, false),
            Class::EngineLoss => self.crash(true, false, true),
            Class::Lies => {
                let blocks = self.rng.bool().then(|| self.rng.i64(1..6));
                Fault::LyingWrite { target: self.target(), blocks }
            }
            Class::DiskErrors => {
                let (operation, short) = (self.rng.u64(..12), self.rng.u32(..4) == 0);
                Fault::DiskError { target: self.target(), operation, short }
            }
            Class::SlowDisks => {
                let by = Time::ms([5, 50, 500, 8_000][self.rng.usize(..4)]);
                Fault::SlowDisk { target: self.target(), by, lasts: self.lasts() }
            }
            Class::FullDisks => Fault::FullDisk { target: self.target(), lasts: self.lasts() },
            Class::Partitions => return self.partition(at, faults),
            Class::Disconnects => {
                let (a, b) = (self.server(), self.server());
                Fault::Disconnect { a, b }
            }
            // A climate, not an event; and drawn elsewhere.
            Class::Chaos | Class::Upgrades => return,
            Class::Pauses => Fault::Pause { target: self.target(), lasts: self.lasts() },
            Class::Clocks => {
                let far = [100, 5_000, 3_600_000][self.rng.usize(..3)];
                Fault::ClockJump { target: self.target(), by_ms: self.rng.i64(-far..=far) }
            }
            Class::Clients => Fault::ClientsCut { target: self.target(), lasts: self.lasts() },
            Class::Handovers => {
                let target = if self.rng.u32(..4) > 0 { Target::Leader } else { self.target() };
                let to = self.rng.bool().then(|| self.server());
                Fault::HandOver { target, to }
            }
            Class::Divergence => Fault::Misapply { target: self.target() },
            Class::Members => Fault::Members(match self.rng.u32(..4) {
                0 | 1 => MembersChange::Add { replaces: None },
                2 => MembersChange::Add { replaces: Some(self.rng.usize(..8)) },
                _ => MembersChange::Remove(self.rng.usize(..8)),
            }),
        };
        faults.push(Planned { at, fault, left_out: false });
    }

    /// Two sides, one server alone, a bridge, single links, one way or both; at times a link that comes and goes.
    fn partition(&mut self, at: Time, faults: &mut Vec<Planned>) {
        let ids: Vec<NodeId> = (1..=self.nodes).map(NodeId).collect();
        let side: BTreeSet<NodeId> = match self.rng.u32(..3) {
            0 => [self.server()].into(),
            _ => ids.iter().copied().filter(|_| self.rng.bool()).collect(),
        };
        let one_way = self.rng.u32(..3) == 0;
        let bridge = (self.rng.u32(..4) == 0).then(|| self.server());
        let single = self.rng.u32(..4) == 0;
        let mut links = Vec::new();
        for a in &ids {
            for b in &ids {
                let across = if one_way {
                    side.contains(a) && !side.contains(b)
                } else {
                    side.contains(a) != side.contains(b)
                };
                if across && bridge != Some(*a) && bridge != Some(*b) {
                    links.push((*a, *b));
                }
            }
        }
        if single && !links.is_empty() {
            links = vec![links[self.rng.usize(..links.len())]];
        }
        let lasts = self.lasts();
        if self.rng.u32(..5) == 0 {
            let mut at = at;
            for _ in 0..self.rng.u32(2..10) {
                let lasts = self.spread(Time::ms(10), Time::ms(600));
                faults.push(Planned {
                    at,
                    fault: Fault::Partition { links: links.clone(), lasts },
                    left_out: false,
                });
                at += lasts + self.spread(Time::ms(10), Time::ms(600));
            }
        } else {
            faults.push(Planned { at, fault: Fault::Partition { links, lasts }, left_out: false });
        }
    }
}
