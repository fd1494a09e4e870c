//! What a model file is and what running it takes, told without loading its weights: [`Footprint`].

use std::path::Path;

use engine::gguf::Gguf;
use engine::model::{LoadOptions, Model};
use kernels::pool::Pool;
use planner::memory::{KvFormat, KvLayer, kv_bytes, kv_bytes_per_token};

use crate::context::in_file;
use crate::error::CliError;

/// A model's size and the shape of its key-value cache.
#[derive(Clone, Debug)]
pub struct Footprint {
    /// `general.architecture`.
    pub architecture: String,
    /// Bytes of the file, nearly all of them weights.
    pub file_bytes: u64,
    /// Longest sequence that the model was made for.
    pub context_tokens_max: u64,
    /// What each layer keeps.
    pub layers: Vec<KvLayer>,
}

impl Footprint {
    /// Reads a file.
    ///
    /// # Errors
    /// If it is no model that the engine runs.
    pub fn read(path: &Path) -> Result<Self, CliError> {
        let gguf = Gguf::open(path).map_err(|error| in_file(path, &error.into()))?;
        Footprint::of(gguf).map_err(|error| in_file(path, &error))
    }

    /// Of an opened file.
    ///
    /// # Errors
    /// If it is no model that the engine runs.
    pub fn of(gguf: Gguf) -> Result<Self, engine::model::LoadError> {
        let file_bytes = gguf.mapped().bytes().len() as u64;
        // The exact form leaves the matrices in the mapped file, so this costs milliseconds.
        let options = LoadOptions { exact: true, ..LoadOptions::default() };
        let model = Model::from_gguf(gguf, options, &Pool::new(1))?;
        let spec = model.spec();
        let layer = |window: Option<usize>| KvLayer {
            kv_heads: spec.kv_heads as u32,
            head_dim: spec.head_dim as u32,
            window_tokens: window.map(|tokens| tokens as u64),
        };
        Ok(Footprint {
            architecture: spec.architecture.clone(),
            file_bytes,
            context_tokens_max: spec.context_tokens as u64,
            layers: spec.layers.iter().map(|spec| layer(spec.window)).collect(),
        })
    }

    /// Bytes of f16 keys and values that one more token takes while no window is full.
    pub fn kv_bytes_per_token(&self) -> u64 {
        kv_bytes_per_token(&self.layers, KvFormat::F16)
    }

    /// Bytes of f16 keys and values of one sequence.
    pub fn kv_bytes(&self, context_tokens: u64) -> u64 {
        kv_bytes(&self.layers, context_tokens, KvFormat::F16)
    }
}

/// A model that is to run within a budget.
#[derive(Clone, Debug)]
pub struct Need {
    /// Its name.
    pub name: String,
    /// What it is.
    pub footprint: Footprint,
    /// Longest sequence wanted, tokens.
    pub context_tokens: u64,
    /// Sequences at once.
    pub sequences: u64,
    /// Positions of the KV cache; `None`: all sequences in full.
    pub kv_tokens: Option<u64>,
}

impl Need {
    /// Positions of the KV cache.
    pub fn kv_tokens(&self) -> u64 {
        let full = self.context_tokens.min(self.footprint.context_tokens_max).saturating_mul(self.sequences);
        self.kv_tokens.unwrap_or(full)
    }

    /// Bytes of the KV cache.
    pub fn kv_bytes(&self) -> u64 {
        // A window is kept per sequence, everything else is shared.
        let shared = |layer: &KvLayer| KvLayer {
            window_tokens: layer.window_tokens.map(|window| window.saturating_mul(self.sequences)),
            ..*layer
        };
        let layers: Vec<KvLayer> = self.footprint.layers.iter().map(shared).collect();
        kv_bytes(&layers, self.kv_tokens(), KvFormat::F16)
    }
}

/// Contexts that are proposed are multiples of this many tokens, and at least as long.
const CONTEXT_STEP_TOKENS: u64 = 256;

