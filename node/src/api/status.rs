//! Our errors as gRPC status codes: the only place. The table for callers is `docs/api.md`.

use cluster_proto::{PushId, TerminalId};
use raft_store::{Applied, Refusal};
use tonic::{Code, Status};

use super::backend::{MembershipError, ProposeError, ReadError};
use crate::auth::{AuthError, IssueError};

/// Advice that goes with every unknown outcome.
const REPEAT: &str = "repeat it with the same idempotency key to learn the first answer";

/// The outcome is unknown: the call may or may not have taken effect.
pub fn unknown(why: &str) -> Status {
    Status::unknown(format!("the outcome is unknown: {why}; {REPEAT}"))
}

/// Nothing was done; another try may succeed.
pub fn unavailable(why: &str) -> Status {
    Status::unavailable(format!("{why}; nothing was done, try again"))
}

/// No linearizable read now.
pub fn no_leader(_: ReadError) -> Status {
    unavailable("there is no leader now")
}

/// The cluster was not founded.
pub fn not_initialised() -> Status {
    Status::failed_precondition("the cluster is not initialised: run `carillon cluster init` once")
}

/// A push that is not there, or belongs to another app.
pub fn no_push(push: PushId) -> Status {
    Status::not_found(format!(
        "there is no push {push} in this app (settled pushes are removed after push.retention)"
    ))
}

/// A terminal that is not registered.
pub fn no_terminal(id: &TerminalId) -> Status {
    Status::not_found(format!("terminal {id} is not registered: `carillon terminal register` does it"))
}

/// An app that is not there.
pub fn no_app(name: &str) -> Status {
    Status::not_found(format!("there is no app {name:?}"))
}

/// A proposal that failed.
pub fn propose(error: ProposeError) -> Status {
    match error {
        ProposeError::NotLeader => unavailable("this node does not lead (any more)"),
        ProposeError::Unknown => unknown("the leader was lost while the call was in flight"),
        ProposeError::Full => Status::resource_exhausted(
            "too many calls wait for the log; nothing was done, try again more slowly",
        ),
        ProposeError::TooLarge(bytes) => Status::resource_exhausted(format!(
            "the call makes a log entry of {bytes} bytes, which is too many; name fewer terminals in one call"
        )),
        ProposeError::DiskFull => disk_full(),
        ProposeError::Stopped => unavailable("this node is going down"),
    }
}

/// Refused before the log blocks.
pub fn disk_full() -> Status {
    Status::resource_exhausted(
        "the leader's disk is nearly full (storage.disk_reserve): free space there, or lower push.retention",
    )
}

/// An app that pushes faster than it may.
pub fn too_fast(wait_ms: u64) -> Status {
    Status::resource_exhausted(format!(
        "the app pushes faster than it may; nothing was done, try again in {wait_ms} ms, or raise its quota (carillon \
         app update --pushes-per-s)"
    ))
}

/// A call of many parts that ended in the middle; the parts before are done. So it must not be taken for one of which
/// nothing is.
pub fn after(done: &str, status: &Status) -> Status {
    match status.code() {
        Code::Unavailable => unknown(&format!("{done}; then the leader was lost")),
        code => Status::new(code, format!("{done}; then: {}", status.message())),
    }
}

/// What was asked is done, but how it stands could not be read any more.
pub fn done_but(status: Status) -> Status {
    match status.code() {
        Code::Unavailable => unknown("it is done, but the leader was lost before it could say how it stands"),
        _ => status,
    }
}

/// A refusal by the state machine.
pub fn refusal(refusal: &Refusal) -> Status {
    let code = match refusal {
        Refusal::UnknownApp
        | Refusal::UnknownTerminals(_)
        | Refusal::UnknownPush(_)
        | Refusal::NoRelease(_) => Code::NotFound,
        Refusal::KeyReused => Code::AlreadyExists,
        Refusal::TooManySubscriptions
        | Refusal::RetainedQuota
        | Refusal::TerminalQuota(_)
        | Refusal::StoredQuota(_) => Code::ResourceExhausted,
        Refusal::Stale | Refusal::NoWebhook | Refusal::AppBeingRemoved | Refusal::DefaultApp => {
            Code::FailedPrecondition
        }
    };
    Status::new(code, refusal.to_string())
}

