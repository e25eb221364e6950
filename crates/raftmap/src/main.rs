//! The `raftmap` binary.

fn main() {}
