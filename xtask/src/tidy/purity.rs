//! Decisions and plans are pure: no clock, no randomness, no I/O.

use super::{Finding, Rule, tree::Tree};

/// The pure crates.
const CRATES: &[&str] = &["planner", "policy"];

/// Types and crates that may not be named at all.
const WORDS: &[&str] =
    &["Instant", "SystemTime", "UNIX_EPOCH", "rand", "fastrand", "getrandom", "println", "eprintln"];

/// Modules that may not be named in a path or a `use`.
const MODULES: &[&str] = &["env", "fs", "io", "net", "process", "thread", "time"];

/// The rule.
pub const RULE: Rule = Rule {
    name: "purity",
    why: "the lab replays the same decisions years later and must get the same answers",
    check,
    breaks: &[
        &[("crates/policy/src/a.rs", "let t = Instant::now();\n")],
        &[("crates/policy/src/a.rs", "use std::time::Duration;\n")],
        &[("crates/planner/src/a.rs", "use std::{env, fs};\n")],
        &[("crates/planner/src/a.rs", "let a = rand::random();\n")],
        &[("crates/planner/src/a.rs", "std::fs::read(a)\n")],
    ],
    keeps: &[
        &[("crates/policy/src/a.rs", "let time = net + io;\n")],
        &[("crates/policy/src/a.rs", "#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n")],
        &[("crates/gateway/src/a.rs", "use std::time::Instant;\n")],
    ],
};

fn check(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (file, rust) in tree.rust() {
        let Some(name) = file.crate_name().filter(|name| CRATES.contains(name)) else { continue };
        if file.is_test() {
            continue;
        }
        let words = rust.tokens.iter().filter(|token| WORDS.contains(&token.text.as_str()));
        let words = words.map(|token| (token.line, token.text.as_str()));
        let modules = MODULES
            .iter()
            .flat_map(|word| rust.find_in_paths(word).into_iter().map(move |line| (line, *word)));
        for (line, word) in words.chain(modules).filter(|(line, _)| !rust.is_test_line(*line)) {
            found.push(Finding::new(&file.path, line, format!("`{word}` in crates/{name}")));
        }
    }
    found
}
