//! One call of one backend for one request, with what it showed: [`Attempt`].

use serde::{Deserialize, Serialize};

use crate::{BackendError, Findings, FinishReason, Role, TokenLogprob};

/// How far an attempt is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttemptStatus {
    /// The prompt is read and nothing written: if its role is called next, this attempt goes on.
    Read,
    /// Still writing: its first window of tokens is held back for the policy to judge.
    Partial,
    /// Complete.
    Finished(FinishReason),
    /// The backend failed.
    Failed(BackendError),
    /// Given up: the policy escalated, or the client left.
    Cancelled,
}

/// Tokens processed, as the backend counted them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    pub prompt_tokens: u64,
    /// Of these, how many came from a cache.
    pub cached_tokens: u64,
    /// Tokens written.
    pub completion_tokens: u64,
    /// Draft tokens that the target accepted.
    pub accepted_prediction_tokens: u64,
    /// Draft tokens that it rejected.
    pub rejected_prediction_tokens: u64,
}

/// Where the time of one attempt went, milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// Waiting for a place.
    pub queue_ms: f64,
    /// From the place to the first token: reading the prompt.
    pub prompt_ms: f64,
    /// From the first token to the last.
    pub decode_ms: f64,
}

impl Timings {
    /// All of it.
    pub fn total_ms(&self) -> f64 {
        self.queue_ms + self.prompt_ms + self.decode_ms
    }
}

/// What an attempt's tokens say about its quality. Each token counts with the log-probability (natural
/// log) of the likeliest token at its place, where the backend tells it: so the figures measure how sure
/// the model was, not what a temperature made it draw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Signals {
    /// Tokens the figures are over; 0: the backend told none.
    pub tokens: u32,
    /// Sum of the tokens' log-probabilities.
    pub logprob_sum: f64,
    /// The lowest of them.
    pub logprob_min: f64,
    /// Sum of the entropies, nats, of the distributions that the tokens were drawn from, where the backend
    /// tells them; 0 otherwise.
    #[serde(default)]
    pub entropy_sum: f64,
}

impl Signals {
    /// Takes one more token in.
    pub fn add(&mut self, token: &TokenLogprob) {
        let likeliest = token.top.first().map_or(token.logprob, |top| top.2.max(token.logprob));
        let logprob = f64::from(likeliest);
        self.logprob_min = if self.tokens == 0 { logprob } else { self.logprob_min.min(logprob) };
        self.logprob_sum += logprob;
        self.entropy_sum += token.entropy.map_or(0.0, f64::from);
        self.tokens += 1;
    }

    /// Length-normalised log-probability; `None` without tokens.
    pub fn logprob_mean(&self) -> Option<f64> {
        (self.tokens > 0).then(|| self.logprob_sum / f64::from(self.tokens))
    }
}

/// One call of one backend for one request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// The role that was called.
    pub role: Role,
    /// The model's name.
    pub model: String,
    /// How far it is.
    pub status: AttemptStatus,
    /// What its reading says, if the policy asked for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub findings: Option<Findings>,
    /// The text so far. Empty when replayed from a ledger that keeps no text.
    pub text: String,
    /// What its tokens say.
    pub signals: Signals,
    /// What it processed.
    pub usage: Usage,
    /// Where its time went.
    pub timings: Timings,
    /// What it cost, US dollars.
    pub cost_usd: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(logprob: f32) -> TokenLogprob {
        TokenLogprob { token: String::new(), bytes: Vec::new(), logprob, ..TokenLogprob::default() }
    }

    #[test]
    fn signals_are_length_normalised_and_keep_the_lowest() {
        let mut signals = Signals::default();
        assert_eq!(signals.logprob_mean(), None);
        for logprob in [-0.5, -1.5, -1.0] {
            signals.add(&token(logprob));
        }
        assert_eq!(signals.logprob_mean(), Some(-1.0));
        assert_eq!(signals.logprob_min, -1.5);
        // An unlikely draw beside a sure token says nothing against the model.
        let drawn = TokenLogprob { top: vec![("x".into(), vec![b'x'], -0.25)], ..token(-9.0) };
        signals.add(&drawn);
        assert_eq!((signals.logprob_sum, signals.logprob_min), (-3.25, -1.5));
    }
}
