//! Perplexity over the golden texts, chunk by chunk as `llama-perplexity` computes it.

use std::fs;

use serde_json::Value;

use crate::real::report::{Line, Report};
use crate::real::rig::Rig;
use crate::real::{Check, golden};

pub const CHECK: Check =
    Check { name: "perplexity", about: "perplexity of prose and code against llama-perplexity", run };

/// Chunks gone through per model: `(model, quick, normal)`. A full run takes all that are recorded.
const CHUNKS: &[(&str, usize, usize)] = &[
    ("smollm2-135m", 3, 10),
    ("gemma3-270m", 3, 6),
    ("qwen2.5-coder-0.5b", 1, 3),
    ("qwen2.5-coder-1.5b", 1, 1),
];

/// The model that also goes through its exact path, as the quickest.
const EXACT: &str = "smollm2-135m";
/// Its chunks.
const EXACT_CHUNKS: usize = 1;

/// Positions scored per chunk of 512 tokens.
const SCORED: f64 = 255.0;
/// How far the standard error may be off, as a share: it follows the perplexity.
const ERROR_TOLERANCE: f64 = 0.05;

/// How far perplexity may be off after so many chunks, as a share.
fn tolerance(chunks: usize) -> f64 {
    match chunks {
        0..=2 => 0.03,
        3..=5 => 0.015,
        6..=9 => 0.01,
        10.. => 0.007,
    }
}

fn run(rig: &Rig, report: &mut Report) -> Result<(), String> {
    let file = rig.golden_path("perplexity.json");
    let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let golden: Value =
        serde_json::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))?;
    for &model in &rig.models {
        let of_model = |result: &&Value| result["model"] == model;
        for result in golden::list(&golden, "results")?.iter().filter(of_model) {
            let recorded = golden::list(result, "running")?.len();
            let (_, quick, normal) = *CHUNKS
                .iter()
                .find(|(name, ..)| *name == model)
                .ok_or_else(|| format!("no chunks for {model}"))?;
            let chunks = rig.scope.pick(quick, normal, recorded).min(recorded);
            report.line(measure(rig, result, chunks, &[])?);
            if model == EXACT {
                report.line(measure(rig, result, EXACT_CHUNKS, &["--exact"])?);
            }
        }
    }
    Ok(())
}

fn measure(rig: &Rig, result: &Value, chunks: usize, flags: &[&str]) -> Result<Line, String> {
    let (model, text) = (golden::text(result, "model")?, golden::text(result, "text")?);
    let ours = perplexity(rig, result, chunks, flags)?;
    let mut name = format!("{model}, {text}, {chunks} chunks");
    if !flags.is_empty() {
        name += ", exact";
    }
    let (line, against) = compare(Line::new(name), result, &ours)?;
    if against.within() {
        return Ok(against.line(line, "llama.cpp"));
    }
    // llama.cpp's own noise moves it too, on gemma3 by more than 1 %: the exact path settles it.
    let exact = golden::numbers(&perplexity(rig, result, chunks, &["--exact"])?, "running")?;
    let to_exact = Against { ours: against.ours.clone(), other: exact.clone(), slack: 1.0 };
    let exact = Against { ours: exact, slack: 2.0, ..against };
    Ok(exact.line(to_exact.line(line, "the exact path"), "it to llama.cpp"))
}

fn perplexity(rig: &Rig, result: &Value, chunks: usize, flags: &[&str]) -> Result<Value, String> {
    let file = rig.golden_path(golden::text(result, "text")?);
    let (file, count) = (file.to_string_lossy(), chunks.to_string());
    let model = golden::text(result, "model")?;
    let mut arguments = vec!["perplexity", model, &file, "--context", "512", "--chunks", &count, "--json"];
    arguments.extend(flags);
    let ours = rig.json(&arguments)?;
    let found = golden::list(&ours, "running")?.len();
    if found == chunks { Ok(ours) } else { Err(format!("{model}: {found} chunks instead of {chunks}")) }
}

/// Perplexities after each chunk beside others.
#[derive(Debug)]
struct Against {
    ours: Vec<f64>,
    other: Vec<f64>,
    /// Multiplies the tolerance.
    slack: f64,
}

impl Against {
    fn off(&self, chunk: usize) -> f64 {
        (self.ours[chunk] / self.other[chunk] - 1.0).abs()
    }

    /// Whether every value is near enough, for as many chunks as it is over.
    fn within(&self) -> bool {
        self.near() == self.ours.len()
    }

    fn near(&self) -> usize {
        let near = |&chunk: &usize| self.off(chunk) <= self.slack * tolerance(chunk + 1);
        (0..self.ours.len().min(self.other.len())).filter(near).count()
    }

    fn line(&self, line: Line, other: &str) -> Line {
        let chunks = self.ours.len();
        let last = chunks - 1;
        line.note(format!("{:.4}, {other} {:.4}", self.ours[last], self.other[last]))
            .at_most("|off|", self.off(last), self.slack * tolerance(chunks))
            .all("running values", (self.near(), chunks), None)
    }
}

/// What our output must hold whatever the values, and the values beside the golden ones.
fn compare(mut line: Line, golden: &Value, ours: &Value) -> Result<(Line, Against), String> {
    let (recorded, running) = (golden::numbers(golden, "running")?, golden::numbers(ours, "running")?);
    let chunks = running.len();
    let (Some(other), Some(&last)) = (recorded.get(..chunks), running.last()) else {
        return Err(format!("{chunks} chunks in our output"));
    };
    let perplexity = golden::number(ours, "perplexity")?;
    if (perplexity - last).abs() > 1e-3 * last {
        line = line.require(false, format!("`perplexity` {perplexity} is not the last of `running`"));
    }
    let tokens = golden::number(ours, "tokens")?;
    line = line.require(tokens == SCORED * chunks as f64, format!("{tokens} tokens scored"));
    if chunks == recorded.len() {
        let error = golden::number(ours, "error")? / golden::number(golden, "error")? - 1.0;
        line = line.at_most("|error off|", error.abs(), ERROR_TOLERANCE);
    }
    let other = other.to_vec();
    Ok((line, Against { ours: running, other, slack: 1.0 }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What is wrong with our figures, if anything.
    fn failures(ours: &Value) -> usize {
        let golden = json!({"running": [10.0, 20.0, 30.0], "error": 2.0});
        let mut report = Report::new("x");
        let (line, against) = compare(Line::new("a"), &golden, ours).unwrap();
        report.line(against.line(line, "b"));
        report.finish().len()
    }

    #[test]
    fn each_figure_counts() {
        let good = json!({"running": [10.2, 20.5, 30.3], "perplexity": 30.3, "error": 2.05, "tokens": 765});
        assert_eq!(failures(&good), 0);
        for (field, value) in [
            ("running", json!([10.2, 20.5, 30.6])),
            ("running", json!([11.0, 20.5, 30.3])),
            ("running", json!([10.2, 20.5])),
            ("perplexity", json!(29.0)),
            ("error", json!(2.5)),
            ("tokens", json!(768)),
        ] {
            let mut bad = good.clone();
            bad[field] = value;
            assert_eq!(failures(&bad), 1, "{bad}");
        }
    }

    #[test]
    fn what_is_no_number_is_not_near() {
        let against = Against { ours: vec![f64::NAN], other: vec![1.0], slack: 1.0 };
        assert!(!against.within());
    }
}
