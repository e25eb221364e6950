//! What the front door counts and logs.

use std::time::Instant;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use tracing::{debug, info};

use super::access::Caller;
use super::convert::{REQUEST_ID_BYTES_MAX, excerpt};
use crate::api::{Code, Failure};
use crate::observe::audit::{Audit, Record};

/// The calls, as metrics and logs name them. Requests inside a `Pipeline` count as what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Get,
    Put,
    Delete,
    Txn,
    Scan,
    ScanPage,
    Backup,
    OpenSession,
    Members,
    Status,
    AddMember,
    RemoveMember,
}

impl Kind {
    /// Whether it certainly changed nothing, whatever became of its answer.
    pub(super) fn is_read(self) -> bool {
        match self {
            Self::Get | Self::Scan | Self::ScanPage | Self::Backup | Self::Members | Self::Status => true,
            Self::Put
            | Self::Delete
            | Self::Txn
            | Self::OpenSession
            | Self::AddMember
            | Self::RemoveMember => false,
        }
    }

    const ALL: [Self; 12] = [
        Self::Get,
        Self::Put,
        Self::Delete,
        Self::Txn,
        Self::Scan,
        Self::ScanPage,
        Self::Backup,
        Self::OpenSession,
        Self::Members,
        Self::Status,
        Self::AddMember,
        Self::RemoveMember,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Get => "Get",
            Self::Put => "Put",
            Self::Delete => "Delete",
            Self::Txn => "Txn",
            Self::Scan => "Scan",
            Self::ScanPage => "ScanPage",
            Self::Backup => "Backup",
            Self::OpenSession => "OpenSession",
            Self::Members => "Members",
            Self::Status => "Status",
            Self::AddMember => "AddMember",
            Self::RemoveMember => "RemoveMember",
        }
    }
}

/// Handles of all metrics, looked up once. See [`crate::observe`] for their list.
pub(super) struct Meters {
    pub(super) connections: Gauge,
    pub(super) connections_refused: Counter,
    pub(super) handshakes_refused: Counter,
    pub(super) requests_refused: Counter,
    pub(super) pipelines: Gauge,
    audit: Audit,
    answered: [Counter; Kind::ALL.len()],
    seconds: [Histogram; Kind::ALL.len()],
}

impl Meters {
    pub(super) fn new(audit: Audit) -> Self {
        Self {
            audit,
            connections: gauge!("raftmap_front_connections"),
            connections_refused: counter!("raftmap_front_connections_refused_total"),
            handshakes_refused: counter!("raftmap_front_handshakes_refused_total"),
            requests_refused: counter!("raftmap_front_requests_refused_total"),
            pipelines: gauge!("raftmap_front_pipelines"),
            answered: Kind::ALL
                .map(|kind| counter!("raftmap_requests_answered_total", "call" => kind.name())),
            seconds: Kind::ALL.map(|kind| histogram!("raftmap_request_seconds", "call" => kind.name())),
        }
    }

    /// A request is answered.
    pub(super) fn answered(&self, kind: Kind, caller: &Caller, request_id: &str, since: Instant) {
        let took = since.elapsed();
        self.answered[kind as usize].increment(1);
        self.seconds[kind as usize].record(took);
        debug!(call = kind.name(), request_id = loggable(request_id), %caller, ?took, "answered");
    }

    /// A request failed.
    pub(super) fn failed(&self, kind: Kind, caller: &Caller, request_id: &str, failure: &Failure) {
        counter!("raftmap_requests_failed_total", "call" => kind.name(), "code" => failure.code.name())
            .increment(1);
        log_failure(kind.name(), caller, loggable(request_id), failure);
        if is_refusal(failure) {
            self.audit_refusal(kind.name(), caller, loggable(request_id), failure);
        }
    }

    /// What arrived did not become a request.
    pub(super) fn refused(&self, path: &str, caller: &Caller, failure: &Failure) {
        self.requests_refused.increment(1);
        log_failure(&excerpt(path), caller, "", failure);
        if is_refusal(failure) {
            let call = path.rsplit('/').next().unwrap_or(path);
            let known = Kind::ALL.iter().any(|kind| kind.name() == call);
            self.audit_refusal(if known { call } else { "" }, caller, "", failure);
        }
    }

    /// Somebody who may has asked to change the cluster, or for all of the map: `about` says which server.
    pub(super) fn admin(
        &self,
        kind: Kind,
        caller: &Caller,
        request_id: &str,
        about: &str,
        failure: Option<&Failure>,
    ) {
        let failure = failure.map(|failure| (failure.code.name(), failure.reason.as_str()));
        let (caller, call, request_id) = (&caller.to_string(), kind.name(), loggable(request_id));
        self.audit.admin(Record { caller, call, request_id, about, failure });
    }

    fn audit_refusal(&self, call: &str, caller: &Caller, request_id: &str, failure: &Failure) {
        let failure = Some((failure.code.name(), failure.reason.as_str()));
        self.audit.refused(Record { caller: &caller.to_string(), call, request_id, about: "", failure });
    }
}

/// Whether somebody wanted what is not for them.
fn is_refusal(failure: &Failure) -> bool {
    matches!(failure.code, Code::Unauthenticated | Code::Denied)
}

/// Under load, when a server refuses what it cannot take, its log does not grow with what it refuses.
fn log_failure(call: &str, caller: &Caller, request_id: &str, failure: &Failure) {
    let (code, outcome, reason) = (failure.code.name(), failure.outcome, failure.reason.as_str());
    match failure.code {
        Code::Overloaded | Code::Deadline => {
            debug!(call, request_id, %caller, code, ?outcome, reason, "failed");
        }
        _ => info!(call, request_id, %caller, code, ?outcome, reason, "failed"),
    }
}

/// An id that is too long is refused, and does not fill the log either.
pub(super) fn loggable(request_id: &str) -> &str {
    if request_id.len() <= REQUEST_ID_BYTES_MAX { request_id } else { "(too long)" }
}

/// Counts one thing for as long as it lives.
pub(super) struct Held(Gauge);

impl Held {
    pub(super) fn new(gauge: &Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
