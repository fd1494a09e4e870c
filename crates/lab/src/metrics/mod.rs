//! Metrics: of scores ([`ranking`]), and of sending requests by them ([`routing`]).

pub mod ranking;
pub mod routing;
