//! A seeded mutator: the same seed makes the same inputs from the same corpus.

/// A mutated input is at most this much longer than the seed it comes from.
pub const GROWTH_MAX_BYTES: usize = 4 << 10;

/// Mutations applied to one input.
const MUTATIONS_MAX: u64 = 6;

/// Numbers at which lengths, counts and offsets go wrong.
const NUMBERS: &[u64] = &[
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    1 << 40,
    0x2000_0000_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0xffff_ffff_ffff_fff0,
    u64::MAX,
];

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Random { state: seed }
    }

    /// The next 64 bits.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number under `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// A place in `length` bytes, as often in the first 2^k as in the 2^k after them: headers are
    /// short, and lie in front.
    fn place(&mut self, length: usize) -> usize {
        let scale = self.below(length.max(1).ilog2() as usize + 2);
        self.below(length.min(1 << scale))
    }

    fn choose<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }
}

/// What inputs are made from.
#[derive(Debug)]
pub struct Corpus<'a> {
    /// Valid inputs.
    pub seeds: &'a [Vec<u8>],
    /// Byte strings that mean something.
    pub words: &'a [&'a [u8]],
}

impl Corpus<'_> {
    /// One input: a seed with a few mutations.
    pub fn input(&self, random: &mut Random) -> Vec<u8> {
        let mut input = random.choose(self.seeds).cloned().unwrap_or_default();
        let length_max = input.len() + GROWTH_MAX_BYTES;
        for _ in 0..=random.next() % MUTATIONS_MAX {
            self.mutate(&mut input, random);
            input.truncate(length_max);
        }
        input
    }

    fn mutate(&self, input: &mut Vec<u8>, random: &mut Random) {
        let at = random.place(input.len());
        match random.below(9) {
            0 => flip_bit(input, at, random),
            1 => overwrite(input, at, &[random.next() as u8]),
            2 | 3 => {
                let number = random.choose(NUMBERS).copied().unwrap_or(0).to_le_bytes();
                let width = 1 << random.below(4);
                overwrite(input, at, &number[..width]);
            }
            4 => input.truncate(at),
            5 => {
                let length = random.place(input.len() - at.min(input.len()));
                input.drain(at..(at + length).min(input.len()));
            }
            6 => {
                let length = random.place((input.len() - at.min(input.len())).min(GROWTH_MAX_BYTES));
                let copy = input[at.min(input.len())..][..length].to_vec();
                let to = random.place(input.len());
                insert(input, to, &copy);
            }
            7 => {
                let word = random.choose(self.words).copied().unwrap_or(&[0xc3, 0x28, 0]);
                if random.below(2) == 0 { overwrite(input, at, word) } else { insert(input, at, word) }
            }
            _ => {
                // The rest of another seed, so that its parts meet this one's.
                let Some(other) = random.choose(self.seeds) else { return };
                let from = random.place(other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }
}

fn flip_bit(input: &mut [u8], at: usize, random: &mut Random) {
    if let Some(byte) = input.get_mut(at) {
        *byte ^= 1 << random.below(8);
    }
}

fn overwrite(input: &mut [u8], at: usize, bytes: &[u8]) {
    for (old, new) in input.iter_mut().skip(at).zip(bytes) {
        *old = *new;
    }
}

fn insert(input: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let at = at.min(input.len());
    input.splice(at..at, bytes.iter().copied());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_inputs_and_they_differ() {
        let seeds = [b"a fairly short seed".to_vec(), b"another".to_vec()];
        let corpus = Corpus { seeds: &seeds, words: &[b"word"] };
        let inputs = |seed: u64| -> Vec<Vec<u8>> {
            let mut random = Random::new(seed);
            (0..200).map(|_| corpus.input(&mut random)).collect()
        };
        assert_eq!(inputs(7), inputs(7));
        assert_ne!(inputs(7), inputs(8));
        let mut distinct = inputs(7);
        distinct.sort();
        distinct.dedup();
        assert!(distinct.len() > 150, "{} distinct inputs of 200", distinct.len());
    }

    #[test]
    fn places_lie_all_over_and_more_often_in_front() {
        let mut random = Random::new(1);
        let places: Vec<usize> = (0..4_000).map(|_| random.place(1 << 16)).collect();
        assert!(places.iter().filter(|place| **place < 1 << 8).count() > 1_000);
        assert!(places.iter().any(|place| *place > 1 << 15));
        assert!(places.iter().all(|place| *place < 1 << 16));
    }

    proptest! {
        #[test]
        fn inputs_stay_near_their_seed(
            seeds in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..4),
            seed in any::<u64>(),
        ) {
            let longest = seeds.iter().map(Vec::len).max().unwrap_or(0);
            let corpus = Corpus { seeds: &seeds, words: &[] };
            let mut random = Random::new(seed);
            for _ in 0..20 {
                prop_assert!(corpus.input(&mut random).len() <= longest + GROWTH_MAX_BYTES);
            }
        }
    }
}
