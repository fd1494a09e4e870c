//! A ledger that can't be written, numbers that are none, ends and limits.

mod rows;

use std::path::Path;
use std::time::Duration;

use contract::Signals;
use ledger::{Ledger, LedgerError, LedgerSettings, ReportQuery};
use sqlx::{ConnectOptions, Connection, SqliteConnection};

/// Another program that keeps the database locked.
async fn lock(path: &Path) -> SqliteConnection {
    let mut connection = sqlx::sqlite::SqliteConnectOptions::new().filename(path).connect().await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut connection).await.unwrap();
    connection
}

async fn unlock(mut connection: SqliteConnection) {
    sqlx::query("ROLLBACK").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

fn settings(queue_rows_max: usize) -> LedgerSettings {
    LedgerSettings { queue_rows_max, commit_interval_ms: 10, ..LedgerSettings::default() }
}

#[tokio::test]
async fn what_cannot_be_written_waits_and_is_written_later() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let ledger = Ledger::open(&path, settings(3)).await.unwrap();
    let other = lock(&path).await;
    for number in 0..3 {
        ledger.record(rows::row(&format!("chatcmpl-{number}"))).await.unwrap();
    }
    assert_eq!(ledger.lag_rows(), 3);

    // The queue is full: the next row waits until it is clear that nothing will be written.
    let error = ledger.record(rows::row("chatcmpl-lost")).await.unwrap_err();
    assert!(matches!(&error, LedgerError::Unwritable { waiting_rows: 3, .. }), "{error:?}");
    assert!(error.to_string().contains("locked"), "{error}");
    assert!(ledger.flush().await.is_err());
    assert!(ledger.feedback("chatcmpl-0", 1.0, None).await.is_err());
    assert!(ledger.write_failures() >= 4);
    assert_eq!(ledger.lag_rows(), 3);

    unlock(other).await;
    // By itself, without anyone asking.
    tokio::time::timeout(Duration::from_secs(30), async {
        while ledger.lag_rows() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the rows that waited are written");
    ledger.record(rows::row("chatcmpl-3")).await.unwrap();
    ledger.flush().await.unwrap();
    assert_eq!(ledger.report(ReportQuery::default()).await.unwrap().requests, 4);
    assert!(ledger.request("chatcmpl-lost").await.unwrap().is_none());
    ledger.close().await.unwrap();
}

#[tokio::test]
async fn a_row_is_durable_one_interval_later_without_being_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&folder.path().join("ledger"), LedgerSettings::default()).await.unwrap();
    ledger.record(rows::row("chatcmpl-1")).await.unwrap();
    assert_eq!(ledger.lag_rows(), 1, "committed alone");
    tokio::time::timeout(Duration::from_secs(30), async {
        while ledger.lag_rows() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the batch is committed");
    assert_eq!(ledger.report(ReportQuery::default()).await.unwrap().requests, 1);
    ledger.close().await.unwrap();
}

#[tokio::test]
async fn a_row_just_handed_over_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let slow = LedgerSettings { commit_interval_ms: 60_000, ..LedgerSettings::default() };
    let ledger = Ledger::open(&folder.path().join("ledger"), slow).await.unwrap();
    ledger.record(rows::row("chatcmpl-1")).await.unwrap();
    assert_eq!(ledger.request("chatcmpl-1").await.unwrap().unwrap().row.id, "chatcmpl-1");
    assert!(ledger.request("chatcmpl-2").await.unwrap().is_none());
    ledger.close().await.unwrap();
}

#[tokio::test]
async fn a_closed_ledger_has_written_everything_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let ledger = Ledger::open(&path, LedgerSettings::default()).await.unwrap();
    for number in 0..1000 {
        ledger.record(rows::row(&format!("chatcmpl-{number}"))).await.unwrap();
    }
    ledger.clone().close().await.unwrap();
    assert!(matches!(ledger.record(rows::row("late")).await, Err(LedgerError::Closed)));
    assert!(matches!(ledger.flush().await, Err(LedgerError::Closed)));
    assert!(matches!(ledger.feedback("chatcmpl-1", 0.5, None).await, Err(LedgerError::Closed)));

    let ledger = Ledger::open(&path, LedgerSettings::default()).await.unwrap();
    assert_eq!(ledger.report(ReportQuery::default()).await.unwrap().requests, 1000);
    ledger.close().await.unwrap();
}

