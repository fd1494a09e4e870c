//! `route`: a head on small's reading decides who answers, before anything is written.

use super::Entry;
use super::calibrated::Calibrated;
use super::large::Large;
use crate::calibration::PolicyKind;

pub(super) const ENTRY: Entry = Entry {
    name: "route",
    about: "small's reading decides who answers, by a calibration",
    calibrated: Some(PolicyKind::Route),
    // Without a calibration it is not built.
    build: |settings, calibration| match calibration {
        Some(calibration) => Calibrated::boxed(PolicyKind::Route, settings, calibration),
        None => Box::new(Large),
    },
};
