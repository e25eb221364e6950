//! A cluster with all that can be done to it.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use fastrand::Rng;
use raftmap::local_cluster::{CLIENT, LocalCluster};
use raftmap::survey;
use raftmap_raft::NodeId;

use crate::error::{Failure, refused};
use crate::links::Links;
use crate::nemesis::{Class, Fault, Whom, pick};
use crate::shim::{Shim, Wrong};
use crate::volumes::Volumes;

/// How long the servers are asked who leads.
const SURVEY_TIMEOUT: Duration = Duration::from_millis(300);

/// A server looks at its engine once a second: so late it may notice that its disk has failed it.
const NOTICED_WITHIN: Duration = Duration::from_millis(1_500);

/// What a server that was removed says last.
const REMOVED: &str = "was removed from the cluster";

/// The exit code of a server that ends itself.
const SERVER_ENDED: i32 = 5;

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
    /// Servers that an operator wants gone: they may end by themselves, and are to say why.
    pub(crate) leaving: BTreeSet<NodeId>,
    /// A server whose data directory is being made.
    pub(crate) coming: Option<NodeId>,
}

impl Rig {
    /// Nothing of it runs yet.
    pub(crate) fn new(
        cluster: LocalCluster,
        links: Links,
        shim: Option<Shim>,
        volumes: Option<Volumes>,
    ) -> Self {
        Self {
            killed: cluster.ids().into_iter().collect(),
            cluster,
            links,
            shim,
            volumes,
            excused: BTreeSet::new(),
            ended: 0,
            leaving: BTreeSet::new(),
            coming: None,
        }
    }

    /// Makes a fault, and gives whom it struck.
    pub(crate) async fn strike(&mut self, fault: &Fault) -> Result<Vec<NodeId>, Failure> {
        let there = self.there();
        let ids = match fault.whom {
            Whom::Leader => vec![self.leader().await?.or(there.first().copied()).unwrap_or_default()],
            Whom::Some(count) => Rng::with_seed(fault.roll).choose_multiple(there.iter().copied(), count),
            Whom::All => there.clone(),
        };
        let ids: Vec<NodeId> = ids.into_iter().filter(|id| there.contains(id)).collect();
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

    /// The servers that run, or that are to be started again.
    fn there(&mut self) -> Vec<NodeId> {
        let ids = self.cluster.ids().into_iter();
        ids.filter(|id| self.killed.contains(id) || self.cluster.is_running(*id)).collect()
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
            self.known(ids).into_iter().try_for_each(|id| self.strike_one(fault, id))?;
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
                if !others.is_empty() {
                    self.links.mute(id, pick(roll, &others))?;
                }
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
            Class::Members => {}
        }
        Ok(())
    }

    /// Those of servers that were struck that are still there: one that was refused as a member may be gone.
    fn known(&self, ids: &[NodeId]) -> Vec<NodeId> {
        self.cluster.ids().into_iter().filter(|id| ids.contains(id)).collect()
    }

    /// Ends a fault.
    pub(crate) fn mend(&mut self, fault: &Fault, ids: &[NodeId]) -> Result<(), Failure> {
        for id in self.known(ids) {
            match fault.class {
                Class::Kill => self.start_again(id)?,
                Class::Power => {
                    self.end(id)?;
                    self.start_again(id)?;
                }
                Class::Pause => self.go_on(id)?,
                Class::Partition | Class::OneWay | Class::SlowLinks => self.links.heal()?,
                Class::Disconnect | Class::Members => {}
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

    /// Ends all faults.
    pub(crate) fn heal(&mut self) -> Result<(), Failure> {
        self.links.heal()?;
        let ids: Vec<NodeId> = self.cluster.ids().into_iter().filter(|id| self.coming != Some(*id)).collect();
        for id in ids {
            self.end(id)?;
            self.make_room(id)?;
            self.go_on(id)?;
            self.start_again(id)?;
        }
        Ok(())
    }

    /// Ends all faults, and waits until every server that is to stay takes requests again.
    pub(crate) async fn calm(&mut self) -> Result<(), Failure> {
        self.heal()?;
        if !self.excused.is_empty() {
            tokio::time::sleep(NOTICED_WITHIN).await;
        }
        for id in self.cluster.ids() {
            // One whose disk has failed it may have ended since.
            self.start_again(id)?;
            if !self.leaving.contains(&id) {
                self.cluster.wait_ready(id).await?;
            }
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
            let said = self.said_last(id);
            if self.leaving.contains(&id) && said.contains(REMOVED) {
                return Ok(());
            }
            self.ended += 1;
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

    /// The end of what a server has said.
    fn said_last(&self, id: NodeId) -> String {
        self.cluster.log_text(id).lines().next_back().unwrap_or_default().to_owned()
    }

    /// The server that leads, if one says so.
    pub(crate) async fn leader(&self) -> Result<Option<NodeId>, Failure> {
        let tls = self.cluster.tls(CLIENT)?;
        Ok(survey::ask(&self.cluster.endpoints(), &tls.into(), SURVEY_TIMEOUT).await.leader)
    }

    /// A place for one more server, and the command that makes its data directory: `raftmap init --join`.
    pub(crate) fn prepare_join(&mut self) -> Result<Command, Failure> {
        let Self { cluster, links, volumes, .. } = self;
        let (id, init) = cluster.prepare_join(|member| links.add(member))?;
        let dir = cluster.data_dir(id);
        let add = |volumes: &mut Volumes| volumes.add(id, &dir);
        volumes.as_mut().map_or(Ok(()), add).map_err(refused("make a disk in a file"))?;
        self.coming = Some(id);
        Ok(init)
    }

    /// Starts a server for the first time.
    pub(crate) fn start_new(&mut self, id: NodeId) -> Result<(), Failure> {
        self.coming = None;
        self.killed.insert(id);
        self.start_again(id)
    }

    /// Takes a server away that never became a member.
    pub(crate) fn dismiss(&mut self, id: NodeId) -> Result<(), Failure> {
        if self.coming == Some(id) {
            self.coming = None;
        } else {
            // It must not have ended by itself.
            self.start_again(id)?;
            self.cluster.kill(id)?;
        }
        self.forget(id)
    }

    /// Waits until a server that was removed ends by itself. It must say why.
    pub(crate) async fn see_off(&mut self, id: NodeId) -> Result<(), Failure> {
        let status = self.cluster.wait_exit(id).await?;
        let said = self.said_last(id);
        if status.code() != Some(SERVER_ENDED) || !said.contains(REMOVED) {
            return Err(Failure::NotSeenOff { id, status, said });
        }
        self.leaving.remove(&id);
        self.forget(id)
    }

    fn forget(&mut self, id: NodeId) -> Result<(), Failure> {
        self.cluster.leave(id)?;
        self.killed.remove(&id);
        self.excused.remove(&id);
        self.links.forget(id)?;
        let forget = |volumes: &mut Volumes| volumes.forget(id);
        self.volumes.as_mut().map_or(Ok(()), forget).map_err(refused("take a disk away"))
    }
}
