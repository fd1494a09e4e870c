//! `cargo xtask licences`: every dependency's licence is one we may ship under. Reads what Cargo
//! has already fetched for this platform; no network.

use std::process::Command as Process;

use serde_json::Value;

use crate::Command;

/// `cargo xtask licences`.
pub const COMMAND: Command =
    Command { name: "licences", help: "check the licences of every dependency", run };

/// Licences whose terms Tandem meets by shipping the notices: permissive ones, and MPL-2.0, whose
/// copyleft ends at its own files.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MPL-2.0",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Zlib",
];

/// Exceptions that only grant more.
const ALLOWED_EXCEPTIONS: &[&str] = &["LLVM-exception"];

/// Packages allowed whatever they declare: name, declared expression, reason.
const ALLOWED_PACKAGES: &[(&str, &str, &str)] = &[];

fn run(_arguments: &[String]) -> Result<(), String> {
    let packages = packages()?;
    let refused: Vec<String> = packages.iter().filter_map(Package::refusal).collect();
    if refused.is_empty() {
        println!("licences: {} packages, all allowed", packages.len());
        return Ok(());
    }
    Err(refused.join("\n"))
}

/// What a package declares.
#[derive(Debug)]
struct Package {
    name: String,
    version: String,
    /// Its SPDX expression, if it declares one.
    license: Option<String>,
}

impl Package {
    /// Why the package may not be used.
    fn refusal(&self) -> Option<String> {
        let Package { name, version, license } = self;
        let Some(license) = license else { return Some(format!("{name} {version} declares no licence")) };
        let listed = |entry: &&(&str, &str, &str)| entry.0 == name && entry.1 == license;
        if ALLOWED_PACKAGES.iter().find(listed).is_some() {
            return None;
        }
        match is_allowed(license) {
            Ok(true) => None,
            Ok(false) => Some(format!("{name} {version}: `{license}` is not among the allowed licences")),
            Err(problem) => Some(format!("{name} {version}: cannot read `{license}`: {problem}")),
        }
    }
}

/// Every package in the build for this platform, our own included.
fn packages() -> Result<Vec<Package>, String> {
    let version = output(Process::new("rustc").arg("-vV"))?;
    let platform = version.lines().find_map(|line| line.strip_prefix("host: "));
    let platform = platform.ok_or("`rustc -vV` names no host")?;
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let flags = ["metadata", "--offline", "--locked", "--format-version=1", "--filter-platform", platform];
    let metadata = output(Process::new(cargo).args(flags).current_dir(crate::root()));
    let metadata = metadata.map_err(|error| format!("{error}\n(`cargo fetch` gets what is missing)"))?;
    let metadata: Value =
        serde_json::from_str(&metadata).map_err(|error| format!("cargo metadata: {error}"))?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata lists no packages")?;
    let text = |package: &Value, key: &str| package[key].as_str().map(str::to_owned);
    let read = packages.iter().map(|package| Package {
        name: text(package, "name").unwrap_or_default(),
        version: text(package, "version").unwrap_or_default(),
        license: text(package, "license"),
    });
    Ok(read.collect())
}

/// What a command prints, or why it failed.
fn output(command: &mut Process) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("cannot run {command:?}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr)));
    }
    String::from_utf8(output.stdout).map_err(|error| format!("{command:?}: {error}"))
}

/// Whether an SPDX expression (Annex D of the SPDX specification) can be met with [`ALLOWED`].
/// The old form `A/B` counts as `A OR B`.
fn is_allowed(expression: &str) -> Result<bool, String> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut reader = Reader { words: &words };
    let allowed = reader.any()?;
    match reader.next() {
        None => Ok(allowed),
        Some(word) => Err(format!("`{word}` is unexpected")),
    }
}

