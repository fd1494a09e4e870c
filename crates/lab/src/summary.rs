//! What outcomes add up to: [`Summary`], for `tandem eval`.

use std::collections::BTreeMap;
use std::fmt::Write;

use contract::Role;
use serde::Serialize;

use crate::outcomes::Outcome;

/// Right answers among rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Tally {
    /// Rows.
    pub rows: u64,
    /// Of these, with the right answer.
    pub correct: u64,
    /// Their share, 0..=1.
    pub accuracy: f64,
}

impl Tally {
    fn add(&mut self, is_correct: bool) {
        self.rows += 1;
        self.correct += u64::from(is_correct);
        self.accuracy = self.correct as f64 / self.rows as f64;
    }
}

/// One backend's outcomes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct BackendSummary {
    /// The model's name.
    pub model: String,
    /// Of all rows.
    #[serde(flatten)]
    pub all: Tally,
    /// Rows without an answer, or whose answer could not be judged.
    pub errors: u64,
    /// Answers that `max_tokens` cut.
    pub cut: u64,
    /// Rows with a reading.
    pub readings: u64,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Tokens written.
    pub completion_tokens: u64,
    /// US dollars.
    pub cost_usd: f64,
    /// By task.
    pub tasks: BTreeMap<String, Tally>,
}

/// What outcomes add up to.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Different rows.
    pub rows: u64,
    /// By role.
    #[serde(flatten)]
    pub backends: BTreeMap<&'static str, BackendSummary>,
}

impl Summary {
    /// Adds outcomes up.
    pub fn of<'a>(outcomes: impl IntoIterator<Item = &'a Outcome>) -> Self {
        let mut summary = Summary::default();
        outcomes.into_iter().for_each(|outcome| summary.add(outcome));
        summary
    }

    /// Adds one more.
    pub fn add(&mut self, outcome: &Outcome) {
        let backend = self.backends.entry(outcome.backend.as_str()).or_default();
        if !outcome.model.is_empty() {
            backend.model.clone_from(&outcome.model);
        }
        backend.all.add(outcome.correct);
        backend.errors += u64::from(outcome.error.is_some());
        backend.cut += u64::from(outcome.finish_reason.as_deref() == Some("length"));
        backend.readings += u64::from(outcome.reading.is_some());
        backend.prompt_tokens += outcome.tokens.prompt_tokens;
        backend.completion_tokens += outcome.tokens.completion_tokens;
        backend.cost_usd += outcome.cost_usd;
        backend.tasks.entry(outcome.task.clone()).or_default().add(outcome.correct);
        self.rows = self.backends.values().map(|backend| backend.all.rows).max().unwrap_or(0);
    }

    /// A table for a terminal: a line per task, with each backend's accuracy.
    pub fn table(&self) -> String {
        let roles: Vec<&str> = [Role::Small, Role::Large]
            .map(Role::as_str)
            .into_iter()
            .filter(|role| self.backends.contains_key(role))
            .collect();
        let tasks: std::collections::BTreeSet<&String> =
            self.backends.values().flat_map(|backend| backend.tasks.keys()).collect();
        let shown = |tally: Option<&Tally>| {
            tally.map_or("-".to_owned(), |tally| {
                format!("{}/{} {:.1}%", tally.correct, tally.rows, 100.0 * tally.accuracy)
            })
        };
        let width = tasks.iter().map(|task| task.chars().count()).max().unwrap_or(0).max("task".len());
        let mut text = String::new();
        // Writing to a string can't fail.
        let mut line = |name: &str, cells: Vec<String>| {
            let cells: String = cells.iter().map(|cell| format!("  {cell:>18}")).collect();
            let _ = writeln!(text, "{name:<width$}{cells}");
        };
        line("task", roles.iter().map(|role| (*role).to_owned()).collect());
        for task in tasks {
            let of = |role: &&str| shown(self.backends.get(role).and_then(|backend| backend.tasks.get(task)));
            line(task, roles.iter().map(of).collect());
        }
        let all = |role: &&str| shown(self.backends.get(role).map(|backend| &backend.all));
        line("all", roles.iter().map(all).collect());
        for (role, backend) in &self.backends {
            let BackendSummary { model, errors, cut, prompt_tokens, completion_tokens, cost_usd, .. } =
                backend;
            let _ = writeln!(
                text,
                "{role}: {model}, {prompt_tokens} prompt and {completion_tokens} written tokens, ${cost_usd:.6}, \
                 {errors} errors, {cut} cut by max_tokens"
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(id: &str, backend: &str, correct: bool) -> Outcome {
        let text = format!(
            r#"{{"id":"{id}","backend":"{backend}","model":"m","task":"t{id}","correct":{correct},"cost_usd":0.5,
            "finish_reason":"length","tokens":{{"prompt_tokens":3,"cached_tokens":0,"completion_tokens":4,
            "accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn outcomes_add_up_by_backend_and_task() {
        let outcomes =
            [outcome("1", "small", true), outcome("2", "small", false), outcome("2", "large", true)];
        let summary = Summary::of(&outcomes);
        let value = serde_json::to_value(&summary).unwrap();
        assert_eq!((&value["rows"], &value["small"]["accuracy"]), (&2.into(), &0.5.into()));
        assert_eq!((&value["large"]["correct"], &value["small"]["cost_usd"]), (&1.into(), &1.0.into()));
        assert_eq!(value["small"]["tasks"]["t1"]["accuracy"], 1.0);
        let table = summary.table();
        let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[1], ["t1", "1/1", "100.0%", "-"], "{table}");
        assert_eq!(words[2], ["t2", "0/1", "0.0%", "1/1", "100.0%"], "{table}");
    }
}
