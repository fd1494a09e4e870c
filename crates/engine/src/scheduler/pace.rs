//! How long steps take, so that prompts do not hold up those who write: [`Pace`].

/// A prompt's part of a step may make it longer by this many steps without one: two, with room for
/// steps that take longer than the mean.
const STALL_STEPS: f64 = 1.6;
/// Fewest prompt tokens of a step: they cost little more than reading the weights does.
const CHUNK_TOKENS_MIN: usize = 8;
/// Chunks are multiples of this many tokens: half of the kernels' tiles.
const CHUNK_TOKENS_STEP: usize = 4;
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
        let blend = |mean: &mut Option<f64>, new: f64| {
            *mean = Some(mean.map_or(new, |mean| mean + NEWEST * (new - mean)));
        };
        match (writing, reading, self.step_ms) {
            (0, 0, _) => {}
            (_, 0, _) => blend(&mut self.step_ms, took_ms),
            // A short prompt is mostly the step that it would have been anyway.
            (0, reading, _) if reading >= 4 * CHUNK_TOKENS_MIN => {
                blend(&mut self.prompt_token_ms, took_ms / reading as f64);
            }
            (0, _, _) | (_, _, None) => {}
            (_, reading, Some(step_ms)) => {
                blend(&mut self.prompt_token_ms, (took_ms - step_ms).max(0.0) / reading as f64);
            }
        }
    }

    /// How long a step without prompts takes, if it is known.
    pub fn step_ms(&self) -> Option<f64> {
        self.step_ms
    }

    /// What reading a prompt takes, as far as it is known.
    pub fn prompt_ms(&self, tokens: usize) -> f64 {
        self.prompt_token_ms.unwrap_or(0.0) * tokens as f64
    }

    /// Most prompt tokens beside writers whose steps take `step_ms`.
    pub fn chunk_tokens(&self, step_ms: Option<f64>) -> usize {
        let (Some(step_ms), Some(token_ms)) = (step_ms, self.prompt_token_ms) else {
            return CHUNK_TOKENS_MIN;
        };
        let tokens = (STALL_STEPS * step_ms / token_ms.max(1e-6)) as usize;
        (tokens / CHUNK_TOKENS_STEP * CHUNK_TOKENS_STEP).max(CHUNK_TOKENS_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cost_less_than_two_steps_as_far_as_is_known() {
        let mut pace = Pace::default();
        assert_eq!(pace.chunk_tokens(Some(20.0)), CHUNK_TOKENS_MIN);
        pace.note((0, 512), 1024.0); // 2 ms a token
        pace.note((1, 0), 20.0);
        assert_eq!(pace.chunk_tokens(pace.step_ms()), 16);
        // Beside wider steps, cheaper tokens: the means follow.
        for _ in 0..100 {
            pace.note((8, 0), 33.0);
            pace.note((8, 16), 49.0); // 1 ms a token
        }
        assert_eq!(pace.chunk_tokens(pace.step_ms()), 52);
        assert!((pace.prompt_ms(100) - 100.0).abs() < 1.0);
    }

    #[test]
    fn a_step_without_tokens_or_time_changes_nothing_for_the_worse() {
        let mut pace = Pace::default();
        pace.note((0, 0), 5.0);
        pace.note((1, 0), 0.0);
        pace.note((1, 64), 0.0);
        assert!(pace.chunk_tokens(pace.step_ms()) >= CHUNK_TOKENS_MIN);
    }
}
