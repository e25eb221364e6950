//! What is known of a request before it runs.

use std::time::Instant;

use raftmap_state::TraceContext;

use crate::observe::traces::{Attribute, Followed, Span, Tracer, parent_of};

/// When its caller stops waiting, and whether it is followed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) deadline: Instant,
    /// Since when it is here.
    pub(super) since: Instant,
    followed: Option<Followed>,
}

impl Arrival {
    /// A request that its caller may follow: by `traceparent`, a header of that name, or by a request id that is written as one.
    pub(super) fn new(
        tracer: &Tracer,
        deadline: Instant,
        traceparent: Option<&str>,
        request_id: &str,
    ) -> Self {
        let parent = || traceparent.and_then(parent_of).or_else(|| parent_of(request_id));
        Self { deadline, since: Instant::now(), followed: tracer.follow(parent) }
    }

    /// What goes with the request, if it is followed.
    pub(super) fn trace(&self) -> Option<TraceContext> {
        self.followed.map(|followed| followed.context)
    }

    /// The first span of the request, which is answered now; `None`: it is not followed.
    pub(super) fn ended(self, call: &'static str, request_id: &str, failure: Option<String>) -> Option<Span> {
        let span = self.followed?.end(call);
        let span = match request_id {
            "" => span,
            id => span.with("raftmap.request_id", Attribute::Text(id.to_owned())),
        };
        Some(Span { failure, ..span })
    }
}