#[tokio::test]
async fn rows_are_written_when_the_last_handle_goes_without_a_close() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let slow = LedgerSettings { commit_interval_ms: 60_000, ..LedgerSettings::default() };
    let ledger = Ledger::open(&path, slow).await.unwrap();
    ledger.record(rows::row("chatcmpl-1")).await.unwrap();
    drop(ledger);
    let ledger = Ledger::open(&path, LedgerSettings::default()).await.unwrap();
    tokio::time::timeout(Duration::from_secs(30), async {
        while ledger.request("chatcmpl-1").await.unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the row is written");
    ledger.close().await.unwrap();
}

#[tokio::test]
async fn a_report_can_be_read_beside_a_running_server_that_writes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let server = Ledger::open(&path, LedgerSettings::default()).await.unwrap();
    server.record(rows::row("chatcmpl-1")).await.unwrap();
    server.flush().await.unwrap();
    let writing = lock(&path).await;
    let other = Ledger::open(&path, LedgerSettings::default()).await.unwrap();
    assert_eq!(other.report(ReportQuery::default()).await.unwrap().requests, 1);
    other.close().await.unwrap();
    unlock(writing).await;
    server.record(rows::row("chatcmpl-2")).await.unwrap();
    server.close().await.unwrap();
}

#[tokio::test]
async fn several_tasks_and_two_processes_may_record_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let ledgers =
        [Ledger::open(&path, settings(4)).await.unwrap(), Ledger::open(&path, settings(4)).await.unwrap()];
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8 {
        let ledger = ledgers[task % 2].clone();
        tasks.spawn(async move {
            for number in 0..20 {
                ledger.record(rows::row(&format!("chatcmpl-{task}-{number}"))).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    for ledger in &ledgers {
        ledger.flush().await.unwrap();
    }
    let report = ledgers[0].report(ReportQuery::default()).await.unwrap();
    assert_eq!((report.requests, report.totals.attempts), (160, 320));
    for ledger in ledgers {
        ledger.close().await.unwrap();
    }
}

#[tokio::test]
async fn lying_numbers_spoil_neither_row_nor_sums() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&folder.path().join("ledger"), LedgerSettings::default()).await.unwrap();
    for number in 0..2 {
        let mut row = rows::row(&format!("chatcmpl-{number}"));
        row.attempts[0].usage.prompt_tokens = u64::MAX;
        row.attempts[0].cost_usd = f64::NAN;
        row.attempts[1].signals.logprob_sum = f64::NEG_INFINITY;
        row.first_token_ms = Some(f64::INFINITY);
        row.total_ms = f64::NAN;
        ledger.record(row).await.unwrap();
    }
    ledger.flush().await.unwrap();
    let report = ledger.report(ReportQuery::default()).await.unwrap();
    assert_eq!(report.totals.prompt_tokens, 2 * ((1 << 40) + 400));
    assert_eq!(report.totals.cost_usd, 2.0 * 40.0 * rows::USD);
    let stored = ledger.request("chatcmpl-0").await.unwrap().unwrap().row;
    assert_eq!(stored.attempts[1].signals, Signals::default(), "unknown, not certain");
    assert_eq!((stored.first_token_ms, stored.total_ms), (None, 0.0));
    ledger.close().await.unwrap();
}

#[tokio::test]
async fn feedback_needs_a_score_in_range_and_a_second_one_is_a_second_row() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&folder.path().join("ledger"), LedgerSettings::default()).await.unwrap();
    ledger.record(rows::row("chatcmpl-1")).await.unwrap();
    for score in [-0.1, 1.1, f64::NAN] {
        assert!(matches!(ledger.feedback("chatcmpl-1", score, None).await, Err(LedgerError::Score(_))));
    }
    assert!(!ledger.feedback("chatcmpl-2", 1.0, None).await.unwrap());
    for score in [1.0, 0.0] {
        assert!(ledger.feedback("chatcmpl-1", score, None).await.unwrap());
    }
    let report = ledger.report(ReportQuery::default()).await.unwrap();
    assert_eq!((report.feedback_rows, report.feedback_mean), (2, Some(0.5)));
    ledger.close().await.unwrap();
}
