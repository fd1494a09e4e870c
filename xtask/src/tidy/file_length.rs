//! Files stay short.

use super::{Finding, Rule, tree::Tree};

/// Lines of a file, its `#[cfg(test)]` items not counted.
const LINES_MAX: usize = 600;

/// Lines of a file of tests.
const TEST_LINES_MAX: usize = 900;

/// Files that may be longer, each with the reason.
const EXCEPTIONS: &[(&str, &str)] = &[];

/// The rule.
pub const RULE: Rule = Rule {
    name: "file_length",
    why: "a file longer than one sitting hides more than one responsibility",
    check,
    breaks: &[&[("crates/a/src/b.rs", LONG)]],
    keeps: &[&[("crates/a/tests/b.rs", LONG)], &[("crates/a/src/b.rs", "#[cfg(test)]\nmod tests {\n}\n")]],
};

/// 601 lines: between the two limits.
const LONG: &str = match str::from_utf8(&[b'\n'; LINES_MAX + 1]) {
    Ok(text) => text,
    Err(_) => "",
};

fn check(tree: &Tree) -> Vec<Finding> {
    check_with(tree, EXCEPTIONS)
}

fn check_with(tree: &Tree, exceptions: &[(&str, &str)]) -> Vec<Finding> {
    let mut found = Vec::new();
    for (file, rust) in tree.rust() {
        let (lines, limit) = if file.is_test() {
            (rust.line_count, TEST_LINES_MAX)
        } else {
            (rust.lines_outside_tests(), LINES_MAX)
        };
        let excepted = exceptions.iter().any(|(path, _)| *path == file.path);
        if lines > limit && !excepted {
            found.push(Finding::new(&file.path, 1, format!("{lines} lines, at most {limit}")));
        }
        if lines <= limit && excepted {
            found.push(Finding::new(&file.path, 1, "is no longer too long: drop its exception"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exception_holds_until_it_is_not_needed() {
        let exceptions = [("crates/a/src/b.rs", "a table")];
        assert_eq!(check_with(&Tree::of(&[("crates/a/src/b.rs", LONG)]), &exceptions), []);
        assert_eq!(check_with(&Tree::of(&[("crates/a/src/b.rs", "\n")]), &exceptions).len(), 1);
    }

    #[test]
    fn files_of_tests_have_a_limit_too() {
        let text = "\n".repeat(TEST_LINES_MAX + 1);
        assert_eq!(check(&Tree::of(&[("crates/a/tests/b.rs", &text)])).len(), 1);
    }

    #[test]
    fn unit_tests_are_not_counted() {
        let text = format!("fn a() {{}}\n#[cfg(test)]\nmod tests {{\n{}}}\n", "\n".repeat(LINES_MAX));
        assert_eq!(check(&Tree::of(&[("crates/a/src/b.rs", &text)])), []);
    }
}
