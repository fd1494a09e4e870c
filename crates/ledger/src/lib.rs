//! The durable record of requests, attempts, decisions, feedback and cost; the only SQL.
//!
//! [`Ledger::record`] hands a finished request to a bounded queue; one task ([`writer`]) commits the
//! queue in batches, synced to the disk, so a crash loses at most what the last commit interval
//! brought. Rows are only ever added. [`keep`] decides which texts enter at all, before the queue.

mod error;
mod keep;
mod query;
mod read;
mod report;
mod row;
mod schema;
mod settings;
mod write;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::SqlitePool;

pub use error::LedgerError;
pub use report::{BackendLine, Percentiles, Report, ReportQuery, RouteLine, Totals};
pub use row::{Feedback, RequestRow, StoredRequest};
pub use settings::{COMMIT_INTERVAL_MS_LIMIT, KeepText, LedgerSettings, QUEUE_ROWS_LIMIT};

use writer::Queue;

/// Requests that [`Ledger::page`] reads at once.
pub const PAGE_ROWS: u32 = 256;

/// A handle on an open ledger; clones share it.
#[derive(Clone, Debug)]
pub struct Ledger {
    queue: Arc<Queue>,
    readers: SqlitePool,
    keep_text: KeepText,
}

impl Ledger {
    /// Opens the ledger at `path`, or makes a new one there, and starts its writer on the current
    /// tokio runtime. Refuses files of other programs and of newer Tandems, and leaves them as they are.
    pub async fn open(path: &Path, settings: LedgerSettings) -> Result<Ledger, LedgerError> {
        settings.validate()?;
        let connection = schema::prepare(path).await?;
        let readers = schema::readers(path);
        let limits = writer::Limits {
            queue_rows_max: settings.queue_rows_max,
            commit_interval: Duration::from_millis(settings.commit_interval_ms),
        };
        let queue = Arc::new(writer::start(path.to_owned(), connection, limits));
        Ok(Ledger { queue, readers, keep_text: settings.keep_text })
    }

    /// Hands a finished request over; it is durable one commit interval later. Texts that are not to
    /// be kept are dropped here. Waits only while the queue is full. A second row with the same id
    /// is ignored.
    ///
    /// # Errors
    /// [`LedgerError::Unwritable`] when the queue is full and can't be written either, and
    /// [`LedgerError::Closed`]: then this row is lost. Rows handed over before stay queued.
    pub async fn record(&self, row: RequestRow) -> Result<(), LedgerError> {
        self.queue.push(keep::apply(row, self.keep_text)).await
    }

    /// Rows handed over that are not durable yet.
    pub fn lag_rows(&self) -> u64 {
        self.queue.lag_rows()
    }

    /// Failed attempts to write, each of which is repeated.
    pub fn write_failures(&self) -> u64 {
        self.queue.write_failures()
    }

    /// Returns when all rows handed over before are durable.
    pub async fn flush(&self) -> Result<(), LedgerError> {
        self.queue.flush().await
    }

    /// Adds feedback on a recorded request, durable on return; `false`: there is no such request.
    /// `score` is 0 (bad) to 1 (good). The comment is kept only where texts are.
    pub async fn feedback(
        &self,
        request_id: &str,
        score: f64,
        comment: Option<&str>,
    ) -> Result<bool, LedgerError> {
        if !(0.0..=1.0).contains(&score) {
            return Err(LedgerError::Score(score));
        }
        let comment = comment.filter(|_| self.keep_text == KeepText::Full).map(str::to_owned);
        let feedback = Feedback { given_unix_ms: now_unix_ms(), score, comment };
        self.queue.feedback(request_id.to_owned(), feedback).await
    }

    /// A recorded request, also if it was handed over this moment.
    pub async fn request(&self, id: &str) -> Result<Option<StoredRequest>, LedgerError> {
        if let Some(found) = read::request(&self.readers, id).await? {
            return Ok(Some(found));
        }
        if self.lag_rows() == 0 {
            return Ok(None);
        }
        self.flush().await?;
        read::request(&self.readers, id).await
    }

    /// What a span of time adds up to, over what is durable ([`Ledger::flush`] first for the rest).
    pub async fn report(&self, query: ReportQuery) -> Result<Report, LedgerError> {
        query::report(&self.readers, query).await.map_err(LedgerError::Read)
    }

    /// The durable requests of a span of time behind `after`, or from its start; oldest first, at most
    /// [`PAGE_ROWS`]. The last of a page is the next one's `after`; an empty page is the end.
    pub async fn page(
        &self,
        query: ReportQuery,
        after: Option<&StoredRequest>,
    ) -> Result<Vec<StoredRequest>, LedgerError> {
        read::page(&self.readers, query, after).await
    }

    /// Writes what is queued and ends the writer. Later calls return [`LedgerError::Closed`].
    pub async fn close(&self) -> Result<(), LedgerError> {
        let written = self.queue.close().await;
        self.readers.close().await;
        written
    }
}

fn now_unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
