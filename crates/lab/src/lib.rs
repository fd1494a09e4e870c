//! Offline work with the same policies: report, replay, evaluate, train heads, calibrate.

pub mod calibration;
pub mod checks;
pub mod evaluate;
pub mod fit;
pub mod heads;
pub mod metrics;
pub mod outcome_file;
pub mod outcomes;
pub mod rejudge;
pub mod replay;
pub mod report;
pub mod rows;
pub mod summary;
pub mod tasks;
