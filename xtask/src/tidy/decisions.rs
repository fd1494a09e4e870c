//! Records of decisions are short, numbered and titled.

use std::collections::BTreeMap;

use super::{Finding, Rule, tree::Tree};

/// Where they lie.
const FOLDER: &str = "docs/decisions/";

/// A record says what, why and what else was thought of; no more.
const LINES_MAX: usize = 30;

/// The rule.
pub const RULE: Rule = Rule {
    name: "decisions",
    why: "a record is found by its number and read in a minute",
    check,
    breaks: &[
        &[("docs/decisions/0001-a.md", "No heading.\n")],
        &[("docs/decisions/0001-a.md", LONG)],
        &[("docs/decisions/a.md", "# A\n")],
        &[("docs/decisions/0001-a.md", "# A\n"), ("docs/decisions/0001-b.md", "# B\n")],
    ],
    keeps: &[&[("docs/decisions/0001-a.md", "# A\n"), ("docs/decisions/README.md", "# Index\n")]],
};

/// A heading and 30 lines.
const LONG: &str = "# A\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n\n";

fn check(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut numbers: BTreeMap<&str, &str> = BTreeMap::new();
    for file in &tree.files {
        let Some(name) = file.path.strip_prefix(FOLDER).filter(|name| name.ends_with(".md")) else {
            continue;
        };
        let lines = file.text.lines().count();
        if lines > LINES_MAX {
            found.push(Finding::new(&file.path, 1, format!("{lines} lines, at most {LINES_MAX}")));
        }
        if !file.text.starts_with("# ") {
            found.push(Finding::new(&file.path, 1, "does not open with a heading"));
        }
        if name == "README.md" {
            continue;
        }
        match name.split_once('-') {
            Some((number, _)) if number.len() == 4 && number.bytes().all(|b| b.is_ascii_digit()) => {
                if let Some(other) = numbers.insert(number, name) {
                    found.push(Finding::new(&file.path, 1, format!("has the number of {other}")));
                }
            }
            _ => found.push(Finding::new(&file.path, 1, "is not named NNNN-title.md")),
        }
    }
    found
}
