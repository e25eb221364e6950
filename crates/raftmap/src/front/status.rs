//! How a failure travels: as a status with `Failure` of `map.proto` as its detail, in gRPC and in Connect.

use connectrpc::{ConnectError, ErrorCode, ErrorDetail};
use raftmap_proto::v1;

use crate::api::{Code, Failure, FailureOutcome};

/// The message's full name, by which clients find it among the details of a status.
const FAILURE_TYPE: &str = "raftmap.v1.Failure";

/// The message for a failure.
pub(super) fn message(failure: &Failure) -> v1::Failure {
    v1::Failure {
        reason: failure.reason.clone(),
        outcome: match failure.outcome {
            FailureOutcome::Unknown => v1::failure::Outcome::UNKNOWN,
            FailureOutcome::NotApplied => v1::failure::Outcome::NOT_APPLIED,
        }
        .into(),
        leader: failure.leader.clone().unwrap_or_default(),
        code: i32::from(failure.code as u8).into(),
        field: failure.field.unwrap_or_default().to_owned(),
        limit: failure.limit.unwrap_or_default(),
        retry_after_ms: failure
            .retry_after
            .map_or(0, |delay| u32::try_from(delay.as_millis()).unwrap_or(u32::MAX)),
    }
}

/// The status for a failure.
pub(super) fn error(failure: &Failure) -> ConnectError {
    ConnectError::new(status(failure), failure.reason.clone())
        .with_detail(ErrorDetail::from_message(FAILURE_TYPE, &message(failure)))
}

/// The same status, with a detail. Those that come without one are of `connectrpc` itself: it could not make a request
/// out of what arrived, so nothing of it was applied.
pub(super) fn with_detail(error: ConnectError) -> ConnectError {
    if !error.details.is_empty() {
        return error;
    }
    let code = match error.code {
        ErrorCode::InvalidArgument => Code::Invalid,
        ErrorCode::ResourceExhausted | ErrorCode::OutOfRange => Code::TooLarge,
        ErrorCode::Unimplemented | ErrorCode::NotFound => Code::Unsupported,
        ErrorCode::DeadlineExceeded => Code::Deadline,
        ErrorCode::PermissionDenied => Code::Denied,
        ErrorCode::Unauthenticated => Code::Unauthenticated,
        _ => Code::Unspecified,
    };
    let reason = error.message.clone().unwrap_or_else(|| error.code.as_str().to_owned());
    let failure = Failure::not_applied(code, reason);
    error.with_detail(ErrorDetail::from_message(FAILURE_TYPE, &message(&failure)))
}

/// See the table at [`Code`]. UNAVAILABLE, which libraries repeat on their own, is only for what was not applied.
fn status(failure: &Failure) -> ErrorCode {
    match failure.code {
        Code::Unspecified => ErrorCode::Internal,
        Code::Invalid => ErrorCode::InvalidArgument,
        Code::TooLarge => ErrorCode::OutOfRange,
        Code::Overloaded | Code::DiskFull => ErrorCode::ResourceExhausted,
        Code::NoLeader
        | Code::NoQuorum
        | Code::NodeUnfit
        | Code::ShuttingDown
        | Code::LeadershipLost
        | Code::Behind => match failure.outcome {
            FailureOutcome::NotApplied => ErrorCode::Unavailable,
            FailureOutcome::Unknown => ErrorCode::Aborted,
        },
        Code::Deadline => ErrorCode::DeadlineExceeded,
        Code::Unauthenticated => ErrorCode::Unauthenticated,
        Code::Denied => ErrorCode::PermissionDenied,
        Code::SessionUnknown | Code::SequenceForgotten | Code::SequenceReused => {
            ErrorCode::FailedPrecondition
        }
        Code::ScanLost => ErrorCode::Aborted,
        Code::Unsupported => ErrorCode::Unimplemented,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Code; 19] = [
        Code::Unspecified,
        Code::Invalid,
        Code::TooLarge,
        Code::Overloaded,
        Code::NoLeader,
        Code::NoQuorum,
        Code::Deadline,
        Code::LeadershipLost,
        Code::DiskFull,
        Code::NodeUnfit,
        Code::ShuttingDown,
        Code::Unauthenticated,
        Code::Denied,
        Code::SessionUnknown,
        Code::SequenceForgotten,
        Code::SequenceReused,
        Code::Behind,
        Code::ScanLost,
        Code::Unsupported,
    ];

    #[test]
    fn codes_are_those_of_the_contract() {
        for code in ALL {
            let message = message(&Failure::not_applied(code, "why"));
            let known = message.code.as_known().unwrap();
            assert_eq!(format!("{known:?}"), code.name());
        }
    }

    #[test]
    fn what_may_have_been_applied_is_never_unavailable() {
        for code in ALL {
            assert_ne!(error(&Failure::unknown(code, "why")).code, ErrorCode::Unavailable, "{code:?}");
        }
        assert_eq!(error(&Failure::not_applied(Code::NoLeader, "why")).code, ErrorCode::Unavailable);
    }

    #[test]
    fn a_status_of_the_library_gets_a_detail_and_ours_keeps_its_own() {
        let bare = with_detail(ConnectError::invalid_argument("truncated"));
        assert_eq!(bare.details.len(), 1);
        let ours = error(&Failure::not_applied(Code::Denied, "no"));
        assert_eq!(with_detail(ours.clone()).details[0].value, ours.details[0].value);
    }
}
