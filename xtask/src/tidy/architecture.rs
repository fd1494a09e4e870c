//! ARCHITECTURE.md stays short and mentions every crate.

use super::{Finding, Rule, tree::Tree};

/// The document.
const PATH: &str = "ARCHITECTURE.md";

/// What one can read in a quarter of an hour.
const LINES_MAX: usize = 300;

/// The rule.
pub const RULE: Rule = Rule {
    name: "architecture",
    why: "the map is read first, so it is short and whole",
    check,
    breaks: &[
        &[("README.md", "")],
        &[(PATH, "# Map\n- `b`: other\n"), ("crates/a/Cargo.toml", "")],
        &[(PATH, LONG)],
    ],
    keeps: &[&[
        (PATH, "# Map\n- `a`: one\n- `crates/b`: two\n"),
        ("crates/a/Cargo.toml", ""),
        ("crates/b/Cargo.toml", ""),
    ]],
};

/// 301 lines.
const LONG: &str = match str::from_utf8(&[b'\n'; LINES_MAX + 1]) {
    Ok(text) => text,
    Err(_) => "",
};

fn check(tree: &Tree) -> Vec<Finding> {
    let Some(file) = tree.file(PATH) else { return vec![Finding::new(PATH, 1, "is missing")] };
    let mut found = Vec::new();
    let lines = file.text.lines().count();
    if lines > LINES_MAX {
        found.push(Finding::new(PATH, 1, format!("{lines} lines, at most {LINES_MAX}")));
    }
    for name in tree.crates() {
        let spelled = [format!("`{name}`"), format!("`crates/{name}`"), format!("`crates/{name}/`")];
        if !spelled.iter().any(|name| file.text.contains(name.as_str())) {
            found.push(Finding::new(PATH, 1, format!("does not mention `{name}`")));
        }
    }
    found
}
