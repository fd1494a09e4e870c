//! Nothing is left unfinished, and no test is switched off.

use super::{Finding, Rule, tree::Tree};

/// Macros that stand for code somebody has yet to write.
const MACROS: &[&str] = &["todo", "unimplemented"];

/// The rule.
pub const RULE: Rule = Rule {
    name: "unfinished",
    why: "what is in the tree works and is tested; the rest is not in the tree",
    check,
    breaks: &[
        &[("a.rs", "fn a() { todo!() }\n")],
        &[("a.rs", "fn a() { unimplemented!(\"b\") }\n")],
        &[("a.rs", "#[test]\n#[ignore = \"slow\"]\nfn a() {}\n")],
    ],
    keeps: &[&[("a.rs", "// todo! is not code.\nlet todo = ignore(\"#[ignore]\");\n")]],
};

fn check(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (file, rust) in tree.rust() {
        for name in MACROS {
            for line in rust.find(&[name, "!"]) {
                found.push(Finding::new(&file.path, line, format!("`{name}!`")));
            }
        }
        for line in rust.find(&["#", "[", "ignore"]) {
            found.push(Finding::new(&file.path, line, "a test that is not run"));
        }
    }
    found
}
