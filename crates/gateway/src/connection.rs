//! What a request may do to the connection it came over: [`Connection`].

use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// A handle on one client connection; the request handlers find it in the request's extensions.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    closing: CancellationToken,
    abort_at: Arc<watch::Sender<Option<Instant>>>,
}

impl Connection {
    pub(crate) fn new(closing: CancellationToken) -> Self {
        Connection { closing, abort_at: Arc::new(watch::channel(None).0) }
    }

    /// Closes the connection once the running response is written.
    pub(crate) fn close(&self) {
        self.closing.cancel();
    }

    /// Cuts the connection then, unless the guard is dropped before: a client that does not read
    /// stops its stream from being polled, so no deadline inside the stream could fire.
    pub(crate) fn abort_at(&self, at: Instant) -> AbortGuard {
        self.abort_at.send_replace(Some(at));
        AbortGuard(Arc::clone(&self.abort_at))
    }

    /// Ready when the connection is to be closed in order.
    pub(crate) async fn closing(&self) {
        self.closing.cancelled().await;
    }

    /// Ready when it is to be cut.
    pub(crate) async fn aborted(&self) {
        let mut changes = self.abort_at.subscribe();
        loop {
            let at = *changes.borrow_and_update();
            // The sender lives in `self`, so waiting for a change never fails.
            match at {
                None => drop(changes.changed().await),
                Some(at) => tokio::select! {
                    _ = changes.changed() => {}
                    () = sleep_until(at) => return,
                },
            }
        }
    }
}

/// While it lives, the connection will be cut at its time.
#[derive(Debug)]
pub(crate) struct AbortGuard(Arc<watch::Sender<Option<Instant>>>);

impl Drop for AbortGuard {
    fn drop(&mut self) {
        self.0.send_replace(None);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_cut_only_while_the_guard_lives() {
        let connection = Connection::new(CancellationToken::new());
        let guard = connection.abort_at(Instant::now() + Duration::from_secs(5));
        drop(guard);
        let cut = tokio::time::timeout(Duration::from_secs(60), connection.aborted()).await;
        assert!(cut.is_err());
        let _guard = connection.abort_at(Instant::now() + Duration::from_secs(5));
        let cut = tokio::time::timeout(Duration::from_secs(60), connection.aborted()).await;
        assert!(cut.is_ok());
    }
}
