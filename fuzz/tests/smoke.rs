//! Every fuzz target for a second, with inputs that are the same on every run.

use std::path::Path;

use fuzz::smoke::{self, Limits};

const LIMITS: Limits = Limits { runs_max: 10_000, time_ms_max: 1_000 };

/// Fewer would say that a target is too slow to be fuzzed.
const RUNS_MIN: u64 = 50;

#[test]
fn every_target_survives() {
    for target in fuzz::TARGETS {
        let runs = smoke::run(target, LIMITS, Path::new(env!("CARGO_TARGET_TMPDIR")))
            .unwrap_or_else(|failure| panic!("{}; saved as {:?}", failure.what, failure.saved));
        assert!(runs >= RUNS_MIN, "{}: only {runs} inputs in {} ms", target.name, LIMITS.time_ms_max);
        println!("{}: {runs} inputs", target.name);
    }
}
