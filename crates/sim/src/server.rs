//! One server: the code of production on a simulated disk, with the work that its threads would do.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

use fastrand::Rng;
use raftmap_log::mem_disk::Fault as DiskFault;
use raftmap_log::{
    FoundingMember, Identity, Log, LogError, LogOptions, LogReader, MemDisk, MemDiskOptions, OpenError,
};
use raftmap_raft::{Config, Ctx, Entry, GroupId, LogIndex, LogPosition, NodeId, StateId, Write};
use raftmap_replica::{
    CompactionConfig, Event, FoundState, LogSize, Now, Replica, ReplicaConfig, Serves, StartError,
    StateWorker, Ticks, member_of, restore,
};
use raftmap_state::{
    Damage, Engine, Member, MemoryEngine, Reader, Row, SessionLimits, Snapshot, StateMachine,
};

use crate::plan::{Climate, Plan};
use crate::snapshots::Transfer;
use crate::time::Time;

/// One tick of consensus.
pub(crate) const TICK: Time = Time::ms(50);
const ELECTION_TICKS: u32 = 10;
const HEARTBEAT_TICKS: u32 = 3;

/// The largest entry that clients of a run make fits easily.
const ENTRY_BYTES_MAX: usize = 16 << 10;
const DATA_DIR: &str = "/data";

/// A row that is not what was written.
pub(crate) struct Rotten {
    pub(crate) row: Row,
    /// A scan has hashed it: this state may be found to be wrong even after the row was written again.
    pub(crate) scanned: bool,
}

/// A server, up or down.
pub(crate) struct Server {
    pub(crate) id: NodeId,
    pub(crate) disk: MemDisk,
    /// The stores of its state machine, and of snapshots that it holds beside it.
    pub(crate) engines: BTreeMap<StateId, MemoryEngine>,
    /// Counts its starts: what belongs to an earlier life is of no interest any more.
    pub(crate) life: u64,
    pub(crate) running: Option<Box<Running>>,
    pub(crate) clock: Clock,
    /// The feature level that its program understands.
    pub(crate) level: u8,
    /// Its process is stopped.
    pub(crate) paused: bool,
    /// Everything that its disk does takes that much longer.
    pub(crate) disk_delay: Time,
    /// Clients do not reach it: faults that do so at the moment.
    pub(crate) clients_cut: u32,
    /// It was removed from the cluster, and never starts again.
    pub(crate) retired: bool,
    /// The next put that it applies has another effect than elsewhere.
    pub(crate) misapplies: bool,
    /// The row of its state that rotted.
    pub(crate) rotten: Option<Rotten>,
    /// How its state was since it went wrong: others may show later that it is right after all.
    pub(crate) doubtful: Vec<(LogIndex, u128)>,
    /// Its disk says that it is nearly full: faults that do so at the moment.
    pub(crate) disk_full: u32,
    /// What its disk will say nothing about, when it writes the next batch.
    pub(crate) lie: Option<DiskFault>,
    /// The operation of its disk that will fail, or has.
    pub(crate) error_armed: Option<u64>,
    /// Seeds for its replicas.
    replicas: Rng,
}

/// A server that is up.
pub(crate) struct Running {
    pub(crate) member: Member,
    pub(crate) replica: Replica,
    pub(crate) log: Log<MemDisk>,
    pub(crate) reader: LogReader<MemDisk>,
    pub(crate) worker: StateWorker<MemoryEngine>,
    pub(crate) state: Reader<MemoryEngine>,
    pub(crate) serves: Serves,
    /// What has happened and was not taken in yet.
    pub(crate) inbox: Vec<Event>,
    /// It is about to take it in.
    pub(crate) woken: bool,
    pub(crate) ticks: Ticks,
    /// Counts its timers: only the latest one matters.
    pub(crate) timer: u64,
    pub(crate) waiting: VecDeque<Write>,
    /// What the log is writing at the moment.
    pub(crate) writing: Vec<Write>,
    /// Counts its writes, to tell whether the log fell idle.
    pub(crate) writes: u64,
    pub(crate) applying: Vec<Entry>,
    /// The snapshot that it is fetching.
    pub(crate) transfer: Option<Transfer>,
    /// Requests that wait for an answer, and what is to be read for them.
    pub(crate) requests: BTreeMap<Ctx, u32>,
}

/// A clock that runs at its own pace and jumps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// Millionths of real time.
    pub(crate) rate: u64,
    pub(crate) offset_ms: i64,
}

impl Clock {
    /// The time that has passed by this clock.
    pub(crate) fn local(self, now: Time) -> Time {
        Time(now.0 * self.rate / 1_000_000)
    }

