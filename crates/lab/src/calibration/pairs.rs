//! Outcomes of both models brought together, row by row: [`Pair`].

use std::collections::BTreeMap;
use std::fmt;

use contract::{Reading, Role, Signals};
use serde::Serialize;

use crate::outcomes::Outcome;

/// Rows that are calibrated on, at most.
pub const ROWS_MAX: usize = 200_000;

/// What both models made of a row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pair {
    /// The row's id.
    pub id: String,
    /// Properties by which results are told apart: task, length of the prompt, and what the row named.
    pub slices: BTreeMap<String, String>,
    /// Whether small's answer is right.
    pub small_correct: bool,
    /// Whether large's is.
    pub large_correct: bool,
    /// What small's answer cost, US dollars.
    pub small_cost_usd: f64,
    /// What of that its reading cost: by its share of the tokens.
    pub reading_cost_usd: f64,
    /// What large's answer cost, US dollars.
    pub large_cost_usd: f64,
    /// Tokens of the prompt, as small counts them.
    pub prompt_tokens: u64,
    /// What the tokens of small's answer say.
    pub signals: Signals,
    /// Small's reading, if it was kept.
    pub reading: Option<Reading>,
}

/// The pairs of a file, and who is behind them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pairs {
    /// By id.
    pub pairs: Vec<Pair>,
    /// The small model's name.
    pub small: String,
    /// The large model's name.
    pub large: String,
    /// What was left out.
    pub unpaired: Unpaired,
}

/// Rows that only one model has an outcome of, as in a run that was cut short: they say nothing about the pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Unpaired {
    /// Rows with an outcome of small alone.
    pub small: u64,
    /// Rows with an outcome of large alone.
    pub large: u64,
}

impl Unpaired {
    /// All of them.
    pub fn rows(&self) -> u64 {
        self.small + self.large
    }
}

impl fmt::Display for Unpaired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rows, Unpaired { small, large }) = (self.rows(), self);
        write!(
            f,
            "{rows} rows are left out: only small has an outcome of {small} of them, only large of {large}"
        )
    }
}

/// Why outcomes can't be paired.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PairsError {
    /// Answered twice by one model.
    #[error("the row {id:?} has two outcomes of {role}; keep one")]
    Twice {
        /// The row.
        id: String,
        /// The role.
        role: &'static str,
    },
    /// No row was answered by both models.
    #[error("no row has outcomes of both models; run `tandem eval` for both, with --backend small,large")]
    NonePaired,
    /// More than one model in a role.
    #[error("the role {role} is filled by {first:?} and by {second:?}; a calibration is for one pair")]
    Models {
        /// The role.
        role: &'static str,
        /// One model.
        first: String,
        /// The other.
        second: String,
    },
    /// Too many rows.
    #[error("there are more than {ROWS_MAX} rows")]
    TooMany,
}

/// Brings outcomes together. Rows that only one model has an outcome of are left out, and counted.
///
/// # Errors
/// [`PairsError`], naming the row.
pub fn pairs(outcomes: impl IntoIterator<Item = Outcome>) -> Result<Pairs, PairsError> {
    let mut found: BTreeMap<String, [Option<Outcome>; 2]> = BTreeMap::new();
    let mut models = [None, None];
    for outcome in outcomes {
        let role = usize::from(outcome.backend == Role::Large);
        let model = models[role].get_or_insert_with(|| outcome.model.clone());
        if *model != outcome.model {
            let (first, second) = (model.clone(), outcome.model);
            return Err(PairsError::Models { role: outcome.backend.as_str(), first, second });
        }
        let both = found.entry(outcome.id.clone()).or_default();
        if both[role].is_some() {
            return Err(PairsError::Twice { id: outcome.id, role: outcome.backend.as_str() });
        }
        both[role] = Some(outcome);
        if found.len() > ROWS_MAX {
            return Err(PairsError::TooMany);
        }
    }
    let [small, large] = models.map(Option::unwrap_or_default);
    let mut pairs = Pairs { small, large, ..Pairs::default() };
    for (_, both) in found {
        match both {
            [Some(small), Some(large)] => pairs.pairs.push(pair(small, &large)),
            [Some(_), None] => pairs.unpaired.small += 1,
            [None, _] => pairs.unpaired.large += 1,
        }
    }
    if pairs.pairs.is_empty() { Err(PairsError::NonePaired) } else { Ok(pairs) }
}

