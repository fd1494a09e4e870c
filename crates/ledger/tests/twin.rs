//! Random operations on a ledger and on a naive twin in memory: both must tell the same.

mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use contract::{Attempt, AttemptStatus, BackendError, FailureKind, FinishReason, Role};
use ledger::{
    BackendLine, KeepText, Ledger, LedgerSettings, Percentiles, Report, ReportQuery, RequestRow, RouteLine,
    Totals,
};
use proptest::prelude::*;

/// One thing done to both.
#[derive(Clone, Debug)]
enum Operation {
    Record(Box<RequestRow>),
    /// On the request with this number, which may not exist; the score in sixteenths.
    Feedback(u32, u8),
    Read(u32),
    Report(ReportQuery),
    Reopen,
}

#[derive(Default)]
struct Twin {
    rows: BTreeMap<String, RequestRow>,
    feedback: Vec<(String, f64)>,
}

impl Twin {
    fn record(&mut self, row: RequestRow) {
        self.rows.entry(row.id.clone()).or_insert(row);
    }

    fn report(&self, query: ReportQuery) -> Report {
        let span = query.since_unix_ms.unwrap_or(i64::MIN)..query.until_unix_ms.unwrap_or(i64::MAX);
        let rows: Vec<&RequestRow> =
            self.rows.values().filter(|row| span.contains(&row.arrived_unix_ms)).collect();
        let scores: Vec<f64> = self
            .feedback
            .iter()
            .filter(|(id, _)| span.contains(&self.rows[id].arrived_unix_ms))
            .map(|(_, score)| *score)
            .collect();
        let groups: BTreeSet<(&str, Option<&str>)> =
            rows.iter().map(|row| (row.route.as_str(), model_of(row))).collect();
        let backends: BTreeSet<(&str, &str)> =
            rows.iter().flat_map(|row| &row.attempts).map(|a| (a.role.as_str(), a.model.as_str())).collect();
        let began = rows.iter().filter(|row| row.route == "small" || row.route == "escalated").count();
        let escalated = rows.iter().filter(|row| row.route == "escalated").count();
        let attempts: Vec<&Attempt> = rows.iter().flat_map(|row| &row.attempts).collect();
        Report {
            query,
            requests: rows.len() as u64,
            errors: errors(&rows),
            clients_gone: gone(&rows),
            routes: groups.into_iter().map(|(route, model)| route_line(&rows, route, model)).collect(),
            backends: backends
                .into_iter()
                .map(|(role, model)| {
                    let own: Vec<&Attempt> = attempts
                        .iter()
                        .copied()
                        .filter(|attempt| attempt.role.as_str() == role && attempt.model == model)
                        .collect();
                    BackendLine { role: role.to_owned(), model: model.to_owned(), totals: totals(&own) }
                })
                .collect(),
            totals: totals(&attempts),
            saved_usd: rows.iter().map(|row| row.saved_usd).sum(),
            escalation_rate: (began > 0).then(|| escalated as f64 / began as f64),
            total: percentiles(in_full(&rows).map(|row| row.total_ms)),
            first_token: percentiles(in_full(&rows).filter_map(|row| row.first_token_ms)),
            overhead: percentiles(rows.iter().map(|row| row.overhead_ms)),
            feedback_rows: scores.len() as u64,
            feedback_mean: (!scores.is_empty()).then(|| scores.iter().sum::<f64>() / scores.len() as f64),
        }
    }
}

fn model_of(row: &RequestRow) -> Option<&str> {
    row.answered.map(|index| row.attempts[index].model.as_str())
}

fn errors(rows: &[&RequestRow]) -> u64 {
    rows.iter().filter(|row| row.status >= 400 && !row.client_gone).count() as u64
}

fn gone(rows: &[&RequestRow]) -> u64 {
    rows.iter().filter(|row| row.client_gone).count() as u64
}

fn in_full<'a>(rows: &'a [&RequestRow]) -> impl Iterator<Item = &'a RequestRow> {
    let full = |row: &&RequestRow| row.status < 400 && !row.client_gone && row.answered.is_some();
    rows.iter().copied().filter(full)
}

