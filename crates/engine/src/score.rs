//! Teacher-forced scoring: the log-probabilities of given tokens, and perplexity.

use crate::decoder::{Decoder, ForwardError, Logits, Work};

/// Tokens per forward pass: each keeps a row of logits.
const SCORE_TOKENS: usize = 64;

/// Natural log of the sum of e^logit, in f64.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| f64::from(x - top).exp()).sum();
    f64::from(top) + sum.ln()
}

/// The `count` likeliest tokens with their log-probabilities, likeliest first, ties to the lower id.
pub fn likeliest(logits: &[f32], log_sum: f64, count: usize) -> Vec<(u32, f64)> {
    let mut best: Vec<(u32, f32)> = Vec::with_capacity(count + 1);
    for (id, &logit) in logits.iter().enumerate() {
        if best.len() == count && best.last().is_none_or(|&(_, worst)| logit <= worst) {
            continue;
        }
        let at = best.partition_point(|&(_, other)| other >= logit);
        best.insert(at, (id as u32, logit));
        best.truncate(count);
    }
    best.into_iter().map(|(id, logit)| (id, f64::from(logit) - log_sum)).collect()
}

/// What one position predicts.
#[derive(Clone, Debug, PartialEq)]
pub struct Position {
    /// Index of the last token seen.
    pub position: usize,
    /// The likeliest next tokens with their log-probabilities (natural log).
    pub top: Vec<(u32, f64)>,
    /// Log-probability of the token that does follow; `None` at the end.
    pub next_logprob: Option<f64>,
}

/// Log-probabilities after every one of `ids`, from an empty cache.
///
/// # Errors
/// If the tokens can't be processed.
pub fn score(decoder: &mut Decoder, ids: &[u32], top: usize) -> Result<Vec<Position>, ForwardError> {
    let mut positions = Vec::with_capacity(ids.len());
    each_position(decoder, ids, |position, logits| {
        let log_sum = log_sum_exp(logits);
        let next = ids.get(position + 1).map(|&id| f64::from(logits[id as usize]) - log_sum);
        positions.push(Position { position, top: likeliest(logits, log_sum, top), next_logprob: next });
    })?;
    Ok(positions)
}

/// Calls `visit(position, logits)` after every token.
fn each_position(
    decoder: &mut Decoder,
    ids: &[u32],
    mut visit: impl FnMut(usize, &[f32]),
) -> Result<(), ForwardError> {
    let vocabulary = decoder.model().vocabulary();
    let sequence = decoder.begin()?;
    let mut result = Ok(());
    for (index, tokens) in ids.chunks(SCORE_TOKENS).enumerate() {
        match decoder.forward(&[Work { sequence, tokens, logits: Logits::All }]) {
            Ok(logits) => {
                for (offset, logits) in logits.chunks_exact(vocabulary).enumerate() {
                    visit(index * SCORE_TOKENS + offset, logits);
                }
            }
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    decoder.end(sequence);
    result
}

/// Perplexity so far, by llama.cpp's convention.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Perplexity {
    /// Sum of negative log-likelihoods.
    nll: f64,
    /// Sum of their squares.
    nll_squared: f64,
    /// Tokens scored.
    pub tokens: usize,
    /// The value after each chunk.
    pub running: Vec<f64>,
}

impl Perplexity {
    /// Scores one chunk: from an empty cache, the second half given the first. `bos` replaces the
    /// chunk's first token.
    ///
    /// # Errors
    /// If the tokens can't be processed.
    pub fn add_chunk(
        &mut self,
        decoder: &mut Decoder,
        chunk: &[u32],
        bos: Option<u32>,
    ) -> Result<(), ForwardError> {
        let mut ids = chunk.to_vec();
        if let (Some(bos), Some(first)) = (bos, ids.first_mut()) {
            *first = bos;
        }
        let first_scored = chunk.len() / 2;
        each_position(decoder, &ids, |position, logits| {
            if position < first_scored || position + 1 >= chunk.len() {
                return;
            }
            let nll = log_sum_exp(logits) - f64::from(logits[chunk[position + 1] as usize]);
            self.nll += nll;
            self.nll_squared += nll * nll;
            self.tokens += 1;
        })?;
        self.running.push(self.value());
        Ok(())
    }

    /// exp(mean negative log-likelihood).
    pub fn value(&self) -> f64 {
        (self.nll / self.tokens as f64).exp()
    }

    /// Standard error of [`Perplexity::value`].
    pub fn error(&self) -> f64 {
        let mean = self.nll / self.tokens as f64;
        let variance = (self.nll_squared / self.tokens as f64 - mean * mean).max(0.0);
        self.value() * (variance / (self.tokens as f64 - 1.0)).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_likeliest_are_those_of_a_full_sort(logits in prop::collection::vec(-5i8..5, 1..60), count in 1usize..12) {
            let logits: Vec<f32> = logits.into_iter().map(f32::from).collect();
            let log_sum = log_sum_exp(&logits);
            let mut all: Vec<(u32, f64)> =
                logits.iter().enumerate().map(|(id, &x)| (id as u32, f64::from(x) - log_sum)).collect();
            all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            all.truncate(count);
            prop_assert_eq!(likeliest(&logits, log_sum, count), all);
            let total: f64 = logits.iter().map(|&x| (f64::from(x) - log_sum).exp()).sum();
            prop_assert!((total - 1.0).abs() < 1e-9);
        }
    }

    #[test]
    fn perplexity_of_known_likelihoods() {
        let scored = Perplexity { nll: 6.0, nll_squared: 14.0, tokens: 3, running: Vec::new() };
        assert!((scored.value() - 2f64.exp()).abs() < 1e-12);
        // Variance of (1, 2, 3) is 2/3; over 2.
        assert!((scored.error() - 2f64.exp() * (1.0f64 / 3.0).sqrt()).abs() < 1e-12);
    }
}
