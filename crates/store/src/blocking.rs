//! Reading, writing and hashing, kept off the async threads.

use std::panic;

/// Runs work that blocks, off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(payload) => panic::resume_unwind(payload),
            // Not started because the runtime is going down, and this future with it.
            Err(_) => std::future::pending().await,
        },
    }
}
