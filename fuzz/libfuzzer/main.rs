//! A fuzz target under libFuzzer: the one named like this binary.

#![no_main]

use std::sync::LazyLock;

use fuzz::Target;
use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    fuzz::target(env!("CARGO_BIN_NAME")).expect("every binary is named like a target")
});

fuzz_target!(|data: &[u8]| (TARGET.run)(data));