fn route_line(rows: &[&RequestRow], route: &str, model: Option<&str>) -> RouteLine {
    let own: Vec<&RequestRow> =
        rows.iter().copied().filter(|row| row.route == route && model_of(row) == model).collect();
    let attempts: Vec<&Attempt> = own.iter().flat_map(|row| &row.attempts).collect();
    RouteLine {
        route: route.to_owned(),
        model: model.map(str::to_owned),
        requests: own.len() as u64,
        errors: errors(&own),
        clients_gone: gone(&own),
        totals: totals(&attempts),
        saved_usd: own.iter().map(|row| row.saved_usd).sum(),
        total: percentiles(in_full(&own).map(|row| row.total_ms)),
        first_token: percentiles(in_full(&own).filter_map(|row| row.first_token_ms)),
    }
}

fn totals(attempts: &[&Attempt]) -> Totals {
    let sum = |of: fn(&Attempt) -> u64| attempts.iter().map(|attempt| of(attempt)).sum::<u64>();
    Totals {
        attempts: attempts.len() as u64,
        failed: sum(|attempt| u64::from(matches!(attempt.status, AttemptStatus::Failed(_)))),
        cancelled: sum(|attempt| u64::from(attempt.status == AttemptStatus::Cancelled)),
        prompt_tokens: sum(|attempt| attempt.usage.prompt_tokens),
        cached_tokens: sum(|attempt| attempt.usage.cached_tokens),
        completion_tokens: sum(|attempt| attempt.usage.completion_tokens),
        accepted_prediction_tokens: sum(|attempt| attempt.usage.accepted_prediction_tokens),
        rejected_prediction_tokens: sum(|attempt| attempt.usage.rejected_prediction_tokens),
        cost_usd: attempts.iter().map(|attempt| attempt.cost_usd).sum(),
    }
}

fn percentiles(values: impl Iterator<Item = f64>) -> Option<Percentiles> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let at = |percent: usize| sorted.get((sorted.len() * percent).div_ceil(100).max(1) - 1).copied();
    Some(Percentiles { p50_ms: at(50)?, p95_ms: at(95)?, p99_ms: at(99)? })
}

/// Numbers of requests; few, so that some come twice.
const NUMBERS: u32 = 60;

fn id(number: u32) -> String {
    format!("chatcmpl-{number}")
}

fn made_attempt() -> impl Strategy<Value = Attempt> {
    let failed = AttemptStatus::Failed(BackendError::new(FailureKind::Busy, "full"));
    let status = prop_oneof![
        Just(AttemptStatus::Finished(FinishReason::Stop)),
        Just(AttemptStatus::Finished(FinishReason::Length)),
        Just(AttemptStatus::Cancelled),
        Just(failed),
    ];
    (any::<bool>(), status, 0u64..500, 0u32..2).prop_map(|(small, status, tokens, variant)| {
        let role = if small { Role::Small } else { Role::Large };
        let attempt = rows::attempt(role, status, tokens);
        Attempt { model: format!("{}-{variant}", attempt.model), ..attempt }
    })
}

fn made_row() -> impl Strategy<Value = RequestRow> {
    let route = proptest::sample::select(vec!["small", "large", "escalated", "refused"]);
    let status = proptest::sample::select(vec![200u16, 200, 200, 429, 502]);
    let attempts = proptest::collection::vec(made_attempt(), 0..4);
    let times = (0u32..5000, proptest::option::of(0u32..5000), 0u32..50);
    (0..NUMBERS, 0i64..100, route, status, attempts, times, any::<[u8; 3]>()).prop_map(
        |(number, arrived, route, status, attempts, (total, first, overhead), dice)| RequestRow {
            arrived_unix_ms: arrived,
            route: route.to_owned(),
            status,
            client_gone: dice[0] < 30,
            answered: (!attempts.is_empty() && dice[1] < 200).then(|| usize::from(dice[2]) % attempts.len()),
            saved_usd: (f64::from(dice[2]) - 128.0) * rows::USD,
            total_ms: f64::from(total) / 4.0,
            first_token_ms: first.map(|value| f64::from(value) / 4.0),
            overhead_ms: f64::from(overhead) / 4.0,
            cost_usd: attempts.iter().map(|attempt| attempt.cost_usd).sum(),
            attempts,
            ..rows::row(&id(number))
        },
    )
}

