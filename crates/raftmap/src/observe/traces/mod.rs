//! Traces: what each server did for one request, and when, for a collector that speaks OTLP.
//!
//! A request is followed if its caller says so, or else by chance. Its first span is that of the server which was asked; what the
//! servers do for it are spans below that one. The trace goes with the command into the log, and so to every server that
//! holds it.
//!
//! | span | of which server | from | to |
//! |---|---|---|---|
//! | the name of the call, as `Put` | the one that was asked | the request is read | its answer is ready |
//! | `queue` | the leader, if it was asked itself; any, if it fails there | the request reaches the replica | its entry goes to the log |
//! | `forward` | a follower that was asked | the request reaches the replica | the leader's answer is here |
//! | `confirm read` | the one that was asked | the read reaches the replica | its state may be read |
//! | `write log` | each | the entry goes to the log | it is on the disk |
//! | `replicate` | the leader | the entry goes to the log | a majority has it on disk |
//! | `apply` | each | the server learns that a majority has the entry on disk | it is applied, after what comes before it |
//!
//! Nobody waits for a collector: spans wait for it in a queue that is bounded, and what does not fit is dropped and counted.

mod exporter;
mod otlp;
mod parent;

use std::num::{NonZeroU64, NonZeroU128};
use std::sync::Arc;
use std::time::SystemTime;

use metrics::{Counter, counter};
use raftmap_state::TraceContext;
use tokio::sync::mpsc;

pub use exporter::{Collector, CollectorError, Exporter};
pub use parent::{Parent, parent_of};

/// How many spans wait for the collector at most.
const SPANS_MAX: usize = 8192;

/// Takes spans. Whoever has none ([`Tracer::off`]) follows nothing, which costs nothing.
#[derive(Clone, Debug, Default)]
pub struct Tracer(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    ratio: f64,
    spans: mpsc::Sender<Span>,
    dropped: Counter,
}

/// What one server did for a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Its trace and its own id in it.
    pub context: TraceContext,
    /// The span that it is a part of.
    pub parent: Option<NonZeroU64>,
    /// What was done, in a few words that do not depend on the request.
    pub name: &'static str,
    /// When it began.
    pub began: SystemTime,
    /// When it ended.
    pub ended: SystemTime,
    /// What else is known of it.
    pub attributes: Vec<(&'static str, Attribute)>,
    /// Why it failed.
    pub failure: Option<String>,
    /// Whether it is the first one on a server, by somebody else's request.
    pub of_a_server: bool,
}

/// A value beside a span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attribute {
    /// Words.
    Text(String),
    /// A number.
    Number(u64),
}

/// The first span of a request that is followed, while it lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Followed {
    /// What goes with the request.
    pub context: TraceContext,
    parent: Option<NonZeroU64>,
    began: SystemTime,
}

impl Tracer {
    /// Follows nothing.
    pub fn off() -> Self {
        Self::default()
    }

    /// Follows requests whose callers ask for it, and of the others `ratio`, from 0 (none) to 1 (all). The spans come out of the
    /// receiver, for an [`Exporter`].
    pub fn new(ratio: f64) -> (Self, mpsc::Receiver<Span>) {
        let (spans, receiver) = mpsc::channel(SPANS_MAX);
        let shared = Shared { ratio, spans, dropped: counter!("raftmap_spans_dropped_total") };
        (Self(Some(Arc::new(shared))), receiver)
    }

    /// Whether it follows anything.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Begins to follow a request, or not. `parent` is what its caller says of a trace.
    pub fn follow(&self, parent: impl FnOnce() -> Option<Parent>) -> Option<Followed> {
        let shared = self.0.as_ref()?;
        let parent = parent();
        let wanted = parent.as_ref().is_some_and(|parent| parent.sampled) || fastrand::f64() < shared.ratio;
        wanted.then(|| {
            let caller = parent.map(|parent| parent.context);
            let trace_id = caller.as_ref().map_or_else(random_trace_id, TraceContext::trace_id);
            Followed {
                context: TraceContext::new(trace_id, random_span_id()),
                parent: caller.map(|caller| caller.span_id()),
                began: SystemTime::now(),
            }
        })
    }

    /// A span has ended.
    pub fn record(&self, span: Span) {
        let Some(shared) = &self.0 else { return };
        if shared.spans.try_send(span).is_err() {
            shared.dropped.increment(1);
        }
    }
}

impl Followed {
    /// The span, which ends now.
    pub fn end(&self, name: &'static str) -> Span {
        let Self { context, parent, began } = self;
        Span {
            parent: *parent,
            context: context.clone(),
            of_a_server: true,
            ..Span::within(context, name, *began)
        }
    }
}

impl Span {
    /// A part of `whole` that began then and ends now.
    pub fn within(whole: &TraceContext, name: &'static str, began: SystemTime) -> Self {
        Self {
            context: TraceContext::new(whole.trace_id(), random_span_id()),
            parent: Some(whole.span_id()),
            name,
            began,
            ended: SystemTime::now(),
            attributes: Vec::new(),
            failure: None,
            of_a_server: false,
        }
    }

    /// The span, and something that is known of it.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: Attribute) -> Self {
        self.attributes.push((name, value));
        self
    }
}

/// One of 2^128 - 1; never 0.
fn random_trace_id() -> NonZeroU128 {
    NonZeroU128::new(fastrand::u128(1..)).unwrap_or(NonZeroU128::MIN)
}

/// One of 2^64 - 1; never 0.
fn random_span_id() -> NonZeroU64 {
    NonZeroU64::new(fastrand::u64(1..)).unwrap_or(NonZeroU64::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent(sampled: bool) -> Parent {
        let context = TraceContext::new(NonZeroU128::MIN, NonZeroU64::MIN);
        Parent { context, sampled }
    }

    #[test]
    fn what_is_off_follows_nothing_and_asks_for_no_parent() {
        assert_eq!(Tracer::off().follow(|| unreachable!("nobody asks")), None);
    }

    #[test]
    fn whom_the_caller_follows_is_followed_and_of_the_others_a_share() {
        let none = Tracer::new(0.0).0;
        assert_eq!(none.follow(|| None), None);
        assert_eq!(none.follow(|| Some(parent(false))), None);
        let followed = none.follow(|| Some(parent(true))).expect("its caller wants it");
        assert_eq!(followed.context.trace_id(), NonZeroU128::MIN, "it is the caller's trace");
        let span = followed.end("Put");
        assert_eq!(span.parent, Some(NonZeroU64::MIN), "and below the caller's span");
        assert_eq!(span.context, followed.context);
        let all = Tracer::new(1.0).0;
        assert!(all.follow(|| None).is_some() && all.follow(|| Some(parent(false))).is_some());
        let some = Tracer::new(0.5).0;
        let followed = (0..1000).filter(|_| some.follow(|| None).is_some()).count();
        assert!((300..700).contains(&followed), "{followed} of 1000");
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_nobody_waits() {
        let (tracer, mut spans) = Tracer::new(1.0);
        let followed = tracer.follow(|| None).expect("all are followed");
        for _ in 0..=SPANS_MAX {
            tracer.record(followed.end("Put"));
        }
        let mut taken = 0;
        while spans.try_recv().is_ok() {
            taken += 1;
        }
        assert_eq!(taken, SPANS_MAX);
    }
}
