//! Fuzz targets: functions that take any bytes and may not panic, hang or ask for memory that the
//! bytes do not pay for.
//!
//! Each target is one file and one line in [`TARGETS`]. Its one definition runs in two ways: under
//! libFuzzer for hours (`fuzz/libfuzzer`, nightly), and in `cargo test` for a second, with the
//! mutator of this crate ([`smoke`]).

mod catalogue;
mod door;
mod gguf;
mod guards;
mod model;
mod mutate;
mod outcomes;
mod packed;
mod reference;
mod rows;
pub mod smoke;
mod sse;
mod stop;
mod template;
mod tokenizer;

use std::fs;
use std::io;
use std::path::Path;

/// Every target.
pub const TARGETS: &[Target] = &[
    catalogue::TARGET,
    door::TARGET,
    gguf::TARGET,
    guards::TARGET,
    model::TARGET,
    outcomes::TARGET,
    packed::TARGET,
    reference::TARGET,
    rows::TARGET,
    sse::TARGET,
    stop::TARGET,
    template::TARGET,
    tokenizer::TARGET,
];

/// Longest piece of a stream that is cut up.
const PIECE_BYTES_MAX: usize = 8;

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

/// The first byte, which says where to cut, and the rest, cut into pieces of 1 to 8 bytes. A target
/// that reads a stream takes its input so.
fn cut(data: &[u8]) -> (&[u8], Vec<&[u8]>) {
    let (seed, rest) = data.split_first().unwrap_or((&0, &[]));
    let mut random = mutate::Random::new(u64::from(*seed));
    let mut pieces = Vec::new();
    let mut left = rest;
    while !left.is_empty() {
        let (piece, after) = left.split_at(left.len().min(1 + random.below(PIECE_BYTES_MAX)));
        pieces.push(piece);
        left = after;
    }
    (rest, pieces)
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
    fn cutting_loses_nothing_and_depends_on_the_first_byte() {
        let data: Vec<u8> = (0..100).collect();
        let (rest, pieces) = cut(&data);
        assert_eq!(rest, &data[1..]);
        assert_eq!(pieces.concat(), rest);
        let lengths = |seed: u8| -> Vec<usize> {
            cut(&[&[seed], rest].concat()).1.iter().map(|piece| piece.len()).collect()
        };
        assert!(lengths(1) == lengths(1) && lengths(1) != lengths(2));
        assert!(lengths(3).iter().all(|length| (1..=PIECE_BYTES_MAX).contains(length)));
        assert_eq!(cut(b""), (&b""[..], vec![]));
    }

    #[test]
    fn targets_are_found_by_name() {
        assert!(TARGETS.iter().all(|listed| target(listed.name).is_some_and(|t| t.name == listed.name)));
        assert!(target("").is_none());
    }
}
