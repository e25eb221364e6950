//! What goes wrong in a round, drawn before it begins, and how it is done to real servers.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use fastrand::Rng;
use raftmap::local_cluster::{CLIENT, LocalCluster};
use raftmap::survey;
use raftmap_raft::NodeId;

use crate::error::{Failure, refused};
use crate::namespaces::Namespaces;
use crate::network::Network;
use crate::shim::{Shim, Wrong};
use crate::volumes::Volumes;

/// How long the servers are asked who leads.
const SURVEY_TIMEOUT: Duration = Duration::from_millis(300);

/// A server looks at its engine once a second: so late it may notice that its disk has failed it.
const NOTICED_WITHIN: Duration = Duration::from_millis(1_500);

/// When faults begin, and how long they last, at most.
const BEGIN_MAX_MS: u64 = 1_500;
const LASTS_MAX_MS: u64 = 2_500;

/// Kinds of fault, to be chosen by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Processes are killed with SIGKILL.
    Kill,
    /// Processes are stopped with SIGSTOP and go on later.
    Pause,
    /// A server is cut off from the others; connections stay open, as when a cable is cut.
    Partition,
    /// What one server says does not reach another.
    OneWay,
    /// All that a server says and hears takes longer.
    SlowLinks,
    /// Connections break, with what is under way on them.
    Disconnect,
    /// Syncs take longer.
    SlowDisk,
    /// Writes or syncs fail, or a write is cut short.
    DiskError,
    /// A disk is full.
    FullDisk,
    /// The wall clock of a server jumps.
    Clock,
    /// Power is cut: what was not synced is lost.
    Power,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = clap::ValueEnum::to_possible_value(self).map(|value| value.get_name().to_owned());
        f.pad(&name.unwrap_or_default())
    }
}

/// Whom a fault strikes.
#[derive(Clone, Debug)]
enum Whom {
    Leader,
    Servers(Vec<NodeId>),
}

/// One fault of a round.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) class: Class,
    whom: Whom,
    /// After the beginning of the round.
    pub(crate) at: Duration,
    pub(crate) lasts: Duration,
    /// What else there is to choose.
    roll: u64,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { class, whom, at, lasts, .. } = self;
        let whom = match whom {
            Whom::Leader => "leader".to_owned(),
            Whom::Servers(ids) => ids.iter().map(|id| id.to_string()).collect::<Vec<_>>().join("+"),
        };
        write!(f, "{class} {whom} at {:.1} s for {:.1} s", at.as_secs_f64(), lasts.as_secs_f64())
    }
}

/// The choice that a number stands for.
pub(crate) fn pick<T: Copy>(number: u64, among: &[T]) -> T {
    let place = number % among.len() as u64;
    among[usize::try_from(place).expect("less than the length of a slice")]
}

impl Fault {
    /// Draws a fault of a class.
    pub(crate) fn draw(class: Class, ids: &[NodeId], rng: &mut Rng) -> Self {
        let many = matches!(class, Class::Kill | Class::Power | Class::Pause | Class::Disconnect);
        let whom = match rng.u32(..6) {
            0 | 1 => Whom::Leader,
            2 if many => Whom::Servers(ids.to_vec()),
            3 if many => Whom::Servers(rng.choose_multiple(ids.iter().copied(), 2)),
            _ => Whom::Servers(rng.choose_multiple(ids.iter().copied(), 1)),
        };
        Self {
            class,
            whom,
            at: Duration::from_millis(rng.u64(100..BEGIN_MAX_MS)),
            lasts: Duration::from_millis(rng.u64(20..LASTS_MAX_MS)),
            roll: rng.u64(..),
        }
    }
}

/// The network between the servers.
#[derive(Debug)]
pub(crate) enum Links {
    Proxies(Network),
    Namespaces(Namespaces),
}

impl Links {
    fn isolate(&self, id: NodeId) -> Result<(), Failure> {
        match self {
            Self::Proxies(network) => network.isolate(id),
            Self::Namespaces(namespaces) => namespaces.isolate(id).map_err(refused("cut a server off"))?,
        }
        Ok(())
    }

    fn mute(&self, from: NodeId, to: NodeId) -> Result<(), Failure> {
        match self {
            Self::Proxies(network) => network.mute(from, to),
            Self::Namespaces(namespaces) => namespaces.mute(from, to).map_err(refused("mute a server"))?,
        }
        Ok(())
    }

