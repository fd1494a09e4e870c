//! `pattern`: structured personal data and secrets, regular expressions, denied words.

use super::{Built, Entry};
use crate::guards::pattern::Scanner;
use crate::guards::{GuardError, GuardSettings};

/// Least score of a match where the settings name none.
const THRESHOLD: f32 = 0.5;

pub(super) const ENTRY: Entry = Entry {
    name: "pattern",
    about: "structured personal data and secrets, regular expressions, denied words",
    reads: false,
    check: |settings| scanner(settings).map(drop),
    build: |settings, _| scanner(settings).map(Built::Scanner),
};

fn scanner(settings: &GuardSettings) -> Result<Scanner, GuardError> {
    let threshold = settings.threshold.unwrap_or(THRESHOLD);
    Scanner::new(&settings.entities, (&settings.patterns, &settings.deny), threshold)
}
