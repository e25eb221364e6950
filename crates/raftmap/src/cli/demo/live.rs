//! The demo on a terminal: a cluster under load, whose servers are killed, paused, cut off and revived by keys.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use raftmap::local_cluster::{CLIENT, LocalCluster, LocalPlan, Network, OPERATOR};
use raftmap::survey::Watch;
use raftmap_client::Client;
use raftmap_raft::NodeId;
use ratatui::crossterm::event::KeyCode;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::super::exit::Failure;
use super::super::live::history::{History, Kind};
use super::super::live::screen::{Latency, Overlay, Promise, Screen, grouped};
use super::super::live::terminal::{Input, Terminal};
use super::super::output;
use super::load::Load;
use super::{Demo, TIMEOUT};

/// How often the screen is drawn.
const FRAME: Duration = Duration::from_millis(100);
/// How often servers are asked how they are.
const WATCH_EVERY: Duration = Duration::from_millis(250);
/// Once writes are acknowledged again for so long, what somebody did to a server is over, and its price is told.
const SETTLED: Duration = Duration::from_secs(2);
/// More servers than this are of no use on one machine.
const SERVERS_MAX: usize = 7;
/// How many lines of a log are shown.
const LOG_LINES: usize = 500;

/// What is done to a server that nothing reaches.
const CUT_OFF: &str = "cut off";
/// How a server is that has no data directory yet.
const JOINS: &str = "joins";

const KEYS: [(&str, &str); 9] = [
    ("k", "kill"),
    ("p", "pause"),
    ("d", "stall"),
    ("x", "cut off"),
    ("r", "revive"),
    ("a", "add"),
    ("l", "log"),
    ("?", "help"),
    ("q", "quit"),
];

const HELP: &str = "\
Three servers on this machine hold one map. Lines are written to it
all the time, and each is read back once it is acknowledged.

  ↑ ↓ 1-9  choose a server; L chooses the leader
  k        kill it (SIGKILL): nothing of it can say goodbye
  p        pause it (SIGSTOP): its connections stay open, and nothing answers
  d        stall its disk: the thread that writes its log stands still
  x        cut it off from the other servers; clients still reach it
  r        revive it: start it, let it go on, or connect it again
  a        add a server to the cluster, up to seven
  l        its log; ↑ ↓ and page keys scroll
  q        quit: all lines are read back, then all processes are ended

A majority must run and reach each other: with three servers you may lose
one, and lose nothing. With two gone writes wait, and none is lost either.";

/// What goes on beside the screen, when it is over.
enum Finished {
    /// The data directory of a server that is to join.
    Prepared(NodeId, Result<(), String>),
    /// Its membership.
    Added(NodeId, Result<(), String>),
}

/// What lies above the screen.
enum Above {
    Help,
    Log { server: u64, lines: Vec<String>, up: usize },
}

struct Live {
    cluster: LocalCluster,
    network: Network,
    load: Load,
    watch: Watch,
    history: History,
    selected: u64,
    done_to: BTreeMap<u64, &'static str>,
    /// When something was done to a server whose price is not told yet.
    shaken: Option<Instant>,
    jobs: JoinSet<Finished>,
    above: Option<Above>,
    next_second: Instant,
    /// Between two acknowledgements less than this is nothing to speak of.
    usual_gap: Duration,
}

/// Whether to go on.
enum Next {
    GoOn,
    Quit,
}

pub(super) async fn run(demo: &Demo, plan: LocalPlan, lines: Vec<super::input::Line>) -> Result<(), Failure> {
    let mut live = Live::found(demo, plan, lines).await?;
    for line in live.commands_elsewhere() {
        output::line(&line)?;
    }
    live.show().await?;
    live.conclude().await
}

impl Live {
    async fn found(
        demo: &Demo,
        mut plan: LocalPlan,
        lines: Vec<super::input::Line>,
    ) -> Result<Self, Failure> {
        output::line("three servers start ...")?;
        let network =
            Network::between(&mut plan).map_err(|error| Failure::Failed(format!("no ports: {error}")))?;
        let mut cluster = plan.found()?;
        cluster.start_all().await?;
        let selected = cluster.leader().await?.0;
        let client =
            Client::builder(cluster.endpoints(), cluster.tls(CLIENT)?).timeout(TIMEOUT).connect().await?;
        let load = Load::start(client, lines, demo.writers, demo.rate);
        let watch = Watch::start(&cluster.endpoints(), cluster.tls(CLIENT)?.into(), WATCH_EVERY);
        let now = Instant::now();
        Ok(Self {
            cluster,
            network,
            load,
            watch,
            history: History::new(now),
            selected,
            done_to: BTreeMap::new(),
            shaken: None,
            jobs: JoinSet::new(),
            above: None,
            next_second: now,
            usual_gap: (FRAME * 5).max(Duration::from_secs(3) / demo.rate),
        })
    }

