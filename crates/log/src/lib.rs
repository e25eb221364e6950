//! The replicated log and the hard state on disk.
