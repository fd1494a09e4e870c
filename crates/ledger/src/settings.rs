//! What a ledger keeps and how long it may wait: [`LedgerSettings`].

use serde::{Deserialize, Serialize};

use crate::LedgerError;

/// What becomes of prompts and answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeepText {
    /// Nothing of them is written.
    #[default]
    None,
    /// Their SHA-256, so that equal texts can be told.
    Hashes,
    /// The texts themselves (and their SHA-256).
    Full,
}

/// How a ledger is run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LedgerSettings {
    /// What becomes of prompts and answers.
    pub keep_text: KeepText,
    /// Most rows that wait in memory to be written; at least 1.
    pub queue_rows_max: usize,
    /// Longest that a row waits for others to be committed with, milliseconds.
    pub commit_interval_ms: u64,
}

/// Largest `queue_rows_max`: rows in memory are lost when the process is killed.
pub const QUEUE_ROWS_LIMIT: usize = 1_000_000;

/// Largest `commit_interval_ms`.
pub const COMMIT_INTERVAL_MS_LIMIT: u64 = 60_000;

impl Default for LedgerSettings {
    fn default() -> Self {
        LedgerSettings { keep_text: KeepText::None, queue_rows_max: 4096, commit_interval_ms: 200 }
    }
}

impl LedgerSettings {
    /// Every number in its range.
    pub fn validate(&self) -> Result<(), LedgerError> {
        if !(1..=QUEUE_ROWS_LIMIT).contains(&self.queue_rows_max) {
            return Err(LedgerError::Setting {
                field: "queue_rows_max",
                value: self.queue_rows_max as u64,
                range: format!("1..={QUEUE_ROWS_LIMIT}"),
            });
        }
        if self.commit_interval_ms > COMMIT_INTERVAL_MS_LIMIT {
            return Err(LedgerError::Setting {
                field: "commit_interval_ms",
                value: self.commit_interval_ms,
                range: format!("0..={COMMIT_INTERVAL_MS_LIMIT}"),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_out_of_range_are_named() {
        let base = LedgerSettings::default;
        assert!(base().validate().is_ok());
        for rows in [0, QUEUE_ROWS_LIMIT + 1] {
            let error = LedgerSettings { queue_rows_max: rows, ..base() }.validate().unwrap_err();
            assert!(error.to_string().contains("queue_rows_max"), "{error}");
        }
        let late = LedgerSettings { commit_interval_ms: COMMIT_INTERVAL_MS_LIMIT + 1, ..base() };
        assert!(late.validate().unwrap_err().to_string().contains("commit_interval_ms"));
    }
}
