//! Who is told how far a fetch has come: [`Observer`]. Drawing it is the caller's business.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How often an observer hears while something is under way.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);

/// What is being done to a model file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Another process holds the model's lock.
    Waiting,
    /// Bytes are arriving, or those of an interrupted fetch are being checked.
    Downloading,
    /// The whole file is being hashed.
    Verifying,
}

/// How far a model has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The catalogue name, or the reference as it was given.
    pub model: &'a str,
    /// What is being done.
    pub phase: Phase,
    /// Bytes done in this phase. Steps back only when bytes are dropped.
    pub bytes_done: u64,
    /// Bytes in all, where known.
    pub bytes_total: Option<u64>,
}

/// Someone who wants to know. Any `FnMut(&Progress<'_>) + Send` is one.
pub trait Observer: Send {
    /// Called about ten times a second, and at the end of each phase.
    fn progress(&mut self, progress: &Progress<'_>);
}

impl<F: FnMut(&Progress<'_>) + Send> Observer for F {
    fn progress(&mut self, progress: &Progress<'_>) {
        self(progress);
    }
}

/// Bytes done, counted by whoever does the work, on whatever thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counter(Arc<AtomicU64>);

impl Counter {
    pub(crate) fn set(&self, bytes: u64) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    /// Never goes back: what pip has fetched counts before it is in the file.
    pub(crate) fn raise(&self, bytes: u64) {
        self.0.fetch_max(bytes, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Reads a [`Counter`] and tells an [`Observer`].
pub(crate) struct Reporter<'a> {
    model: String,
    phase: Phase,
    bytes_total: Option<u64>,
    counter: Counter,
    observer: &'a mut dyn Observer,
}

impl<'a> Reporter<'a> {
    pub(crate) fn new(model: String, observer: &'a mut dyn Observer) -> Self {
        Reporter { model, phase: Phase::Waiting, bytes_total: None, counter: Counter::default(), observer }
    }

    /// Starts a phase at zero bytes.
    pub(crate) fn start(&mut self, phase: Phase, bytes_total: Option<u64>) {
        self.phase = phase;
        self.bytes_total = bytes_total;
        self.counter.set(0);
    }

    pub(crate) fn counter(&self) -> Counter {
        self.counter.clone()
    }

    fn report(&mut self) {
        self.observer.progress(&Progress {
            model: &self.model,
            phase: self.phase,
            bytes_done: self.counter.get(),
            bytes_total: self.bytes_total,
        });
    }

    /// Awaits `work`, reporting the counter now and then and once when it is done.
    pub(crate) async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let mut ticks = tokio::time::interval(REPORT_INTERVAL);
        loop {
            tokio::select! {
                biased;
                done = &mut work => {
                    self.report();
                    return done;
                }
                _ = ticks.tick() => self.report(),
            }
        }
    }
}
