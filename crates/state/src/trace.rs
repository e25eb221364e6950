//! Whose trace a command belongs to.

use std::num::{NonZeroU64, NonZeroU128};

/// The span that a command continues, in the trace that it is of (W3C Trace Context, "trace-id" and "parent-id"). It travels with
/// the command wherever that goes, so that each server can tell what it did for it; what the command does never depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TraceContext {
    /// Names the trace.
    pub trace_id: NonZeroU128,
    /// Names the span within it.
    pub span_id: NonZeroU64,
}
