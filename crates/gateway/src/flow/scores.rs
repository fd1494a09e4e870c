//! What guards said of texts before: [`Scores`]. A conversation comes back with every turn, and only what is new in it
//! is to be read.
//!
//! A text is known by its hash, to the tenant that sent it: nobody learns from the time it takes what others sent.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use contract::Channel;
use policy::guards::asked::Score;
use sha2::{Digest, Sha256};

/// Most scores of either half.
const HALF_MAX: usize = 4096;
/// A byte that no UTF-8 text has.
const END: [u8; 1] = [0xff];

/// Of whom and what a score is.
pub(super) type Key = [u8; 32];

/// Scores that were asked for of late. In two halves: when the newer one is full, the older one is forgotten.
#[derive(Default)]
pub(super) struct Scores {
    halves: Mutex<Halves>,
}

#[derive(Default)]
struct Halves {
    newer: HashMap<Key, Score>,
    older: HashMap<Key, Score>,
}

impl Scores {
    /// What a guard said of the text in this channel.
    pub(super) fn get(&self, key: &Key) -> Option<Score> {
        let mut halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(score) = halves.newer.get(key) {
            return Some(score.clone());
        }
        let score = halves.older.remove(key)?;
        halves.put(*key, score.clone());
        Some(score)
    }

    /// Remembers it.
    pub(super) fn put(&self, key: Key, score: Score) {
        self.halves.lock().unwrap_or_else(PoisonError::into_inner).put(key, score);
    }
}

impl Halves {
    fn put(&mut self, key: Key, score: Score) {
        if self.newer.len() >= HALF_MAX {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(key, score);
    }
}

/// What a guard's score of a text is kept by.
pub(super) fn key(tenant: Option<&str>, guard: &str, (channel, text): (Channel, &str)) -> Key {
    let mut hash = Sha256::new();
    for part in [tenant.map_or("", |_| "tenant"), tenant.unwrap_or_default(), guard, channel.as_str(), text] {
        hash.update(part);
        hash.update(END);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(tenant: Option<&str>, guard: &str, text: &str) -> Key {
        key(tenant, guard, (Channel::User, text))
    }

    #[test]
    fn a_score_is_of_a_tenant_a_guard_a_channel_and_a_text() {
        let scores = Scores::default();
        let known = of(Some("a"), "g", "text");
        scores.put(known, Score::new(0.7, "bad"));
        assert_eq!(scores.get(&known), Some(Score::new(0.7, "bad")));
        let others = [
            of(None, "g", "text"),
            of(Some(""), "g", "text"),
            of(Some("b"), "g", "text"),
            of(Some("a"), "h", "text"),
            of(Some("a"), "g", "texts"),
            key(Some("a"), "g", (Channel::Tool, "text")),
        ];
        for other in others {
            assert_eq!(scores.get(&other), None);
        }
    }

    #[test]
    fn what_was_asked_for_last_is_kept_and_no_more_than_the_limit() {
        let scores = Scores::default();
        let first = of(None, "g", "first");
        scores.put(first, Score::new(0.5, "first"));
        for index in 0..3 * HALF_MAX {
            scores.put(of(None, "g", &index.to_string()), Score::new(0.1, "other"));
            if index % (HALF_MAX / 2) == 0 {
                assert!(scores.get(&first).is_some(), "forgotten after {index}");
            }
        }
        assert_eq!(scores.get(&of(None, "g", "0")), None);
        let halves = scores.halves.lock().unwrap();
        assert!(halves.newer.len() <= HALF_MAX && halves.older.len() <= HALF_MAX);
    }
}
