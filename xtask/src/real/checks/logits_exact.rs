//! The exact path (unquantized activations, f32 KV cache) against the exact answer: the comparison that
//! finds mistakes, because there is no noise for them to hide in.

use serde_json::Value;

use super::logits_fast::score;
use crate::real::distance::Distance;
use crate::real::options::Scope;
use crate::real::report::{Line, Report};
use crate::real::rig::{LARGE, Rig};
use crate::real::{Check, golden};

pub const CHECK: Check =
    Check { name: "logits_exact", about: "exact path against f32 log-probabilities of llama.cpp", run };

/// What |Δ log-probability| may be: `(mean, largest)`.
const TOLERANCE: (f64, f64) = (0.0005, 0.01);
/// ggml takes GELU from a table of f16, the exact path computes it.
const TOLERANCE_GELU: (f64, f64) = (0.005, 0.1);

/// Longer texts are left to a full run where the model is large.
const LARGE_TOKENS_MAX: usize = 200;

fn run(rig: &Rig, report: &mut Report) -> Result<(), String> {
    for &model in &rig.models {
        let texts = chosen(rig.golden("logits_f32.jsonl", model)?, model, rig.scope)?;
        let mut distance = Distance::default();
        let mut tokens = 0;
        for (golden, ours) in score(rig, model, &texts, &["--exact"])? {
            tokens += golden::list(golden, "ids")?.len();
            distance.add(golden, &ours, |_| true)?;
        }
        let (mean, max) = if model.starts_with("gemma") { TOLERANCE_GELU } else { TOLERANCE };
        let line = Line::new(model).note(format!("{} texts, {tokens} tokens", texts.len()));
        let line = line.at_most("mean", distance.mean(), mean).at_most("max", distance.max(), max);
        let bias = format!("{:+.1e}", distance.next_bias());
        report.line(line.note(format!("same first {:.4}, next {bias}", distance.same_first())));
    }
    Ok(())
}

/// The texts that fit into the time, shortest first: the exact path is slow on purpose.
fn chosen(texts: Vec<Value>, model: &str, scope: Scope) -> Result<Vec<Value>, String> {
    let mut sized = Vec::new();
    for text in texts {
        sized.push((golden::list(&text, "ids")?.len(), text));
    }
    sized.sort_by_key(|(tokens, _)| *tokens);
    let tokens_max = if model == LARGE { LARGE_TOKENS_MAX } else { usize::MAX };
    let tokens_max = scope.pick(tokens_max, tokens_max, usize::MAX);
    let texts_max = scope.pick(1, usize::MAX, usize::MAX);
    let fits = sized.into_iter().filter(|(tokens, _)| *tokens <= tokens_max);
    Ok(fits.map(|(_, text)| text).take(texts_max).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn long_texts_of_the_large_model_wait_for_a_full_run() {
        let text = |tokens: usize| json!({"ids": vec![0; tokens]});
        let sizes = |scope, model| -> Vec<usize> {
            let chosen = chosen(vec![text(300), text(90), text(80)], model, scope).unwrap();
            chosen.iter().map(|text| text["ids"].as_array().unwrap().len()).collect()
        };
        assert_eq!(sizes(Scope::Quick, LARGE), [80]);
        assert_eq!(sizes(Scope::Normal, LARGE), [80, 90]);
        assert_eq!(sizes(Scope::Normal, "other"), [80, 90, 300]);
        assert_eq!(sizes(Scope::Full, LARGE), [80, 90, 300]);
    }
}
