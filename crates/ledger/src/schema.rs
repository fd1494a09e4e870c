//! The file: is it a ledger of ours, and is its schema up to date?

use std::path::Path;
use std::time::Duration;

use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, SqlSafeStr, SqliteConnection, SqlitePool};

use crate::LedgerError;

/// All schema versions: number, what it brings, and the SQL that leads to it from the one before.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "ledger", include_str!("../migrations/0001_ledger.sql")),
    (2, "readings", include_str!("../migrations/0002_readings.sql")),
    (3, "guards", include_str!("../migrations/0003_guards.sql")),
];

/// How long a statement waits for another process's lock.
const BUSY_TIMEOUT: Duration = Duration::from_millis(500);

/// Connections for reading; the writer has its own.
const READERS_MAX: u32 = 4;

/// SQLite's result codes that tell a file that is no database, or a damaged one.
const CODE_CORRUPT: &str = "11";
const CODE_NOT_A_DATABASE: &str = "26";

fn newest_version() -> i64 {
    MIGRATIONS.iter().map(|(version, ..)| *version).max().unwrap_or(0)
}

/// The options of every connection to a known ledger. A commit returns when it is on the disk.
fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT)
}

/// A connection for the writer.
pub(crate) async fn connect(path: &Path) -> Result<SqliteConnection, sqlx::Error> {
    options(path).create_if_missing(false).connect().await
}

/// Connections for reading, made when they are needed.
pub(crate) fn readers(path: &Path) -> SqlitePool {
    let options = options(path).create_if_missing(false).read_only(true);
    SqlitePoolOptions::new().max_connections(READERS_MAX).connect_lazy_with(options)
}

/// Looks at the file without changing it, then makes or updates the schema.
pub(crate) async fn prepare(path: &Path) -> Result<SqliteConnection, LedgerError> {
    inspect(path).await?;
    let mut connection = options(path).connect().await.map_err(|source| open_error(path, source))?;
    let migrations = MIGRATIONS.iter().map(|&(version, about, sql)| {
        Migration::new(version, about.into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    Migrator::with_migrations(migrations.collect())
        .run(&mut connection)
        .await
        .map_err(|source| LedgerError::Migrate { path: path.to_owned(), source })?;
    Ok(connection)
}

/// Refuses what is no ledger or a newer one.
async fn inspect(path: &Path) -> Result<(), LedgerError> {
    if !path.exists() {
        return Ok(());
    }
    let error = |source| open_error(path, source);
    let plain = SqliteConnectOptions::new().filename(path).busy_timeout(BUSY_TIMEOUT);
    let mut connection = plain.connect().await.map_err(error)?;
    let tables: Vec<String> = sqlx::query_scalar("SELECT name FROM sqlite_master WHERE type = 'table'")
        .fetch_all(&mut connection)
        .await
        .map_err(error)?;
    let has = |name: &str| tables.iter().any(|table| table == name);
    if tables.is_empty() {
        return connection.close().await.map_err(error);
    }
    if !has("_sqlx_migrations") || !has("requests") {
        return Err(LedgerError::NotALedger {
            path: path.to_owned(),
            what: "it is a SQLite database of another program".to_owned(),
        });
    }
    let found: Option<i64> = sqlx::query_scalar("SELECT MAX(version) FROM _sqlx_migrations")
        .fetch_one(&mut connection)
        .await
        .map_err(error)?;
    let (found, known) = (found.unwrap_or(0), newest_version());
    if found > known {
        return Err(LedgerError::Newer { path: path.to_owned(), found, known });
    }
    connection.close().await.map_err(error)
}

fn open_error(path: &Path, source: sqlx::Error) -> LedgerError {
    let code = source.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
    let what = match code.as_str() {
        CODE_NOT_A_DATABASE => "it is no SQLite database",
        CODE_CORRUPT => "its SQLite database is damaged",
        _ => return LedgerError::Open { path: path.to_owned(), source },
    };
    LedgerError::NotALedger { path: path.to_owned(), what: what.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn refusal(path: &Path) -> String {
        let before = std::fs::read(path).ok();
        let message = prepare(path).await.err().map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(std::fs::read(path).ok(), before, "the file was changed");
        message
    }

    #[test]
    fn versions_count_from_one() {
        for (index, (version, about, sql)) in MIGRATIONS.iter().enumerate() {
            assert_eq!(*version, index as i64 + 1, "{about}");
            assert!(sql.contains("CREATE") || sql.contains("ALTER"), "{about}");
        }
    }

    #[tokio::test]
    async fn a_file_that_is_no_ledger_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let garbage = folder.path().join("garbage");
        std::fs::write(&garbage, b"certainly no database, but long enough to be read as a header".repeat(99))
            .unwrap();
        assert!(refusal(&garbage).await.contains("it is no SQLite database"));

        let foreign = folder.path().join("foreign");
        let options = SqliteConnectOptions::new().filename(&foreign).create_if_missing(true);
        let mut connection = options.connect().await.unwrap();
        sqlx::query("CREATE TABLE requests (id TEXT)").execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        assert!(refusal(&foreign).await.contains("another program"));

        let nowhere = folder.path().join("no/such/folder/ledger");
        let message = refusal(&nowhere).await;
        assert!(message.contains("can't be opened") && message.contains("no/such/folder"), "{message}");
        assert!(refusal(folder.path()).await.contains("can't be opened"));
    }

    #[tokio::test]
    async fn a_damaged_ledger_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        prepare(&path).await.unwrap().close().await.unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[100..2000].fill(0xAB);
        std::fs::write(&path, bytes).unwrap();
        let message = refusal(&path).await;
        assert!(message.contains("damaged"), "{message}");
    }

    #[tokio::test]
    async fn a_newer_ledger_is_refused_and_an_equal_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        prepare(&path).await.unwrap().close().await.unwrap();
        let mut connection = prepare(&path).await.unwrap();
        sqlx::query(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
             VALUES (99, 'later', 1, x'00', 0)",
        )
        .execute(&mut connection)
        .await
        .unwrap();
        connection.close().await.unwrap();
        let message = refusal(&path).await;
        assert!(message.contains("version 99") && message.contains("newer Tandem"), "{message}");
    }
}