    /// All goes through again.
    fn heal(&self) -> Result<(), Failure> {
        match self {
            Self::Proxies(network) => network.heal(),
            Self::Namespaces(namespaces) => namespaces.heal().map_err(refused("heal the network"))?,
        }
        Ok(())
    }

    /// What only a proxy can do.
    fn proxies(&self, act: impl FnOnce(&Network)) {
        if let Self::Proxies(network) = self {
            act(network);
        }
    }
}

/// A cluster with all that can be done to it.
pub(crate) struct Rig {
    pub(crate) cluster: LocalCluster,
    pub(crate) links: Links,
    pub(crate) shim: Option<Shim>,
    pub(crate) volumes: Option<Volumes>,
    /// Servers that were killed and are to be started again.
    pub(crate) killed: BTreeSet<NodeId>,
    /// Servers that may end by themselves, for their disk fails or is full.
    pub(crate) excused: BTreeSet<NodeId>,
    /// Those that did.
    pub(crate) ended: u64,
}

impl Rig {
    /// Makes a fault, and gives whom it struck.
    pub(crate) async fn strike(&mut self, fault: &Fault) -> Result<Vec<NodeId>, Failure> {
        let ids = match &fault.whom {
            Whom::Servers(ids) => ids.clone(),
            Whom::Leader => vec![self.leader_or_first().await?],
        };
        if fault.class == Class::Power {
            self.hold_syncs(fault, &ids).await?;
        }
        for id in &ids {
            self.strike_one(fault, *id)?;
        }
        if fault.class == Class::Power {
            let cut = |volumes: &Volumes| volumes.cut_power(&ids);
            self.volumes.as_ref().map_or(Ok(()), cut).map_err(refused("cut the power of a server"))?;
        }
        Ok(ids)
    }

    /// Lets no sync of these servers return for a moment: what they write meanwhile is what a power cut takes.
    async fn hold_syncs(&self, fault: &Fault, ids: &[NodeId]) -> Result<(), Failure> {
        const FOREVER_MS: u64 = 60_000;
        for id in ids {
            self.begin(*id, Wrong::Slow(FOREVER_MS))?;
        }
        tokio::time::sleep(Duration::from_millis(fault.roll % 150)).await;
        Ok(())
    }

    /// A fault of links goes on, although another one was mended.
    pub(crate) fn renew(&mut self, fault: &Fault, ids: &[NodeId]) -> Result<(), Failure> {
        if matches!(fault.class, Class::Partition | Class::OneWay | Class::SlowLinks) {
            ids.iter().try_for_each(|id| self.strike_one(fault, *id))?;
        }
        Ok(())
    }

    fn strike_one(&mut self, fault: &Fault, id: NodeId) -> Result<(), Failure> {
        let Fault { class, roll, .. } = *fault;
        match class {
            Class::Kill | Class::Power => {
                if self.cluster.is_running(id) {
                    self.cluster.kill(id)?;
                    self.killed.insert(id);
                }
            }
            Class::Pause => {
                if self.cluster.is_running(id) {
                    self.cluster.pause(id)?;
                }
            }
            Class::Partition => self.links.isolate(id)?,
            Class::OneWay => {
                let others: Vec<NodeId> =
                    self.cluster.ids().into_iter().filter(|other| *other != id).collect();
                self.links.mute(id, pick(roll, &others))?;
            }
            Class::SlowLinks => {
                let delay = Duration::from_millis(20 + roll % 300);
                self.links.proxies(|network| network.slow(id, delay));
            }
            Class::Disconnect => self.links.proxies(|network| network.cut(id)),
            Class::SlowDisk => self.begin(id, Wrong::Slow(pick(roll, &[30, 300, 1_500])))?,
            Class::DiskError => {
                self.excused.insert(id);
                self.begin(id, pick(roll, &[Wrong::Sync, Wrong::Write, Wrong::Full, Wrong::Short]))?;
            }
            Class::FullDisk => {
                self.excused.insert(id);
                let fill = |volumes: &Volumes| volumes.fill(id);
                self.volumes.as_ref().map_or(Ok(()), fill).map_err(refused("fill the disk of a server"))?;
            }
            Class::Clock => {
                let by_ms = pick(roll, &[2_000, -2_000, 3_600_000, -3_600_000]);
                self.begin(id, Wrong::Clock(by_ms))?;
            }
        }
        Ok(())
    }

