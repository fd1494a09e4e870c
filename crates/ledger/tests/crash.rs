//! `kill -9` in the middle of traffic loses nothing that was handed over more than a second earlier,
//! and leaves a database that opens.
//!
//! A program of its own: called with a path it is the child that writes until it is killed, called
//! without it is the test.

mod rows;

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ledger::{Ledger, LedgerSettings};
use sqlx::{ConnectOptions, Connection};

/// The first argument of the child.
const CHILD: &str = "--write-until-killed";

/// What may be lost: rows handed over within this time before the kill.
const GRACE: Duration = Duration::from_secs(1);

/// Slow enough that the commit interval, not a full batch, is what makes rows durable.
const BETWEEN_ROWS: Duration = Duration::from_millis(4);

/// The kill comes when this many rows are old enough to be safe.
const SAFE_ROWS: usize = 100;

/// However slow the disk is, the test ends.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    match arguments.as_slice() {
        [_, flag, path] if flag == CHILD => runtime.block_on(write_until_killed(Path::new(path))),
        // A test runner that only asks which tests there are.
        [_, rest @ ..] if rest.iter().any(|argument| argument == "--list") => {
            println!("kill_loses_nothing_older_than_a_second: test");
        }
        _ => {
            runtime.block_on(kill_loses_nothing_older_than_a_second());
            println!("test kill_loses_nothing_older_than_a_second ... ok");
        }
    }
}

async fn write_until_killed(path: &Path) {
    let ledger = Ledger::open(path, LedgerSettings::default()).await.unwrap();
    for number in 0u64.. {
        let id = format!("chatcmpl-{number}");
        ledger.record(rows::row(&id)).await.unwrap();
        println!("{id}");
        std::io::stdout().flush().unwrap();
        tokio::time::sleep(BETWEEN_ROWS).await;
    }
}

async fn kill_loses_nothing_older_than_a_second() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.sqlite");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .arg(CHILD)
        .arg(&path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (sender, acknowledged) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            sender.send((line, Instant::now())).unwrap();
        }
    });

    let started = Instant::now();
    let mut seen: Vec<(String, Instant)> = Vec::new();
    while seen.get(SAFE_ROWS).is_none_or(|(_, at)| at.elapsed() < GRACE) && started.elapsed() < PATIENCE {
        seen.extend(acknowledged.recv_timeout(Duration::from_millis(50)));
    }
    let killed = Instant::now();
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap();
    let safe: HashSet<String> =
        seen.into_iter().filter(|(_, at)| *at + GRACE < killed).map(|(id, _)| id).collect();
    assert!(safe.len() >= SAFE_ROWS, "the child wrote {} rows in {PATIENCE:?}", safe.len());

    check(&path, &safe).await;
}

/// The database is sound, and every row of `safe` is whole.
async fn check(path: &Path, safe: &HashSet<String>) {
    let ledger = Ledger::open(path, LedgerSettings::default()).await.unwrap();
    let mut answered = 0;
    for id in safe {
        let stored = ledger.request(id).await.unwrap().unwrap_or_else(|| panic!("{id} is lost"));
        assert_eq!(stored.row.attempts.len(), 2, "{id}");
        assert_eq!(stored.row.decisions.len(), 2, "{id}");
        answered += 1;
    }
    let report = ledger.report(ledger::ReportQuery::default()).await.unwrap();
    assert!(report.requests >= answered);
    assert_eq!(report.totals.attempts, 2 * report.requests, "half a request was committed");
    ledger.close().await.unwrap();

    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path);
    let mut connection = options.connect().await.unwrap();
    let verdict: String =
        sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&mut connection).await.unwrap();
    assert_eq!(verdict, "ok");
    connection.close().await.unwrap();
}
