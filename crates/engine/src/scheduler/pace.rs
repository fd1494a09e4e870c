//! How long steps take, so that prompts do not hold up those who write: [`Pace`].

/// A prompt's part of a step may make it longer by so many steps without one; hardly a step in a hundred shall
/// be longer by more. That is two of the usual ones: a few long ones make their mean longer.
const STALL_STEPS_MAX: f64 = 1.7;
/// What prompts take at most: steps vary.
const STALL_STEPS: f64 = 1.6;
/// What they take where steps vary so much that too many are too long.
const STALL_STEPS_MIN: f64 = 0.8;
/// By how much less prompts take after a step that was too long, and by how much more after any other: this is at
/// rest where one in a hundred is (stochastic approximation of a quantile, Robbins and Monro 1951).
const LESS_STEPS: f64 = 0.2;
const MORE_STEPS: f64 = LESS_STEPS / 99.0;
/// That is what one prompt may hold others up. Where more wait, each may, up to so many more: they would wait much longer
/// than those who write, and long chunks cost the least.
const RUSH_MAX: usize = 3;
/// Fewest prompt tokens beside writers.
const CHUNK_TOKENS_MIN: usize = 4;
/// The kernels' tiles: a step's tokens are whole ones of them, since a begun one takes as long as a whole.
const TILE_TOKENS: usize = 8;
/// A step that reads the weights once takes as long as about so many tokens of a long prompt.
const STEP_TOKENS: f64 = 8.0;
/// Prompts of fewer tokens say nothing of what one token takes: reading the weights takes most.
const PROMPT_TOKENS_MIN: usize = 64;
/// Tokens that took so many times what was expected count as no more than this.
const OUTLIER: f64 = 2.0;
/// Weight of the newest step in the running means.
const NEWEST: f64 = 0.2;
/// After so many steps beside prompts one does without, and shows what writing takes by now.
const LOOK_STEPS: u32 = 32;
/// Weight of such a step: it comes seldom.
const NEWEST_LOOK: f64 = 0.5;

/// Running means of what steps took, in milliseconds. It decides how long chunks are, never what is
/// computed: results do not depend on chunks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// A step in which everyone writes.
    step_ms: Option<f64>,
    /// A token of a prompt that is read in long passes: as cheap as it gets.
    prompt_token_ms: Option<f64>,
    /// What one more token of a prompt adds to a step in which others write.
    beside_token_ms: Option<f64>,
    /// Steps beside prompts since one without.
    beside: u32,
    /// By how many steps prompts take less than [`STALL_STEPS`].
    less_steps: f64,
    /// How many times more prompts may take in this step, for so many wait.
    rush: usize,
}

impl Pace {
    /// Takes a step in: jobs that wrote, tokens of prompts, and what it took without drafted tokens.
    pub fn note(&mut self, (writing, reading): (usize, usize), took_ms: f64) {
        let blend =
            |mean: Option<f64>, new: f64, weight| Some(mean.map_or(new, |mean| mean + weight * (new - mean)));
        match (writing, reading) {
            (0, 0) => {}
            (_, 0) => {
                let weight = if self.beside > 0 { NEWEST_LOOK } else { NEWEST };
                self.step_ms = blend(self.step_ms, took_ms, weight);
                self.beside = 0;
            }
            (0, reading) => {
                if reading >= PROMPT_TOKENS_MIN {
                    self.prompt_token_ms = blend(self.prompt_token_ms, took_ms / reading as f64, NEWEST);
                }
            }
            (_, reading) => {
                self.beside += 1;
                // What writing takes is seen without prompts; what a prompt's tokens take grows with the text
                // before them, and is dearer in short chunks.
                let (Some(step_ms), Some(least_ms)) = (self.step_ms(), self.prompt_token_ms) else { return };
                let is_too_long = took_ms > (1.0 + self.in_rush(STALL_STEPS_MAX)) * step_ms;
                let change = if is_too_long { LESS_STEPS } else { -MORE_STEPS };
                self.less_steps = (self.less_steps + change).clamp(0.0, STALL_STEPS - STALL_STEPS_MIN);
                let token_ms = self.beside_token_ms.unwrap_or(least_ms).max(least_ms);
                let seen_ms = (took_ms - step_ms) / reading as f64;
                // A step that was interrupted says little.
                let seen_ms = seen_ms.clamp(least_ms, token_ms * OUTLIER);
                self.beside_token_ms = blend(Some(token_ms), seen_ms, NEWEST);
            }
        }
    }

