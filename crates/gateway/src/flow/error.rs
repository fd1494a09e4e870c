//! The ways a request can fail after it was validated: [`FlowError`] and the HTTP status of each.

use contract::{BackendError, FailureKind, Refusal, Role};

/// Advice when the queue is full: about the time a short answer takes.
const QUEUE_RETRY_AFTER_S: u64 = 1;
/// Advice while a model loads.
const LOADING_RETRY_AFTER_S: u64 = 2;

/// Why a request was not answered.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FlowError {
    /// All places are taken and the queue is full.
    #[error(
        "{concurrent_max} requests are running and {queue_max} are waiting, which is the limit; retry later"
    )]
    QueueFull {
        /// The limit on running requests.
        concurrent_max: usize,
        /// The limit on waiting ones.
        queue_max: usize,
    },
    /// An interactive request took the place in a full queue.
    #[error(
        "{queue_max} requests are waiting, which is the limit, and an interactive one took the place of this \
         background request; retry later"
    )]
    Displaced {
        /// The limit on waiting requests.
        queue_max: usize,
    },
    /// The deadline of the client passed.
    #[error("the deadline of {after_ms} ms (x-tandem-deadline-ms) passed before the answer was complete")]
    Deadline {
        /// The deadline from arrival.
        after_ms: u64,
    },
    /// The server's own limit passed.
    #[error("the answer took longer than this server allows ({after_ms} ms, request_timeout_ms)")]
    TooSlow {
        /// The limit from arrival.
        after_ms: u64,
    },
    /// A backend is needed that is still loading.
    #[error("the {} model {model} is still loading; retry in a moment", role.as_str())]
    Loading {
        /// Its role.
        role: Role,
        /// Its name.
        model: String,
    },
    /// The backend that was to answer failed.
    #[error("{0}")]
    Backend(BackendError),
    /// The policy refused the request.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// A guard refused the request.
    #[error("the request is refused: {reason}")]
    Guarded {
        /// The guard's name.
        guard: String,
        /// What it found, without the text.
        reason: String,
    },
    /// The policy broke its contract.
    #[error("the policy {policy} {fault}")]
    Policy {
        /// Its name.
        policy: String,
        /// What it did.
        fault: String,
    },
}

impl FlowError {
    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            FlowError::QueueFull { .. } | FlowError::Displaced { .. } => 429,
            FlowError::Deadline { .. } | FlowError::TooSlow { .. } => 408,
            FlowError::Loading { .. } => 503,
            FlowError::Refused(_) | FlowError::Guarded { .. } => 400,
            FlowError::Policy { .. } => 500,
            FlowError::Backend(error) => match error.kind {
                FailureKind::BadInput => 400,
                FailureKind::TooLong => 413,
                FailureKind::Busy => 429,
                FailureKind::Unready => 503,
                FailureKind::Upstream => 502,
                FailureKind::Timeout => 504,
                FailureKind::Deadline => 408,
                FailureKind::Internal => 500,
            },
        }
    }

    /// OpenAI's `code`.
    pub fn code(&self) -> &str {
        match self {
            FlowError::QueueFull { .. } | FlowError::Displaced { .. } => "queue_full",
            FlowError::Deadline { .. } => "deadline_exceeded",
            FlowError::TooSlow { .. } => "request_timeout",
            FlowError::Loading { .. } => "model_loading",
            FlowError::Refused(refusal) => &refusal.code,
            FlowError::Guarded { .. } => "content_filter",
            FlowError::Policy { .. } => "internal_error",
            FlowError::Backend(error) => match error.kind {
                FailureKind::BadInput => "invalid_value",
                FailureKind::TooLong => "context_length_exceeded",
                FailureKind::Busy => "rate_limit_exceeded",
                FailureKind::Unready => "model_not_ready",
                FailureKind::Upstream => "upstream_error",
                FailureKind::Timeout => "upstream_timeout",
                FailureKind::Deadline => "deadline_exceeded",
                FailureKind::Internal => "internal_error",
            },
        }
    }

    /// Seconds after which a retry makes sense, if any.
    pub fn retry_after_s(&self) -> Option<u64> {
        match self {
            FlowError::QueueFull { .. } | FlowError::Displaced { .. } => Some(QUEUE_RETRY_AFTER_S),
            FlowError::Loading { .. } => Some(LOADING_RETRY_AFTER_S),
            FlowError::Backend(error) => match error.kind {
                FailureKind::Busy => Some(error.retry_after_s.unwrap_or(QUEUE_RETRY_AFTER_S)),
                FailureKind::Unready => Some(error.retry_after_s.unwrap_or(LOADING_RETRY_AFTER_S)),
                _ => error.retry_after_s,
            },
            _ => None,
        }
    }
}
