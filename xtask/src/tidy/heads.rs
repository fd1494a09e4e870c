//! Every Rust file opens with `//!`.

use super::{Finding, Rule, tree::Tree};

/// The rule.
pub const RULE: Rule = Rule {
    name: "heads",
    why: "a reader learns from a file's first line what it is for",
    check,
    breaks: &[&[("a.rs", "use b;\n")], &[("a.rs", "// A thing.\n//! Late.\n")], &[("a.rs", "")]],
    keeps: &[&[("a.rs", "//! A thing.\n")]],
};

fn check(tree: &Tree) -> Vec<Finding> {
    let headless = tree.rust().filter(|(file, _)| !file.text.starts_with("//! "));
    headless.map(|(file, _)| Finding::new(&file.path, 1, "the file does not open with `//! `")).collect()
}