    /// Ends a fault.
    pub(crate) fn mend(&mut self, fault: &Fault, ids: &[NodeId]) -> Result<(), Failure> {
        for id in ids.iter().copied() {
            match fault.class {
                Class::Kill => self.start_again(id)?,
                Class::Power => {
                    self.end(id)?;
                    self.start_again(id)?;
                }
                Class::Pause => self.go_on(id)?,
                Class::Partition | Class::OneWay | Class::SlowLinks => self.links.heal()?,
                Class::Disconnect => {}
                Class::SlowDisk | Class::Clock => self.end(id)?,
                Class::DiskError | Class::FullDisk => {
                    self.end(id)?;
                    self.make_room(id)?;
                    self.start_again(id)?;
                }
            }
        }
        Ok(())
    }

    /// Ends all faults, and waits until every server takes requests again.
    pub(crate) async fn calm(&mut self) -> Result<(), Failure> {
        self.links.heal()?;
        let ids = self.cluster.ids();
        for id in &ids {
            self.end(*id)?;
            self.make_room(*id)?;
            self.go_on(*id)?;
            self.start_again(*id)?;
        }
        if !self.excused.is_empty() {
            tokio::time::sleep(NOTICED_WITHIN).await;
        }
        for id in ids {
            // One whose disk has failed it may have ended since.
            if !self.cluster.is_running(id) {
                self.start_again(id)?;
            }
            self.cluster.wait_ready(id).await?;
        }
        self.killed.clear();
        self.excused.clear();
        Ok(())
    }

    /// Kills all servers, and cuts their power if it can be cut.
    pub(crate) fn down(&mut self) -> Result<(), Failure> {
        self.cluster.kill_all()?;
        let ids = self.cluster.ids();
        self.killed.extend(&ids);
        let cut = |volumes: &Volumes| volumes.cut_power(&ids);
        self.volumes.as_ref().map_or(Ok(()), cut).map_err(refused("cut the power of a server"))
    }

    /// Starts a server, unless it runs. One that ended by itself must have had a reason, and said so.
    pub(crate) fn start_again(&mut self, id: NodeId) -> Result<(), Failure> {
        if self.cluster.is_running(id) {
            return Ok(());
        }
        if !self.killed.remove(&id) {
            self.ended += 1;
            let text = self.cluster.log_text(id);
            let said = text.lines().next_back().unwrap_or_default().to_owned();
            if !self.excused.contains(&id) || said.contains("broken invariant") {
                return Err(Failure::Unexpected { id, said });
            }
        }
        let shim = self.shim.clone();
        let mut preloaded = Ok(());
        self.cluster.spawn(id, |command| {
            preloaded = shim.map_or(Ok(()), |shim| shim.preload(&id.to_string(), command));
        })?;
        preloaded.map_err(refused("preload a server"))
    }

    fn go_on(&mut self, id: NodeId) -> Result<(), Failure> {
        if self.cluster.is_running(id) {
            self.cluster.resume(id)?;
        }
        Ok(())
    }

    fn begin(&self, id: NodeId, wrong: Wrong) -> Result<(), Failure> {
        let begin = |shim: &Shim| shim.begin(&id.to_string(), wrong);
        self.shim.as_ref().map_or(Ok(()), begin).map_err(refused("disturb a server"))
    }

    fn end(&self, id: NodeId) -> Result<(), Failure> {
        let end = |shim: &Shim| shim.end(&id.to_string());
        self.shim.as_ref().map_or(Ok(()), end).map_err(refused("calm a server"))
    }

    fn make_room(&self, id: NodeId) -> Result<(), Failure> {
        let empty = |volumes: &Volumes| volumes.empty(id);
        self.volumes.as_ref().map_or(Ok(()), empty).map_err(refused("make room for a server"))
    }

    async fn leader_or_first(&self) -> Result<NodeId, Failure> {
        let tls = self.cluster.tls(CLIENT)?;
        let view = survey::ask(&self.cluster.endpoints(), &tls.into(), SURVEY_TIMEOUT).await;
        Ok(view.leader.unwrap_or(NodeId(1)))
    }
}
