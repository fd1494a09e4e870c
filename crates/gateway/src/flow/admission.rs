//! Who may run and who may wait: [`Admission`], a bounded queue before the backends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus::IntGauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{FlowError, FlowLimits};

/// A place among the running requests; free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    _permit: OwnedSemaphorePermit,
}

/// Counts the running and the waiting requests; first come, first served.
pub(super) struct Admission {
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    concurrent_max: usize,
    queue_max: usize,
    depth: IntGauge,
}

/// One waiting request; gone from the queue when dropped.
struct Waiting<'a>(&'a Admission);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
        self.0.depth.dec();
    }
}

impl Admission {
    pub(super) fn new(limits: &FlowLimits, depth: IntGauge) -> Self {
        Admission {
            places: Arc::new(Semaphore::new(limits.concurrent_max)),
            waiting: AtomicUsize::new(0),
            concurrent_max: limits.concurrent_max,
            queue_max: limits.queue_max,
            depth,
        }
    }

    /// Waits for a place, or says at once that the queue is full. Dropping the future leaves it.
    pub(super) async fn enter(&self) -> Result<Place, FlowError> {
        if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(Place { _permit: permit });
        }
        let _waiting = self.queue_up()?;
        // The semaphore is never closed, so this fails only if that changes.
        let permit = Arc::clone(&self.places).acquire_owned().await.map_err(|_| self.full())?;
        Ok(Place { _permit: permit })
    }

    fn queue_up(&self) -> Result<Waiting<'_>, FlowError> {
        let room = |waiting: usize| (waiting < self.queue_max).then_some(waiting + 1);
        match self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room) {
            Ok(_) => {
                self.depth.inc();
                Ok(Waiting(self))
            }
            Err(_) => Err(self.full()),
        }
    }

    fn full(&self) -> FlowError {
        FlowError::QueueFull { concurrent_max: self.concurrent_max, queue_max: self.queue_max }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(concurrent_max: usize, queue_max: usize) -> Admission {
        let limits = FlowLimits { concurrent_max, queue_max, ..FlowLimits::default() };
        Admission::new(&limits, IntGauge::new("depth", "test").unwrap())
    }

    #[tokio::test]
    async fn places_then_queue_then_refusal_and_all_come_free_again() {
        let admission = admission(1, 1);
        let running = admission.enter().await.unwrap();
        {
            let mut second = Box::pin(admission.enter());
            assert!(futures_util::poll!(&mut second).is_pending());
            assert_eq!(admission.depth.get(), 1);
            let refused = admission.enter().await.unwrap_err();
            assert!(matches!(refused, FlowError::QueueFull { concurrent_max: 1, queue_max: 1 }));
        }
        assert_eq!(admission.depth.get(), 0, "who stops waiting leaves the queue");
        let mut third = Box::pin(admission.enter());
        assert!(futures_util::poll!(&mut third).is_pending());
        drop(running);
        third.await.unwrap();
        assert_eq!(admission.depth.get(), 0);
        admission.enter().await.unwrap();
    }

    #[tokio::test]
    async fn without_a_queue_only_places_count() {
        let admission = admission(2, 0);
        let _one = admission.enter().await.unwrap();
        let _two = admission.enter().await.unwrap();
        assert!(admission.enter().await.is_err());
    }
}
