//! One role answers, whatever it writes: the common part of `small`, `large` and forced roles, and
//! the steps that several policies share.

use contract::{Attempt, AttemptStatus, Check, Decision, FailureKind, Refusal, Role, Step};

/// OpenAI's `code` when every backend that could answer has failed.
pub(crate) const CODE_UPSTREAM_FAILED: &str = "upstream_failed";

/// The next step where only `role` may answer; `why` says who wants it so.
///
/// The other role never steps in: whoever fixes a role fixes its price, or where the text may go.
pub(crate) fn next(role: Role, why: &str, attempts: &[Attempt]) -> Decision {
    let was_called = |attempt: &Attempt| attempt.role == role && attempt.status != AttemptStatus::Read;
    let Some(index) = attempts.iter().rposition(was_called) else {
        return Decision::new(Step::Call { role, check: Check::Never }, why);
    };
    match trouble(&attempts[index]) {
        None => Decision::new(Step::Answer { attempt: index }, why),
        Some(trouble) => give_up(format!("{why}, but {} {trouble}", role.as_str())),
    }
}

/// Why this attempt can't answer; `None`: it can. Names the kind only, never the backend's message,
/// which may quote the request.
pub(crate) fn trouble(attempt: &Attempt) -> Option<String> {
    match &attempt.status {
        AttemptStatus::Partial | AttemptStatus::Finished(_) => None,
        AttemptStatus::Read => Some("has written nothing".to_owned()),
        AttemptStatus::Cancelled => Some("was cancelled".to_owned()),
        AttemptStatus::Failed(error) => Some(format!("failed ({})", describe(error.kind))),
    }
}

/// Ends the request; the gateway answers with the last failed attempt's own error, if there is one.
pub(crate) fn give_up(reason: String) -> Decision {
    let message = "no backend could answer this request".to_owned();
    Decision::new(Step::Refuse(Refusal { code: CODE_UPSTREAM_FAILED.to_owned(), message }), reason)
}

fn describe(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::BadInput => "it can't serve the request as it stands",
        FailureKind::TooLong => "the request is too long for its context",
        FailureKind::Busy => "it is busy",
        FailureKind::Unready => "it is not ready",
        FailureKind::Upstream => "its upstream can't be reached or answered with an error",
        FailureKind::Timeout => "it took too long",
        FailureKind::Deadline => "the client's deadline passed",
        FailureKind::Internal => "an internal fault",
    }
}

#[cfg(test)]
mod tests {
    use contract::{FinishReason, Signals};

    use super::*;
    use crate::routing::testing::{Outcome, attempt, failed};

    fn history(role: Role, status: AttemptStatus) -> Vec<Attempt> {
        vec![attempt(role, &Outcome { status, signals: Signals::default() })]
    }

    #[test]
    fn the_role_is_called_once_and_answers() {
        let first = next(Role::Large, "so it is", &[]);
        assert_eq!(first.step, Step::Call { role: Role::Large, check: Check::Never });
        let attempts = history(Role::Large, AttemptStatus::Finished(FinishReason::Stop));
        assert_eq!(next(Role::Large, "so it is", &attempts).step, Step::Answer { attempt: 0 });
    }

    #[test]
    fn when_it_fails_the_other_role_does_not_step_in_and_the_message_is_not_quoted() {
        for role in [Role::Small, Role::Large] {
            let decision = next(role, "so it is", &history(role, failed(FailureKind::Busy)));
            assert!(matches!(&decision.step, Step::Refuse(refusal) if refusal.code == CODE_UPSTREAM_FAILED));
            assert_eq!(decision.reason, format!("so it is, but {} failed (it is busy)", role.as_str()));
        }
    }
}
