//! What follows from a failed attempt. Pure: no clock, no sockets; chance comes in as an argument.

use std::time::Duration;

use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{Engine, alphabet};
use buffa::{EnumValue, Message};
use connectrpc::{ConnectError, ErrorCode};
use raftmap_proto::v1::Failure;
use raftmap_proto::v1::failure::{Code, Outcome};

use crate::dial::{DialError, client_not_believed, with_causes};
use crate::error::{Cause, Error};

/// The longest pause before the next attempt, unless a server asks for more.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// The longest pause before the second attempt; it doubles with each attempt.
const PAUSE_FIRST: Duration = Duration::from_millis(10);
/// The longest pause that a server can ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);

/// As Connect writes details: the padding may be left out.
const DETAIL_BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What the next step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// No attempt can end otherwise.
    End,
    /// Again, at another server if there is one.
    Elsewhere,
    /// Again where the leader is; the server that was asked works.
    Again,
    /// Again in a new session, as a new write: right only if no attempt may have been applied.
    NewSession,
}

/// An attempt that brought no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    /// Whether this attempt may have been applied, or may be later.
    pub(crate) maybe_applied: bool,
    pub(crate) next: Next,
    pub(crate) cause: Box<Cause>,
    /// Where the leader is, as the server knows it.
    pub(crate) leader: Option<String>,
    /// What the server asks to wait.
    pub(crate) retry_after: Duration,
}

impl Failed {
    fn locally(server: &str, maybe_applied: bool, reason: String) -> Self {
        Self {
            maybe_applied,
            next: Next::Elsewhere,
            cause: Box::new(Cause { reason, server: server.to_owned(), ..Cause::default() }),
            leader: None,
            retry_after: Duration::ZERO,
        }
    }

    /// The request never left.
    pub(crate) fn not_sent(server: &str, reason: impl Into<String>) -> Self {
        Self::locally(server, false, reason.into())
    }

    /// There is no connection.
    pub(crate) fn not_connected(server: &str, error: &DialError) -> Self {
        let mut failed = Self::not_sent(server, error.to_string());
        if matches!(error, DialError::Certificate(_)) {
            failed.cause.code = Some(Code::UNAUTHENTICATED);
        }
        failed
    }

    /// The request left, and the connection was lost before the answer came.
    pub(crate) fn lost(server: &str, reason: impl Into<String>) -> Self {
        Self::locally(server, true, reason.into())
    }

    /// The time for the attempt is over.
    pub(crate) fn timed_out(server: &str, sent: bool, after: Duration) -> Self {
        let mut failed = Self::locally(server, sent, format!("no answer within {after:?}"));
        failed.cause.code = Some(Code::DEADLINE);
        failed
    }

    /// The server says why not.
    pub(crate) fn refused(server: &str, failure: Failure) -> Self {
        let code = failure.code.as_known();
        let unknown = failure.outcome != EnumValue::from(Outcome::NOT_APPLIED);
        Self {
            // An unknown session applies nothing: what is unknown is whether an earlier attempt was applied.
            maybe_applied: unknown && code != Some(Code::SESSION_UNKNOWN),
            next: next(code),
            cause: Box::new(Cause {
                reason: failure.reason,
                code,
                field: failure.field,
                limit: failure.limit,
                server: server.to_owned(),
                attempts: 0,
            }),
            leader: (!failure.leader.is_empty() && failure.leader != server).then_some(failure.leader),
            retry_after: Duration::from_millis(failure.retry_after_ms.into()).min(RETRY_AFTER_MAX),
        }
    }

    /// A call ended with an error status: what the server says in its detail, or what the status alone tells.
    pub(crate) fn status(server: &str, error: &ConnectError) -> Self {
        if let Some(failure) = failure_detail(error) {
            return Self::refused(server, failure);
        }
        if client_not_believed(error) {
            return Self::not_connected(server, &DialError::Certificate(with_causes(error)));
        }
        let code = match error.code {
            ErrorCode::InvalidArgument => Some(Code::INVALID),
            ErrorCode::Unimplemented => Some(Code::UNSUPPORTED),
            ErrorCode::Unauthenticated => Some(Code::UNAUTHENTICATED),
            ErrorCode::PermissionDenied => Some(Code::DENIED),
            ErrorCode::ResourceExhausted => Some(Code::TOO_LARGE),
            _ => None,
        };
        // Every error of a handler has the detail. Without it, one of these codes comes from what stands before the
        // handlers, if it comes from the server at all and not from how its answer was read here.
        let refused = code.is_some() && error.response_headers().contains_key("grpc-status");
        let reason = match error.code {
            ErrorCode::DeadlineExceeded => "no answer in time".to_owned(),
            _ => with_causes(error),
        };
        let mut failed = Self::locally(server, !refused, reason);
        failed.cause.code = code;
        if code.is_some() {
            failed.next = Next::End;
        }
        failed
    }
}