/// Evaluates while it reads. `AND` binds tighter than `OR`, `WITH` tighter than both.
struct Reader<'a> {
    words: &'a [&'a str],
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let (first, rest) = self.words.split_first()?;
        self.words = rest;
        Some(first)
    }

    /// Moves over `word` if it comes next.
    fn skip(&mut self, word: &str) -> bool {
        let comes = self.words.first() == Some(&word);
        if comes {
            self.next();
        }
        comes
    }

    /// `all (OR all)*`
    fn any(&mut self) -> Result<bool, String> {
        let mut allowed = self.all()?;
        while self.skip("OR") {
            allowed |= self.all()?;
        }
        Ok(allowed)
    }

    /// `one (AND one)*`
    fn all(&mut self) -> Result<bool, String> {
        let mut allowed = self.one()?;
        while self.skip("AND") {
            allowed &= self.one()?;
        }
        Ok(allowed)
    }

    /// `( any )`, or a licence with or without an exception.
    fn one(&mut self) -> Result<bool, String> {
        if self.skip("(") {
            let allowed = self.any()?;
            return if self.skip(")") { Ok(allowed) } else { Err("a `)` is missing".to_owned()) };
        }
        let operators = ["AND", "OR", "WITH", ")"];
        let mut word = || self.next().filter(|word| !operators.contains(word)).ok_or("a licence is missing");
        let licence = word()?;
        // `X+` is X or a later version: X itself will do.
        let mut allowed = ALLOWED.contains(&licence.trim_end_matches('+'));
        if self.skip("WITH") {
            let exception = self.next().ok_or("an exception is missing")?;
            allowed &= ALLOWED_EXCEPTIONS.contains(&exception);
        }
        Ok(allowed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_dependency_is_allowed() {
        run(&[]).unwrap_or_else(|message| panic!("{message}"));
    }

    #[test]
    fn expressions_are_evaluated() {
        for allowed in [
            "MIT",
            "MIT OR GPL-3.0",
            "GPL-3.0 OR MIT AND ISC",
            "(MIT OR GPL-3.0) AND Unicode-3.0",
            "MIT/Apache-2.0",
            "Apache-2.0 WITH LLVM-exception",
            "Apache-2.0+",
            "((MIT))",
        ] {
            assert_eq!(is_allowed(allowed), Ok(true), "{allowed}");
        }
        for refused in [
            "GPL-3.0",
            "MIT AND GPL-3.0",
            "MIT AND (GPL-3.0 OR AGPL-3.0)",
            "GPL-3.0 WITH LLVM-exception",
            "Apache-2.0 WITH Unheard-of-exception",
            "mit",
        ] {
            assert_eq!(is_allowed(refused), Ok(false), "{refused}");
        }
        for broken in ["", "MIT OR", "AND MIT", "(MIT", "MIT)", "MIT ISC", "MIT WITH", "()"] {
            assert!(is_allowed(broken).is_err(), "{broken}");
        }
    }

    #[test]
    fn a_package_is_refused_by_name_and_licence() {
        let package = |license: Option<&str>| Package {
            name: "a".to_owned(),
            version: "1.0.0".to_owned(),
            license: license.map(str::to_owned),
        };
        assert_eq!(package(Some("ISC")).refusal(), None);
        for license in [None, Some("GPL-3.0"), Some("MIT OR")] {
            assert!(package(license).refusal().is_some_and(|line| line.starts_with("a 1.0.0")));
        }
    }

    /// An expression as text, and its value worked out while it was built.
    fn expression() -> impl Strategy<Value = (String, bool)> {
        let leaf = prop_oneof![Just(("MIT".to_owned(), true)), Just(("GPL-3.0".to_owned(), false))];
        leaf.prop_recursive(5, 32, 2, |inner| {
            (inner.clone(), inner, any::<bool>()).prop_map(|((a, left), (b, right), both)| {
                if both {
                    (format!("({a}) AND ({b})"), left && right)
                } else {
                    (format!("({a} OR {b})"), left || right)
                }
            })
        })
    }

    proptest! {
        #[test]
        fn nested_expressions_are_evaluated((text, value) in expression()) {
            prop_assert_eq!(is_allowed(&text), Ok(value));
        }
    }
}
