//! What is known of a request before it runs.

use std::time::Instant;

use raftmap_state::TraceContext;

use super::meters::loggable;
use crate::api::Failure;
use crate::observe::traces::{Attribute, Followed, Span, Tracer, parent_of};

/// When its caller stops waiting, and whether it is followed.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) deadline: Instant,
    /// Since when it is here.
    pub(super) since: Instant,
    /// Boxed, since few are.
    followed: Option<Box<Followed>>,
}

impl Arrival {
    /// A request that its caller may follow: by `traceparent`, a header of that name, or by a request id that is written as one.
    pub(super) fn new<'a>(
        tracer: &Tracer,
        deadline: Instant,
        traceparent: impl FnOnce() -> Option<&'a str>,
        request_id: &str,
    ) -> Self {
        let parent = || traceparent().and_then(parent_of).or_else(|| parent_of(request_id));
        Self { deadline, since: Instant::now(), followed: tracer.follow(parent).map(Box::new) }
    }

    /// What goes with the request, if it is followed.
    pub(super) fn trace(&self) -> Option<TraceContext> {
        self.followed.as_ref().map(|followed| followed.context.clone())
    }

    /// The request is answered now, which ends its first span.
    pub(super) fn answered(
        &self,
        tracer: &Tracer,
        call: &'static str,
        request_id: &str,
        failure: Option<&Failure>,
    ) {
        if let Some(followed) = &self.followed {
            let why = failure.map(|failure| format!("{}: {}", failure.code.name(), failure.reason));
            tracer.record(Span { failure: why, ..Self::named(followed.end(call), request_id) });
        }
    }

    /// Nobody waits for the answer any more. What became of the request is not known here.
    pub(super) fn given_up(&self, tracer: &Tracer, call: &'static str, request_id: &str) {
        if let Some(followed) = &self.followed {
            let why = Some("its caller gave up".to_owned());
            tracer.record(Span { failure: why, ..Self::named(followed.end(call), request_id) });
        }
    }

    fn named(span: Span, request_id: &str) -> Span {
        match loggable(request_id) {
            "" => span,
            id => span.with("raftmap.request_id", Attribute::Text(id.to_owned())),
        }
    }
}
