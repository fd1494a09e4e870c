//! The queue and the one task that empties it into the database.
//!
//! A row waits at most the commit interval before its batch is committed and synced. A write that
//! fails is repeated; after [`TRIES_MAX`] in a row the ledger counts as unwritable: rows stay queued
//! (up to the queue's limit), callers that need them durable or find the queue full get an error,
//! and the task goes on trying every [`RETRY_INTERVAL`].

use std::collections::VecDeque;
use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::{Connection, SqliteConnection};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};

use crate::keep::Kept;
use crate::{Feedback, LedgerError, schema, write};

/// Most rows of one transaction.
const BATCH_ROWS_MAX: usize = 512;

/// Tries of a write before the ledger counts as unwritable.
const TRIES_MAX: u32 = 4;

/// Wait before the second try; it doubles with each further one.
const BACKOFF: Duration = Duration::from_millis(50);

/// How often an unwritable ledger is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How much may wait, and how long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) queue_rows_max: usize,
    pub(crate) commit_interval: Duration,
}

/// The near end of the queue.
#[derive(Debug)]
pub(crate) struct Queue {
    sender: mpsc::UnboundedSender<Message>,
    /// One slot per row that waits: this is what bounds the queue.
    slots: Arc<Semaphore>,
    state: Arc<State>,
}

/// What both ends know.
#[derive(Debug)]
struct State {
    lag_rows: AtomicU64,
    write_failures: AtomicU64,
    /// Why the ledger counts as unwritable, while it does.
    trouble: watch::Sender<Option<String>>,
}

impl State {
    fn unwritable(&self, message: String) -> LedgerError {
        LedgerError::Unwritable { message, waiting_rows: self.lag_rows.load(Ordering::Relaxed) }
    }
}

#[derive(Debug)]
struct Waiting {
    kept: Kept,
    since: Instant,
    _slot: OwnedSemaphorePermit,
}

type Reply<T> = oneshot::Sender<Result<T, LedgerError>>;

#[derive(Debug)]
enum Message {
    Row(Box<Waiting>),
    Feedback { request_id: String, feedback: Feedback, reply: Reply<bool> },
    Flush(Reply<()>),
    Close(Reply<()>),
}

/// Starts the task on the current tokio runtime. It ends with [`Queue::close`] or the last handle.
pub(crate) fn start(path: PathBuf, connection: SqliteConnection, limits: Limits) -> Queue {
    let (sender, messages) = mpsc::unbounded_channel();
    let state = Arc::new(State {
        lag_rows: AtomicU64::new(0),
        write_failures: AtomicU64::new(0),
        trouble: watch::Sender::new(None),
    });
    let writer = Writer {
        path,
        connection: Some(connection),
        messages,
        commit_interval: limits.commit_interval,
        waiting: VecDeque::new(),
        retry_at: None,
        closing: None,
        state: Arc::clone(&state),
    };
    tokio::spawn(writer.run());
    Queue { sender, slots: Arc::new(Semaphore::new(limits.queue_rows_max)), state }
}

impl Queue {
    /// Hands a row over; waits while the queue is full, unless it can't be written either.
    pub(crate) async fn push(&self, kept: Kept) -> Result<(), LedgerError> {
        let slot = self.slot().await?;
        self.state.lag_rows.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting { kept, since: Instant::now(), _slot: slot };
        self.sender.send(Message::Row(Box::new(waiting))).map_err(|_| {
            self.state.lag_rows.fetch_sub(1, Ordering::Relaxed);
            LedgerError::Closed
        })
    }

    async fn slot(&self) -> Result<OwnedSemaphorePermit, LedgerError> {
        match Arc::clone(&self.slots).try_acquire_owned() {
            Ok(slot) => return Ok(slot),
            Err(TryAcquireError::Closed) => return Err(LedgerError::Closed),
            Err(TryAcquireError::NoPermits) => {}
        }
        let mut trouble = self.state.trouble.subscribe();
        tokio::select! {
            biased;
            slot = Arc::clone(&self.slots).acquire_owned() => slot.map_err(|_| LedgerError::Closed),
            Ok(message) = trouble.wait_for(Option::is_some) => {
                Err(self.state.unwritable(message.clone().unwrap_or_default()))
            }
        }
    }

    pub(crate) fn lag_rows(&self) -> u64 {
        self.state.lag_rows.load(Ordering::Relaxed)
    }

    pub(crate) fn write_failures(&self) -> u64 {
        self.state.write_failures.load(Ordering::Relaxed)
    }

    /// Returns when all rows pushed before are durable.
    pub(crate) async fn flush(&self) -> Result<(), LedgerError> {
        self.ask(Message::Flush).await
    }

    /// Adds feedback after all rows pushed before; `false`: there is no such request.
    pub(crate) async fn feedback(&self, request_id: String, feedback: Feedback) -> Result<bool, LedgerError> {
        self.ask(|reply| Message::Feedback { request_id, feedback, reply }).await
    }

    /// Writes what waits and ends the task.
    pub(crate) async fn close(&self) -> Result<(), LedgerError> {
        self.slots.close();
        self.ask(Message::Close).await
    }

    async fn ask<T>(&self, message: impl FnOnce(Reply<T>) -> Message) -> Result<T, LedgerError> {
        let (reply, answer) = oneshot::channel();
        self.sender.send(message(reply)).map_err(|_| LedgerError::Closed)?;
        answer.await.map_err(|_| LedgerError::Closed)?
    }
}

