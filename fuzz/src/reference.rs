//! What users write to name a model.

use std::path::Path;
use std::sync::LazyLock;

use store::{Catalogue, Reference};

use crate::{Seed, Target};

static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(Catalogue::builtin);

/// The target.
pub const TARGET: Target = Target {
    name: "reference",
    run,
    seeds: &[
        Seed::Bytes(b"smollm2-135m"),
        Seed::Bytes(b"gemma3-270"),
        Seed::Bytes(b"hf:owner/repo/folder/file-00001-of-00002.gguf"),
        Seed::Bytes("./models/größe.gguf".as_bytes()),
        Seed::Bytes(b"/models/folder"),
    ],
    words: &[b"hf:", b"/", b"../", b".gguf", b"\\", b"%2e", b"?", b"#", b"\0"],
};

fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match Reference::parse(&text, &CATALOGUE) {
        Ok(Reference::Hub { repo, file }) => {
            // Both become parts of a URL and of a path below the models' folder.
            assert_eq!(text, format!("hf:{repo}/{file}"));
            for segment in repo.split('/').chain(file.split('/')) {
                assert!(!segment.is_empty() && !segment.starts_with('.'), "{text:?}");
                assert!(!segment.contains(['\\', '%', '?', '#', '\0', ':', '@']), "{text:?}");
            }
        }
        Ok(Reference::Catalogue(name)) => assert!(CATALOGUE.get(&name).is_some()),
        Ok(Reference::File(path) | Reference::Folder(path)) => assert_eq!(path, Path::new(text.as_ref())),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
