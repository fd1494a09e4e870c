//! No file names a place that exists on one machine only.

use super::{Finding, Rule, tree::Tree};

/// Words that may stand in no file. Written in two halves, so that this file holds none of them.
const WORDS: &[&str] = &[concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/tm", "p/")];

/// The rule.
pub const RULE: Rule = Rule {
    name: "forbidden_words",
    why: "the project is read and built on machines that have no such place",
    check,
    breaks: &[
        &[("a.md", concat!("One.\nSee /ho", "me/a.\n"))],
        &[("a.sh", concat!("cat /tm", "p/a\n"))],
        &[("a.rs", concat!("// /ro", "ot/b\n"))],
    ],
    keeps: &[&[("a.md", "See docs/home/a, crates/x/tmp/y and the root folder.\n")]],
};

fn check(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in &tree.files {
        let lower = file.text.to_ascii_lowercase();
        for word in WORDS {
            for (at, _) in lower.match_indices(word) {
                // A folder of that name deeper in a path is another folder.
                let inside_path = word.starts_with('/')
                    && lower[..at].ends_with(|c: char| c.is_alphanumeric() || "._-}".contains(c));
                if !inside_path {
                    let line = lower[..at].matches('\n').count() + 1;
                    found.push(Finding::new(&file.path, line, format!("`{word}`")));
                }
            }
        }
    }
    found
}
