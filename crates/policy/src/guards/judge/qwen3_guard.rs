//! Qwen3Guard-Gen. Its chat template holds the task; the answer begins with `Safety: Safe`, `Controversial` or
//! `Unsafe` (Qwen3Guard technical report, 2025). What is controversial counts half.

use super::{Family, as_spoken};

pub(super) const FAMILY: Family = Family {
    name: "qwen3-guard",
    about: "Qwen3Guard-Gen, with the categories of its chat template",
    ask: as_spoken,
    words: &[("safe", 0.0), ("controversial", 0.5), ("unsafe", 1.0)],
    policy: "",
};
