//! Offline work with the same policies: report, replay, evaluate.

pub mod calibration;
pub mod fit;
pub mod heads;
pub mod metrics;
pub mod outcomes;
pub mod report;
