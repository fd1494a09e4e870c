//! Offline work with the same policies: report, replay, evaluate.

pub mod outcomes;
pub mod report;
