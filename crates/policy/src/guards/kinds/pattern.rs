//! `pattern`: structured personal data and secrets, regular expressions, denied words.

use super::Entry;
use crate::guards::pattern::Scanner;

pub(super) const ENTRY: Entry = Entry {
    name: "pattern",
    about: "structured personal data and secrets, regular expressions, denied words",
    build: |settings| {
        Scanner::new(&settings.entities, (&settings.patterns, &settings.deny), settings.threshold)
    },
};