/// The far end of the queue.
struct Writer {
    path: PathBuf,
    /// `None` after a failure: what state a broken transaction left behind is not worth guessing.
    connection: Option<SqliteConnection>,
    messages: mpsc::UnboundedReceiver<Message>,
    commit_interval: Duration,
    waiting: VecDeque<Waiting>,
    /// When an unwritable ledger is tried next; `Some` only while rows wait.
    retry_at: Option<Instant>,
    /// Who asked for the end.
    closing: Option<Reply<()>>,
    state: Arc<State>,
}

impl Writer {
    async fn run(mut self) {
        loop {
            let due = self.retry_at.or(self.waiting.front().map(|row| row.since + self.commit_interval));
            tokio::select! {
                message = self.messages.recv() => match message {
                    Some(message) => self.handle(message).await,
                    None => break,
                },
                () = wait_until(due) => self.commit_or_log().await,
            }
        }
        let written = self.commit().await;
        if let Some(connection) = self.connection.take() {
            // Only the checkpoint of the log can fail here, and the next opening repeats it.
            if let Err(error) = connection.close().await {
                tracing::warn!(%error, "closing the ledger");
            }
        }
        match (self.closing, written) {
            (Some(reply), written) => drop(reply.send(written)),
            (None, Err(error)) => tracing::error!(%error, "rows are lost with the ledger's end"),
            (None, Ok(())) => {}
        }
    }

    async fn handle(&mut self, message: Message) {
        match message {
            Message::Row(row) => {
                self.waiting.push_back(*row);
                if self.waiting.len() >= BATCH_ROWS_MAX && self.retry_at.is_none() {
                    self.commit_or_log().await;
                }
            }
            Message::Flush(reply) => drop(reply.send(self.commit().await)),
            Message::Feedback { request_id, feedback, reply } => {
                let given = self.feedback(&request_id, &feedback).await;
                drop(reply.send(given));
            }
            Message::Close(reply) => {
                // What was sent until now is still received; what comes later finds it closed.
                self.messages.close();
                self.closing = Some(reply);
            }
        }
    }

    async fn commit_or_log(&mut self) {
        if let Err(error) = self.commit().await {
            tracing::error!(%error, "the ledger can't be written");
        }
    }

    async fn feedback(&mut self, request_id: &str, feedback: &Feedback) -> Result<bool, LedgerError> {
        self.commit().await?;
        let mut tries = Tries::new(self);
        loop {
            let outcome = match self.connected().await {
                Ok(connection) => write::insert_feedback(connection, request_id, feedback).await,
                Err(error) => Err(error),
            };
            match outcome {
                Ok(found) => return Ok(found),
                Err(error) => tries.failed(self, &error).await?,
            }
        }
    }

    /// Makes everything that waits durable.
    async fn commit(&mut self) -> Result<(), LedgerError> {
        let mut tries = Tries::new(self);
        while !self.waiting.is_empty() {
            match self.commit_batch().await {
                Ok(rows) => {
                    self.waiting.drain(..rows);
                    self.state.lag_rows.fetch_sub(rows as u64, Ordering::Relaxed);
                    self.recovered();
                    tries = Tries::new(self);
                }
                Err(error) => tries.failed(self, &error).await?,
            }
        }
        Ok(())
    }

    /// Writes the oldest rows in one transaction; returns how many.
    async fn commit_batch(&mut self) -> Result<usize, sqlx::Error> {
        let rows = self.waiting.len().min(BATCH_ROWS_MAX);
        // Taken out so that it is dropped, not used again, if anything fails on the way.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => schema::connect(&self.path).await?,
        };
        let mut transaction = connection.begin().await?;
        for row in self.waiting.iter().take(rows) {
            write::insert(&mut transaction, &row.kept).await?;
        }
        transaction.commit().await?;
        self.connection = Some(connection);
        Ok(rows)
    }

    async fn connected(&mut self) -> Result<&mut SqliteConnection, sqlx::Error> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => schema::connect(&self.path).await?,
        };
        Ok(self.connection.insert(connection))
    }

    fn recovered(&mut self) {
        if self.retry_at.take().is_some() {
            tracing::info!("the ledger can be written again");
            self.state.trouble.send_replace(None);
        }
    }
}

/// Counts the tries of one write.
struct Tries {
    left: u32,
    backoff: Duration,
}

impl Tries {
    /// A ledger known as unwritable gets one try, so that nobody waits long for the same error.
    fn new(writer: &Writer) -> Self {
        Tries { left: if writer.retry_at.is_some() { 1 } else { TRIES_MAX }, backoff: BACKOFF }
    }

    /// Counts a failure; waits before the next try, or gives up.
    async fn failed(&mut self, writer: &mut Writer, error: &sqlx::Error) -> Result<(), LedgerError> {
        writer.connection = None;
        writer.state.write_failures.fetch_add(1, Ordering::Relaxed);
        self.left = self.left.saturating_sub(1);
        if self.left == 0 {
            if !writer.waiting.is_empty() {
                writer.retry_at = Some(Instant::now() + RETRY_INTERVAL);
                writer.state.trouble.send_replace(Some(error.to_string()));
            }
            return Err(writer.state.unwritable(error.to_string()));
        }
        tracing::warn!(%error, tries_left = self.left, "a write to the ledger failed");
        sleep(self.backoff).await;
        self.backoff *= 2;
        Ok(())
    }
}

async fn wait_until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => pending().await,
    }
}
