//! Pure decisions: who answers a request, and whether what was written is good enough to leave.
//!
//! No clock, no I/O, no randomness: equal arguments give equal decisions, so the lab replays over
//! the ledger exactly what the gateway did live. [`build`] is the door; [`routing`] has one file per
//! policy.

mod forced;
pub mod guards;
pub mod routing;
mod settings;

pub use settings::{OnLargeFailure, PolicyError, PolicySettings};

use contract::Policy;
use forced::Forced;

/// Builds the policy that `settings` name. Every policy obeys a request's forced role.
pub fn build(settings: &PolicySettings) -> Result<Box<dyn Policy>, PolicyError> {
    settings.validate()?;
    let entry = routing::REGISTRY.iter().find(|entry| entry.name == settings.kind).ok_or_else(|| {
        let known: Vec<&str> = routing::REGISTRY.iter().map(|entry| entry.name).collect();
        PolicyError::UnknownKind { kind: settings.kind.clone(), known: known.join(", ") }
    })?;
    Ok(Box::new(Forced::new((entry.build)(settings))))
}
