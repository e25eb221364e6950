//! End to end: real processes, real sockets, real disks. What is promised, by number, and where it is tested:
//!
//! | | what holds | in |
//! |---|---|---|
//! | 1 | one server is killed: the others go on, and nothing acknowledged is lost | `crashes` |
//! | 2 | the leader is killed right after an acknowledgement: the write is there, every time | `crashes` |
//! | 3 | without a majority requests end with a clear error, and work again when one returns | `crashes` |
//! | 4 | a leader that does not reach its peers acknowledges nothing and serves no stale read | `partitions` |
//! | 5 | all servers are killed at once: every acknowledged write is there | `crashes` |
//! | 6 | entries that were never committed are replaced; a paused leader serves no stale read | `partitions` |
//! | 7 | a retry of a write whose answer was lost is applied once | `retries` |
//! | 8 | a torn tail is cut; a flipped byte is found, reported and repaired; a wiped disk is refused | `disks` |
//! | 9 | a disk that fails ends the server, and nothing that it alone held was acknowledged | `faults` |
//! | 10 | whoever is no server of the cluster is refused, with a reason on both sides | `ports` |
//!
//! `access` has users, roles and tokens.
//! `attacks` has what somebody with a certificate can do by speaking HTTP/2 that no client speaks.
//! `backups` has clusters that are restored from a backup, or from what a lost majority left.
//! `snapshots` has logs that are compacted, and servers that come back by a snapshot.
//! `health` has what load balancers are told.
//! `members` has servers that come and go.
//! `renewals` has certificates and authorities that are replaced while servers run.
//! `scans` has servers that read and compare all their rows, and their logs.
//! `slow` has servers that stand still, and what that costs the others.
//! `todo` has the website of the example, used while servers come and go.
//! `traces` has requests that are followed through all servers.
//! `upgrades` has servers of an older program, which are replaced one at a time.
//! `lives` has what is not a failure: servers that end in good order, a cluster at rest, nodes in one's own program.
//!
//! Every test has a cluster of its own in a folder of its own. What must happen is waited for, for a minute at most; a
//! test that fails prints what its servers said last.
#![expect(clippy::unwrap_used, reason = "a test")]

mod access;
mod attacks;
mod backups;
mod crashes;
mod disks;
mod faults;
mod health;
mod http2;
mod lives;
mod members;
mod partitions;
mod ports;
mod renewals;
mod retries;
mod scans;
mod slow;
mod snapshots;
mod support;
mod todo;
mod traces;
mod upgrades;
