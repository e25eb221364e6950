//! What `raftmap top` and `raftmap demo` show on a terminal.
//!
//! | module | what it is |
//! |---|---|
//! | `history` | what was seen of a cluster over time: rates, and what happened |
//! | `screen` | a screen out of that: a function of what is shown, of nothing else |
//! | `terminal` | the terminal, which is as it was before once it is given back; keys |

pub(super) mod history;
pub(super) mod screen;
pub(super) mod terminal;
