//! Environment variables are read in `cli` only.

use super::{Finding, Rule, tree::Tree};

/// The crate that may. Chores outside `crates/` may too.
const CRATE: &str = "cli";

/// The functions of `std::env` that read or write variables.
const FUNCTIONS: &[&str] = &["remove_var", "set_var", "var", "var_os", "vars", "vars_os"];

/// The rule.
pub const RULE: Rule = Rule {
    name: "environment",
    why: "every setting is in the one validated `Settings`, and none hides in a library",
    check,
    breaks: &[
        &[("crates/engine/src/a.rs", "let a = std::env::var(\"A\");\n")],
        &[("crates/engine/src/a.rs", "use std::env::{self, var_os};\n")],
    ],
    keeps: &[
        &[("crates/cli/src/a.rs", "let a = std::env::var(\"A\");\n")],
        &[("crates/engine/src/a.rs", "let var = env!(\"CARGO_MANIFEST_DIR\"); std::env::temp_dir();\n")],
    ],
};

fn check(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (file, rust) in tree.rust() {
        if matches!(file.crate_name(), None | Some(CRATE)) || rust.find_in_paths("env").is_empty() {
            continue;
        }
        for function in FUNCTIONS {
            for line in rust.find_in_paths(function) {
                found.push(Finding::new(
                    &file.path,
                    line,
                    format!("`env::{function}` outside crates/{CRATE}"),
                ));
            }
        }
    }
    found
}
