//! Guards: checks on requests and answers, each with an action.
//!
//! [`Chain`] is the door: it guards a whole request, and makes [`OutputGuard`]s for answers that come in pieces. Guards
//! that ask a model are in [`asked`]: who carries their questions out has the last word. A
//! kind of guard is a file in [`kinds`]. Checks see text as [`canonical`] folds it; spans are those of the original.

pub mod asked;
pub mod canonical;
mod chain;
pub mod judge;
pub mod kinds;
mod output;
pub mod pattern;
pub mod redact;
mod settings;
pub mod stream;

pub use chain::{Chain, Checked, Guarded, Hit};
pub use output::OutputGuard;
pub use settings::{GUARDS_MAX, GuardError, GuardSettings, KEYS, OnError, Stage, Topic};
