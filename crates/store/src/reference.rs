//! What users write to name a model: [`Reference`].

use std::fmt;
use std::path::{Path, PathBuf};

use crate::Catalogue;

/// A longer reference is taken for a mistake.
const REFERENCE_CHARS_MAX: usize = 4096;

/// A model, named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// A GGUF file of the user's.
    File(PathBuf),
    /// A folder with safetensors files of the user's.
    Folder(PathBuf),
    /// An entry of the catalogue.
    Catalogue(String),
    /// A file in a repository of the Hugging Face Hub, on its main branch.
    Hub {
        /// `OWNER/REPO`.
        repo: String,
        /// Path inside the repository.
        file: String,
    },
}

/// Text that names no model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Neither a path nor a name of the catalogue.
    #[error(
        "no model is called {name:?}{}; known names: {}; or give a .gguf file, a safetensors folder, \
         or hf:OWNER/REPO/FILE",
        .nearest.as_ref().map(|nearest| format!(" (did you mean {nearest:?}?)")).unwrap_or_default(),
        .known.join(", ")
    )]
    Unknown {
        /// What was written.
        name: String,
        /// The name most like it, if any is.
        nearest: Option<String>,
        /// All names of the catalogue.
        known: Vec<String>,
    },
    /// `hf:` followed by something else than `OWNER/REPO/FILE`.
    #[error("{text:?} does not name a file on the Hugging Face Hub: {reason}; write hf:OWNER/REPO/FILE")]
    Hub {
        /// What was written.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Longer than any path.
    #[error("a model reference has at most {REFERENCE_CHARS_MAX} bytes, not {0}")]
    TooLong(usize),
}

impl ReferenceError {
    /// Whether a named thing is missing, rather than the reference being malformed.
    pub fn is_missing(&self) -> bool {
        matches!(self, ReferenceError::Unknown { .. })
    }
}

impl Reference {
    /// Reads a reference. A name in the catalogue goes before a folder of that name (write `./NAME` for the
    /// folder); otherwise what is on the disk is looked at only to tell a path from a misspelt name.
    ///
    /// # Errors
    /// [`ReferenceError`] if `text` is neither a path, a name in `catalogue`, nor `hf:OWNER/REPO/FILE`.
    pub fn parse(text: &str, catalogue: &Catalogue) -> Result<Self, ReferenceError> {
        if text.len() > REFERENCE_CHARS_MAX {
            return Err(ReferenceError::TooLong(text.len()));
        }
        if let Some(path) = text.strip_prefix("hf:") {
            return parse_hub(path).map_err(|reason| ReferenceError::Hub { text: text.to_owned(), reason });
        }
        if catalogue.get(text).is_some() {
            return Ok(Reference::Catalogue(text.to_owned()));
        }
        let path = Path::new(text);
        if path.is_dir() {
            return Ok(Reference::Folder(path.to_owned()));
        }
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) || path.is_file()
        {
            return Ok(Reference::File(path.to_owned()));
        }
        if text.contains(['/', '\\']) || text.starts_with('.') {
            return Ok(Reference::Folder(path.to_owned()));
        }
        Err(ReferenceError::Unknown {
            name: text.to_owned(),
            nearest: nearest(text, catalogue),
            known: catalogue.entries().iter().map(|entry| entry.name.clone()).collect(),
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::File(path) | Reference::Folder(path) => path.display().fmt(f),
            Reference::Catalogue(name) => f.write_str(name),
            Reference::Hub { repo, file } => write!(f, "hf:{repo}/{file}"),
        }
    }
}

fn parse_hub(path: &str) -> Result<Reference, &'static str> {
    let mut pieces = path.splitn(3, '/');
    let (Some(owner), Some(name), Some(file)) = (pieces.next(), pieces.next(), pieces.next()) else {
        return Err("it needs an owner, a repository and a file");
    };
    let repo = format!("{owner}/{name}");
    check_hub_path(&repo, file)?;
    Ok(Reference::Hub { repo, file: file.to_owned() })
}

/// Checks that `repo` and `file` can stand in a URL and in a path below the models folder as they are.
pub(crate) fn check_hub_path(repo: &str, file: &str) -> Result<(), &'static str> {
    if repo.split('/').count() != 2 {
        return Err("a repository is OWNER/REPO");
    }
    for segment in repo.split('/').chain(file.split('/')) {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-+=".contains(c);
        if !segment.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            || !segment.chars().all(allowed)
        {
            return Err(
                "its pieces start with a letter, a digit or _ and have only letters, digits and . _ - + =",
            );
        }
    }
    Ok(())
}

