//! The limits and times that a server keeps.

use std::num::NonZeroUsize;
use std::time::Duration;

use clap::Args;
use raftmap::node::CompactionConfig;

#[derive(Args)]
#[command(next_help_heading = "Limits")]
pub(super) struct LimitArgs {
    /// The longest key, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 10)]
    pub(super) key_bytes_max: usize,

    /// The largest value, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20)]
    pub(super) value_bytes_max: usize,

    /// All keys and values of one request together, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 20)]
    pub(super) request_bytes_max: usize,

    /// The largest answer, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 4 << 20)]
    pub(super) answer_bytes_max: u32,

    /// Keys, conditions and operations of one request together
    #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
    pub(super) operations_max: usize,

    /// Requests that wait at this server
    #[arg(long, value_name = "COUNT", default_value_t = 65_536)]
    pub(super) requests_max: usize,

    /// Connections of clients at once
    #[arg(long, value_name = "COUNT", default_value_t = 1024)]
    pub(super) connections_max: usize,

    /// Of these, from one address (of IPv6: one network of 64 bits) [default: half of them]
    #[arg(long, value_name = "COUNT")]
    pub(super) connections_per_address_max: Option<NonZeroUsize>,

    /// Puts are refused while less than this is free on the disk, in MiB; deletes and reads go on
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    pub(super) space_reserve_mib: u64,

    /// A log of this size lets go of its beginning, in MiB; the newest quarter stays, for servers that are a little behind
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub(super) log_mib: u64,

    /// A leader keeps what a server that is behind still needs, until its log is as large as this, in MiB; then that
    /// server takes a snapshot
    #[arg(long, value_name = "MIB", default_value_t = 512, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub(super) log_max_mib: u64,

    /// How fast snapshots are sent to other servers, all together, in MiB a second
    #[arg(long, value_name = "MIB", default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub(super) snapshot_mib_per_second: u64,

    /// How often this server reads its log from the disk again, and, as long as it leads, all servers all their rows, which they
    /// compare, in seconds; 0: never
    #[arg(long, value_name = "SECONDS", default_value_t = 86_400)]
    pub(super) scan_every: u64,

    /// How fast this server reads its log and its rows then, in MiB a second
    #[arg(long, value_name = "MIB", default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub(super) scan_mib_per_second: u64,
}

impl LimitArgs {
    /// How many connections one address may have.
    pub(super) fn connections_per_address_max(&self) -> usize {
        self.connections_per_address_max.map_or_else(|| self.connections_max.div_ceil(2), NonZeroUsize::get)
    }

    pub(super) fn compaction(&self) -> CompactionConfig {
        let start_bytes = self.log_mib << 20;
        CompactionConfig {
            start_bytes,
            tail_bytes: start_bytes / 4,
            max_bytes: (self.log_max_mib << 20).max(start_bytes),
        }
    }
}

#[derive(Args)]
#[command(next_help_heading = "Times")]
pub(super) struct TimingArgs {
    /// A follower that hears nothing from the leader for this long, or up to twice as long by chance, stands for
    /// election, in milliseconds; the same on all servers
    #[arg(long, value_name = "MS", default_value_t = 500)]
    pub(super) election_timeout_ms: u64,

    /// How often the leader shows that it is there, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 150)]
    pub(super) heartbeat_ms: u64,

    /// How long a request may take if its sender does not say, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    pub(super) request_timeout_ms: u64,

    /// How long a backup may take, in minutes; old data stays on the disk meanwhile
    #[arg(long, value_name = "MINUTES", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(super) backup_minutes_max: u64,

    /// A leader whose clock is further than this from the others' does not stamp times with it, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 5_000)]
    pub(super) clock_skew_max_ms: u64,

    /// At the end, how long requests that are under way may go on, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    pub(super) shutdown_timeout_ms: u64,
}

impl TimingArgs {
    pub(super) fn shutdown_timeout(&self) -> Duration {
        Duration::from_millis(self.shutdown_timeout_ms)
    }
}
