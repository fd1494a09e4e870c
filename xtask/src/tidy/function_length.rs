//! Functions stay short.

use super::{Finding, Rule, tree::Tree};

/// Lines of a function, from `fn` to its closing brace.
const LINES_MAX: usize = 70;

/// Functions that may be longer: file, name, reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[];

/// The rule.
pub const RULE: Rule = Rule {
    name: "function_length",
    why: "a function that fits a screen can be checked at a glance",
    check,
    breaks: &[&[("a.rs", LONG)]],
    keeps: &[&[("a.rs", "fn a() {\n    \"}\";\n}\n")]],
};

const HEAD: &[u8] = b"fn a() {";

/// A function of 71 lines.
const LONG: &str = {
    const BYTES: [u8; HEAD.len() + LINES_MAX + 1] = {
        let mut bytes = [b'\n'; HEAD.len() + LINES_MAX + 1];
        let mut at = 0;
        while at < HEAD.len() {
            bytes[at] = HEAD[at];
            at += 1;
        }
        bytes[HEAD.len() + LINES_MAX] = b'}';
        bytes
    };
    match str::from_utf8(&BYTES) {
        Ok(text) => text,
        Err(_) => "",
    }
};

fn check(tree: &Tree) -> Vec<Finding> {
    check_with(tree, EXCEPTIONS)
}

fn check_with(tree: &Tree, exceptions: &[(&str, &str, &str)]) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut needed = vec![false; exceptions.len()];
    for (file, rust) in tree.rust() {
        for function in rust.functions() {
            let lines = function.lines.clone().count();
            if lines <= LINES_MAX {
                continue;
            }
            let excepted =
                exceptions.iter().position(|(path, name, _)| *path == file.path && *name == function.name);
            match excepted {
                Some(at) => needed[at] = true,
                None => {
                    let what = format!("`{}` has {lines} lines, at most {LINES_MAX}", function.name);
                    found.push(Finding::new(&file.path, *function.lines.start(), what));
                }
            }
        }
    }
    for ((path, name, _), needed) in exceptions.iter().zip(needed) {
        if !needed {
            found.push(Finding::new(path, 1, format!("`{name}` is not too long: drop its exception")));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_exact() {
        let found = check(&Tree::of(&[("a.rs", LONG)]));
        assert_eq!(found, [Finding::new("a.rs", 1, "`a` has 71 lines, at most 70")]);
        let shorter = LONG.replacen('\n', "", 1);
        assert_eq!(check(&Tree::of(&[("a.rs", &shorter)])), []);
    }

    #[test]
    fn an_exception_holds_until_it_is_not_needed() {
        let exceptions = [("a.rs", "a", "a table")];
        assert_eq!(check_with(&Tree::of(&[("a.rs", LONG)]), &exceptions), []);
        assert_eq!(check_with(&Tree::of(&[("a.rs", "fn a() {}")]), &exceptions).len(), 1);
    }
}
