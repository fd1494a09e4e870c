//! Who can answer: `embedded` (the engine in this process), `openai` (an HTTP upstream) and
//! `scripted` (tests). Each kind is one module that implements [`contract::Backend`]; nothing here
//! decides which of them answers.

pub mod embedded;
pub mod openai;
pub mod scripted;
mod secret;

pub use embedded::{DraftOptions, EmbeddedBackend, EmbeddedOptions, IdleUnload};
pub use openai::{OpenaiBackend, OpenaiSettings};
pub use scripted::{Reply, ScriptedBackend};
pub use secret::Secret;