impl Failed {
    /// Whether asking the same server again cannot help, although another one may.
    pub(crate) fn stands(&self) -> bool {
        self.next == Next::End || self.cause.code == Some(Code::UNAUTHENTICATED)
    }

    /// The same of a read, which changes nothing.
    pub(crate) fn of_read(self) -> Self {
        Self { maybe_applied: false, ..self }
    }

    /// A stream with requests in flight ended with an error status. Only if the stream never began, because its caller
    /// was refused, is it certain that none of them was taken.
    pub(crate) fn stream_status(server: &str, began: bool, error: &ConnectError) -> Self {
        let failed = Self::status(server, error);
        match failed.cause.code {
            Some(Code::UNAUTHENTICATED | Code::DENIED) if !began => failed,
            _ => Self { maybe_applied: true, next: Next::Elsewhere, ..failed },
        }
    }
}

/// The `Failure` among the details of an error status.
fn failure_detail(error: &ConnectError) -> Option<Failure> {
    let detail = error.details.iter().find(|detail| {
        let name = detail.type_url.rsplit('/').next();
        name == Some("raftmap.v1.Failure")
    })?;
    let bytes = DETAIL_BASE64.decode(detail.value.as_deref()?).ok()?;
    Failure::decode_from_slice(&bytes).ok()
}

fn next(code: Option<Code>) -> Next {
    match code {
        Some(Code::OVERLOADED) => Next::Again,
        Some(
            Code::NO_LEADER
            | Code::NO_QUORUM
            | Code::DEADLINE
            | Code::LEADERSHIP_LOST
            | Code::NODE_UNFIT
            | Code::SHUTTING_DOWN
            | Code::BEHIND,
        ) => Next::Elsewhere,
        // The session is gone, or somebody else uses it up.
        Some(Code::SESSION_UNKNOWN | Code::SEQUENCE_FORGOTTEN | Code::SEQUENCE_REUSED) => Next::NewSession,
        _ => Next::End,
    }
}

/// What became of a call's attempts so far.
#[derive(Debug, Default)]
pub(crate) struct History {
    attempts: u32,
    maybe_applied: bool,
    last: Option<Box<Cause>>,
}

impl History {
    /// Takes in a failed attempt and says what follows.
    pub(crate) fn record(&mut self, failed: &Failed) -> Next {
        // That the time was over, at the server or here, says less than what an earlier attempt met.
        if failed.cause.code == Some(Code::DEADLINE) {
            self.record_cut(failed);
        } else {
            self.attempts += 1;
            self.maybe_applied |= failed.maybe_applied;
            self.last = Some(failed.cause.clone());
        }
        match failed.next {
            // In a new session the write would be a second one.
            Next::NewSession if self.maybe_applied => Next::End,
            next => next,
        }
    }

    /// Takes in an attempt that was cut short by the end of the call: what an earlier one said tells more.
    pub(crate) fn record_cut(&mut self, failed: &Failed) {
        self.attempts += 1;
        self.maybe_applied |= failed.maybe_applied;
        self.last.get_or_insert_with(|| failed.cause.clone());
    }

    /// How long to wait before the next attempt: the first one fails over at once, later ones wait longer and longer, up
    /// to a bound and with full jitter (`chance`, below 1), so that those who failed together do not come back together.
    pub(crate) fn pause(&self, failed: &Failed, chance: f64) -> Duration {
        if self.attempts <= 1 && failed.next != Next::Again {
            return failed.retry_after;
        }
        let doublings = self.attempts.saturating_sub(1).min(16);
        let bound = (PAUSE_FIRST * (1 << doublings)).min(PAUSE_MAX);
        failed.retry_after + bound.mul_f64(chance)
    }