fn made_operation() -> impl Strategy<Value = Operation> {
    let span = (0i64..100, 0i64..100).prop_map(|(one, other)| ReportQuery {
        since_unix_ms: Some(one.min(other)),
        until_unix_ms: Some(one.max(other)),
    });
    prop_oneof![
        8 => made_row().prop_map(|row| Operation::Record(Box::new(row))),
        2 => (0..NUMBERS, 0u8..=16).prop_map(|(number, score)| Operation::Feedback(number, score)),
        2 => (0..NUMBERS).prop_map(Operation::Read),
        1 => prop_oneof![Just(ReportQuery::default()), span].prop_map(Operation::Report),
        1 => Just(Operation::Reopen),
    ]
}

async fn open(path: &Path) -> Ledger {
    let settings = LedgerSettings { keep_text: KeepText::Full, queue_rows_max: 5, commit_interval_ms: 1 };
    Ledger::open(path, settings).await.unwrap()
}

async fn same_in_both(operations: Vec<Operation>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let mut ledger = open(&path).await;
    let mut twin = Twin::default();
    for operation in operations {
        match operation {
            Operation::Record(row) => {
                ledger.record((*row).clone()).await.unwrap();
                twin.record(*row);
            }
            Operation::Feedback(number, sixteenths) => {
                let (id, score) = (id(number), f64::from(sixteenths) / 16.0);
                let known = twin.rows.contains_key(&id);
                assert_eq!(ledger.feedback(&id, score, None).await.unwrap(), known);
                if known {
                    twin.feedback.push((id, score));
                }
            }
            Operation::Read(number) => {
                let stored = ledger.request(&id(number)).await.unwrap();
                assert_eq!(stored.as_ref().map(|stored| &stored.row), twin.rows.get(&id(number)));
                // Of the same millisecond, either may come first.
                let mut scores: Vec<f64> =
                    stored.iter().flat_map(|stored| &stored.feedback).map(|given| given.score).collect();
                let mut twins: Vec<f64> = twin
                    .feedback
                    .iter()
                    .filter(|(of, _)| *of == id(number))
                    .map(|(_, score)| *score)
                    .collect();
                scores.sort_by(f64::total_cmp);
                twins.sort_by(f64::total_cmp);
                assert_eq!(scores, twins);
            }
            Operation::Report(query) => {
                ledger.flush().await.unwrap();
                assert_eq!(ledger.report(query).await.unwrap(), twin.report(query));
            }
            Operation::Reopen => {
                ledger.close().await.unwrap();
                assert_eq!(ledger.lag_rows(), 0);
                ledger = open(&path).await;
            }
        }
    }
    ledger.flush().await.unwrap();
    assert_eq!(ledger.lag_rows(), 0);
    let everything = ReportQuery::default();
    assert_eq!(ledger.report(everything).await.unwrap(), twin.report(everything));
    ledger.close().await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_ledger_tells_what_its_twin_tells(operations in proptest::collection::vec(made_operation(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(same_in_both(operations));
    }
}

#[tokio::test]
async fn pages_hold_every_request_once_and_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&folder.path().join("ledger"), LedgerSettings::default()).await.unwrap();
    let rows = ledger::PAGE_ROWS + 9;
    for number in (0..rows).rev() {
        // Many arrive in the same millisecond.
        let arrived_unix_ms = i64::from(number / 100);
        ledger
            .record(RequestRow { arrived_unix_ms, ..rows::row(&format!("chatcmpl-{number:04}")) })
            .await
            .unwrap();
    }
    ledger.flush().await.unwrap();
    for (query, first) in
        [(ReportQuery::default(), 0), (ReportQuery { since_unix_ms: Some(1), until_unix_ms: None }, 100)]
    {
        let (mut seen, mut last) = (Vec::new(), None);
        loop {
            let mut page = ledger.page(query, last.as_ref()).await.unwrap();
            assert!(page.len() <= ledger::PAGE_ROWS as usize);
            seen.extend(page.iter().map(|stored| stored.row.id.clone()));
            let Some(end) = page.pop() else { break };
            last = Some(end);
        }
        let expected: Vec<String> = (first..rows).map(|number| format!("chatcmpl-{number:04}")).collect();
        assert_eq!(seen, expected);
    }
    ledger.close().await.unwrap();
}
