//! Fuzz targets: functions that take any bytes and may not panic, hang or ask for memory that the
//! bytes do not pay for.
//!
//! Each target is one file and one line in [`TARGETS`]. Its one definition runs in two ways: under
//! libFuzzer for hours (`fuzz/libfuzzer`, nightly), and in `cargo test` for a second, with the
//! mutator of this crate ([`smoke`]).

mod gguf;
mod mutate;
pub mod smoke;

use std::fs;
use std::io;
use std::path::Path;

/// Every target.
pub const TARGETS: &[Target] = &[gguf::TARGET];

/// One target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its file's name, and its binary's in `fuzz/libfuzzer/Cargo.toml`.
    pub name: &'static str,
    /// Takes any bytes; a panic is a bug.
    pub run: fn(&[u8]),
    /// Valid inputs, from which others are made.
    pub seeds: &'static [Seed],
    /// Byte strings that mean something in the input's language.
    pub words: &'static [&'static [u8]],
}

/// Where a target's valid inputs come from.
#[derive(Clone, Copy, Debug)]
pub enum Seed {
    /// This one.
    Bytes(&'static [u8]),
    /// Each file of a folder whose name ends so.
    Files {
        /// From the repository's root.
        folder: &'static str,
        /// The names' ending, with its dot.
        ending: &'static str,
    },
}

impl Target {
    /// The bytes of every seed, in a fixed order.
    ///
    /// # Errors
    /// If a folder or file cannot be read.
    pub fn read_seeds(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut seeds = Vec::new();
        for seed in self.seeds {
            match seed {
                Seed::Bytes(bytes) => seeds.push(bytes.to_vec()),
                Seed::Files { folder, ending } => seeds.extend(read_files(folder, ending)?),
            }
        }
        Ok(seeds)
    }
}

fn read_files(folder: &str, ending: &str) -> io::Result<Vec<Vec<u8>>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut paths = Vec::new();
    for entry in fs::read_dir(root.join(folder))? {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(ending) {
            paths.push(path);
        }
    }
    paths.sort();
    paths.into_iter().map(fs::read).collect()
}

/// The target called `name`.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_seeds_and_a_binary_for_libfuzzer() {
        let manifest = include_str!("../libfuzzer/Cargo.toml").parse::<toml::Table>().unwrap();
        let binaries: Vec<&str> =
            manifest["bin"].as_array().unwrap().iter().map(|bin| bin["name"].as_str().unwrap()).collect();
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        assert_eq!(binaries, names);
        for target in TARGETS {
            assert!(!target.read_seeds().unwrap().is_empty(), "{}", target.name);
        }
    }

    #[test]
    fn targets_are_found_by_name() {
        assert!(TARGETS.iter().all(|listed| target(listed.name).is_some_and(|t| t.name == listed.name)));
        assert!(target("").is_none());
    }
}
