//! What the tests share: a model made of pseudo-random bytes, a folder of wheels, a store.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use store::{Catalogue, Options, Phase, Progress, Reference, Sha256, Store};
use tempfile::TempDir;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// Bytes that look like weights and do not compress to nothing.
pub fn model_bytes(len: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8 & 0x3f
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// A store in a temporary folder, and the folder that the stand-in for pip serves.
pub struct Bench {
    pub folder: TempDir,
}

impl Bench {
    pub fn new() -> Self {
        let bench = Bench { folder: tempfile::tempdir().unwrap() };
        fs::create_dir(bench.index()).unwrap();
        let stand_in = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fetch/python3");
        symlink(stand_in, bench.index().join("python3")).unwrap();
        bench
    }

    pub fn index(&self) -> PathBuf {
        self.folder.path().join("index")
    }

    pub fn models(&self) -> PathBuf {
        self.folder.path().join("home/models")
    }

    /// Puts a wheel into the index.
    pub fn wheel(&self, package: &str, file: &str, bytes: &[u8]) {
        // Wheels hold their members either way.
        let method =
            if package.ends_with('1') { CompressionMethod::Stored } else { CompressionMethod::Deflated };
        let mut wheel = ZipWriter::new(File::create(self.index().join(format!("{package}.whl"))).unwrap());
        let options = SimpleFileOptions::default().compression_method(method);
        for (name, content) in [("p/__init__.py", &b"# nothing"[..]), (file, bytes)] {
            wheel.start_file(name, options).unwrap();
            wheel.write_all(content).unwrap();
        }
        wheel.finish().unwrap();
    }

    /// Wheels `p1`, `p2`, … with `parts` parts of `model`.
    pub fn wheels(&self, model: &[u8], parts: usize) {
        for (index, part) in model.chunks(model.len().div_ceil(parts)).enumerate() {
            self.wheel(&format!("p{}", index + 1), "p/data.bin", part);
        }
    }

    /// A note for the stand-in, see its head.
    pub fn tell(&self, name: &str, text: &str) {
        fs::write(self.index().join(name), text).unwrap();
    }

    pub fn untell(&self, name: &str) {
        fs::remove_file(self.index().join(name)).unwrap();
    }

    /// The packages that were asked for, in order.
    pub fn asked(&self) -> Vec<String> {
        let asked = fs::read_to_string(self.index().join("asked")).unwrap_or_default();
        asked.lines().map(str::to_owned).collect()
    }

    pub fn options(&self, catalogue: Catalogue) -> Options {
        Options {
            catalogue,
            python: self.index().join("python3"),
            hub_endpoint: "http://127.0.0.1:9".to_owned(),
            read_timeout: Duration::from_secs(5),
            retry_delay: Duration::from_millis(5),
            ..Options::default()
        }
    }

    pub fn store_with(&self, options: Options) -> Store {
        Store::with_options(self.folder.path().join("home"), options)
    }

    /// A store that knows `model` as `m`, in `parts` Python packages.
    pub fn pip_store(&self, model: &[u8], parts: usize) -> Store {
        self.store_with(self.options(catalogue(model, &packages(parts))))
    }

    /// What is left of work in the models folder, except locks.
    pub fn left_over(&self) -> Vec<PathBuf> {
        let mut folders = vec![self.models().join(".partial")];
        let mut left = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                match path.extension().is_some_and(|extension| extension == "lock") {
                    _ if path.is_dir() && !path.ends_with("m.gguf.wheels") => folders.push(path),
                    true => {}
                    false => left.push(path),
                }
            }
        }
        left
    }
}

/// The TOML of a source with the packages `p1` to `pN`.
pub fn packages(parts: usize) -> String {
    let parts: Vec<String> =
        (1..=parts).map(|part| format!("{{ package = \"p{part}\", file = \"p/data.bin\" }}")).collect();
    format!("[[model.sources]]\nkind = \"python-packages\"\nparts = [{}]\n", parts.join(", "))
}

/// A catalogue that knows `model` as `m`.
pub fn catalogue(model: &[u8], sources: &str) -> Catalogue {
    let (bytes, sha256) = (model.len(), Sha256::of(model));
    let text = format!(
        "[[model]]\nname = \"m\"\ndescription = \"d\"\narchitecture = \"llama\"\nlicence = \"MIT\"\n\
         bytes = {bytes}\nsha256 = \"{sha256}\"\n{sources}"
    );
    Catalogue::parse(&text).unwrap()
}

/// The reference to the model of [`catalogue`].
pub fn m() -> Reference {
    Reference::Catalogue("m".to_owned())
}

/// An observer that does not care.
pub fn nobody() -> impl FnMut(&Progress<'_>) + Send {
    |_: &Progress<'_>| {}
}

/// An observer that keeps the last report of each phase.
pub fn phases(seen: &mut Vec<(Phase, u64, Option<u64>)>) -> impl FnMut(&Progress<'_>) + Send {
    |progress: &Progress<'_>| {
        if seen.last().is_some_and(|(phase, ..)| *phase == progress.phase) {
            seen.pop();
        }
        seen.push((progress.phase, progress.bytes_done, progress.bytes_total));
    }
}