    async fn show(&mut self) -> Result<(), Failure> {
        let mut terminal = Terminal::take()?;
        let mut frames = tokio::time::interval(FRAME);
        frames.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = frames.tick() => {}
                Some(finished) = self.jobs.join_next() => {
                    let finished = finished.map_err(|error| Failure::Failed(format!("a job failed: {error}")))?;
                    self.finish(finished);
                }
                input = terminal.next() => match input {
                    None => return Ok(()),
                    Some(Input::Interrupt) => return Err(Failure::Interrupted),
                    Some(Input::Resized) => {}
                    Some(Input::Key(key)) => if let Next::Quit = self.key(key) { return Ok(()) },
                },
            }
            self.look();
            terminal.show(|frame| self.screen(Instant::now(), |screen| screen.draw(frame)))?;
        }
    }

    /// Takes in how things are.
    fn look(&mut self) {
        let now = Instant::now();
        self.history.see(now, self.watch.view());
        if now >= self.next_second {
            self.load.seen().turn_second();
            self.next_second = now + Duration::from_secs(1);
        }
        let (last_ack, gap) = self.load.seen().gap();
        let goes_on = last_ack.is_some_and(|at| now.saturating_duration_since(at) < self.usual_gap);
        if self.shaken.is_some_and(|at| now >= at + SETTLED && goes_on) {
            self.shaken = None;
            let text = format!("writes stood still for {} ms at most", gap.as_millis());
            self.history.note(now, Kind::Good, text);
        }
        let ids: Vec<u64> = self.cluster.ids().into_iter().map(|id| id.0).collect();
        for id in &ids {
            // One that has ended by itself says why in its log.
            if !self.cluster.is_running(NodeId(*id)) && !self.done_to.contains_key(id) {
                self.done_to.insert(*id, "ended");
            }
        }
        if !ids.contains(&self.selected) {
            self.selected = ids.first().copied().unwrap_or_default();
        }
    }

    fn screen<T>(&self, now: Instant, draw: impl FnOnce(Screen<'_>) -> T) -> T {
        let seen = self.load.seen();
        let promise = Promise {
            acked: seen.acked() as u64,
            verified: seen.verified() as u64,
            lost: seen.lost() as u64,
        };
        let latency = Latency {
            p50_us: seen.p50_us,
            p99_us: seen.p99_us,
            longest_gap: seen.longest_gap,
            p99s: &seen.p99s,
        };
        let overlay = self.above.as_ref().map(|above| match above {
            Above::Help => Overlay {
                title: "help".to_owned(),
                lines: HELP.lines().map(str::to_owned).chain(self.commands_elsewhere()).collect(),
                up: 0,
                hint: "esc: close",
            },
            Above::Log { server, lines, up } => Overlay {
                title: format!("log of server {server}"),
                lines: lines.clone(),
                up: *up,
                hint: "↑↓: scroll · esc: close",
            },
        });
        draw(Screen {
            title: "raftmap demo",
            age: self.history.age(now),
            history: &self.history,
            selected: Some(self.selected),
            done_to: &self.done_to,
            promise: Some(promise),
            latency: Some(latency),
            keys: &KEYS,
            overlay,
        })
    }

    /// How to reach the servers from another terminal.
    fn commands_elsewhere(&self) -> [String; 4] {
        let (endpoints, certs) = (self.cluster.endpoints().join(","), self.cluster.certs_dir());
        let certs = std::path::absolute(&certs).unwrap_or(certs);
        [
            String::new(),
            "From another terminal, as of raftmap top, status, put and get:".to_owned(),
            format!("  export RAFTMAP_CERTS={}", certs.display()),
            format!("  export RAFTMAP_ENDPOINTS={endpoints}"),
        ]
    }

    /// The servers that are cut off.
    fn isolated(&self) -> Vec<NodeId> {
        let cut_off = self.done_to.iter().filter(|(_, done)| **done == CUT_OFF);
        cut_off.map(|(id, _)| NodeId(*id)).collect()
    }

    fn key(&mut self, key: KeyCode) -> Next {
        if self.above.is_some() {
            self.key_above(key);
            return Next::GoOn;
        }
        let (now, id) = (Instant::now(), NodeId(self.selected));
        let joins = self.done_to.get(&id.0) == Some(&JOINS);
        match key {
            KeyCode::Char('k' | 'p' | 'd' | 'x' | 'r') if joins => {
                self.history.note(now, Kind::Bad, format!("server {id} is not there yet"));
            }
            KeyCode::Char('q') => return Next::Quit,
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.above = Some(Above::Help),
            KeyCode::Char('l') => {
                let text = self.cluster.log_text(id);
                let lines: Vec<String> = text.lines().map(str::to_owned).collect();
                let lines = lines[lines.len().saturating_sub(LOG_LINES)..].to_vec();
                self.above = Some(Above::Log { server: id.0, lines, up: 0 });
            }
            KeyCode::Up => self.choose(-1),
            KeyCode::Down => self.choose(1),
            KeyCode::Char('L') => {
                self.selected = self.history.view().leader.map_or(self.selected, |leader| leader.0)
            }
            KeyCode::Char(digit @ '1'..='9') => {
                let chosen = NodeId(u64::from(digit as u32 - '0' as u32));
                if self.cluster.ids().contains(&chosen) {
                    self.selected = chosen.0;
                }
            }
            KeyCode::Char('k') => {
                let killed = self.cluster.kill(id).map_err(|error| error.to_string());
                self.shake(now, id, "killed", killed);
            }
            KeyCode::Char('p') => {
                let paused = self.cluster.pause(id).map_err(|error| error.to_string());
                self.shake(now, id, "paused", paused);
            }
            KeyCode::Char('d') => {
                let stalled = self.cluster.stall_disk(id).map_err(|error| error.to_string());
                self.shake(now, id, "stalled at its disk", stalled);
            }
            KeyCode::Char('x') => {
                self.network.isolate(id);
                self.shake(now, id, CUT_OFF, Ok(()));
            }
            KeyCode::Char('r') => self.revive(now, id),
            KeyCode::Char('a') => self.add(now),
            _ => {}
        }
        Next::GoOn
    }

    fn key_above(&mut self, key: KeyCode) {
        let Some(Above::Log { lines, up, .. }) = &mut self.above else {
            self.above = None;
            return;
        };
        match key {
            KeyCode::Up => *up += 1,
            KeyCode::PageUp => *up += 10,
            KeyCode::Down => *up = up.saturating_sub(1),
            KeyCode::PageDown => *up = up.saturating_sub(10),
            KeyCode::Home => *up = lines.len(),
            KeyCode::End => *up = 0,
            _ => return self.above = None,
        }
        *up = (*up).min(lines.len());
    }

    fn choose(&mut self, step: isize) {
        let ids = self.cluster.ids();
        let place = ids.iter().position(|id| id.0 == self.selected).unwrap_or_default();
        let next = place.saturating_add_signed(step).min(ids.len().saturating_sub(1));
        self.selected = ids.get(next).map_or(self.selected, |id| id.0);
    }

    /// Something was done to a server, or could not be done.
    fn shake(&mut self, now: Instant, id: NodeId, done: &'static str, result: Result<(), String>) {
        match result {
            Ok(()) => {
                let leads = if self.history.view().leader == Some(id) { ", the leader," } else { "" };
                self.history.note(now, Kind::Done, format!("server {id}{leads} is {done}"));
                self.done_to.insert(id.0, done);
                self.load.watch_gap();
                self.shaken = Some(now);
            }
            Err(error) => self.history.note(now, Kind::Bad, error),
        }
    }

    fn revive(&mut self, now: Instant, id: NodeId) {
        if self.done_to.remove(&id.0).is_none() {
            self.history.note(now, Kind::Bad, format!("server {id} runs"));
            return;
        }
        self.network.rejoin(id, &self.isolated());
        let revived = match self.cluster.is_running(id) {
            // It goes on, if it was paused or its disk stalled.
            true => self.cluster.resume(id),
            false => self.cluster.spawn(id, |_| {}),
        };
        match revived {
            Ok(()) => self.history.note(now, Kind::Done, format!("server {id} is revived")),
            Err(error) => self.history.note(now, Kind::Bad, error.to_string()),
        }
    }

    fn add(&mut self, now: Instant) {
        if self.cluster.ids().len() >= SERVERS_MAX {
            self.history.note(now, Kind::Bad, format!("{SERVERS_MAX} servers are enough for one machine"));
            return;
        }
        let network = &mut self.network;
        match self.cluster.prepare_join(|member| network.add(member)) {
            Ok((id, init)) => {
                self.history.note(now, Kind::Done, format!("server {id} is made, and is to join"));
                self.done_to.insert(id.0, JOINS);
                // Its links to those that are cut off are new, and so open.
                self.isolated().into_iter().for_each(|id| self.network.isolate(id));
                let mut init = tokio::process::Command::from(init);
                self.jobs.spawn(async move {
                    let result = match init.output().await {
                        Ok(output) if output.status.success() => Ok(()),
                        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
                        Err(error) => Err(error.to_string()),
                    };
                    Finished::Prepared(id, result)
                });
            }
            Err(error) => self.history.note(now, Kind::Bad, error.to_string()),
        }
    }

    fn finish(&mut self, finished: Finished) {
        let now = Instant::now();
        match finished {
            Finished::Prepared(id, Ok(())) => {
                self.done_to.remove(&id.0);
                if let Err(error) = self
                    .cluster
                    .spawn(id, |_| {})
                    .map_err(|error| error.to_string())
                    .and_then(|()| self.admit(id))
                {
                    self.history.note(now, Kind::Bad, error);
                }
            }
            Finished::Added(id, Ok(())) => {
                self.history.note(
                    now,
                    Kind::Good,
                    format!("server {id} receives the log, and votes once it has caught up"),
                );
            }
            Finished::Prepared(id, Err(error)) => {
                self.history.note(now, Kind::Bad, format!("server {id} could not be made: {error}"));
                self.done_to.remove(&id.0);
                self.network.forget(id);
                // It does not run, which is all that could be in the way.
                let _runs = self.cluster.leave(id);
            }
            Finished::Added(id, Err(error)) => {
                self.history.note(now, Kind::Bad, format!("server {id} was not added: {error}"));
            }
        }
    }

    /// Has a server made a member.
    fn admit(&mut self, id: NodeId) -> Result<(), String> {
        let (address, tls) = (self.cluster.addresses(id), self.cluster.tls(OPERATOR));
        let (address, tls) =
            (address.map_err(|error| error.to_string())?, tls.map_err(|error| error.to_string())?);
        let operator = Client::builder(self.cluster.endpoints(), tls).timeout(TIMEOUT);
        // What waits for an answer here is no future that may move between threads.
        let runtime = tokio::runtime::Handle::current();
        self.jobs.spawn_blocking(move || {
            let added = runtime.block_on(async {
                let operator = operator.connect().await.map_err(|error| error.to_string())?;
                operator.add_member(address, None).await.map_err(|error| error.to_string())
            });
            Finished::Added(id, added)
        });
        Ok(())
    }

    /// The terminal is given back: all servers run once more, everything is read back, and all end.
    async fn conclude(mut self) -> Result<(), Failure> {
        output::line("all servers run once more, and everything is read back ...")?;
        self.network.heal();
        for id in self.cluster.ids() {
            match self.cluster.is_running(id) {
                true => self.cluster.resume(id)?,
                // One that is not made yet has nothing to start with.
                false if self.done_to.get(&id.0) == Some(&JOINS) => {}
                false => self.cluster.start(id).await?,
            }
        }
        let seen = self.load.conclude().await;
        self.cluster.stop_all().await?;
        if let Some(reason) = seen.last_refusal() {
            output::line(&format!(
                "{} writes were not acknowledged; the last: {reason}",
                grouped(seen.refused)
            ))?;
        }
        if let Some(reason) = seen.unread() {
            output::line(&format!("not everything could be read back: {reason}"))?;
        }
        output::line(&seen.summary())?;
        match seen.is_whole() {
            true => Ok(()),
            false => Err(Failure::Failed("not everything that was acknowledged came back".to_owned())),
        }
    }
}
