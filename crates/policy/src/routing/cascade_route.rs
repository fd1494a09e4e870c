//! `cascade-route`: large answers at once what small's reading gives little hope for; small answers the rest, and is
//! judged (two thresholds, as in *A Unified Approach to Routing and Cascading for LLMs*, Dekoninck et al., 2024).

use super::Entry;
use super::calibrated::Calibrated;
use super::large::Large;
use crate::calibration::PolicyKind;

pub(super) const ENTRY: Entry = Entry {
    name: "cascade-route",
    about: "small answers what its reading gives hope for, and its answer is judged, by a calibration",
    calibrated: Some(PolicyKind::CascadeRoute),
    // Without a calibration it is not built.
    build: |settings, calibration| match calibration {
        Some(calibration) => Calibrated::boxed(PolicyKind::CascadeRoute, settings, calibration),
        None => Box::new(Large),
    },
};
