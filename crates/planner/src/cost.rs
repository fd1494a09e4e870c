//! What a request cost, against what large alone would have cost.

use contract::{Attempt, Price, Role, Usage};

/// What the attempts cost together, US dollars: failed and cancelled ones too.
pub fn spent_usd(attempts: &[Attempt]) -> f64 {
    attempts.iter().map(|attempt| attempt.cost_usd).sum()
}

/// What large alone would have cost, US dollars: the same prompt, and as many written tokens as the
/// answer has.
///
/// Prompt tokens are large's own count where it was called, else the answering backend's, and then
/// all at the uncached price: whether large would have had them cached nobody knows. Without an
/// answer (`answered` is `None` or names no attempt) it is what large was really called for.
pub fn always_large_usd(large: &Price, attempts: &[Attempt], answered: Option<usize>) -> f64 {
    let called: Vec<&Attempt> = attempts.iter().filter(|attempt| attempt.role == Role::Large).collect();
    let Some(answer) = answered.and_then(|index| attempts.get(index)) else {
        return called.iter().map(|attempt| large.cost_usd(&attempt.usage)).sum();
    };
    let counted = called.iter().rev().map(|attempt| attempt.usage).find(|usage| usage.prompt_tokens > 0);
    let prompt = counted.unwrap_or(Usage { cached_tokens: 0, ..answer.usage });
    large.cost_usd(&Usage { completion_tokens: answer.usage.completion_tokens, ..prompt })
}

/// What Tandem saved against always calling large, US dollars. Negative when it cost more: an
/// escalated request pays for both.
pub fn saved_usd(large: &Price, attempts: &[Attempt], answered: Option<usize>) -> f64 {
    always_large_usd(large, attempts, answered) - spent_usd(attempts)
}

#[cfg(test)]
mod tests {
    use contract::{AttemptStatus, FinishReason, Signals, Timings};
    use proptest::prelude::*;

    use super::*;

    const LARGE: Price =
        Price { input_usd_per_mtok: 2.0, cached_input_usd_per_mtok: Some(0.5), output_usd_per_mtok: 8.0 };
    const SMALL: Price =
        Price { input_usd_per_mtok: 0.1, cached_input_usd_per_mtok: None, output_usd_per_mtok: 0.2 };

    fn attempt(role: Role, prompt_tokens: u64, cached_tokens: u64, completion_tokens: u64) -> Attempt {
        let usage = Usage { prompt_tokens, cached_tokens, completion_tokens, ..Usage::default() };
        let price = if role == Role::Large { LARGE } else { SMALL };
        Attempt {
            role,
            model: role.as_str().to_owned(),
            status: AttemptStatus::Finished(FinishReason::Stop),
            findings: None,
            text: String::new(),
            signals: Signals::default(),
            usage,
            timings: Timings::default(),
            cost_usd: price.cost_usd(&usage),
        }
    }

    fn close(left: f64, right: f64) -> bool {
        (left - right).abs() < 1e-12
    }

    #[test]
    fn a_small_answer_saves_the_difference_of_prices() {
        let attempts = [attempt(Role::Small, 1000, 600, 100)];
        // small's cache is not large's: 1000 fresh tokens.
        assert!(close(always_large_usd(&LARGE, &attempts, Some(0)), (1000.0 * 2.0 + 100.0 * 8.0) / 1e6));
        assert!(close(saved_usd(&LARGE, &attempts, Some(0)), (2800.0 - 1000.0 * 0.1 - 100.0 * 0.2) / 1e6));
    }

    #[test]
    fn large_alone_saves_nothing() {
        let attempts = [attempt(Role::Large, 1000, 400, 100)];
        assert!(close(saved_usd(&LARGE, &attempts, Some(0)), 0.0));
    }

    #[test]
    fn an_escalated_request_loses_what_small_cost() {
        let mut small = attempt(Role::Small, 1000, 0, 24);
        small.status = AttemptStatus::Cancelled;
        let small_usd = small.cost_usd;
        let attempts = [small, attempt(Role::Large, 1100, 400, 100)];
        assert!(close(saved_usd(&LARGE, &attempts, Some(1)), -small_usd));
    }

    #[test]
    fn where_small_stands_in_for_a_failed_large_its_answer_is_priced_as_larges() {
        let attempts = [attempt(Role::Small, 1000, 0, 50), attempt(Role::Large, 0, 0, 0)];
        assert!(close(always_large_usd(&LARGE, &attempts, Some(0)), (1000.0 * 2.0 + 50.0 * 8.0) / 1e6));
    }

    #[test]
    fn without_an_answer_nothing_is_saved() {
        let attempts = [attempt(Role::Small, 1000, 0, 24), attempt(Role::Large, 1000, 0, 10)];
        for answered in [None, Some(7)] {
            assert!(close(saved_usd(&LARGE, &attempts, answered), -attempts[0].cost_usd));
        }
        assert!(close(always_large_usd(&LARGE, &[], None), 0.0));
    }

    proptest! {
        #[test]
        fn saved_and_spent_add_up(
            calls in proptest::collection::vec((any::<bool>(), 0u64..10_000, 0u64..10_000, 0u64..10_000), 0..4),
            answered in proptest::option::of(0usize..5),
        ) {
            let attempts: Vec<Attempt> = calls.iter()
                .map(|&(small, prompt, cached, completion)| {
                    attempt(if small { Role::Small } else { Role::Large }, prompt, cached, completion)
                })
                .collect();
            let always = always_large_usd(&LARGE, &attempts, answered);
            prop_assert!(always >= 0.0);
            prop_assert!(close(saved_usd(&LARGE, &attempts, answered) + spent_usd(&attempts), always));
        }
    }
}