    /// The error of a call whose last attempt cannot be repeated.
    pub(crate) fn end(self) -> Error {
        let mut cause = self.last.unwrap_or_default();
        cause.attempts = self.attempts;
        if self.maybe_applied { Error::OutcomeUnknown(cause) } else { Error::NotApplied(cause) }
    }

    /// The error of a call whose time is over.
    pub(crate) fn give_up(mut self, timeout: Duration) -> Error {
        let last = self.last.get_or_insert_with(|| {
            let reason = "there was no time for an attempt".to_owned();
            Box::new(Cause { reason, code: Some(Code::DEADLINE), ..Cause::default() })
        });
        last.reason = format!("{}; gave up after {timeout:?}", last.reason);
        self.end()
    }
}

#[cfg(test)]
mod tests {
    use connectrpc::ErrorDetail;

    use super::*;

    fn refused(code: Code, outcome: Outcome) -> Failed {
        Failed::refused("a:1", Failure { code: code.into(), outcome: outcome.into(), ..Failure::default() })
    }

    fn history(attempts: &[Failed]) -> History {
        let mut history = History::default();
        for failed in attempts {
            history.record(failed);
        }
        history
    }

    #[test]
    fn what_another_server_or_a_later_moment_can_change_is_tried_again() {
        for (code, next) in [
            (Code::OVERLOADED, Next::Again),
            (Code::NO_LEADER, Next::Elsewhere),
            (Code::NO_QUORUM, Next::Elsewhere),
            (Code::DEADLINE, Next::Elsewhere),
            (Code::LEADERSHIP_LOST, Next::Elsewhere),
            (Code::NODE_UNFIT, Next::Elsewhere),
            (Code::SHUTTING_DOWN, Next::Elsewhere),
            (Code::BEHIND, Next::Elsewhere),
            (Code::SESSION_UNKNOWN, Next::NewSession),
            (Code::CODE_UNSPECIFIED, Next::End),
            (Code::INVALID, Next::End),
            (Code::TOO_LARGE, Next::End),
            (Code::DISK_FULL, Next::End),
            (Code::UNAUTHENTICATED, Next::End),
            (Code::DENIED, Next::End),
            (Code::SEQUENCE_FORGOTTEN, Next::NewSession),
            (Code::SEQUENCE_REUSED, Next::NewSession),
            (Code::SCAN_LOST, Next::End),
            (Code::UNSUPPORTED, Next::End),
        ] {
            assert_eq!(refused(code, Outcome::NOT_APPLIED).next, next, "{code:?}");
        }
    }

    #[test]
    fn a_call_is_not_applied_only_if_every_attempt_was() {
        let certain = refused(Code::NO_LEADER, Outcome::NOT_APPLIED);
        let uncertain = refused(Code::LEADERSHIP_LOST, Outcome::UNKNOWN);
        assert!(!history(&[certain.clone(), certain.clone()]).end().maybe_applied());
        assert!(history(&[uncertain.clone(), certain.clone()]).end().maybe_applied());
        assert!(history(&[certain, uncertain]).end().maybe_applied());
        assert!(!history(&[]).give_up(PAUSE_MAX).maybe_applied());
    }

    #[test]
    fn an_outcome_that_this_version_does_not_know_is_unknown() {
        let failure =
            Failure { outcome: EnumValue::Unknown(9), code: EnumValue::Unknown(99), ..Failure::default() };
        let failed = Failed::refused("a:1", failure);
        assert!(failed.maybe_applied);
        assert_eq!(failed.next, Next::End);
    }

    #[test]
    fn a_write_moves_to_a_new_session_only_if_it_cannot_have_been_applied_in_the_old_one() {
        let forgotten = refused(Code::SESSION_UNKNOWN, Outcome::UNKNOWN);
        assert_eq!(History::default().record(&forgotten), Next::NewSession);
        let mut lost_before = history(&[Failed::lost("a:1", "the connection broke")]);
        assert_eq!(lost_before.record(&forgotten), Next::End);
        assert!(lost_before.end().maybe_applied());
    }

    #[test]
    fn a_hint_that_names_the_server_itself_is_none() {
        let hint = |leader: &str| {
            Failed::refused("a:1", Failure { leader: leader.to_owned(), ..Failure::default() }).leader
        };
        assert_eq!(hint("b:1").as_deref(), Some("b:1"));
        assert_eq!(hint("a:1"), None);
        assert_eq!(hint(""), None);
    }

