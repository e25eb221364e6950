//! The `raftmap-lincheck` binary.

fn main() {}
