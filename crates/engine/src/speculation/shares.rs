//! How often guesses were right: [`Share`], a running mean that starts from an expectation.

/// Guesses that a mean remembers.
const MEMORY: f64 = 64.0;
/// Guesses that an expectation counts as.
const EXPECTATION: f64 = 4.0;

/// A share of guesses that were right.
#[derive(Clone, Copy, Debug)]
pub(super) struct Share {
    right: f64,
    all: f64,
}

impl Share {
    /// A share that nothing is known of but what to expect.
    pub fn expected(mean: f64) -> Self {
        Share { right: EXPECTATION * mean, all: EXPECTATION }
    }

    /// Takes a guess in.
    pub fn note(&mut self, is_right: bool) {
        let kept = (MEMORY - 1.0).min(self.all) / self.all;
        self.right = self.right * kept + f64::from(u8::from(is_right));
        self.all = self.all * kept + 1.0;
    }

    /// The share.
    pub fn mean(&self) -> f64 {
        self.right / self.all
    }
}

/// When to try what did not seem worth it: seldom, and ever more seldom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probe {
    waited: u32,
    wait: u32,
}

/// Steps without a draft before one is tried.
const WAIT_MIN: u32 = 16;
/// The same, after many were tried in vain.
const WAIT_MAX: u32 = 256;

impl Default for Probe {
    fn default() -> Self {
        Probe { waited: 0, wait: WAIT_MIN }
    }
}

impl Probe {
    /// Counts a step without a draft. True if this one should have one after all.
    pub fn is_due(&mut self) -> bool {
        self.waited += 1;
        if self.waited < self.wait {
            return false;
        }
        (self.waited, self.wait) = (0, (self.wait * 2).min(WAIT_MAX));
        true
    }

    /// Drafts are worth it again.
    pub fn reset(&mut self) {
        *self = Probe::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_start_from_the_expectation_and_follow_what_is_seen() {
        let mut share = Share::expected(0.5);
        assert_eq!(share.mean(), 0.5);
        (0..4).for_each(|_| share.note(true));
        assert_eq!(share.mean(), 0.75);
        (0..1000).for_each(|_| share.note(true));
        assert!(share.mean() > 0.999);
        (0..64).for_each(|_| share.note(false));
        assert!(share.mean() < 0.4, "{}", share.mean());
    }

    #[test]
    fn probes_become_rare() {
        let mut probe = Probe::default();
        let due: Vec<usize> = (1..=1000).filter(|_| probe.is_due()).collect();
        assert_eq!(due, [16, 48, 112, 240, 496, 752]);
        probe.reset();
        assert_eq!((1..=16).filter(|_| probe.is_due()).count(), 1);
    }
}
