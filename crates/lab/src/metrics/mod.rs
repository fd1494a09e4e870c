//! Metrics: of scores ([`ranking`]).

pub mod ranking;
