//! What a backend's tokens cost: [`Price`].

use serde::{Deserialize, Serialize};

use crate::Usage;

/// US dollars per million tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Price {
    /// Prompt tokens that were not cached.
    pub input_usd_per_mtok: f64,
    /// Cached prompt tokens; `None`: the same as the others.
    pub cached_input_usd_per_mtok: Option<f64>,
    /// Written tokens.
    pub output_usd_per_mtok: f64,
}

impl Price {
    /// The cost of `usage`, US dollars.
    pub fn cost_usd(&self, usage: &Usage) -> f64 {
        let cached = usage.cached_tokens.min(usage.prompt_tokens);
        let fresh = usage.prompt_tokens - cached;
        let cached_rate = self.cached_input_usd_per_mtok.unwrap_or(self.input_usd_per_mtok);
        (fresh as f64 * self.input_usd_per_mtok
            + cached as f64 * cached_rate
            + usage.completion_tokens as f64 * self.output_usd_per_mtok)
            / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cached_tokens_are_priced_apart_and_never_twice() {
        let price = Price {
            input_usd_per_mtok: 0.5,
            cached_input_usd_per_mtok: Some(0.05),
            output_usd_per_mtok: 1.5,
        };
        let usage =
            Usage { prompt_tokens: 1000, cached_tokens: 400, completion_tokens: 200, ..Usage::default() };
        let expected = (600.0 * 0.5 + 400.0 * 0.05 + 200.0 * 1.5) / 1e6;
        assert!((price.cost_usd(&usage) - expected).abs() < 1e-12);
        let lying = Usage { cached_tokens: 5000, ..usage };
        assert!(price.cost_usd(&lying) <= price.cost_usd(&Usage { cached_tokens: 1000, ..usage }));
    }
}