/// Checks that weights and caches fit into `budget` bytes.
///
/// # Errors
/// In words: what takes how much, and the smallest change that would fit.
pub fn fit(budget: u64, needs: &[Need]) -> Result<(), String> {
    let total = |needs: &[Need]| {
        needs.iter().fold(0u64, |sum, need| {
            sum.saturating_add(need.footprint.file_bytes).saturating_add(need.kv_bytes())
        })
    };
    let wanted = total(needs);
    if wanted <= budget {
        return Ok(());
    }
    let with_context = |context_tokens: u64| -> Vec<Need> {
        needs.iter().cloned().map(|need| Need { context_tokens, kv_tokens: None, ..need }).collect()
    };
    let longest = needs.iter().map(|need| need.context_tokens.min(need.footprint.context_tokens_max)).max();
    let (mut fits, mut too_long) = (0, longest.unwrap_or(0).div_ceil(CONTEXT_STEP_TOKENS));
    while fits + 1 < too_long {
        let middle = fits.midpoint(too_long);
        if total(&with_context(middle * CONTEXT_STEP_TOKENS)) <= budget {
            fits = middle;
        } else {
            too_long = middle;
        }
    }
    let size = crate::output::size;
    let parts = needs.iter().map(|need| {
        let (weights, kv) = (size(need.footprint.file_bytes), size(need.kv_bytes()));
        format!("{}: weights {weights} and KV cache {kv}", need.name)
    });
    let parts: Vec<String> = parts.collect();
    let advice = match fits * CONTEXT_STEP_TOKENS {
        0 => {
            let least = total(&with_context(CONTEXT_STEP_TOKENS));
            format!(
                "with a context of {CONTEXT_STEP_TOKENS} tokens they need {}, so give --memory that much",
                size(least)
            )
        }
        context => format!("--context {context} would fit"),
    };
    Err(format!(
        "the models need {} ({}), but the memory budget is {}; {advice}",
        size(wanted),
        parts.join("; "),
        size(budget)
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    fn need(file_mib: u64, context_tokens: u64, sequences: u64) -> Need {
        let layers = vec![KvLayer { kv_heads: 2, head_dim: 64, window_tokens: None }; 24];
        let footprint = Footprint {
            architecture: "qwen2".to_owned(),
            file_bytes: file_mib * MIB,
            context_tokens_max: 32_768,
            layers,
        };
        Need { name: "m".to_owned(), footprint, context_tokens, sequences, kv_tokens: None }
    }

    #[test]
    fn a_cache_holds_all_sequences_within_the_models_limit() {
        // 24 layers · 2 · 2 · 64 · 2 bytes = 12 KiB per token.
        assert_eq!(need(1, 8192, 4).kv_bytes(), 384 * MIB);
        assert_eq!(need(1, 1 << 20, 1).kv_tokens(), 32_768);
        assert_eq!(Need { kv_tokens: Some(100), ..need(1, 8192, 4) }.kv_bytes(), 100 * 12 * 1024);
    }

    #[test]
    fn windows_are_kept_per_sequence() {
        let mut windowed = need(1, 8192, 4);
        windowed.footprint.layers.iter_mut().for_each(|layer| layer.window_tokens = Some(512));
        assert_eq!(windowed.kv_bytes(), 4 * 512 * 12 * 1024);
    }

    #[test]
    fn a_budget_that_is_too_small_is_refused_with_what_would_fit() {
        let pair = [need(400, 8192, 4), need(1000, 8192, 4)];
        assert_eq!(fit(2168 * MIB, &pair), Ok(()));
        let error = fit(2167 * MIB, &pair).unwrap_err();
        assert!(error.contains("--context 7936 would fit") && error.contains("need 2.1 GiB"), "{error}");
        let error = fit(1000 * MIB, &pair).unwrap_err();
        assert!(error.contains("give --memory that much"), "{error}");
    }

    proptest! {
        #[test]
        fn the_proposed_context_fits_and_a_longer_one_does_not(
            budget_mib in 100u64..3000, context in 256u64..40_000, sequences in 1u64..8,
        ) {
            let wanted = need(200, context, sequences);
            let Err(error) = fit(budget_mib * MIB, std::slice::from_ref(&wanted)) else { return Ok(()) };
            let Some((_, rest)) = error.split_once("--context ") else { return Ok(()) };
            let proposed: u64 = rest.split(' ').next().unwrap().parse().unwrap();
            let fits = |context_tokens| fit(budget_mib * MIB, &[Need { context_tokens, ..wanted.clone() }]).is_ok();
            prop_assert!(fits(proposed), "{error}");
            prop_assert!(!fits(proposed + CONTEXT_STEP_TOKENS), "{error}");
        }
    }
}
