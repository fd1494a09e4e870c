//! Modules are named after what they hold.

use super::{Finding, Rule, tree::Tree};

/// Names that say nothing.
const NAMES: &[&str] = &["common", "helper", "helpers", "manager", "misc", "util", "utils"];

/// The rule.
pub const RULE: Rule = Rule {
    name: "module_names",
    why: "a name that fits anything gathers anything",
    check,
    breaks: &[
        &[("crates/a/src/utils.rs", "")],
        &[("crates/a/tests/common/mod.rs", "")],
        &[("crates/a/src/lib.rs", "mod helpers {\n}\n")],
    ],
    keeps: &[&[("crates/a/src/lib.rs", "mod sampling;\nlet common = 1;\n")]],
};

fn check(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (file, rust) in tree.rust() {
        let stem = file.path.strip_suffix(".rs").unwrap_or(&file.path);
        if let Some(name) = stem.split('/').find(|name| NAMES.contains(name)) {
            found.push(Finding::new(&file.path, 1, format!("a module called `{name}`")));
        }
        for name in NAMES {
            for line in rust.find(&["mod", name, "{"]) {
                found.push(Finding::new(&file.path, line, format!("a module called `{name}`")));
            }
        }
    }
    found
}
