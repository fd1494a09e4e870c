//! `cargo xtask tidy`: the architecture's rules, checked on the source text. The same rules run as
//! a test, so `cargo test --workspace` enforces them.
//!
//! A rule is one file with its [`Rule`] and one line in [`RULES`]. Each carries examples that must
//! break it, checked on every run: a rule that lets its own bad example pass guards nothing.

mod architecture;
mod blind_gateway;
mod decisions;
mod edges;
mod environment;
mod file_length;
mod forbidden_words;
mod function_length;
mod heads;
mod http_server;
mod links;
mod module_names;
mod never_await;
mod purity;
mod rust;
mod sql;
mod tree;
mod unfinished;
mod unsafe_code;

use tree::Tree;

use crate::Command;

/// `cargo xtask tidy`.
pub const COMMAND: Command =
    Command { name: "tidy", help: "check the architecture's rules on the source text", run };

/// Every rule.
const RULES: &[Rule] = &[
    architecture::RULE,
    blind_gateway::RULE,
    decisions::RULE,
    edges::RULE,
    environment::RULE,
    file_length::RULE,
    forbidden_words::RULE,
    function_length::RULE,
    heads::RULE,
    http_server::RULE,
    links::RULE,
    module_names::RULE,
    never_await::RULE,
    purity::RULE,
    sql::RULE,
    unfinished::RULE,
    unsafe_code::RULE,
];

/// A small tree in memory: `(path, text)` of each file.
type Example = &'static [(&'static str, &'static str)];

/// One rule about the tree.
struct Rule {
    /// Its file's name.
    name: &'static str,
    /// Why the rule exists; printed with each finding.
    why: &'static str,
    /// Everything in the tree that breaks the rule.
    check: fn(&Tree) -> Vec<Finding>,
    /// Trees that break it. At least one.
    breaks: &'static [Example],
    /// Trees that come close and keep it.
    keeps: &'static [Example],
}

/// A place where a rule is broken.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    path: String,
    /// Counted from 1.
    line: usize,
    what: String,
}

impl Finding {
    fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Finding { path: path.to_owned(), line, what: what.into() }
    }
}

/// Whatever `rules` find in `tree`, a line each, and every rule whose examples come out wrong.
fn report(rules: &[Rule], tree: &Tree) -> Vec<String> {
    let mut lines = Vec::new();
    for rule in rules {
        lines.extend(self_check(rule));
        for found in (rule.check)(tree) {
            let Finding { path, line, what } = found;
            lines.push(format!("{path}:{line}: {what} ({}: {})", rule.name, rule.why));
        }
    }
    lines
}

/// What is wrong with a rule, judged by its own examples.
fn self_check(rule: &Rule) -> Vec<String> {
    let mut lines = Vec::new();
    let file = format!("xtask/src/tidy/{}.rs:1", rule.name);
    if rule.breaks.is_empty() {
        lines.push(format!("{file}: the rule has no example that breaks it"));
    }
    for (number, example) in rule.breaks.iter().enumerate() {
        if (rule.check)(&Tree::of(example)).is_empty() {
            lines.push(format!("{file}: `breaks` example {number} passes the rule"));
        }
    }
    for (number, example) in rule.keeps.iter().enumerate() {
        for found in (rule.check)(&Tree::of(example)) {
            lines.push(format!("{file}: `keeps` example {number} breaks the rule: {}", found.what));
        }
    }
    lines
}

fn run(_arguments: &[String]) -> Result<(), String> {
    let tree = Tree::read(&crate::root()).map_err(|error| format!("cannot read the tree: {error}"))?;
    let lines = report(RULES, &tree);
    if lines.is_empty() {
        println!("tidy: {} rules hold", RULES.len());
        return Ok(());
    }
    Err(format!("{}\ntidy: {} findings", lines.join("\n"), lines.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_tidy() {
        run(&[]).unwrap_or_else(|message| panic!("{message}"));
    }

    #[test]
    fn every_rule_file_is_registered_under_its_name() {
        let folder = crate::root().join("xtask/src/tidy");
        let mut rules: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .filter(|stem| !["mod", "rust", "tree"].contains(&stem.as_str()))
            .collect();
        rules.sort();
        let registered: Vec<&str> = RULES.iter().map(|rule| rule.name).collect();
        assert_eq!(registered, rules);
    }

    #[test]
    fn a_rule_that_cannot_fail_is_reported() {
        let tree = Tree::of(&[]);
        let toothless =
            Rule { name: "x", why: "", check: |_| Vec::new(), breaks: &[&[("a.rs", "")]], keeps: &[] };
        assert_eq!(report(&[toothless], &tree).len(), 1);
        let untested = Rule { name: "x", why: "", check: |_| Vec::new(), breaks: &[], keeps: &[] };
        assert_eq!(report(&[untested], &tree).len(), 1);
        let fierce = |_: &Tree| vec![Finding::new("a.rs", 3, "bad")];
        let fierce = Rule {
            name: "x",
            why: "y",
            check: fierce,
            breaks: &[&[("a.rs", "")]],
            keeps: &[&[("a.rs", "")]],
        };
        let lines = report(&[fierce], &tree);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1], "a.rs:3: bad (x: y)");
    }
}
