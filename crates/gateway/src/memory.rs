//! What requests may hold in memory together: [`RequestMemory`], by which one that would be too much is
//! refused (429) instead of making everything grow.
//!
//! A request is charged when it arrives for its body and all that is made of it, and when it is understood
//! for the longest answer that it may get; both until its response is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::settings::GatewaySettings;
use crate::wire::ApiError;

/// Bytes of a connection: buffers for reading and writing, and its task.
pub const CONNECTION_BYTES: usize = 64 << 10;
/// What a byte of a body becomes at most while its request lives: JSON, messages, the template's text and
/// tokens, at times side by side.
pub const BODY_COST: usize = 12;
/// What a token of an answer takes: its text, its part of the events, and of the collected answer.
pub const ANSWER_TOKEN_BYTES: usize = 256;
/// What each of the likeliest tokens takes that is reported beside it.
pub const TOP_TOKEN_BYTES: usize = 160;
/// Tokens of an answer whose length neither request nor backend limits.
pub const ANSWER_TOKENS_DEFAULT: u64 = 16_384;
/// A request that was refused may find room after about a short answer's time.
const RETRY_AFTER_S: u64 = 1;

/// The bytes that are left. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct RequestMemory {
    left: Arc<AtomicUsize>,
    all: usize,
}

/// What one request holds; given back when dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    memory: RequestMemory,
    bytes: usize,
}

impl RequestMemory {
    pub(crate) fn new(settings: &GatewaySettings) -> Self {
        let all = settings.http_bytes_max.saturating_sub(settings.connections_max * CONNECTION_BYTES);
        RequestMemory { left: Arc::new(AtomicUsize::new(all)), all }
    }

    /// A charge of nothing yet.
    pub(crate) fn charge(&self) -> Charge {
        Charge { memory: self.clone(), bytes: 0 }
    }
}

impl Charge {
    /// Takes more bytes.
    ///
    /// # Errors
    /// 413 if there will never be as many, 429 if there are not now.
    pub(crate) fn take(&mut self, bytes: usize) -> Result<(), ApiError> {
        let RequestMemory { left, all } = &self.memory;
        if self.bytes.saturating_add(bytes) > *all {
            let message = format!(
                "the request and its longest answer would take more than the {all} bytes that all requests \
                 have (http_bytes_max less the connections'); make it shorter, or name a smaller max_tokens"
            );
            return Err(ApiError::new(413, "request_too_large", message));
        }
        let taken = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        if taken.is_err() {
            let message = "the memory for requests is taken (http_bytes_max); retry later";
            let full = ApiError::new(429, "memory_full", message);
            return Err(ApiError { retry_after_s: Some(RETRY_AFTER_S), ..full });
        }
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.memory.left.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

/// Bytes of an answer of so many tokens, with so many of the likeliest reported at each.
pub(crate) fn answer_bytes(tokens: u64, top: usize) -> usize {
    let tokens = usize::try_from(tokens).unwrap_or(usize::MAX);
    tokens.saturating_mul(ANSWER_TOKEN_BYTES + top * TOP_TOKEN_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_never_exceed_what_there_is_and_come_back() {
        let settings = GatewaySettings {
            http_bytes_max: 1000 + 2 * CONNECTION_BYTES,
            connections_max: 2,
            ..GatewaySettings::default()
        };
        let memory = RequestMemory::new(&settings);
        let (mut first, mut second) = (memory.charge(), memory.charge());
        first.take(600).unwrap();
        let refused = second.take(401).unwrap_err();
        assert_eq!((refused.status, refused.retry_after_s), (429, Some(RETRY_AFTER_S)));
        second.take(400).unwrap();
        assert_eq!(second.take(1).unwrap_err().status, 429);
        assert_eq!(second.take(601).unwrap_err().status, 413, "never, with the 400 it has");
        drop(first);
        second.take(600).unwrap();
        drop(second);
        assert_eq!(memory.left.load(Ordering::Relaxed), 1000);
    }

    #[test]
    fn absurd_answers_saturate() {
        assert_eq!(answer_bytes(u64::MAX, 20), usize::MAX);
        assert_eq!(answer_bytes(2, 1), 2 * (ANSWER_TOKEN_BYTES + TOP_TOKEN_BYTES));
    }
}
