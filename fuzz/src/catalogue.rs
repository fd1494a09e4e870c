//! The catalogue of models: TOML text, read as the built-in one is.

use store::{Catalogue, MODEL_BYTES_MAX};

use crate::{Seed, Target};

/// The target.
pub const TARGET: Target = Target {
    name: "catalogue",
    run,
    seeds: &[Seed::Files { folder: "crates/store/src", ending: "catalogue.toml" }],
    words: &[
        b"[[model]]\n",
        b"[[model.sources]]\n",
        b"bytes = 9223372036854775807\n",
        b"kind = \"python-packages\"\n",
        b"revision = \"main\"\n",
        b"parts = [{ package = \"p==1\", file = \"p/f.bin\" }]\n",
        b"\"\"\"",
        b"[[[[",
        b"../",
    ],
};

fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(catalogue) = Catalogue::parse(&text) else { return };
    for entry in catalogue.entries() {
        assert_eq!(catalogue.get(&entry.name), Some(entry), "not found by its name, or listed twice");
        assert!((1..=MODEL_BYTES_MAX).contains(&entry.bytes) && !entry.sources.is_empty());
        // The name becomes a file's name.
        assert!(!entry.name.starts_with('.') && !entry.name.contains(['/', '\\', '\0']), "{:?}", entry.name);
    }
}
