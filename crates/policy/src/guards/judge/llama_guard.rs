//! Llama Guard 3 and its successors. Their chat template holds the task and the categories; the answer is `safe`, or
//! `unsafe` and the categories on a second line.

use super::{Family, as_spoken};

pub(super) const FAMILY: Family = Family {
    name: "llama-guard",
    about: "Llama Guard 3 and 4, with the categories of their chat template",
    ask: as_spoken,
    words: &[("safe", 0.0), ("unsafe", 1.0)],
    policy: "",
};
