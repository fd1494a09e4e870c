//! Upper bounds of speed: what memory and arithmetic allow, and what speculation can gain.
//!
//! Speculation follows Leviathan et al., "Fast Inference from Transformers via Speculative
//! Decoding" (2023), extended by a verify ratio v(b) = T(b)/T(1), where they assume 1.

/// A machine's measured limits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Machine {
    /// Bytes per second of a streaming read.
    pub read_bytes_per_second: f64,
    /// Multiply-accumulates per second at the weights' precision.
    pub macs_per_second: f64,
}

/// What one step of a model moves and computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepWork {
    /// Bytes read once per step, however many tokens it has: the weights.
    pub weight_bytes: f64,
    /// Bytes read per token of the step: its sequence's KV cache.
    pub kv_bytes_per_token: f64,
    /// Multiply-accumulates per token: the active parameters.
    pub macs_per_token: f64,
}

/// Least seconds of a step over `tokens` tokens: the slower of memory and arithmetic.
pub fn step_seconds_min(machine: &Machine, work: &StepWork, tokens: u32) -> f64 {
    let tokens = f64::from(tokens);
    let memory = (work.weight_bytes + tokens * work.kv_bytes_per_token) / machine.read_bytes_per_second;
    let arithmetic = tokens * work.macs_per_token / machine.macs_per_second;
    memory.max(arithmetic)
}

/// Most tokens per second of decoding one sequence: bandwidth over bytes per token.
pub fn decode_tokens_per_second_max(read_bytes_per_second: f64, bytes_per_token: f64) -> f64 {
    read_bytes_per_second / bytes_per_token
}

/// Most tokens per second of prefill: peak over multiply-accumulates per token.
pub fn prefill_tokens_per_second_max(macs_per_second: f64, macs_per_token: f64) -> f64 {
    macs_per_second / macs_per_token
}

/// Tokens that one verify step yields on average, E = (1 − α^(γ+1)) / (1 − α).
///
/// `acceptance` α is the chance that a draft token is accepted (clamped to 0..=1); `draft_tokens` is γ.
pub fn expected_tokens(acceptance: f64, draft_tokens: u32) -> f64 {
    let acceptance = acceptance.clamp(0.0, 1.0);
    // The geometric series itself, summed by Horner's rule: exact at α = 1 too.
    (0..draft_tokens).fold(1.0, |sum, _| 1.0 + acceptance * sum)
}

/// Speculation on a given pair of models.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speculation {
    /// α: the chance that a draft token is accepted.
    pub acceptance: f64,
    /// c: time of one draft step over time of one target step.
    pub draft_cost_ratio: f64,
}

impl Speculation {
    /// Speed against plain decoding, S = E / (γc + v(γ+1)). `verify_ratio(b)` is v: the time of a
    /// target step over b tokens, over that of one token.
    pub fn speed_up(&self, draft_tokens: u32, verify_ratio: impl Fn(u32) -> f64) -> f64 {
        let drafting = f64::from(draft_tokens) * self.draft_cost_ratio;
        expected_tokens(self.acceptance, draft_tokens)
            / (drafting + verify_ratio(draft_tokens.saturating_add(1)))
    }

    /// The draft length up to `draft_tokens_max` with the highest speed-up, and that speed-up. The
    /// length is 0 (do not speculate) where nothing gains.
    pub fn best(&self, draft_tokens_max: u32, verify_ratio: impl Fn(u32) -> f64) -> (u32, f64) {
        (1..=draft_tokens_max).fold((0, 1.0), |best, draft_tokens| {
            let speed_up = self.speed_up(draft_tokens, &verify_ratio);
            if speed_up > best.1 { (draft_tokens, speed_up) } else { best }
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAIRS: [(f64, f64); 3] = [(0.8, 0.1), (0.7, 0.1), (0.6, 0.2)];

    fn best_of(pair: (f64, f64), verify_ratio: impl Fn(u32) -> f64) -> (u32, f64) {
        let (draft_tokens, speed_up) =
            Speculation { acceptance: pair.0, draft_cost_ratio: pair.1 }.best(16, verify_ratio);
        (draft_tokens, (speed_up * 100.0).round() / 100.0)
    }

    #[test]
    fn free_verification_gives_the_published_lengths_and_gains() {
        assert_eq!(PAIRS.map(|pair| best_of(pair, |_| 1.0)), [(6, 2.47), (4, 1.98), (2, 1.40)]);
    }

    #[test]
    fn a_rising_verify_cost_shortens_the_draft() {
        let rising = |tokens: u32| 1.0 + 0.1 * f64::from(tokens - 1);
        assert_eq!(PAIRS.map(|pair| best_of(pair, rising)), [(4, 1.87), (3, 1.58), (1, 1.23)]);
    }

    #[test]
    fn where_nothing_gains_there_is_no_draft() {
        assert_eq!(best_of((0.2, 0.5), f64::from), (0, 1.0));
    }

    #[test]
    fn decode_is_bound_by_memory_and_prefill_by_arithmetic() {
        // A 1.5B model at Q4_K_M on a two-core machine.
        let machine = Machine { read_bytes_per_second: 46e9, macs_per_second: 1020e9 };
        let work = StepWork { weight_bytes: 0.98e9, kv_bytes_per_token: 0.0, macs_per_token: 1.31e9 };
        let decode = decode_tokens_per_second_max(machine.read_bytes_per_second, work.weight_bytes);
        assert_eq!(decode.round(), 47.0);
        assert!((step_seconds_min(&machine, &work, 1) - 1.0 / decode).abs() < 1e-12);
        let prefill = prefill_tokens_per_second_max(machine.macs_per_second, work.macs_per_token);
        assert_eq!(prefill.round(), 779.0);
        assert!((step_seconds_min(&machine, &work, 512) - 512.0 / prefill).abs() < 1e-12);
        // Arithmetic hides behind memory for several columns.
        assert_eq!(step_seconds_min(&machine, &work, 8), step_seconds_min(&machine, &work, 1));
    }

    proptest! {
        #[test]
        fn the_series_equals_the_closed_form(acceptance in 0.0..0.999f64, draft_tokens in 0u32..32) {
            let closed = (1.0 - acceptance.powi(draft_tokens as i32 + 1)) / (1.0 - acceptance);
            prop_assert!((expected_tokens(acceptance, draft_tokens) - closed).abs() < 1e-9 * closed);
            prop_assert_eq!(expected_tokens(1.0, draft_tokens), f64::from(draft_tokens) + 1.0);
        }
    }
}