    #[test]
    fn pauses_grow_to_a_bound_and_heed_the_server() {
        let failed = Failed::not_sent("a:1", "refused");
        let pause =
            |attempts: usize, failed: &Failed| history(&vec![failed.clone(); attempts]).pause(failed, 1.0);
        assert_eq!(pause(1, &failed), Duration::ZERO, "the first failure turns to another server at once");
        assert_eq!(pause(2, &failed), Duration::from_millis(20));
        assert_eq!(pause(3, &failed), Duration::from_millis(40));
        assert_eq!(pause(100, &failed), PAUSE_MAX);
        let busy = |ms| Failed {
            retry_after: Duration::from_millis(ms),
            ..refused(Code::OVERLOADED, Outcome::NOT_APPLIED)
        };
        assert_eq!(pause(1, &busy(0)), PAUSE_FIRST, "a server that has too much to do is not asked at once");
        assert_eq!(pause(1, &busy(70)), Duration::from_millis(80));
        let wild = Failure { retry_after_ms: u32::MAX, ..Failure::default() };
        assert_eq!(Failed::refused("a:1", wild).retry_after, RETRY_AFTER_MAX);
    }

    #[test]
    fn what_a_server_said_is_told_rather_than_that_time_ran_out() {
        let mut history = history(&[refused(Code::NO_QUORUM, Outcome::NOT_APPLIED)]);
        history.record_cut(&Failed::timed_out("b:1", true, PAUSE_FIRST));
        let error = history.give_up(Duration::from_secs(1));
        assert!(error.maybe_applied(), "the attempt that was cut short may have been applied");
        assert_eq!(error.cause().code, Some(Code::NO_QUORUM));
        assert_eq!(error.cause().attempts, 2);
    }

    #[test]
    fn what_a_server_said_is_told_rather_than_that_time_ran_out_at_another() {
        let no_quorum = refused(Code::NO_QUORUM, Outcome::NOT_APPLIED);
        let history = history(&[no_quorum, refused(Code::DEADLINE, Outcome::NOT_APPLIED)]);
        let error = history.give_up(Duration::from_secs(1));
        assert_eq!((error.cause().code, error.cause().attempts), (Some(Code::NO_QUORUM), 2));
    }

    fn from_server(error: ConnectError) -> ConnectError {
        let mut headers = hyper::HeaderMap::new();
        headers.insert("grpc-status", hyper::header::HeaderValue::from_static("3"));
        error.with_headers(headers)
    }

    #[test]
    fn a_status_is_read_from_its_detail() {
        let failure = Failure {
            reason: "the key is empty".to_owned(),
            code: Code::INVALID.into(),
            outcome: Outcome::NOT_APPLIED.into(),
            field: "keys[0]".to_owned(),
            ..Failure::default()
        };
        for name in ["raftmap.v1.Failure", "type.googleapis.com/raftmap.v1.Failure"] {
            let error = ConnectError::internal("?").with_detail(ErrorDetail::from_message(name, &failure));
            assert_eq!(Failed::status("a:1", &error), Failed::refused("a:1", failure.clone()));
        }
    }

    #[test]
    fn a_status_without_a_detail_is_certain_only_if_it_came_from_the_server() {
        let local = Failed::status("a:1", &ConnectError::invalid_argument("the answer does not decode"));
        assert!(local.maybe_applied);
        let remote = Failed::status("a:1", &from_server(ConnectError::invalid_argument("bad protobuf")));
        assert!(!remote.maybe_applied);
        assert_eq!((remote.next, remote.cause.code), (Next::End, Some(Code::INVALID)));
        let lost = Failed::status("a:1", &from_server(ConnectError::internal("the connection broke")));
        assert!(lost.maybe_applied);
        assert_eq!(lost.next, Next::Elsewhere);
    }

    #[test]
    fn the_end_of_a_stream_says_nothing_of_what_it_carried_unless_it_never_began() {
        let denied = from_server(ConnectError::permission_denied("not a client"));
        assert!(!Failed::stream_status("a:1", false, &denied).maybe_applied);
        assert!(Failed::stream_status("a:1", true, &denied).maybe_applied);
        let invalid = from_server(ConnectError::invalid_argument("another request of the stream"));
        let ended = Failed::stream_status("a:1", false, &invalid);
        assert_eq!((ended.maybe_applied, ended.next), (true, Next::Elsewhere));
    }
}
