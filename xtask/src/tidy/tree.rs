//! The tree that rules look at: every text file of the repository, read once, or a few files in
//! memory.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use super::rust::Rust;

/// Folders that are built, fetched or not ours, wherever they lie.
const SKIPPED_NAMES: &[&str] = &["target", ".git", ".venv", "__pycache__", "node_modules"];

/// Folders that a fuzzer fills.
const SKIPPED_PATHS: &[&str] = &["fuzz/libfuzzer/corpus", "fuzz/libfuzzer/artifacts"];

/// Endings of files that people write.
const TEXT_ENDINGS: &[&str] = &[
    "rs", "md", "toml", "sh", "py", "yml", "yaml", "html", "css", "js", "sql", "txt", "json", "jsonl",
    "jinja", "csv",
];

/// Longer files are data, whatever their ending.
const TEXT_BYTES_MAX: u64 = 1 << 20;

/// The files of a repository.
pub struct Tree {
    /// The text files, by path.
    pub files: Vec<File>,
    /// Every path there is: text files, others and folders.
    paths: BTreeSet<String>,
}

/// One text file.
pub struct File {
    /// From the root, with `/`.
    pub path: String,
    /// All of it.
    pub text: String,
    /// Its tokens, if it is Rust.
    pub rust: Option<Rust>,
}

impl Tree {
    /// Reads the repository at `root`.
    ///
    /// # Errors
    /// Whatever reading a folder or a file gives.
    pub fn read(root: &Path) -> io::Result<Self> {
        let mut tree = Tree { files: Vec::new(), paths: BTreeSet::new() };
        tree.read_folder(root, "")?;
        tree.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(tree)
    }

    /// A tree of `(path, text)`.
    pub fn of(files: &[(&str, &str)]) -> Self {
        let paths = files.iter().flat_map(|(path, _)| {
            let folders = path.match_indices('/').map(|(at, _)| path[..at].to_owned());
            folders.chain([(*path).to_owned()])
        });
        let paths = paths.collect();
        let files = files.iter().map(|(path, text)| File::new((*path).to_owned(), (*text).to_owned()));
        Tree { files: files.collect(), paths }
    }

    fn read_folder(&mut self, folder: &Path, prefix: &str) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let path = format!("{prefix}{name}");
            let skipped = SKIPPED_NAMES.contains(&name.as_str()) || SKIPPED_PATHS.contains(&path.as_str());
            if skipped || kind.is_symlink() {
                continue;
            }
            if kind.is_dir() {
                self.read_folder(&entry.path(), &format!("{path}/"))?;
            } else if is_text(&path) && entry.metadata()?.len() <= TEXT_BYTES_MAX {
                let bytes = fs::read(entry.path())?;
                self.files.push(File::new(path.clone(), String::from_utf8_lossy(&bytes).into_owned()));
            }
            self.paths.insert(path);
        }
        Ok(())
    }

    /// Whether there is a file or a folder at `path`.
    pub fn has(&self, path: &str) -> bool {
        path.is_empty() || self.paths.contains(path)
    }

    /// The text file at `path`.
    pub fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Every Rust file with its tokens.
    pub fn rust(&self) -> impl Iterator<Item = (&File, &Rust)> {
        self.files.iter().filter_map(|file| Some((file, file.rust.as_ref()?)))
    }

    /// The folders under `crates/`, in order.
    pub fn crates(&self) -> Vec<&str> {
        let manifests = self.paths.iter().filter_map(|path| path.strip_suffix("/Cargo.toml"));
        let folders = manifests.filter_map(|path| path.strip_prefix("crates/"));
        folders.filter(|folder| !folder.contains('/')).collect()
    }
}

impl File {
    fn new(path: String, text: String) -> Self {
        let rust = path.ends_with(".rs").then(|| Rust::new(&text));
        File { path, text, rust }
    }

    /// The crate under `crates/` that the file belongs to.
    pub fn crate_name(&self) -> Option<&str> {
        Some(self.path.strip_prefix("crates/")?.split_once('/')?.0)
    }

    /// Whether the whole file is test or benchmark code.
    pub fn is_test(&self) -> bool {
        let (folders, name) = self.path.rsplit_once('/').unwrap_or(("", &self.path));
        name == "tests.rs" || folders.split('/').any(|folder| ["tests", "benches"].contains(&folder))
    }
}

fn is_text(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    match name.rsplit_once('.') {
        Some((stem, ending)) => stem.is_empty() || TEXT_ENDINGS.contains(&ending),
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_read_without_what_is_built() {
        let tree = Tree::read(&crate::root()).unwrap();
        assert!(tree.file("xtask/src/tidy/tree.rs").is_some());
        assert!(tree.file(".ci/run").is_some());
        assert!(tree.has("xtask/src") && tree.has("Cargo.lock"));
        assert!(!tree.has("target"));
        assert!(tree.file("Cargo.lock").is_none());
        assert!(tree.crates().contains(&"contract"));
    }

    #[test]
    fn files_know_their_crate_and_whether_they_are_tests() {
        let file = |path: &str| File::new(path.to_owned(), String::new());
        assert_eq!(file("crates/engine/src/a.rs").crate_name(), Some("engine"));
        assert_eq!(file("xtask/src/a.rs").crate_name(), None);
        assert!(file("crates/engine/tests/a.rs").is_test());
        assert!(file("crates/engine/src/gguf/tests.rs").is_test());
        assert!(!file("crates/engine/src/contests/a.rs").is_test());
    }

    #[test]
    fn folders_in_memory_exist() {
        let tree = Tree::of(&[("a/b/c.md", "")]);
        assert!(tree.has("a") && tree.has("a/b") && tree.has("a/b/c.md") && !tree.has("b"));
    }
}
