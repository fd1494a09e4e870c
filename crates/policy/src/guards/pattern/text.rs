//! What recognisers read: [`Text`], a text of which more may come, and their answer, [`Match`].

/// Bytes before a match that may bear on it; who forgets text keeps these.
pub const CONTEXT_BYTES: usize = 64;

/// A folded text, perhaps only its beginning.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    /// The bytes so far.
    pub bytes: &'a [u8],
    /// Whether that is all.
    pub is_end: bool,
}

/// Whether an entity begins at a place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Match {
    /// No, whatever follows.
    No,
    /// What follows decides. Never said of a text that is at its end.
    More,
    /// Yes, whatever follows.
    Yes {
        /// Where it ends.
        end: usize,
        /// How sure that is, in 0..=1.
        score: f32,
    },
}

impl<'a> Text<'a> {
    /// The whole of a text.
    pub fn whole(text: &'a str) -> Self {
        Text { bytes: text.as_bytes(), is_end: true }
    }

    /// The byte at a place.
    pub fn byte(&self, at: usize) -> Option<u8> {
        self.bytes.get(at).copied()
    }

    /// The byte before a place.
    pub fn before(&self, at: usize) -> Option<u8> {
        at.checked_sub(1).and_then(|at| self.byte(at))
    }

    /// Whether what stands at `at` is still to come.
    pub fn is_open(&self, at: usize) -> bool {
        at >= self.bytes.len() && !self.is_end
    }

    /// Whether the byte before `at` satisfies `is`.
    pub fn follows(&self, at: usize, is: fn(u8) -> bool) -> bool {
        self.before(at).is_some_and(is)
    }

    /// Where the run of bytes that satisfy `is` ends, looking no further than `bytes_max`.
    pub fn run(&self, from: usize, is: impl Fn(u8) -> bool, bytes_max: usize) -> usize {
        let run = self.bytes.iter().skip(from).take(bytes_max).take_while(|byte| is(**byte));
        from + run.count()
    }

    /// Whether a word that begins like one of `words` (lower case) stands in the [`CONTEXT_BYTES`] before `at`.
    pub fn mentions(&self, at: usize, words: &[&str]) -> bool {
        let from = at.saturating_sub(CONTEXT_BYTES);
        let context = self.bytes.get(from..at).unwrap_or_default();
        let begins = |place: &usize| *place == 0 || !context.get(place - 1).is_some_and(|byte| alnum(*byte));
        let is_there = |place: usize| {
            let rest = context.get(place..).unwrap_or_default();
            let first = rest.first().map(u8::to_ascii_lowercase);
            words.iter().map(|word| word.as_bytes()).any(|word| {
                word.first().copied() == first
                    && rest.get(..word.len()).is_some_and(|there| there.eq_ignore_ascii_case(word))
            })
        };
        (0..context.len()).filter(begins).any(is_there)
    }

    /// A match that must not be followed by a byte that satisfies `is`.
    pub fn ending(&self, end: usize, score: f32, is: impl Fn(u8) -> bool) -> Match {
        match self.byte(end) {
            None if !self.is_end => Match::More,
            Some(byte) if is(byte) => Match::No,
            _ => Match::Yes { end, score },
        }
    }
}

/// A letter or digit.
pub fn alnum(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

/// A digit.
pub fn digit(byte: u8) -> bool {
    byte.is_ascii_digit()
}

/// Digits in groups, as people write numbers.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    /// The digits, one per element, 0..=9.
    pub digits: Vec<u8>,
    /// For each group, how many digits stand up to its end, and where that is.
    pub ends: Vec<(usize, usize)>,
    /// The separators between groups, in order.
    pub separators: Vec<u8>,
    /// Whether more text might make the last group longer or add one.
    pub is_open: bool,
}

impl Groups {
    /// Reads up to `digits_max` digits from `start` on, in groups between single bytes of `separators`. A group
    /// that goes on past the limit is left out.
    pub fn read(text: &Text<'_>, start: usize, separators: &[u8], digits_max: usize) -> Groups {
        let mut groups = Groups::default();
        let mut at = start;
        loop {
            let end = text.run(at, digit, digits_max + 1);
            if end > at && groups.digits.len() + (end - at) <= digits_max {
                groups.digits.extend(text.bytes.iter().take(end).skip(at).map(|byte| byte - b'0'));
                groups.ends.push((groups.digits.len(), end));
            } else {
                groups.is_open = text.is_open(end) && groups.digits.len() + (end - at) <= digits_max;
                groups.separators.truncate(groups.ends.len().saturating_sub(1));
                return groups;
            }
            let next = text.byte(end).filter(|byte| separators.contains(byte));
            let Some(separator) = next else {
                groups.is_open = text.is_open(end);
                return groups;
            };
            groups.separators.push(separator);
            at = end + 1;
        }
    }

    /// The sizes of the groups.
    pub fn sizes(&self) -> Vec<usize> {
        let mut before = 0;
        let size = |(digits, _): &(usize, usize)| std::mem::replace(&mut before, *digits);
        let befores: Vec<usize> = self.ends.iter().map(size).collect();
        self.ends.iter().zip(befores).map(|((digits, _), before)| digits - before).collect()
    }
}
