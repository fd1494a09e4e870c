//! Pure decisions: who answers a request, and whether what was written is good enough to leave.
//!
//! No clock, no I/O, no randomness: equal arguments give equal decisions, so the lab replays over
//! the ledger exactly what the gateway did live. [`build`] is the door; [`routing`] has one file per
//! policy.

mod artefact;
pub mod calibration;
pub mod calibrator;
pub mod drift;
mod forced;
pub mod guards;
pub mod heads;
mod outlook;
mod products;
pub mod routing;
mod settings;
mod sticky;
pub mod token_head;

pub use calibration::{Calibration, CalibrationError};
pub use heads::{Head, HeadError, Heads};
pub use settings::{OnLargeFailure, PolicyError, PolicySettings, Stickiness};
pub use token_head::{TokenHead, TokenHeadError};

use std::sync::Arc;

use calibration::PolicyKind;
use contract::Policy;
use forced::Forced;
use sticky::Sticky;

/// Builds the policy that `settings` name, without a calibration. Every policy obeys a request's forced role.
///
/// # Errors
/// [`PolicyError`]; also for policies that can't be without a calibration.
pub fn build(settings: &PolicySettings) -> Result<Box<dyn Policy>, PolicyError> {
    build_calibrated(settings, None)
}

/// The same with a calibration, which must be one of the policy that is named, unless it does not route.
///
/// # Errors
/// As [`build`], and if the calibration is of another policy.
pub fn build_calibrated(
    settings: &PolicySettings,
    calibration: Option<Arc<Calibration>>,
) -> Result<Box<dyn Policy>, PolicyError> {
    settings.validate()?;
    let entry = routing::REGISTRY.iter().find(|entry| entry.name == settings.kind).ok_or_else(|| {
        let known: Vec<&str> = routing::REGISTRY.iter().map(|entry| entry.name).collect();
        PolicyError::UnknownKind { kind: settings.kind.clone(), known: known.join(", ") }
    })?;
    let calibration = calibration.filter(|_| entry.calibrated.is_some());
    if let Some(other) =
        calibration.as_ref().filter(|found| found.routes && Some(found.policy) != entry.calibrated)
    {
        let (kind, calibrated) = (settings.kind.clone(), other.policy.as_str());
        return Err(PolicyError::OtherPolicy { kind, calibrated });
    }
    let cannot_do_without = matches!(entry.calibrated, Some(PolicyKind::Route | PolicyKind::CascadeRoute));
    if cannot_do_without && calibration.is_none() {
        return Err(PolicyError::NeedsCalibration { kind: settings.kind.clone() });
    }
    let is_calibrated = calibration.is_some();
    let sticky = Sticky::new((entry.build)(settings, calibration), settings.sticky);
    Ok(Box::new(Forced::new(Box::new(sticky), is_calibrated)))
}
