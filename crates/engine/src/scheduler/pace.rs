//! How long steps take, so that prompts do not hold up those who write: [`Pace`].

/// A prompt's part of a step may make it longer by this many steps without one: two, with room for
/// steps that take longer than the mean.
const STALL_STEPS: f64 = 1.6;
/// Fewest prompt tokens beside writers.
const CHUNK_TOKENS_MIN: usize = 4;
/// The kernels' tiles: a step's tokens are multiples of them where that is near.
const TILE_TOKENS: usize = 8;
/// A step that reads the weights once takes as long as about so many tokens of a long prompt.
const STEP_TOKENS: f64 = 8.0;
/// Prompts of fewer tokens say nothing of what one token takes: reading the weights takes most.
const PROMPT_TOKENS_MIN: usize = 64;
/// Weight of the newest step in the running means.
const NEWEST: f64 = 0.2;

/// Running means of what steps took, in milliseconds. It decides how long chunks are, never what is
/// computed: results do not depend on chunks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// A step in which everyone writes.
    step_ms: Option<f64>,
    /// What one more token of a prompt adds.
    prompt_token_ms: Option<f64>,
}

impl Pace {
    /// Takes a step in: tokens written, tokens of prompts, and what it took.
    pub fn note(&mut self, (writing, reading): (usize, usize), took_ms: f64) {
        let blend = |mean: Option<f64>, new: f64| Some(mean.map_or(new, |mean| mean + NEWEST * (new - mean)));
        match (writing, reading) {
            (0, 0) => {}
            (_, 0) => self.step_ms = blend(self.step_ms, took_ms),
            (0, reading) => {
                if reading >= PROMPT_TOKENS_MIN {
                    self.prompt_token_ms = blend(self.prompt_token_ms, took_ms / reading as f64);
                }
            }
            (_, reading) => {
                // Which of the two was off is not known: both move.
                let (Some(step_ms), Some(token_ms)) = (self.step_ms(), self.prompt_token_ms) else { return };
                let expected_ms = step_ms + token_ms * reading as f64;
                let factor = 1.0 + NEWEST * (took_ms / expected_ms.max(f64::MIN_POSITIVE) - 1.0);
                (self.step_ms, self.prompt_token_ms) = (Some(step_ms * factor), Some(token_ms * factor));
            }
        }
    }

    /// How long a step without prompts takes, if anything is known of it.
    pub fn step_ms(&self) -> Option<f64> {
        self.step_ms.or(self.prompt_token_ms.map(|ms| ms * STEP_TOKENS))
    }

    /// What reading a prompt takes, as far as it is known.
    pub fn prompt_ms(&self, tokens: usize) -> f64 {
        self.prompt_token_ms.unwrap_or(0.0) * tokens as f64
    }

    /// Most prompt tokens of a step beside `writing` tokens of writers; `step_ms` is what their steps take
    /// without.
    pub fn chunk_tokens(&self, step_ms: Option<f64>, writing: usize) -> usize {
        let tokens = match (step_ms, self.prompt_token_ms) {
            (Some(step_ms), Some(token_ms)) => (STALL_STEPS * step_ms / token_ms.max(1e-6)) as usize,
            _ => TILE_TOKENS,
        };
        let in_tiles = (writing + tokens + TILE_TOKENS / 2) / TILE_TOKENS * TILE_TOKENS;
        in_tiles.saturating_sub(writing).max(CHUNK_TOKENS_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cost_less_than_two_steps_as_far_as_is_known() {
        let mut pace = Pace::default();
        assert_eq!(pace.chunk_tokens(None, 1), 7, "a tile as long as nothing is known");
        pace.note((0, 512), 1024.0); // 2 ms a token
        assert_eq!(pace.chunk_tokens(pace.step_ms(), 4), 12, "from what prompts take");
        pace.note((1, 0), 20.0);
        assert_eq!(pace.chunk_tokens(pace.step_ms(), 1), 15);
        for _ in 0..100 {
            pace.note((8, 0), 33.0);
        }
        assert_eq!(pace.chunk_tokens(pace.step_ms(), 8), 24);
        assert!((pace.prompt_ms(100) - 200.0).abs() < 1.0);
    }

    #[test]
    fn mixed_steps_that_take_longer_than_expected_make_chunks_no_longer() {
        let mut pace = Pace::default();
        pace.note((0, 512), 1024.0);
        pace.note((1, 0), 20.0);
        for _ in 0..100 {
            pace.note((8, 16), 100.0);
        }
        let expected = pace.step_ms().unwrap() + pace.prompt_ms(16);
        assert!((expected - 100.0).abs() < 1.0, "{expected}");
        assert!(pace.chunk_tokens(Some(20.0), 1) < 15, "others' steps did not become longer");
    }

    #[test]
    fn steps_without_tokens_or_time_do_no_harm() {
        let mut pace = Pace::default();
        for step in [(0, 0), (1, 0), (0, 64), (1, 64), (1, 8)] {
            pace.note(step, 0.0);
            assert!(pace.chunk_tokens(pace.step_ms(), 1) >= CHUNK_TOKENS_MIN);
        }
    }
}
