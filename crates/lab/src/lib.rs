//! Offline work with the same policies: report, replay, evaluate.

pub mod checks;
pub mod evaluate;
pub mod outcome_file;
pub mod outcomes;
pub mod report;
pub mod rows;
pub mod summary;
pub mod tasks;
