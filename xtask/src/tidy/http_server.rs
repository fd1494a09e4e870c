//! The HTTP server only in `gateway`.

use super::{Finding, Rule, tree::Tree};

/// The crate that may.
const CRATE: &str = "gateway";

/// Crates that serve HTTP.
const SERVERS: &[&str] = &["axum", "hyper"];

/// The rule.
pub const RULE: Rule = Rule {
    name: "http_server",
    why: "there is one door, and it validates",
    check,
    breaks: &[&[("crates/cli/src/a.rs", "use axum::Router;\n")]],
    keeps: &[
        &[("crates/gateway/src/a.rs", "use axum::Router;\n")],
        &[("crates/backends/tests/a.rs", "use axum::Router;\n")],
        &[("crates/backends/src/a.rs", "#[cfg(test)]\nmod tests {\n    use axum::Router;\n}\n")],
    ],
};

fn check(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (file, rust) in tree.rust() {
        if matches!(file.crate_name(), None | Some(CRATE)) || file.is_test() {
            continue;
        }
        for token in rust.tokens_outside_tests().filter(|token| SERVERS.contains(&token.text.as_str())) {
            let what = format!("`{}` outside crates/{CRATE}", token.text);
            found.push(Finding::new(&file.path, token.line, what));
        }
    }
    found
}
