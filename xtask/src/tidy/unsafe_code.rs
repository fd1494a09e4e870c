//! `unsafe` only in `kernels`, each with its reason.
//!
//! The reason of an `unsafe trait`, an `unsafe impl` or a macro is its functions' too, and suffices
//! for short bodies: wrappers of instructions all have the same one.

use std::ops::RangeInclusive;

use super::{
    Finding, Rule,
    rust::{Rust, is_word},
    tree::Tree,
};

/// The crate that may.
const CRATE: &str = "kernels";

/// Lines of a function's body that its item's reason covers.
const WRAPPER_LINES_MAX: usize = 4;

/// The rule.
pub const RULE: Rule = Rule {
    name: "unsafe_code",
    why: "unsound code is looked for in one crate, against a reason written beside it",
    check,
    breaks: &[
        &[("crates/engine/src/a.rs", "// SAFETY: none.\nfn a() { unsafe {} }\n")],
        &[("crates/kernels/src/a.rs", "fn a() {\n    unsafe {}\n}\n")],
        &[("crates/kernels/src/a.rs", "// SAFETY: of a.\nlet a = b;\nlet c = unsafe {};\n")],
        &[("crates/kernels/src/a.rs", "/// Does.\npub unsafe fn a() {}\n")],
        &[("crates/kernels/src/a.rs", "unsafe impl Send for A {}\n")],
        &[(
            "crates/kernels/src/a.rs",
            "// SAFETY: b.\nunsafe impl A for B {\nfn a() {\nb();\nb();\nb();\nb();\nunsafe {}\n}\n}\n",
        )],
        &[("crates/kernels/src/a.rs", "// SAFETY: b.\nunsafe impl A for B {}\nunsafe fn a() {}\n")],
    ],
    keeps: &[
        &[("crates/engine/src/a.rs", "//! No unsafe.\n#![deny(unsafe_code)]\n")],
        &[(
            "crates/kernels/src/a.rs",
            "// SAFETY: mapped.\n#[allow(unsafe_code)]\nlet a =\n    unsafe {};\n",
        )],
        &[("crates/kernels/src/a.rs", "/// Does.\n///\n/// # Safety\n/// Care.\npub unsafe fn a() {}\n")],
        &[(
            "crates/kernels/src/a.rs",
            "// SAFETY: b.\nunsafe impl A for B {\nunsafe fn a() {\nunsafe {}\n}\n}\n",
        )],
        &[(
            "crates/kernels/src/a.rs",
            "// SAFETY: b.\nmacro_rules! m {\n() => {\nunsafe fn a() {\nunsafe {}\n}\n}\n}\n",
        )],
        &[("crates/kernels/src/a.rs", "struct A { f: unsafe fn(u8) }\n")],
    ],
};

fn check(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (file, rust) in tree.rust() {
        let lines: Vec<&str> = file.text.lines().collect();
        let covered = covered(rust, &lines);
        for (at, token) in rust.tokens.iter().enumerate().filter(|(_, token)| token.text == "unsafe") {
            if file.crate_name() != Some(CRATE) {
                found.push(Finding::new(&file.path, token.line, format!("`unsafe` outside crates/{CRATE}")));
                continue;
            }
            let next = |by: usize| rust.tokens.get(at + by).map_or("", |token| token.text.as_str());
            let is_type = next(1) == "fn" && !is_word(next(2));
            let is_covered = covered.iter().any(|lines| lines.contains(&token.line));
            if !is_type && !is_covered && !is_explained(&lines, token.line) {
                let what = "`unsafe` without `// SAFETY:` (or `# Safety` in the docs) right above";
                found.push(Finding::new(&file.path, token.line, what));
            }
        }
    }
    found
}

/// What the reasons of traits, impls and macros cover: their functions' heads, and short bodies.
fn covered(rust: &Rust, lines: &[&str]) -> Vec<RangeInclusive<usize>> {
    let mut covered = Vec::new();
    for (at, pair) in rust.tokens.windows(2).enumerate() {
        let is_item = match pair[0].text.as_str() {
            "unsafe" => ["impl", "trait"].contains(&pair[1].text.as_str()),
            "macro_rules" => true,
            _ => false,
        };
        if !is_item || !is_explained(lines, pair[0].line) {
            continue;
        }
        let Some(item) = rust.item_lines(at) else { continue };
        let inside = |line: &usize| item.contains(line) && *line != pair[0].line;
        covered.extend(rust.find(&["unsafe", "fn"]).filter(inside).map(|line| line..=line));
        let inner = rust.functions().into_iter().filter(|function| inside(function.lines.start()));
        let wrappers = inner.filter(|function| function.body_line_count <= WRAPPER_LINES_MAX);
        covered.extend(wrappers.map(|function| function.lines));
    }
    covered
}

/// Whether the comments right above the statement at `line` (from 1), or on it, give a reason.
fn is_explained(lines: &[&str], line: usize) -> bool {
    let gives_reason = |text: &str| text.contains("SAFETY:") || text.contains("# Safety");
    if lines.get(line - 1).is_some_and(|text| gives_reason(text)) {
        return true;
    }
    for above in lines[..line - 1].iter().rev() {
        let above = above.trim();
        let is_annotation = above.starts_with("//") || above.starts_with("#[");
        let ends_statement = above.is_empty() || above.ends_with([';', '{', '}', ',']);
        if is_annotation && gives_reason(above) {
            return true;
        }
        if !is_annotation && ends_statement {
            return false;
        }
    }
    false
}
