//! The one backend call that runs, and what is measured about it while it does: [`Running`].

use contract::{Check, Delta, Event, EventStream, Timings};
use futures_util::StreamExt;
use tokio::time::{Duration, Instant};

/// A backend's call in progress. Dropping it cancels the call.
pub(super) struct Running {
    stream: EventStream,
    /// When the policy wants to see it.
    pub(super) check: Check,
    /// How much was written when it was last asked about the partial answer.
    asked_at: Option<u32>,
    deltas: u32,
    /// What was written: text, tool calls, and one for each token and each delta, so that a backend
    /// that sends endless nothing comes to an end too.
    pub(super) bytes: usize,
    called: Instant,
    started: Option<Instant>,
    first: Option<Instant>,
}

impl Running {
    pub(super) fn new(stream: EventStream, check: Check) -> Self {
        Running {
            stream,
            check,
            asked_at: None,
            deltas: 0,
            bytes: 0,
            called: Instant::now(),
            started: None,
            first: None,
        }
    }

    /// The next event; dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Option<Event> {
        self.stream.next().await
    }

    pub(super) fn note_started(&mut self) {
        self.started.get_or_insert_with(Instant::now);
    }

    pub(super) fn note_delta(&mut self, delta: &Delta) {
        self.note_started();
        self.first.get_or_insert_with(Instant::now);
        let tool_calls: usize = delta.tool_calls.iter().map(|call| call.to_string().len()).sum();
        self.bytes += 1 + delta.text.len() + delta.tokens.len() + tool_calls;
        if !delta.text.is_empty() {
            self.deltas = self.deltas.saturating_add(1);
        }
    }

    /// Whether the policy is to be asked now, of so many tokens; it then counts as asked. A backend that tells no
    /// tokens is judged by its pieces of text.
    pub(super) fn asks(&mut self, tokens: u32) -> bool {
        let written = if tokens == 0 { self.deltas } else { tokens };
        let is_due = match self.check {
            Check::AfterTokens(window) => self.asked_at.is_none() && written >= window,
            Check::Every(step) => written.saturating_sub(self.asked_at.unwrap_or(0)) >= step.max(1),
            Check::Never | Check::WhenFinished => false,
        };
        if is_due {
            self.asked_at = Some(written);
        }
        is_due
    }

    /// The times as seen from here, for calls whose backend reports none: failed and cancelled ones.
    pub(super) fn timings(&self) -> Timings {
        let now = Instant::now();
        let started = self.started.unwrap_or(now);
        let first = self.first.unwrap_or(now);
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        Timings {
            queue_ms: ms(started - self.called),
            prompt_ms: ms(first.saturating_duration_since(started)),
            decode_ms: ms(now - first),
        }
    }
}
