//! A cluster of an older program becomes one of this program, one server at a time. `.ci/upgrade` builds the older one.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use raftmap_client::MemberStatus;
use raftmap_raft::NodeId;

use crate::support::{Load, World, until};

/// Where the older program is: of a commit without feature levels.
const OLD_BINARY: &str = "RAFTMAP_OLD_BINARY";
const NEW_BINARY: &str = env!("CARGO_BIN_EXE_raftmap");

/// What a server logs when the level has risen.
const RISEN: &str = "the cluster's feature level has risen";
/// With what an older program ends on a state that it does not understand.
const TOO_NEW: &str = "written by a newer version of raftmap";

/// The same arguments for the program of this tree.
fn newer(command: &mut Command) {
    let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    *command = Command::new(NEW_BINARY);
    command.args(arguments);
}

impl World {
    async fn restart_old(&mut self, id: NodeId) {
        assert!(self.stop(id).await.unwrap().success(), "server {id}");
        self.start(id).await.unwrap();
    }

    async fn restart_new(&mut self, id: NodeId) {
        assert!(self.stop(id).await.unwrap().success(), "server {id}");
        self.start_new(id).await;
    }

    async fn start_new(&mut self, id: NodeId) {
        self.start_changed(&[id], |_, command| newer(command)).await;
    }

    /// Starts the older program on what the newer one left: it says why it ends, and ends.
    async fn old_one_ends(&mut self, id: NodeId) {
        let mark = self.log_mark(id);
        self.spawn(id, |_| {}).unwrap();
        let status = self.wait_exit(id).await.unwrap();
        let said = self.said_since(id, mark);
        assert!(!status.success() && said.contains(TOO_NEW), "server {id}: {status}\n{said}");
    }

    async fn has_level(&self, ids: &[NodeId], level: u32) {
        for id in ids {
            let what = format!("at feature level {level}");
            let fits = |status: &MemberStatus| status.feature_level == level;
            self.status_when(*id, &what, fits).await;
        }
    }

    /// Nobody has said that the level has risen.
    fn level_has_not_risen(&self) {
        assert!(self.ids().into_iter().all(|id| !self.log_text(id).contains(RISEN)));
    }
}

/// Under load, without a failed call; with a way back until the last one is replaced, and none from then on.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes an older program: .ci/upgrade"]
async fn a_cluster_is_upgraded_one_server_at_a_time_and_fails_no_call() {
    let old = PathBuf::from(env::var_os(OLD_BINARY).expect(".ci/upgrade sets RAFTMAP_OLD_BINARY"));
    let mut world = World::found(|plan| plan.program = old).await;
    world.start_all().await.unwrap();
    let last = world.leader().await.unwrap();
    let [first, second]: [NodeId; 2] = world.others(&[last]).try_into().unwrap();
    let load = Load::start(&world, 4).await;
    load.more(100).await;

    world.restart_new(first).await;
    load.more(100).await;
    // Back, and again.
    world.restart_old(first).await;
    load.more(100).await;
    world.restart_new(first).await;
    load.more(100).await;
    world.restart_new(second).await;
    load.more(100).await;
    world.has_level(&[first, second], 1).await;

    // It leads, so that it hands over: a newer program leads an older one.
    world.restart_old(last).await;
    let leader = until("a leader of the newer program", async || {
        world.leader().await.ok().filter(|leader| *leader != last)
    })
    .await;
    load.more(200).await;
    world.has_level(&[first, second], 1).await;
    world.level_has_not_risen();

    let marks = [first, second].map(|id| world.log_mark(id));
    world.restart_new(last).await;
    world.has_level(&[first, second, last], 2).await;
    for (id, mark) in [first, second].into_iter().zip(marks) {
        world.says(id, mark, RISEN).await;
    }
    load.more(200).await;

    // One ends in good order, one is killed: neither leaves a state that an older program takes.
    world.stop(first).await.unwrap();
    world.old_one_ends(first).await;
    world.start_new(first).await;
    load.more(100).await;
    world.kill(second).unwrap();
    world.old_one_ends(second).await;
    world.start_new(second).await;
    load.more(100).await;

    let ledger = load.stop().await;
    ledger.demand_no_failure();
    world.verify(&ledger).await;
    println!("server {leader} of the newer program led server {last} of the older one");
}