    /// The moment when that much will have passed by this clock.
    pub(crate) fn global(self, local: Time) -> Time {
        Time((local.0 * 1_000_000).div_ceil(self.rate))
    }

    pub(crate) fn now(self, now: Time) -> Now {
        const BEGINNING_MS: i64 = 1_700_000_000_000;
        let monotonic_ms = self.local(now).0 / 1000;
        let wall = BEGINNING_MS + self.offset_ms + i64::try_from(monotonic_ms).unwrap_or(i64::MAX / 2);
        Now { wall_ms: u64::try_from(wall).unwrap_or(0), monotonic_ms }
    }
}

/// What a server starts with.
pub(crate) struct Started {
    /// Where its log begins.
    pub(crate) base: LogPosition,
    pub(crate) entries: Vec<Entry>,
}

/// Why a server does not start.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Its disk failed.
    Disk(String),
    /// What is on its disk does not fit together.
    Data(String),
}

impl Server {
    pub(crate) fn new(id: NodeId, plan: &Plan, rng: &mut Rng) -> Self {
        let climate = &plan.climate;
        let disk = MemDisk::new(MemDiskOptions { seed: rng.u64(..), ..MemDiskOptions::default() });
        let members = (1..=plan.voters).map(|id| FoundingMember {
            node: NodeId(id),
            peer_address: format!("server-{id}:7001"),
            client_address: format!("server-{id}:7000"),
        });
        let identity =
            Identity::new(1, id, rng.u64(1..), members.collect()).expect("these members are right");
        Log::init(&disk, Path::new(DATA_DIR), &identity, &log_options(climate)).expect("the disk is new");
        let drift = u64::from(climate.drift_ppm);
        let clock = Clock {
            rate: 1_000_000 - drift / 2 + rng.u64(..=drift),
            offset_ms: rng.i64(-i64::from(climate.skew_ms)..=i64::from(climate.skew_ms)),
        };
        Self {
            id,
            disk,
            engines: BTreeMap::from([(StateId(0), MemoryEngine::new())]),
            life: 0,
            running: None,
            clock,
            level: plan.first_level(id),
            paused: false,
            disk_delay: Time(0),
            clients_cut: 0,
            retired: false,
            misapplies: false,
            rotten: None,
            doubtful: Vec::new(),
            disk_full: 0,
            lie: None,
            error_armed: None,
            replicas: rng.fork(),
        }
    }

    /// Starts it on what is on its disk.
    pub(crate) fn start(&mut self, climate: &Climate, now: Time) -> Result<Started, Refused> {
        self.disk = self.disk.restart();
        self.life += 1;
        let options = log_options(climate);
        let (mut log, recovered) =
            Log::open(self.disk.clone(), Path::new(DATA_DIR), &options).map_err(Refused::of_open)?;
        let named = recovered.base.as_ref().map_or(StateId(0), |base| base.state);
        self.engines.retain(|state, _| *state == named);
        let found = self.engines.contains_key(&named);
        self.engines.entry(named).or_default();
        let mut machine = self.open_state(named)?;
        if !recovered.state_is_whole(machine.applied().index) {
            // What is left of it is set aside.
            self.engines.insert(named, MemoryEngine::new());
            machine = self.open_state(named)?;
        }
        let found = if found { FoundState::There(machine.applied()) } else { FoundState::Missing };
        let worker = StateWorker::new(machine).map_err(Refused::data)?;
        let restored = restore(&mut log, &recovered, found).map_err(Refused::of_start)?;
        let (base, last) = (restored.base, restored.last);
        let config = replica_config(climate, &recovered.identity, self.level, self.replicas.u64(..));
        let mut reader = log.reader();
        let entries = read_all(&mut reader, base.index, last).map_err(Refused::disk)?;
        let running = Running {
            member: member_of(&recovered.identity),
            replica: Replica::new(config, restored, LogSize::of(&recovered), worker.view()),
            reader,
            state: worker.machine().reader(),
            serves: Serves::default(),
            worker,
            log,
            inbox: Vec::new(),
            woken: false,
            ticks: Ticks::new(TICK.duration(), self.clock.local(now).duration()),
            timer: 0,
            waiting: VecDeque::new(),
            writing: Vec::new(),
            writes: 0,
            applying: Vec::new(),
            transfer: None,
            requests: BTreeMap::new(),
        };
        self.running = Some(Box::new(running));
        Ok(Started { base, entries })
    }

