//! The nouns that cross crates (request, reply events, attempt, decision) and the traits
//! [`Backend`] and [`Policy`]. No I/O, no clock, no randomness.

mod attempt;
mod backend;
mod decision;
mod guarding;
mod price;
mod reading;
mod request;

pub use attempt::{Attempt, AttemptStatus, Signals, Timings, Usage};
pub use backend::{
    Backend, BackendError, BackendInfo, BackendKind, Call, Delta, DrafterState, Drafting, Event, EventStream,
    FailureKind, FinishReason, Finished, Readiness, TokenLogprob,
};
pub use decision::{Check, Decision, Policy, Refusal, Step};
pub use guarding::{Channel, GuardAction, GuardRecord};
pub use price::Price;
pub use reading::{
    Findings, LayerState, LayerTokens, NextToken, Read, ReadFuture, ReadOptions, Reading, TOKEN_STATES_MAX,
    TokenStates,
};
pub use request::{
    Continued, Continues, Input, Message, MessageRole, Options, Priority, Request, Role, Route, Sampling,
    Target, ToolCall,
};
