//! The fast path (quantized activations) against the exact answer, and against llama.cpp as people run
//! it. Tolerances follow llama.cpp's own distance from the exact answer and from itself.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::real::distance::Distance;
use crate::real::options::Scope;
use crate::real::report::{Line, Report};
use crate::real::rig::{LARGE, Rig};
use crate::real::{Check, golden};

pub const CHECK: Check = Check {
    name: "logits_fast",
    about: "fast path against f32 log-probabilities and against llama.cpp as run",
    run,
};

/// What may be apart, positions from 1 on, all texts of a model together.
struct Tolerance {
    model: &'static str,
    /// Of |Δ log-probability| against f32: llama.cpp's own mean × 1.3.
    mean: f64,
    /// llama.cpp's own 99th percentile × 1.5.
    p99: f64,
    /// Least share of positions with the same likeliest token: llama.cpp's own less 0.02.
    same_first: f64,
    /// Mean of |Δ| against llama.cpp as run: its worst distance from itself × 1.5.
    mean_as_run: f64,
}

const TOLERANCES: &[Tolerance] = &[
    Tolerance { model: "smollm2-135m", mean: 0.14, p99: 0.74, same_first: 0.948, mean_as_run: 1.5 * 0.119 },
    Tolerance { model: "gemma3-270m", mean: 0.19, p99: 1.19, same_first: 0.944, mean_as_run: 1.5 * 0.173 },
    Tolerance {
        model: "qwen2.5-coder-0.5b",
        mean: 0.08,
        p99: 0.40,
        same_first: 0.964,
        mean_as_run: 1.5 * 0.065,
    },
    Tolerance {
        model: "qwen2.5-coder-1.5b",
        mean: 0.10,
        p99: 0.48,
        same_first: 0.960,
        mean_as_run: 1.5 * 0.086,
    },
];

/// Of the mean of ours − golden over the tokens that follow: noise costs a little, a mistake more.
const NEXT_BIAS_MAX: f64 = 0.02;

/// At position 0 the 1.5B's activations have peaks that int8 blocks of 256 lose: llama.cpp is up to
/// 8.9 nats away there, 5.3 among the ten likeliest tokens. Smaller blocks keep most of them.
const FIRST_MAX: f64 = 2.0;

/// Likeliest tokens asked for: enough that golden ones are among them.
const TOP: &str = "200";

fn run(rig: &Rig, report: &mut Report) -> Result<(), String> {
    for &model in &rig.models {
        let tolerance = TOLERANCES.iter().find(|tolerance| tolerance.model == model);
        let tolerance = tolerance.ok_or_else(|| format!("there is no tolerance for {model}"))?;
        let exact = rig.golden("logits_f32.jsonl", model)?;
        let texts_max = rig.scope.pick(3, exact.len(), exact.len());
        let exact = &exact[..texts_max.min(exact.len())];
        let as_run = rig.golden("logits.jsonl", model)?;
        let (mut to_exact, mut to_run, mut first) =
            (Distance::default(), Distance::default(), Distance::default());
        for (golden, ours) in score(rig, model, exact, &[])? {
            to_exact.add(golden, &ours, |position| position > 0)?;
            first.add(golden, &ours, |position| position == 0)?;
            let same_text = |line: &&Value| line["id"] == golden["id"] && line["ids"] == golden["ids"];
            let run = as_run.iter().find(same_text);
            let run = run.ok_or_else(|| format!("logits.jsonl lacks the text {}", golden["id"]))?;
            to_run.add(run, &ours, |position| position > 0)?;
        }
        report.line(line(tolerance, rig.scope, (&to_exact, &to_run, &first)));
    }
    Ok(())
}

fn line(
    tolerance: &Tolerance,
    scope: Scope,
    (to_exact, to_run, first): (&Distance, &Distance, &Distance),
) -> Line {
    let mut line = Line::new(tolerance.model)
        .note(format!("{} positions", to_exact.positions()))
        .at_most("mean", to_exact.mean(), tolerance.mean)
        .at_most("p99", to_exact.p99(), tolerance.p99);
    // One position of a few counts too much.
    line = match scope {
        Scope::Quick => line.note(format!("same first {:.4}", to_exact.same_first())),
        _ => line.at_least("same first", to_exact.same_first(), tolerance.same_first),
    };
    line = line
        .note(format!("max {:.3}", to_exact.max()))
        .at_most("|next bias|", to_exact.next_bias().abs(), NEXT_BIAS_MAX)
        .at_most("as run: mean", to_run.mean(), tolerance.mean_as_run);
    if tolerance.model == LARGE {
        line.at_most("position 0: max", first.max(), FIRST_MAX)
    } else {
        line.note(format!("position 0: max {:.3}", first.max()))
    }
}

/// Runs `tandem logits` over golden texts; gives each with our output. The model is loaded once per
/// context length, which is a text's own: some models choose their rotary factors by it.
///
/// # Errors
/// If the command fails.
pub(super) fn score<'a>(
    rig: &Rig,
    model: &str,
    texts: &'a [Value],
    flags: &[&str],
) -> Result<Vec<(&'a Value, Value)>, String> {
    let mut by_context: BTreeMap<u32, Vec<&Value>> = BTreeMap::new();
    for text in texts {
        let context = golden::number(text, "n_ctx")?;
        by_context.entry(context as u32).or_default().push(text);
    }
    let mut scored = Vec::new();
    for (context, texts) in by_context {
        let inputs: Vec<Value> = texts.iter().map(|text| json!({"ids": text["ids"]})).collect();
        let context = context.to_string();
        let mut arguments =
            vec!["logits", model, "--ids-file", "{}", "--top", TOP, "--context", &context, "--json"];
        arguments.extend(flags);
        scored.extend(texts.into_iter().zip(rig.each(&inputs, &arguments)?));
    }
    Ok(scored)
}
