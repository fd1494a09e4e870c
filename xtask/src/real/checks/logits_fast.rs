//! The fast path (quantized activations) against the exact answer, and against llama.cpp as people run
//! it. On average it may be no further from the exact answer than llama.cpp is; the other tolerances
//! follow llama.cpp's own distances from the exact answer and from itself.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::real::distance::Distance;
use crate::real::options::Scope;
use crate::real::report::{Line, Report};
use crate::real::rig::Rig;
use crate::real::{Check, golden};

pub const CHECK: Check = Check {
    name: "logits_fast",
    about: "fast path against f32 log-probabilities and against llama.cpp as run",
    run,
};

/// What may be apart, all texts of a model together; positions from 1 on unless it says otherwise.
struct Tolerance {
    model: &'static str,
    /// Of |Δ log-probability| against f32, position 0 included: llama.cpp's own mean without it.
    mean: f64,
    /// llama.cpp's own 99th percentile × 1.5.
    p99: f64,
    /// Largest |Δ| at position 0: llama.cpp's own, except where that is lost (5.3 on the 1.5B, whose
    /// first token has peaks that int8 blocks of 256 do not hold).
    first_max: f64,
    /// Least share of positions with the same likeliest token: llama.cpp's own less 0.02.
    same_first: f64,
    /// Mean of |Δ| against llama.cpp as run: its worst distance from itself × 1.5.
    mean_as_run: f64,
}

const TOLERANCES: &[Tolerance] = &[
    Tolerance {
        model: "smollm2-135m",
        mean: 0.108,
        p99: 0.74,
        first_max: 0.16,
        same_first: 0.948,
        mean_as_run: 1.5 * 0.119,
    },
    Tolerance {
        model: "gemma3-270m",
        mean: 0.144,
        p99: 1.19,
        first_max: 0.22,
        same_first: 0.944,
        mean_as_run: 1.5 * 0.173,
    },
    Tolerance {
        model: "qwen2.5-coder-0.5b",
        mean: 0.061,
        p99: 0.40,
        first_max: 0.28,
        same_first: 0.964,
        mean_as_run: 1.5 * 0.065,
    },
    Tolerance {
        model: "qwen2.5-coder-1.5b",
        mean: 0.076,
        p99: 0.48,
        first_max: 2.0,
        same_first: 0.960,
        mean_as_run: 1.5 * 0.086,
    },
];

/// A quick run's mean is over a few texts, on which llama.cpp's own is up to this many times its mean
/// over all.
const QUICK_MEAN: f64 = 1.1;

/// Of the mean of ours − golden over the tokens that follow: noise costs a little, a mistake more.
const NEXT_BIAS_MAX: f64 = 0.02;

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
        let mut apart = Apart::default();
        for (golden, ours) in score(rig, model, exact, &[])? {
            apart.all.add(golden, &ours, |_| true)?;
            apart.first.add(golden, &ours, |position| position == 0)?;
            apart.later.add(golden, &ours, |position| position > 0)?;
            let same_text = |line: &&Value| line["id"] == golden["id"] && line["ids"] == golden["ids"];
            let run = as_run.iter().find(same_text);
            let run = run.ok_or_else(|| format!("logits.jsonl lacks the text {}", golden["id"]))?;
            apart.as_run.add(run, &ours, |position| position > 0)?;
        }
        report.line(line(tolerance, rig.scope, &apart));
    }
    Ok(())
}

/// Distances of our log-probabilities, all texts of a model together.
#[derive(Debug, Default)]
struct Apart {
    /// From f32, every position.
    all: Distance,
    /// From f32, position 0.
    first: Distance,
    /// From f32, the others.
    later: Distance,
    /// From llama.cpp as run, the others: at position 0 it is off itself.
    as_run: Distance,
}

fn line(tolerance: &Tolerance, scope: Scope, apart: &Apart) -> Line {
    let mean = tolerance.mean * if matches!(scope, Scope::Quick) { QUICK_MEAN } else { 1.0 };
    let mut line = Line::new(tolerance.model)
        .note(format!("{} positions", apart.all.positions()))
        .at_most("mean", apart.all.mean(), mean)
        .at_most("position 0: max", apart.first.max(), tolerance.first_max)
        .at_most("p99", apart.later.p99(), tolerance.p99);
    // One position of a few counts too much.
    line = match scope {
        Scope::Quick => line.note(format!("same first {:.4}", apart.later.same_first())),
        _ => line.at_least("same first", apart.later.same_first(), tolerance.same_first),
    };
    line.note(format!("max {:.3}", apart.later.max()))
        .at_most("|next bias|", apart.later.next_bias().abs(), NEXT_BIAS_MAX)
        .at_most("as run: mean", apart.as_run.mean(), tolerance.mean_as_run)
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
