//! Relative links in Markdown lead somewhere.

use super::{Finding, Rule, tree::Tree};

/// The rule.
pub const RULE: Rule = Rule {
    name: "links",
    why: "a document with dead links is not trusted",
    check,
    breaks: &[
        &[("a.md", "See [b](docs/b.md).\n")],
        &[("docs/a.md", "# A\n[b](b.md)\n"), ("b.md", "")],
        &[("a.md", "![b](b.png)\n")],
        &[("a.md", "See [up](../b.md).\n")],
        &[("a.md", "See [below](#no-such).\n\n# Other\n")],
        &[("a.md", "See [b](b.md#no-such).\n"), ("b.md", "# B\n")],
    ],
    keeps: &[
        &[
            ("docs/a.md", "[b](../b.md#the-b-1) [c](./c/) [d](https://e.f/g) <h@i.j>\n"),
            ("b.md", "## The `B` 1\n"),
            ("docs/c/d.rs", ""),
        ],
        &[("a.md", "```\n[b](c)\n```\nand `[d](e)` and a[0](x y).\n[f](#g-h)\n# G h\n")],
    ],
};

fn check(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for file in tree.files.iter().filter(|file| file.path.ends_with(".md")) {
        for (line, link) in links(&file.text) {
            if link.contains(':') || link.contains(' ') {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let Some(path) = resolve(&file.path, path).filter(|path| tree.has(path)) else {
                found.push(Finding::new(&file.path, line, format!("`{link}` leads nowhere")));
                continue;
            };
            let target = tree.file(&path).filter(|target| target.path.ends_with(".md"));
            if !anchor.is_empty() && target.is_some_and(|target| !has_heading(&target.text, anchor)) {
                found.push(Finding::new(&file.path, line, format!("`{link}`: no such heading")));
            }
        }
    }
    found
}

/// The lines of `text` outside fenced code, with their numbers from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(at, line)| {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            return None;
        }
        (!fenced).then_some((at + 1, line))
    })
}

/// Each `[text](target)` outside code, as line and target.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        for part in line.split('`').step_by(2) {
            let targets = part.split("](").skip(1);
            found.extend(targets.filter_map(|rest| Some((number, rest.split_once(')')?.0))));
        }
    }
    found
}

/// `link`, written in the file at `from`, as a path from the root.
fn resolve(from: &str, link: &str) -> Option<String> {
    if link.is_empty() {
        return Some(from.to_owned());
    }
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Whether a heading of `text` has the anchor that GitHub gives it.
fn has_heading(text: &str, anchor: &str) -> bool {
    prose(text).any(|(_, line)| {
        let title = line.trim_start_matches('#');
        let slug: String = title.trim().to_lowercase().chars().filter_map(slug_character).collect();
        title.len() < line.len() && slug == anchor
    })
}

fn slug_character(c: char) -> Option<char> {
    match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
        _ => None,
    }
}
