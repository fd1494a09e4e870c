//! SQL only in `ledger`.

use super::{Finding, Rule, tree::Tree};

/// The crate that may.
const CRATE: &str = "ledger";

/// How statements start, as their authors write them.
const STATEMENTS: &[&str] = &[
    "SELECT ",
    "INSERT INTO ",
    "INSERT OR ",
    "UPDATE ",
    "DELETE FROM ",
    "CREATE TABLE ",
    "CREATE INDEX ",
    "PRAGMA ",
];

/// The rule.
pub const RULE: Rule = Rule {
    name: "sql",
    why: "the database can change under one crate only",
    check,
    breaks: &[
        &[("crates/gateway/src/a.rs", "use sqlx::Row;\n")],
        &[("crates/cli/src/a.rs", "let q = \"SELECT id FROM requests\";\n")],
        &[("crates/cli/src/a.sql", "\n")],
    ],
    keeps: &[
        &[("crates/ledger/src/a.rs", "sqlx::query(\"SELECT 1\");\n")],
        &[("crates/gateway/src/a.rs", "// SELECT is the ledger's.\nlet a = \"Select one\";\n")],
    ],
};

fn check(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in &tree.files {
        if matches!(file.crate_name(), None | Some(CRATE)) {
            continue;
        }
        if file.path.ends_with(".sql") {
            found.push(Finding::new(&file.path, 1, format!("SQL outside crates/{CRATE}")));
        }
        let Some(rust) = &file.rust else { continue };
        for line in rust.find(&["sqlx"]) {
            found.push(Finding::new(&file.path, line, format!("`sqlx` outside crates/{CRATE}")));
        }
        for string in &rust.strings {
            if STATEMENTS.iter().any(|statement| string.text.trim_start().starts_with(statement)) {
                found.push(Finding::new(&file.path, string.line, format!("SQL outside crates/{CRATE}")));
            }
        }
    }
    found
}
