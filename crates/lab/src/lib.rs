//! Offline work with the same policies: report, replay, evaluate.

pub mod report;