    /// Whether the next step should do without prompts, for what is known of writing has become old.
    pub fn is_due_a_look(&self) -> bool {
        self.beside >= LOOK_STEPS
    }

    /// How long a step without prompts takes, if anything is known of it.
    pub fn step_ms(&self) -> Option<f64> {
        self.step_ms.or(self.prompt_token_ms.map(|ms| ms * STEP_TOKENS))
    }

    /// What reading a prompt takes, as far as it is known.
    pub fn prompt_ms(&self, tokens: usize) -> f64 {
        self.prompt_token_ms.unwrap_or(0.0) * tokens as f64
    }

    fn in_rush(&self, steps: f64) -> f64 {
        steps * (1 + self.rush) as f64
    }

    /// Most tokens of `prompts` in the next step, beside `writing` tokens of writers, whose steps take `step_ms` without.
    pub fn chunk_tokens(&mut self, step_ms: Option<f64>, (writing, prompts): (usize, usize)) -> usize {
        self.rush = prompts.saturating_sub(1).min(RUSH_MAX);
        let tokens = match (step_ms, self.beside_token_ms.or(self.prompt_token_ms)) {
            (Some(step_ms), Some(token_ms)) => {
                let steps = self.in_rush(STALL_STEPS - self.less_steps);
                (steps * step_ms / token_ms.max(1e-6)) as usize
            }
            _ => TILE_TOKENS,
        };
        let in_tiles = (writing + tokens) / TILE_TOKENS * TILE_TOKENS;
        in_tiles.saturating_sub(writing).max(CHUNK_TOKENS_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cost_less_than_two_steps_as_far_as_is_known() {
        let mut pace = Pace::default();
        assert_eq!(pace.chunk_tokens(None, (1, 1)), 7, "a tile as long as nothing is known");
        pace.note((0, 512), 1024.0); // 2 ms a token
        assert_eq!(pace.chunk_tokens(pace.step_ms(), (4, 1)), 12, "from what prompts take");
        pace.note((1, 0), 20.0);
        assert_eq!(pace.chunk_tokens(pace.step_ms(), (1, 1)), 15);
        for _ in 0..100 {
            pace.note((8, 0), 33.0);
        }
        assert_eq!(pace.chunk_tokens(pace.step_ms(), (8, 1)), 24);
        assert!((pace.prompt_ms(100) - 200.0).abs() < 1.0);
    }

    #[test]
    fn chunks_become_shorter_as_their_tokens_become_dearer() {
        let mut pace = Pace::default();
        pace.note((0, 512), 1024.0);
        pace.note((1, 0), 20.0);
        assert_eq!(pace.chunk_tokens(Some(20.0), (1, 1)), 15);
        for _ in 0..100 {
            pace.note((1, 15), 53.0); // 2.2 ms a token
        }
        assert_eq!(pace.chunk_tokens(Some(20.0), (1, 1)), 7);
        assert_eq!(pace.step_ms(), Some(20.0), "others' steps did not become longer");
        assert_eq!(pace.prompt_ms(100), 200.0, "nor whole prompts dearer");
        for _ in 0..100 {
            pace.note((1, 7), 5.0);
        }
        assert_eq!(pace.chunk_tokens(Some(20.0), (1, 1)), 15, "as in long passes, however fast steps seem");
    }

    #[test]
    fn a_machine_that_became_slower_is_seen_by_steps_without_prompts() {
        let mut pace = Pace::default();
        pace.note((0, 512), 1024.0);
        pace.note((1, 0), 20.0);
        let mut looks = 0;
        for _ in 0..400 {
            // All takes three times as long.
            if pace.is_due_a_look() {
                looks += 1;
                pace.note((1, 0), 60.0);
            } else {
                let chunk = pace.chunk_tokens(pace.step_ms(), (1, 1));
                pace.note((1, chunk), 60.0 + 6.0 * chunk as f64);
            }
        }
        assert_eq!(looks, 12);
        assert_eq!(pace.chunk_tokens(pace.step_ms(), (1, 1)), 15, "as when all was faster");
    }

    #[test]
    fn where_steps_vary_prompts_take_less_until_one_in_a_hundred_is_too_long() {
        // One step in twenty takes so much longer: the chunks of the last thousand, and how many steps were too long.
        let steps = |extra_ms: f64| {
            let mut pace = Pace::default();
            pace.note((0, 512), 1024.0);
            pace.note((1, 0), 20.0);
            let steps = (0..2000).map(|step| {
                let chunk = pace.chunk_tokens(Some(20.0), (1, 1));
                let took_ms = 20.0 + 2.0 * chunk as f64 + if step % 20 == 0 { extra_ms } else { 0.0 };
                pace.note((1, chunk), took_ms);
                (chunk, took_ms > 20.0 * (1.0 + STALL_STEPS_MAX))
            });
            let (chunks, too_long): (Vec<usize>, Vec<bool>) = steps.skip(1000).unzip();
            (chunks, too_long.into_iter().filter(|&too_long| too_long).count())
        };
        let (chunks, too_long) = steps(0.0);
        assert!(chunks.iter().all(|&chunk| chunk == 15) && too_long == 0, "{chunks:?}");
        // 18 ms more are too long beside 15 tokens, not beside 7.
        let (chunks, too_long) = steps(18.0);
        assert!((1..20).contains(&too_long), "{too_long} of 1000: {chunks:?}");
        let (chunks, too_long) = steps(100.0);
        assert!(
            too_long == 50 && chunks.iter().all(|&chunk| chunk <= 7),
            "short for nothing, but no shorter"
        );
        assert!(chunks.iter().filter(|&&chunk| chunk == 7).count() > 500, "{chunks:?}");
    }

    #[test]
    fn where_more_prompts_wait_they_take_more_of_a_step() {
        let mut pace = Pace::default();
        pace.note((0, 512), 1024.0);
        pace.note((1, 0), 20.0);
        let chunks = [1, 2, 3, 4, 31].map(|prompts| pace.chunk_tokens(Some(20.0), (1, prompts)));
        assert_eq!(chunks, [15, 31, 47, 63, 63]);
        for _ in 0..100 {
            let chunk = pace.chunk_tokens(Some(20.0), (1, 3));
            pace.note((1, chunk), 20.0 + 2.0 * chunk as f64);
        }
        assert_eq!(pace.chunk_tokens(Some(20.0), (1, 1)), 15, "such steps are not too long");
    }

    #[test]
    fn an_interrupted_step_counts_little() {
        let mut pace = Pace::default();
        pace.note((0, 512), 1024.0);
        pace.note((1, 0), 20.0);
        pace.note((1, 15), 1e6);
        assert_eq!(pace.chunk_tokens(Some(20.0), (1, 1)), 7, "a fifth dearer at most");
    }

    #[test]
    fn steps_without_tokens_or_time_do_no_harm() {
        let mut pace = Pace::default();
        for step in [(0, 0), (1, 0), (0, 64), (1, 64), (1, 8)] {
            pace.note(step, 0.0);
            assert!(pace.chunk_tokens(pace.step_ms(), (1, 1)) >= CHUNK_TOKENS_MIN);
        }
    }
}
