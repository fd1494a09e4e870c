//! The checks of `cargo xtask real`: one file each and one line in [`CHECKS`], in the order in which
//! they run.

mod bad_input;
mod clients;
mod crash;
mod crowd;
mod demo;
mod greedy;
mod guards;
mod kv_types;
mod leaving;
mod logits_exact;
mod logits_fast;
mod memory;
mod perplexity;
mod reading;
mod speculation;
mod templates;
mod tokenize;
mod upstream;

use super::Check;

/// Every check.
pub(super) const CHECKS: &[Check] = &[
    tokenize::CHECK,
    templates::CHECK,
    logits_exact::CHECK,
    logits_fast::CHECK,
    greedy::CHECK,
    perplexity::CHECK,
    kv_types::CHECK,
    reading::CHECK,
    guards::CHECK,
    speculation::CHECK,
    clients::CHECK,
    bad_input::CHECK,
    leaving::CHECK,
    memory::CHECK,
    crash::CHECK,
    crowd::CHECK,
    upstream::CHECK,
    demo::CHECK,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_file_is_registered_under_its_name() {
        let folder = crate::root().join("xtask/src/real/checks");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .filter(|stem| stem != "mod")
            .collect();
        files.sort();
        let mut registered: Vec<&str> = CHECKS.iter().map(|check| check.name).collect();
        registered.sort();
        assert_eq!(registered, files);
    }
}
