//! The crates depend on one another as ARCHITECTURE.md draws it.
//!
//! The document holds a fenced block after the comment `<!-- crate-edges -->`, a line for each
//! crate under `crates/`: its folder, a colon, the folders of the crates it depends on, in order.
//! Dependencies of tests do not count.

use std::collections::{BTreeMap, BTreeSet};

use super::{Finding, Rule, tree::Tree};

/// The document.
const PATH: &str = "ARCHITECTURE.md";

/// What stands before the block.
const MARK: &str = "<!-- crate-edges -->";

/// The rule.
pub const RULE: Rule = Rule {
    name: "edges",
    why: "the picture of the architecture is the architecture",
    check,
    breaks: &[
        &[(PATH, "# Map\n"), ("crates/a/Cargo.toml", A)],
        &[(PATH, "<!-- crate-edges -->\n```\na: b\n```\n"), ("crates/a/Cargo.toml", A)],
        &[
            (PATH, "<!-- crate-edges -->\n```\na:\nb:\n```\n"),
            ("crates/a/Cargo.toml", A),
            ("crates/b/Cargo.toml", B),
        ],
        &[
            (PATH, "<!-- crate-edges -->\n```\na:\nb: a\nc:\n```\n"),
            ("crates/a/Cargo.toml", A),
            ("crates/b/Cargo.toml", B),
        ],
        &[
            (PATH, "<!-- crate-edges -->\n```\na:\n```\n"),
            ("crates/a/Cargo.toml", A),
            ("crates/b/Cargo.toml", B),
        ],
        &[(PATH, "<!-- crate-edges -->\n```\na\n```\n"), ("crates/a/Cargo.toml", A)],
        &[(PATH, "<!-- crate-edges -->\n```\na:\n```\n"), ("crates/a/Cargo.toml", "[package")],
    ],
    keeps: &[&[
        (PATH, "# Map\n\n<!-- crate-edges -->\n\n```text\na:\nb: a\n```\nEnd.\n"),
        ("crates/a/Cargo.toml", A),
        ("crates/b/Cargo.toml", B),
    ]],
};

/// A crate whose name is not its folder's, and whose tests need another.
const A: &str = "[package]\nname = \"alpha\"\n[dev-dependencies]\nb.workspace = true\n";

/// A crate that needs it on one platform.
const B: &str = "[package]\nname = \"b\"\n[dependencies]\nserde = \"1\"\n\
                 [target.'cfg(unix)'.dependencies]\nalpha.workspace = true\n";

/// Folder → folders of the crates it depends on, and the line that says so.
type Edges = BTreeMap<String, (usize, BTreeSet<String>)>;

fn check(tree: &Tree) -> Vec<Finding> {
    let pictured = match tree.file(PATH).map_or(Err((1, "is missing".into())), |file| pictured(&file.text)) {
        Ok(pictured) => pictured,
        Err((line, what)) => return vec![Finding::new(PATH, line, what)],
    };
    let actual = match actual(tree) {
        Ok(actual) => actual,
        Err(found) => return vec![found],
    };
    let mut found = Vec::new();
    for (name, needs) in &actual {
        match pictured.get(name) {
            None => found.push(Finding::new(PATH, 1, format!("the edges lack `{}`", written(name, needs)))),
            Some((line, drawn)) if drawn != needs => {
                let what = format!("the manifests say `{}`", written(name, needs));
                found.push(Finding::new(PATH, *line, what));
            }
            Some(_) => {}
        }
    }
    for (name, (line, _)) in pictured.iter().filter(|(name, _)| !actual.contains_key(*name)) {
        found.push(Finding::new(PATH, *line, format!("there is no crates/{name}")));
    }
    found
}

fn written(name: &str, needs: &BTreeSet<String>) -> String {
    let needs: Vec<&str> = needs.iter().map(String::as_str).collect();
    format!("{name}: {}", needs.join(" ")).trim_end().to_owned()
}

/// The edges in the document, or where and how it does not give them.
fn pictured(text: &str) -> Result<Edges, (usize, String)> {
    let mut lines = text.lines().enumerate().skip_while(|(_, line)| line.trim() != MARK).skip(1);
    let opening = lines.find(|(_, line)| !line.trim().is_empty());
    if !opening.is_some_and(|(_, line)| line.starts_with("```")) {
        return Err((1, format!("has no fenced block after `{MARK}`")));
    }
    let mut edges = Edges::new();
    for (at, line) in lines.take_while(|(_, line)| !line.starts_with("```")) {
        let Some((name, needs)) = line.split_once(':') else {
            return Err((at + 1, "is not `crate: crates it depends on`".to_owned()));
        };
        let needs = needs.split_whitespace().map(str::to_owned).collect();
        edges.insert(name.trim().to_owned(), (at + 1, needs));
    }
    Ok(edges)
}

/// The edges in the crates' manifests.
fn actual(tree: &Tree) -> Result<BTreeMap<String, BTreeSet<String>>, Finding> {
    let mut manifests = BTreeMap::new();
    let mut folders = BTreeMap::new();
    for folder in tree.crates() {
        let path = format!("crates/{folder}/Cargo.toml");
        let text = tree.file(&path).map_or("", |file| file.text.as_str());
        let manifest: toml::Table =
            text.parse().map_err(|error| Finding::new(&path, 1, format!("is not TOML: {error}")))?;
        let name = manifest.get("package").and_then(|package| package.get("name"));
        folders.insert(name.and_then(toml::Value::as_str).unwrap_or(folder).to_owned(), folder);
        manifests.insert(folder, manifest);
    }
    let needs = |manifest: &toml::Table| {
        let names = dependencies(manifest);
        names.iter().filter_map(|name| folders.get(name)).map(|folder| (*folder).to_owned()).collect()
    };
    Ok(manifests.iter().map(|(folder, manifest)| ((*folder).to_owned(), needs(manifest))).collect())
}

/// The packages a manifest's product depends on, on any platform, by name.
fn dependencies(manifest: &toml::Table) -> Vec<String> {
    let platforms = manifest.get("target").and_then(toml::Value::as_table);
    let platforms = platforms.into_iter().flat_map(|targets| targets.values());
    let tables = platforms.filter_map(toml::Value::as_table).chain([manifest]);
    let sections = tables.flat_map(|table| [table.get("dependencies"), table.get("build-dependencies")]);
    let entries = sections.flatten().filter_map(toml::Value::as_table).flatten();
    entries
        .map(|(name, value)| {
            let renamed = value.get("package").and_then(toml::Value::as_str);
            renamed.unwrap_or(name).to_owned()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_is_named_where_it_is_written() {
        let map = "# Map\n<!-- crate-edges -->\n```\na:\nb:\n```\n";
        let found = check(&Tree::of(&[(PATH, map), ("crates/a/Cargo.toml", A), ("crates/b/Cargo.toml", B)]));
        assert_eq!(found, [Finding::new(PATH, 5, "the manifests say `b: a`")]);
    }

    #[test]
    fn renamed_and_build_dependencies_count() {
        let manifest =
            "[build-dependencies]\nx = { package = \"y\", version = \"1\" }\n[dependencies]\nz = \"1\"\n";
        let mut names = dependencies(&manifest.parse().unwrap());
        names.sort();
        assert_eq!(names, ["y", "z"]);
    }
}