fn pair(small: Outcome, large: &Outcome) -> Pair {
    let tokens = small.tokens;
    let all = tokens.prompt_tokens + tokens.completion_tokens;
    let read = if all == 0 { 1.0 } else { tokens.prompt_tokens as f64 / all as f64 };
    let mut slices = small.slices;
    if !small.task.is_empty() {
        slices.insert("task".to_owned(), small.task);
    }
    slices.insert("prompt_tokens".to_owned(), length(tokens.prompt_tokens).to_owned());
    Pair {
        id: small.id,
        slices,
        small_correct: small.correct,
        large_correct: large.correct,
        small_cost_usd: small.cost_usd,
        reading_cost_usd: small.cost_usd * read,
        large_cost_usd: large.cost_usd,
        prompt_tokens: tokens.prompt_tokens,
        signals: small.signals,
        reading: small.reading.as_ref().map(Reading::from),
    }
}

fn length(tokens: u64) -> &'static str {
    match tokens {
        0..64 => "below 64",
        64..256 => "64 to 255",
        256..1024 => "256 to 1023",
        _ => "1024 and more",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(lines: &[&str]) -> Result<Pairs, PairsError> {
        pairs(lines.iter().map(|line| serde_json::from_str::<Outcome>(line).unwrap()))
    }

    const SMALL: &str = r#"{"id":"1","backend":"small","model":"s","task":"t","correct":false,"cost_usd":4.0,
        "tokens":{"prompt_tokens":75,"cached_tokens":0,"completion_tokens":25,
        "accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}"#;
    const LARGE: &str = r#"{"id":"1","backend":"large","model":"l","correct":true,"cost_usd":9.0}"#;

    #[test]
    fn both_outcomes_of_a_row_make_a_pair() {
        let found = outcomes(&[LARGE, SMALL]).unwrap();
        assert_eq!((found.small.as_str(), found.large.as_str(), found.pairs.len()), ("s", "l", 1));
        let pair = &found.pairs[0];
        assert_eq!((pair.small_correct, pair.large_correct), (false, true));
        assert_eq!((pair.small_cost_usd, pair.reading_cost_usd, pair.large_cost_usd), (4.0, 3.0, 9.0));
        assert_eq!((&*pair.slices["task"], &*pair.slices["prompt_tokens"]), ("t", "64 to 255"));
    }

    #[test]
    fn rows_with_one_outcome_are_left_out_and_counted() {
        let only = |line: &str, id: &str| line.replace("\"1\"", &format!("\"{id}\""));
        let (second, third, fourth) = (only(SMALL, "2"), only(SMALL, "3"), only(LARGE, "4"));
        let found = outcomes(&[&second, LARGE, &third, SMALL, &fourth]).unwrap();
        assert_eq!((found.pairs.len(), found.unpaired), (1, Unpaired { small: 2, large: 1 }));
        let told = found.unpaired.to_string();
        assert_eq!(told, "3 rows are left out: only small has an outcome of 2 of them, only large of 1");
    }

    #[test]
    fn rows_that_make_no_pair_are_named() {
        let other = SMALL.replace("\"s\"", "\"s2\"").replace("\"1\"", "\"2\"");
        for (lines, words) in [
            (vec![SMALL], "no row has outcomes of both"),
            (vec![], "no row has outcomes of both"),
            (vec![SMALL, LARGE, SMALL], "two outcomes of small"),
            (vec![SMALL, LARGE, &other], "filled by \"s\" and by \"s2\""),
        ] {
            let error = outcomes(&lines).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
