//! What policies share that go from small to large: the step itself, and what follows when either fails.

use contract::{Attempt, AttemptStatus, Check, Decision, FailureKind, Role, Step};

use super::fixed;
use crate::OnLargeFailure;

/// While small's answer is held back until it is complete, it is looked at each time so many tokens are written.
pub(super) const EARLY_CHECK_TOKENS: u32 = 8;

/// Small writes on, and nothing of it leaves yet.
pub(super) fn hold() -> Decision {
    Decision::new(Step::Hold, "small may still come to a good end: its answer is held back")
}

/// The call of large, which may answer whatever it writes.
pub(super) fn escalate(reason: String, confidence: Option<f64>) -> Decision {
    Decision { step: Step::Call { role: Role::Large, check: Check::Never }, reason, confidence }
}

/// Small failed or was cancelled before large was called.
pub(super) fn after_failed_small(attempt: &Attempt) -> Decision {
    if is_past_deadline(attempt) {
        return fixed::give_up("small ran into the client's deadline; large would come too late".to_owned());
    }
    let trouble = fixed::trouble(attempt).unwrap_or_default();
    escalate(format!("small {trouble}: the request escalates to large"), None)
}

/// Large was called; it is asked about again only when it failed, or in a replay. `small` is small's last attempt,
/// with the confidence in it.
pub(super) fn after_large(
    (small, large): (Option<(usize, Option<f64>)>, usize),
    attempts: &[Attempt],
    on_failure: OnLargeFailure,
) -> Decision {
    let Some(trouble) = fixed::trouble(&attempts[large]) else {
        return Decision::new(Step::Answer { attempt: large }, "large answers the escalated request");
    };
    let Some((index, confidence)) = small.filter(|_| on_failure == OnLargeFailure::Small) else {
        return fixed::give_up(format!("large {trouble}, and nothing else may answer"));
    };
    match attempts[index].status {
        AttemptStatus::Finished(_) | AttemptStatus::Partial => Decision {
            step: Step::Answer { attempt: index },
            reason: format!("large {trouble}: small's answer stands in, though it was not confident enough"),
            confidence,
        },
        // What it wrote was thrown away when the request escalated, so it has to start over; once.
        AttemptStatus::Cancelled | AttemptStatus::Read
            if index < large && !is_past_deadline(&attempts[large]) =>
        {
            Decision::new(
                Step::Call { role: Role::Small, check: Check::Never },
                format!("large {trouble}: small answers after all, though it was not confident enough"),
            )
        }
        _ => fixed::give_up(format!("large {trouble}, and small can't answer either")),
    }
}

fn is_past_deadline(attempt: &Attempt) -> bool {
    matches!(&attempt.status, AttemptStatus::Failed(error) if error.kind == FailureKind::Deadline)
}

/// A probability with two decimals, or as many as it takes to be told from 0 or from its threshold's
/// neighbourhood: rounded down, so that what lies below a threshold never reads as if it reached it.
pub(super) fn shown(probability: f64) -> String {
    let mut decimals = 2;
    while decimals < 6 && probability > 0.0 && probability * 10f64.powi(decimals) < 1.0 {
        decimals += 1;
    }
    let scale = 10f64.powi(decimals);
    format!("{:.*}", decimals as usize, (probability * scale).floor() / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_shown_rounded_down_and_never_as_zero_unless_they_are() {
        for (value, expected) in
            [(1.0, "1.00"), (0.7999, "0.79"), (0.0123, "0.01"), (0.0042, "0.004"), (0.0, "0.00")]
        {
            assert_eq!(shown(value), expected);
        }
    }
}
