//! Speculative decoding on the default pair: what is drafted changes no greedy answer, for any drafter and any
//! draft length, with requests batched.

use std::fs;

use serde_json::json;

use crate::real::report::{Line, Report};
use crate::real::rig::{LARGE, Rig, SMALL};
use crate::real::{Check, golden};

pub const CHECK: Check =
    Check { name: "speculation", about: "greedy answers with drafts of every length, and without", run };

/// Lengths of the longest draft.
const LENGTHS: [usize; 8] = [1, 2, 3, 4, 5, 6, 7, 8];
/// The same, unless everything is gone through.
const LENGTHS_QUICK: [usize; 3] = [1, 4, 8];
const DRAFTERS: [&str; 3] = ["prompt-lookup", "model", "chain"];
/// Requests at once.
const CLIENTS: usize = 4;
/// Golden prompts, unless everything is gone through.
const PROMPTS_QUICK: usize = 4;
/// Tokens of an answer.
const TOKENS: usize = 24;

fn run(rig: &Rig, report: &mut Report) -> Result<(), String> {
    let runs = rig.golden("greedy.jsonl", LARGE)?;
    let all = rig.scope.pick(PROMPTS_QUICK, PROMPTS_QUICK, runs.len()).min(runs.len());
    // Whole groups, so that every request has company.
    let count = (all / CLIENTS * CLIENTS).max(CLIENTS).min(runs.len());
    let mut prompts = String::new();
    for run in &runs[..count] {
        prompts += &json!({"ids": golden::ids(run, "prompt_ids")?}).to_string();
        prompts.push('\n');
    }
    let file = rig.scratch("speculation")?.join("prompts.jsonl");
    fs::write(&file, prompts).map_err(|error| format!("{}: {error}", file.display()))?;
    let file = file.to_string_lossy();
    for drafter in DRAFTERS {
        for &length in rig.scope.pick(&LENGTHS_QUICK[..], &LENGTHS[..], &LENGTHS[..]) {
            let (length, tokens, clients) = (length.to_string(), TOKENS.to_string(), CLIENTS.to_string());
            let found = rig.json(&[
                "bench",
                LARGE,
                "--speculative",
                "--draft",
                SMALL,
                "--drafter",
                drafter,
                "--draft-tokens",
                &length,
                "--generate-tokens",
                &tokens,
                "--clients",
                &clients,
                "--free-drafts",
                "--prompts",
                &file,
                "--json",
            ])?;
            let number = |name: &str| golden::number(&found, name);
            let line = Line::new(format!("{drafter}, up to {length}"));
            let line = line.note(format!("{} right, {} wrong", number("accepted")?, number("rejected")?));
            let line = line.at_most("answers that differ", number("differing_answers")?, 0.0);
            report.line(line.at_least("drafted", number("accepted")? + number("rejected")?, 1.0));
        }
    }
    Ok(())
}
