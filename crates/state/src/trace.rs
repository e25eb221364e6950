//! Whose trace a command belongs to.

use std::num::{NonZeroU64, NonZeroU128};

/// The span that a command continues, in the trace that it is of (W3C Trace Context, "trace-id" and "parent-id"). It travels with
/// the command wherever that goes, so that each server can tell what it did for it; what the command does never depends on it.
///
/// Few commands have one, and all have room for one: it is a pointer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TraceContext(Box<(NonZeroU128, NonZeroU64)>);

impl TraceContext {
    /// Of this trace and this span.
    pub fn new(trace_id: NonZeroU128, span_id: NonZeroU64) -> Self {
        Self(Box::new((trace_id, span_id)))
    }

    /// Names the trace.
    pub fn trace_id(&self) -> NonZeroU128 {
        self.0.0
    }

    /// Names the span within it.
    pub fn span_id(&self) -> NonZeroU64 {
        self.0.1
    }
}
