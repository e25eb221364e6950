//! `raftmap member`.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use raftmap::local_cluster::free_loopback_addresses;

use crate::support::{OneServer, SERVER, wait_exit};

/// The server is a member from then on: whatever comes while the command waits for its vote, it must not say that nothing was applied.
#[test]
fn a_server_that_was_taken_in_is_not_said_to_be_refused_when_the_cluster_goes_away() {
    let mut one = OneServer::start();
    one.run("put a leader-is-there").text();
    let [peers, clients] = free_loopback_addresses(2).unwrap()[..] else { unreachable!() };
    let member = format!("2={peers},{clients}");
    let mut add =
        one.command(["member", "add", &member, "--as", "operator", "--wait", "2", "--timeout-ms", "500"]);
    let mut add = add.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(add.stderr.take().unwrap()).lines().map(Result::unwrap);
    let first = lines.next().unwrap();
    assert!(first.starts_with("server 2 is a learner"), "{first}");
    one.cluster.kill(SERVER).unwrap();
    let said: Vec<String> = lines.collect();
    assert_eq!(wait_exit(&mut add).code(), Some(3), "{said:?}");
    assert!(said.last().unwrap().contains("`raftmap member list` shows it"), "{said:?}");
    assert!(!said.iter().any(|line| line.contains("not applied")), "{said:?}");
}
