//! What can go wrong with a ledger: [`LedgerError`].

use std::path::PathBuf;

/// Each way in which opening, writing or reading a ledger fails.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// A setting is out of range.
    #[error("ledger.{field} = {value} is out of range; it must lie in {range}")]
    Setting {
        /// The setting.
        field: &'static str,
        /// What it was.
        value: u64,
        /// What it may be.
        range: String,
    },
    /// The file can't be created, opened or read.
    #[error("the ledger {} can't be opened: {source}; check that its folder exists and may be written", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: sqlx::Error,
    },
    /// The file is something else, or damaged.
    #[error("{} is no ledger: {what}; move it away or name another file in ledger.path", path.display())]
    NotALedger {
        /// The file.
        path: PathBuf,
        /// What it is, as far as can be told.
        what: String,
    },
    /// A newer Tandem wrote it.
    #[error("the ledger {} has schema version {found}, but this Tandem knows versions up to {known} only: use a newer Tandem, or name another file in ledger.path", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version this program knows.
        known: i64,
    },
    /// The schema can't be brought up to date.
    #[error("the ledger {} can't be brought to this Tandem's schema: {source}", path.display())]
    Migrate {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: sqlx::migrate::MigrateError,
    },
    /// Rows can't be written for now; they wait in memory and are tried again.
    #[error(
        "the ledger can't be written ({message}); {waiting_rows} rows wait in memory and are tried again"
    )]
    Unwritable {
        /// What SQLite said.
        message: String,
        /// Rows that wait.
        waiting_rows: u64,
    },
    /// The ledger was closed.
    #[error("the ledger is closed")]
    Closed,
    /// A query failed.
    #[error("the ledger can't be read: {0}")]
    Read(#[source] sqlx::Error),
    /// A row does not hold what this program writes.
    #[error("the ledger's row of request {request_id} is damaged: {what}")]
    Damaged {
        /// The request.
        request_id: String,
        /// What is wrong with it.
        what: String,
    },
    /// A feedback score outside 0..=1.
    #[error("score {0} is out of range; it must lie in 0..=1")]
    Score(f64),
}