/// Apply answered what does not belong to the command: a refusal, or a fault of ours.
pub fn unexpected(applied: &Applied) -> Status {
    match applied {
        Applied::Refused(reason) => refusal(reason),
        other => {
            tracing::error!(?other, "apply answered what the command does not have");
            Status::internal("the log answered something unexpected; see the leader's log")
        }
    }
}

/// A membership change that failed.
pub fn membership(error: MembershipError) -> Status {
    match error {
        MembershipError::NotLeader => unavailable("this node does not lead (any more)"),
        MembershipError::Unknown => Status::unknown(
            "the outcome is unknown: the leader was lost meanwhile; look with `carillon cluster status`",
        ),
        MembershipError::Refused(why) => Status::failed_precondition(why),
        MembershipError::NoSuchNode(id) => Status::not_found(format!("node {id} is not a member")),
    }
}

/// A token that does not verify.
pub fn auth(error: &AuthError) -> Status {
    Status::unauthenticated(error.to_string())
}

/// A token that could not be made.
pub fn issue(error: &IssueError) -> Status {
    tracing::error!(%error, "issue token");
    Status::internal("the signing key does not work; see the leader's log")
}

/// All codes: their names in `google.rpc.Code`, and the HTTP status of each.
pub(super) const CODES: [(Code, &str, u16); 17] = [
    (Code::Ok, "OK", 200),
    (Code::Cancelled, "CANCELLED", 499),
    (Code::Unknown, "UNKNOWN", 500),
    (Code::InvalidArgument, "INVALID_ARGUMENT", 400),
    (Code::DeadlineExceeded, "DEADLINE_EXCEEDED", 504),
    (Code::NotFound, "NOT_FOUND", 404),
    (Code::AlreadyExists, "ALREADY_EXISTS", 409),
    (Code::PermissionDenied, "PERMISSION_DENIED", 403),
    (Code::ResourceExhausted, "RESOURCE_EXHAUSTED", 429),
    (Code::FailedPrecondition, "FAILED_PRECONDITION", 400),
    (Code::Aborted, "ABORTED", 409),
    (Code::OutOfRange, "OUT_OF_RANGE", 400),
    (Code::Unimplemented, "UNIMPLEMENTED", 501),
    (Code::Internal, "INTERNAL", 500),
    (Code::Unavailable, "UNAVAILABLE", 503),
    (Code::DataLoss, "DATA_LOSS", 500),
    (Code::Unauthenticated, "UNAUTHENTICATED", 401),
];

pub(super) fn row(code: Code) -> (Code, &'static str, u16) {
    CODES.into_iter().find(|(known, ..)| *known == code).unwrap_or((Code::Unknown, "UNKNOWN", 500))
}

/// As the documentation and other tools write it.
pub fn code_name(code: Code) -> &'static str {
    row(code).1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certainly_not_done_and_maybe_done_are_different_codes() {
        assert_eq!(propose(ProposeError::NotLeader).code(), Code::Unavailable);
        assert_eq!(propose(ProposeError::Stopped).code(), Code::Unavailable);
        assert_eq!(propose(ProposeError::Unknown).code(), Code::Unknown);
        assert!(propose(ProposeError::Unknown).message().contains("same idempotency key"));
    }

    #[test]
    fn codes_are_named_as_in_the_documentation() {
        assert_eq!(code_name(Code::AlreadyExists), "ALREADY_EXISTS");
        assert_eq!(code_name(Code::Unknown), "UNKNOWN");
    }
}
