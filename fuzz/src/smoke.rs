//! A short, reproducible run of a target, for `cargo test`.

use std::fs;
use std::panic;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::Target;
use crate::mutate::{Corpus, Random};

/// One input may take this long, on a busy machine and unoptimised.
const INPUT_MS_MAX: u128 = 10_000;

/// What a target may reserve beyond what its process had: inputs are under 1 MiB.
const MEMORY_GROWTH_MAX_BYTES: u64 = 1 << 30;

/// How long to run.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Mutated inputs at most.
    pub runs_max: u64,
    /// No new input starts after this.
    pub time_ms_max: u64,
}

/// A target broke its promise.
#[derive(Debug)]
pub struct Failure {
    /// Which promise, and with which input.
    pub what: String,
    /// The input, saved for debugging; `None` if that failed too.
    pub saved: Option<PathBuf>,
}

/// Runs `target` on its seeds and on inputs made from them; gives the number of inputs run. A
/// failing input is saved in `folder`.
///
/// # Errors
/// The first input on which the target panics, takes too long or reserves too much memory; or that
/// the seeds cannot be read.
pub fn run(target: &Target, limits: Limits, folder: &Path) -> Result<u64, Failure> {
    let seeds = target.read_seeds();
    let seeds =
        seeds.map_err(|error| Failure { what: format!("cannot read the seeds: {error}"), saved: None })?;
    let corpus = Corpus { seeds: &seeds, words: target.words };
    let mut random = Random::new(0);
    let started = Instant::now();
    let time_max = Duration::from_millis(limits.time_ms_max);
    let mutated =
        (0..limits.runs_max).take_while(|_| started.elapsed() < time_max).map(|_| corpus.input(&mut random));
    let mut runs = 0;
    for input in seeds.iter().cloned().chain(mutated) {
        if let Err(broken) = run_once(target, &input) {
            let path = folder.join(format!("{}-{runs}", target.name));
            let saved = fs::write(&path, &input).is_ok().then_some(path);
            return Err(Failure { what: format!("{}, input {runs}: {broken}", target.name), saved });
        }
        runs += 1;
    }
    Ok(runs)
}

/// Runs one input, and says which promise it broke.
fn run_once(target: &Target, input: &[u8]) -> Result<(), String> {
    let memory = peak_memory_bytes();
    let started = Instant::now();
    panic::catch_unwind(|| (target.run)(input)).map_err(|_| "it panics".to_owned())?;
    let taken = started.elapsed().as_millis();
    if taken > INPUT_MS_MAX {
        return Err(format!("it takes {taken} ms, at most {INPUT_MS_MAX}"));
    }
    let grown = peak_memory_bytes().unwrap_or(0).saturating_sub(memory.unwrap_or(u64::MAX));
    if grown > MEMORY_GROWTH_MAX_BYTES {
        return Err(format!("it reserves {grown} bytes, at most {MEMORY_GROWTH_MAX_BYTES}"));
    }
    Ok(())
}

/// The most address space this process ever had; known on Linux only.
fn peak_memory_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seed;

    const SOUND: Target =
        Target { name: "sound", run: |_| {}, seeds: &[Seed::Bytes(b"seed")], words: &[b"bad"] };
    const LIMITS: Limits = Limits { runs_max: 5_000, time_ms_max: 20_000 };

    // One test, because memory is measured for the whole process.
    #[test]
    fn broken_promises_are_found() {
        let folder = empty_folder();
        assert_eq!(run(&SOUND, LIMITS, &folder).unwrap(), 5_001);

        let panics = Target { run: |data| assert!(!data.windows(3).any(|part| part == b"bad")), ..SOUND };
        let failure = run(&panics, LIMITS, &folder).unwrap_err();
        assert!(failure.what.contains("panics"), "{failure:?}");
        let saved = fs::read(failure.saved.unwrap()).unwrap();
        assert!(saved.windows(3).any(|part| part == b"bad"));

        let grasps = |_: &[u8]| drop(std::hint::black_box(Vec::<u8>::with_capacity(3 << 30)));
        if peak_memory_bytes().is_some() {
            let failure = run(&Target { run: grasps, ..SOUND }, LIMITS, &folder).unwrap_err();
            assert!(failure.what.contains("reserves"), "{failure:?}");
        }

        let unseeded = Target { seeds: &[Seed::Files { folder: "no such folder", ending: "" }], ..SOUND };
        assert!(run(&unseeded, LIMITS, &folder).unwrap_err().what.contains("seeds"));
        fs::remove_dir_all(folder).unwrap();
    }

    fn empty_folder() -> PathBuf {
        let folder = std::env::temp_dir().join(format!("fuzz-smoke-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn time_ends_a_run() {
        let slow = Target { run: |_| std::thread::sleep(Duration::from_millis(2)), ..SOUND };
        let runs = run(&slow, Limits { runs_max: 1_000_000, time_ms_max: 50 }, Path::new("")).unwrap();
        assert!((1..100).contains(&runs), "{runs}");
    }
}
