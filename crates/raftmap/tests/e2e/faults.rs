//! Disks that say that they failed: the calls of the real process fail, by a library that is preloaded into it.

use std::io::ErrorKind;
use std::process::Command;
use std::time::Duration;

use raftmap_raft::NodeId;
use raftmap_torture::{Shim, Wrong};

use crate::support::load::{must_get, must_put};
use crate::support::{Load, World};

/// Each fault, and what the server's last line says of it.
const FAULTS: [(Wrong, &str); 4] = [
    (Wrong::Sync, "Input/output error"),
    (Wrong::Write, "Input/output error"),
    (Wrong::Full, "No space left on device"),
    (Wrong::Short, "short write"),
];

/// How long a write that must not be acknowledged is waited for.
const SHORT: Duration = Duration::from_secs(2);

/// Servers whose disks fail when they are told to.
struct Faulty {
    world: World,
    shim: Shim,
}

impl Faulty {
    /// `None` where there is no C compiler.
    async fn start() -> Option<Self> {
        let world = World::found(|_| {}).await;
        let shim = match Shim::build(&world.path("faults")) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                eprintln!("SKIPPED: promise 9 is not tested, as there is no C compiler `cc`: {error}");
                return None;
            }
            built => built.unwrap(),
        };
        let mut faulty = Self { world, shim };
        faulty.start_servers(&faulty.world.ids()).await;
        faulty.world.leader().await.unwrap();
        Some(faulty)
    }

    async fn start_servers(&mut self, ids: &[NodeId]) {
        let shim = self.shim.clone();
        let change = |id: NodeId, command: &mut Command| shim.preload(&id.to_string(), command).unwrap();
        self.world.start_changed(ids, change).await;
    }

    fn fail(&self, id: NodeId, fault: Wrong) {
        self.shim.begin(&id.to_string(), fault).unwrap();
    }

    /// Waits for the end of a server whose disk has failed, checks how it ended, and repairs the disk.
    async fn ends(&mut self, id: NodeId, fault: Wrong, said: &str) {
        let status = self.world.wait_exit(id).await.unwrap();
        assert_eq!(status.code(), Some(5), "{fault:?}: {status}");
        let text = self.world.log_text(id);
        let last = text.trim_end().lines().next_back().unwrap_or_default();
        assert!(
            last.contains("the log failed") && last.contains(said),
            "{fault:?}: the last line is {last:?}"
        );
        self.shim.end(&id.to_string()).unwrap();
    }
}

/// Promise 9; scenarios 21 and 48: the leader's own disk fails under load.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_disk_fails_ends_and_nothing_acknowledged_is_lost() {
    let Some(mut faulty) = Faulty::start().await else { return };
    let load = Load::start(&faulty.world, 4).await;
    for (fault, said) in FAULTS {
        load.more(100).await;
        let leader = faulty.world.leader().await.unwrap();
        faulty.fail(leader, fault);
        faulty.ends(leader, fault, said).await;
        load.more(50).await;
        faulty.start_servers(&[leader]).await;
    }
    faulty.world.verify(&load.stop().await).await;
}

/// Promise 9; scenarios 21 and 48: what the leader alone has heard of is not acknowledged when its disk fails.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_only_a_leader_with_a_failed_disk_held_is_not_acknowledged() {
    let Some(mut faulty) = Faulty::start().await else { return };
    for (fault, said) in FAULTS {
        let leader = faulty.world.leader().await.unwrap();
        let at_leader = faulty.world.client_among(&[leader]).await;
        must_put(&at_leader, "k", "acknowledged").await;
        for follower in faulty.world.others(&[leader]) {
            faulty.world.pause(follower).unwrap();
        }
        faulty.fail(leader, fault);
        let put = at_leader.put("alone", format!("{fault:?}")).timeout(SHORT).await;
        put.expect_err("nothing that one server alone holds is acknowledged");
        faulty.ends(leader, fault, said).await;
        for follower in faulty.world.others(&[leader]) {
            faulty.world.resume(follower).unwrap();
        }
        faulty.start_servers(&[leader]).await;
        faulty.world.agree(&faulty.world.ids()).await;
    }
}

/// Promise 9; scenarios 21 and 48: a follower acknowledges nothing before its disk has it.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_a_follower_could_not_keep_is_not_acknowledged() {
    let Some(mut faulty) = Faulty::start().await else { return };
    for (fault, said) in FAULTS {
        let leader = faulty.world.agree(&faulty.world.ids()).await;
        let [failing, absent] = faulty.world.others(&[leader]).try_into().unwrap();
        let at_leader = faulty.world.client_among(&[leader]).await;
        faulty.world.kill(absent).unwrap();
        must_put(&at_leader, "k", "acknowledged").await;
        faulty.fail(failing, fault);
        let put = at_leader.put("k", format!("{fault:?}")).timeout(SHORT).await;
        put.expect_err("it is durable on one of three servers");
        faulty.ends(failing, fault, said).await;
        faulty.start_servers(&[failing, absent]).await;
        faulty.world.agree(&faulty.world.ids()).await;
        let value = must_get(&at_leader, "k").await.expect("it was put");
        assert!(value == "acknowledged" || value == format!("{fault:?}"), "{value}");
    }
}
