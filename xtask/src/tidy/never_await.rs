//! The crates that compute never await.

use super::{Finding, Rule, tree::Tree};

/// The synchronous crates.
const CRATES: &[&str] = &["contract", "engine", "kernels", "planner", "policy"];

/// What gives asynchrony away.
const WORDS: &[&str] = &["async", "await", "tokio"];

/// The rule.
pub const RULE: Rule = Rule {
    name: "never_await",
    why: "the engine is usable alone, and no runtime can stall arithmetic or a decision",
    check,
    breaks: &[
        &[("crates/engine/src/a.rs", "async fn a() {}\n")],
        &[("crates/policy/src/a.rs", "fn a() { b.await }\n")],
        &[("crates/contract/src/a.rs", "use tokio::sync::mpsc;\n")],
        &[("crates/planner/Cargo.toml", "[dependencies]\ntokio.workspace = true\n")],
    ],
    keeps: &[
        &[("crates/gateway/src/a.rs", "async fn a() { b.await }\n")],
        &[("crates/engine/src/a.rs", "//! Never async.\nfn a() { \"await\"; }\n")],
    ],
};

fn check(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in &tree.files {
        let Some(name) = file.crate_name().filter(|name| CRATES.contains(name)) else { continue };
        for token in file.rust.iter().flat_map(|rust| &rust.tokens) {
            if WORDS.contains(&token.text.as_str()) {
                let what = format!("`{}` in crates/{name}", token.text);
                found.push(Finding::new(&file.path, token.line, what));
            }
        }
        if file.path.ends_with("/Cargo.toml") {
            for (at, _) in file.text.lines().enumerate().filter(|(_, line)| line.starts_with("tokio")) {
                found.push(Finding::new(&file.path, at + 1, format!("crates/{name} depends on tokio")));
            }
        }
    }
    found
}
