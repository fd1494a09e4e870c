//! Answers that are there already, judged again: checks get better, and asking takes hours.

use std::collections::HashMap;

use futures_util::{StreamExt, stream};

use crate::checks::{Judged, Tools};
use crate::outcomes::Outcome;
use crate::rows::{Expected, Row};

/// Programs that may run at once.
const AT_ONCE: usize = 2;

/// Judges each outcome's answer by its row's check; those without an answer, or without a row here, stay as they
/// are. Gives the outcomes in their order, and how many were judged otherwise than before.
pub async fn rejudge(rows: &[Row], outcomes: Vec<Outcome>, tools: &Tools) -> (Vec<Outcome>, usize) {
    let by_id: HashMap<&str, &Row> = rows.iter().map(|row| (row.id.as_str(), row)).collect();
    let judged = stream::iter(outcomes).map(|outcome| async {
        let row = by_id.get(outcome.id.as_str()).map(|row| (row, &row.expected));
        match (row, &outcome.output) {
            (Some((row, Expected::Check(check))), Some(answer)) => {
                let verdict = check.judge(Judged { messages: &row.messages, answer }, tools).await;
                let error = verdict.as_ref().err().map(ToString::to_string);
                let correct = verdict.unwrap_or(false);
                let changed = usize::from(correct != outcome.correct);
                (Outcome { correct, error, ..outcome }, changed)
            }
            _ => (outcome, 0),
        }
    });
    let judged: Vec<(Outcome, usize)> = judged.buffered(AT_ONCE).collect().await;
    let changed = judged.iter().map(|(_, changed)| changed).sum();
    (judged.into_iter().map(|(outcome, _)| outcome).collect(), changed)
}

#[cfg(test)]
mod tests {
    use contract::Role;

    use super::*;

    #[tokio::test]
    async fn answers_are_judged_by_the_check_that_is_there_now() {
        let rows =
            crate::tasks::read(br#"{"id":"1","prompt":"2+2?","check":{"kind":"number","answer":4}}"#, None)
                .unwrap();
        let outcome = |id: &str, output: Option<&str>| Outcome {
            id: id.to_owned(),
            backend: Role::Small,
            model: "m".to_owned(),
            task: String::new(),
            slices: Default::default(),
            correct: false,
            output: output.map(str::to_owned),
            error: None,
            finish_reason: None,
            signals: Default::default(),
            reading: None,
            tokens: Default::default(),
            cost_usd: 0.5,
            total_ms: 1.0,
        };
        let before = vec![outcome("1", Some("It is 4.")), outcome("1", None), outcome("2", Some("4"))];
        let (after, changed) = rejudge(&rows, before.clone(), &Tools::default()).await;
        assert_eq!(changed, 1);
        assert_eq!(
            after,
            [Outcome { correct: true, ..before[0].clone() }, before[1].clone(), before[2].clone()]
        );
        assert_eq!(rejudge(&rows, after, &Tools::default()).await.1, 0);
    }
}