/// The name most like `text`: one that starts with it, or one within a third of its length in edits.
fn nearest(text: &str, catalogue: &Catalogue) -> Option<String> {
    let wanted = text.to_lowercase();
    let names = catalogue.entries().iter().map(|entry| entry.name.as_str());
    let (edits, name) = names
        .map(|name| if name.starts_with(&wanted) { (0, name) } else { (edit_distance(&wanted, name), name) })
        .min_by_key(|(edits, _)| *edits)?;
    (!wanted.is_empty() && edits <= name.len() / 3).then(|| name.to_owned())
}

/// Levenshtein's distance in bytes, with one row of the table kept.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, left) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut before = i + 1;
        for (right, cell) in b.bytes().zip(row.iter_mut().skip(1)) {
            let substituted = diagonal + usize::from(left != right);
            diagonal = *cell;
            before = substituted.min(before + 1).min(diagonal + 1);
            *cell = before;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Reference, ReferenceError> {
        Reference::parse(text, &Catalogue::builtin())
    }

    #[test]
    fn each_kind_is_recognised() {
        assert_eq!(parse("smollm2-135m"), Ok(Reference::Catalogue("smollm2-135m".into())));
        assert_eq!(parse("some/where.gguf"), Ok(Reference::File("some/where.gguf".into())));
        assert_eq!(parse("where.GGUF"), Ok(Reference::File("where.GGUF".into())));
        assert_eq!(parse("./folder"), Ok(Reference::Folder("./folder".into())));
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(parse(folder.path().to_str().unwrap()), Ok(Reference::Folder(folder.path().into())));
        let hub = Reference::Hub { repo: "o/r".into(), file: "sub/f.gguf".into() };
        assert_eq!(parse("hf:o/r/sub/f.gguf"), Ok(hub.clone()));
        assert_eq!(hub.to_string(), "hf:o/r/sub/f.gguf");
    }

    #[test]
    fn unknown_name_suggests_and_lists() {
        for (text, expected) in [
            ("qwen2.5-coder-0.5", "qwen2.5-coder-0.5b"),
            ("qwen-2.5-coder-1.5b", "qwen2.5-coder-1.5b"),
            ("Gemma3-270M", "gemma3-270m"),
            ("smol", "smollm2-135m"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.to_string().contains(&format!("did you mean {expected:?}?")), "{error}");
            assert!(error.to_string().contains("gemma3-270m, qwen2.5-coder-0.5b"), "{error}");
            assert!(error.is_missing());
        }
        for text in ["gpt-5", ""] {
            assert!(matches!(parse(text), Err(ReferenceError::Unknown { nearest: None, .. })), "{text}");
        }
    }

    #[test]
    fn hub_paths_that_could_leave_their_place_are_refused() {
        for text in [
            "hf:",
            "hf:o/r",
            "hf:o/r/",
            "hf:o/r/../x",
            "hf:../r/x",
            "hf:o/r/a?b",
            "hf:o/r/a%2e",
            "hf://r/x",
            "hf:o/r/a\\b",
            "hf:o/r/.hidden",
            "hf:o/r/a//b",
            "hf:o/r/a#b",
        ] {
            let error = parse(text).unwrap_err();
            assert!(matches!(error, ReferenceError::Hub { .. }) && !error.is_missing(), "{text}");
        }
        assert_eq!(parse(&"x".repeat(5000)), Err(ReferenceError::TooLong(5000)));
    }

    /// The definition, with no table.
    fn naive_distance(a: &[u8], b: &[u8]) -> usize {
        match (a.split_first(), b.split_first()) {
            (None, _) => b.len(),
            (_, None) => a.len(),
            (Some((x, a_rest)), Some((y, b_rest))) => (naive_distance(a_rest, b_rest) + usize::from(x != y))
                .min(naive_distance(a_rest, b) + 1)
                .min(naive_distance(a, b_rest) + 1),
        }
    }

    proptest! {
        #[test]
        fn distance_is_levenshteins(a in "[ab]{0,5}", b in "[abc]{0,5}") {
            prop_assert_eq!(edit_distance(&a, &b), naive_distance(a.as_bytes(), b.as_bytes()));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = parse(&text);
            let _ = parse(&format!("hf:{text}"));
        }
    }
}
