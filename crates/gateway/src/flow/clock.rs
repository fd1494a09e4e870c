//! Tells Tandem's own time from time spent waiting on a queue or a backend: [`Clock`].

use tokio::time::{Duration, Instant};

/// Times one request.
#[derive(Debug)]
pub(super) struct Clock {
    arrived: Instant,
    own: Duration,
    /// Since when Tandem itself is at work; `None` while it waits on others.
    since: Option<Instant>,
}

impl Clock {
    /// `door`: own time that passed before the flow began.
    pub(super) fn new(arrived: Instant, door: Duration) -> Self {
        Clock { arrived, own: door, since: None }
    }

    /// Tandem is at work from now on.
    pub(super) fn work(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    /// Somebody else is.
    pub(super) fn wait(&mut self) {
        if let Some(since) = self.since.take() {
            self.own += since.elapsed();
        }
    }

    /// Tandem's own time so far, milliseconds.
    pub(super) fn overhead_ms(&self) -> f64 {
        let running = self.since.map_or(Duration::ZERO, |since| since.elapsed());
        (self.own + running).as_secs_f64() * 1e3
    }

    /// Time since arrival.
    pub(super) fn elapsed(&self) -> Duration {
        self.arrived.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waiting_is_not_overhead() {
        let mut clock = Clock::new(Instant::now(), Duration::from_millis(2));
        clock.work();
        tokio::time::advance(Duration::from_millis(3)).await;
        clock.wait();
        tokio::time::advance(Duration::from_millis(500)).await;
        clock.work();
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(clock.overhead_ms(), 6.0);
        assert_eq!(clock.elapsed(), Duration::from_millis(504));
    }
}