    /// The state machine in the store of this name.
    pub(crate) fn open_state(&self, state: StateId) -> Result<StateMachine<MemoryEngine>, Refused> {
        let engine = self.engines.get(&state);
        let engine = engine
            .ok_or_else(|| Refused::Data(format!("its log names state {state}, which is not there")))?;
        StateMachine::open(engine.clone(), GroupId::DEFAULT).map_err(Refused::data)
    }

    /// Whether a row of its state is not what was written.
    pub(crate) fn is_rotten(&self) -> bool {
        let Some(Rotten { row: (key, value), scanned: _ }) = &self.rotten else { return false };
        let found = self.engines.values().next().and_then(|engine| engine.snapshot().get(key).ok().flatten());
        found.as_ref() == Some(value)
    }

    /// Ends it. What its state machine's store comes back with is decided here.
    pub(crate) fn end(&mut self, power: bool, engine_lost: bool, rng: &mut Rng) {
        if let Some(rotten) = &mut self.rotten {
            rotten.scanned = false;
        }
        if power {
            self.disk.cut_power();
        } else {
            self.disk.kill();
        }
        let damage = if engine_lost { Damage::Emptied } else { Damage::None };
        for engine in self.engines.values_mut() {
            *engine = engine.crash(rng.u64(..), damage);
        }
        self.running = None;
        self.paused = false;
    }

    /// Whether its log has let go of what only its state machine holds now, or is about to.
    pub(crate) fn needs_its_state(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.replica.status().raft.base.index.0 > 0)
    }

    /// Who it is, while it is up.
    pub(crate) fn member(&self) -> Option<Member> {
        self.running.as_ref().map(|running| running.member)
    }

    pub(crate) fn is_up(&self) -> bool {
        self.running.is_some()
    }

    /// The files of its log and its hard state, with their lengths in bytes.
    pub(crate) fn log_files(&self) -> Vec<(PathBuf, u64)> {
        self.disk.files().into_iter().filter(|(path, _)| is_of_log(path)).collect()
    }
}

fn is_of_log(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name == "hard-state" || name.starts_with("segment-")
}

fn log_options(climate: &Climate) -> LogOptions {
    LogOptions {
        segment_bytes: climate.segment_bytes,
        entry_bytes_max: ENTRY_BYTES_MAX,
        ..LogOptions::default()
    }
}

fn replica_config(climate: &Climate, identity: &Identity, level: u8, seed: u64) -> ReplicaConfig {
    let raft = Config {
        election_ticks: ELECTION_TICKS,
        heartbeat_ticks: HEARTBEAT_TICKS,
        disk_stall_ticks: 10 * ELECTION_TICKS,
        max_append_bytes: climate.append_bytes,
        max_inflight_messages: climate.inflight,
        max_command_bytes: ENTRY_BYTES_MAX,
        max_apply_bytes: climate.apply_bytes,
        cache_bytes: climate.cache_bytes,
        // Servers of one cluster may differ in it, and one server from start to start.
        max_follower_lag: [256, 256, 4, 0][(seed % 4) as usize],
        ..Config::new(identity.node(), seed)
    };
    let session_limits = SessionLimits {
        idle_expiry_ms: climate.session_idle_ms,
        sessions_max: climate.sessions_max,
        ..SessionLimits::default()
    };
    ReplicaConfig {
        level,
        session_limits,
        batches_max: climate.batches,
        space_reserve_bytes: 1 << 20,
        scan_every_ms: Some(climate.scan_ms),
        compaction: CompactionConfig {
            start_bytes: climate.log_bytes,
            tail_bytes: climate.log_bytes / 4,
            max_bytes: climate.log_bytes * 4,
        },
        ..ReplicaConfig::new(raft, member_of(identity))
    }
}

/// All entries behind `base`, up to `last`.
fn read_all(reader: &mut LogReader<MemDisk>, base: LogIndex, last: LogIndex) -> Result<Vec<Entry>, LogError> {
    let mut entries: Vec<Entry> = Vec::new();
    while let from = entries.last().map_or(base, |entry| entry.index).next()
        && from <= last
    {
        entries.extend(reader.entries(from, last, usize::MAX)?);
    }
    Ok(entries)
}

impl Refused {
    fn disk(error: LogError) -> Self {
        Self::Disk(error.to_string())
    }

    fn data(error: impl std::fmt::Display) -> Self {
        Self::Data(error.to_string())
    }

    fn of_open(error: OpenError) -> Self {
        match error {
            OpenError::Log(error) => Self::disk(error),
            error => Self::data(error),
        }
    }

    fn of_start(error: StartError) -> Self {
        match error {
            StartError::Log(error) => Self::disk(error),
            error => Self::data(error),
        }
    }
}
