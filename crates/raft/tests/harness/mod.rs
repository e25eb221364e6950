//! A whole cluster in one thread: nodes, their disks and state machines, and the network between them, all under the
//! control of a test. What happens is drawn as text, and after each step it is checked that Raft's promises hold.

pub(crate) mod checks;
pub(crate) mod cluster;
pub(crate) mod disk;
pub(crate) mod draw;
pub(crate) mod node;
