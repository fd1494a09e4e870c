//! Prompt look-up: drafts copied from what followed an earlier occurrence of a text's end, found by
//! [`SuffixIndex`]. (Saxena 2023, "Prompt Lookup Decoding"; earlier places are
//! chained as LZ77 encoders chain them.)

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// Tokens of a match, at most: longer agreement is not looked for.
pub const MATCH_MAX: usize = 32;
/// Tokens of a match, at least.
pub const MATCH_MIN: usize = PAIR;
/// Earlier places with the text's last three tokens that are compared, at most; the newest are.
pub const CANDIDATES_MAX: usize = 32;

const PAIR: usize = 2;
const TRIPLE: usize = 3;
/// Sets texts apart. No vocabulary is as large.
const BREAK: u32 = u32::MAX;
/// No earlier place: a match is before the token that follows it, so none is followed by the first.
const NONE: u32 = 0;

/// What stands after earlier occurrences of a text's end. One per running job.
///
/// Taking in a token is O(1) amortised, finding a match at most `CANDIDATES_MAX * MATCH_MAX`
/// comparisons of tokens.
#[derive(Debug)]
pub struct SuffixIndex {
    /// All texts, each but the last followed by [`BREAK`].
    tokens: Vec<u32>,
    /// Where the present text starts.
    start: usize,
    /// The newest earlier place after the same three tokens.
    previous: Vec<u32>, // [tokens]
    pairs: Places<PAIR>,
    triples: Places<TRIPLE>,
}

/// An earlier occurrence of a text's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    /// Tokens that agree, `MATCH_MIN..=MATCH_MAX`.
    pub length: usize,
    /// Place of the token after it, in [`SuffixIndex::tokens`].
    pub next: usize,
}

impl SuffixIndex {
    /// An empty index with room for `tokens` tokens, so that writing does not allocate. More grow it.
    pub fn with_room(tokens: usize) -> Self {
        SuffixIndex {
            tokens: Vec::with_capacity(tokens),
            start: 0,
            previous: Vec::with_capacity(tokens),
            pairs: Places::with_room(tokens),
            triples: Places::with_room(tokens),
        }
    }

    /// Bytes that an index takes, at most, with room for `tokens` tokens or grown to hold them.
    pub const fn bytes_max(tokens: usize) -> usize {
        // A list may have grown to twice its tokens; a table to sixteen places for seven of them, each of a
        // number and a byte. The smallest tables have more.
        const TOKEN_BYTES: usize =
            2 * 2 * size_of::<u32>() + 2 * (size_of::<u32>() + 1) * 16_usize.div_ceil(7);
        const EMPTY_BYTES: usize = 512;
        EMPTY_BYTES + tokens * TOKEN_BYTES
    }

    /// Takes the present text's next tokens in.
    pub fn extend(&mut self, tokens: &[u32]) {
        for &token in tokens {
            if token == BREAK {
                self.break_here();
            } else {
                self.push(token);
            }
        }
    }

    /// Ends the present text: what comes is another one. No match spans both, but the end of the new one
    /// is found in the old one. Takes room of one token.
    pub fn break_here(&mut self) {
        if self.start < self.tokens.len() {
            self.tokens.push(BREAK);
            self.previous.push(NONE);
            self.start = self.tokens.len();
        }
    }

    /// Tokens of the present text: those taken in since the last break.
    pub fn len(&self) -> usize {
        self.tokens.len() - self.start
    }

    /// Whether the present text has no tokens yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All texts, set apart by `u32::MAX`; the present one is the last [`len`](Self::len) tokens.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The longest earlier occurrence of the text's end, followed by at least one token of its own text;
    /// of equally long ones the newest.
    pub fn find(&self) -> Option<Match> {
        self.find_after(&[])
    }

    /// The same of the text with `more` after it, which the index does not hold.
    pub fn find_after(&self, more: &[u32]) -> Option<Match> {
        let text = &self.tokens[self.start..];
        let more = &more[more.len().saturating_sub(MATCH_MAX)..];
        let text = &text[text.len().saturating_sub(MATCH_MAX - more.len())..];
        let (mut end, length) = ([0; MATCH_MAX], text.len() + more.len());
        end[..text.len()].copy_from_slice(text);
        end[text.len()..length].copy_from_slice(more);
        let end = &end[..length];
        let mut place = self.triples.newest(&self.tokens, end).unwrap_or(NONE);
        let mut best: Option<Match> = None;
        for _ in 0..CANDIDATES_MAX {
            if place == NONE || best.is_some_and(|found| found.length == MATCH_MAX) {
                break;
            }
            let next = place as usize;
            let length = agreement(&self.tokens[..next], end);
            if best.is_none_or(|found| found.length < length) {
                best = Some(Match { length, next });
            }
            place = self.previous[next];
        }
        best.or_else(|| {
            let next = self.pairs.newest(&self.tokens, end)? as usize;
            Some(Match { length: PAIR, next })
        })
    }

    /// Appends up to `limit` tokens that follow a match of the text with `more` after it to `out`. At the end of an
    /// earlier text there are no more; at the end of the present one it goes on with `more` and then with those it has
    /// appended itself, so that a period is repeated.
    pub fn continuation(&self, found: Match, more: &[u32], limit: usize, out: &mut Vec<u32>) {
        let appended = out.len();
        let texts = self.tokens.len() + more.len();
        for place in found.next..found.next + limit {
            let token = match self.tokens.get(place) {
                Some(&BREAK) => return,
                Some(&token) => token,
                None if place < texts => more[place - self.tokens.len()],
                None => out[appended + place - texts],
            };
            out.push(token);
        }
    }

    /// Only here are the tokens before `token` put into the tables: what is found there is followed by
    /// a token of its text, and is never the text's end itself.
    fn push(&mut self, token: u32) {
        let text = self.start..self.tokens.len();
        let previous = self.triples.put(&self.tokens, text.clone());
        self.pairs.put(&self.tokens, text);
        self.tokens.push(token);
        self.previous.push(previous.unwrap_or(NONE));
    }
}

/// Tokens by which two texts' ends agree, at most [`MATCH_MAX`].
fn agreement(one: &[u32], other: &[u32]) -> usize {
    let pairs = one.iter().rev().zip(other.iter().rev()).take(MATCH_MAX);
    pairs.take_while(|(a, b)| a == b).count()
}

/// The newest place after each N tokens in a row.
#[derive(Debug)]
struct Places<const N: usize> {
    table: HashTable<u32>,
    hasher: RandomState,
}

impl<const N: usize> Places<N> {
    fn with_room(places: usize) -> Self {
        Places { table: HashTable::with_capacity(places), hasher: RandomState::default() }
    }

    /// The newest place of `tokens` after the last N of `text`.
    fn newest(&self, tokens: &[u32], text: &[u32]) -> Option<u32> {
        let gram: &[u32; N] = text.last_chunk()?;
        let hash = self.hasher.hash_one(gram);
        self.table.find(hash, |&place| before(tokens, place) == Some(gram)).copied()
    }

    /// Makes the end of `tokens` the newest place after their last N, if the text, which starts at
    /// `text.start`, has as many. Gives the one that was.
    fn put(&mut self, tokens: &[u32], text: std::ops::Range<usize>) -> Option<u32> {
        let gram: &[u32; N] = tokens[text.clone()].last_chunk()?;
        let (place, hasher) = (text.end as u32, &self.hasher);
        let equal = |&other: &u32| before(tokens, other) == Some(gram);
        let entry = self.table.entry(hasher.hash_one(gram), equal, |&other| {
            hasher.hash_one(before::<N>(tokens, other).unwrap_or(gram))
        });
        match entry {
            Entry::Occupied(mut entry) => Some(std::mem::replace(entry.get_mut(), place)),
            Entry::Vacant(entry) => {
                entry.insert(place);
                None
            }
        }
    }
}

/// The N tokens before a place.
fn before<const N: usize>(tokens: &[u32], place: u32) -> Option<&[u32; N]> {
    tokens.get(..place as usize)?.last_chunk()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn index_of(texts: &[&[u32]]) -> SuffixIndex {
        let mut index = SuffixIndex::with_room(0);
        for (number, text) in texts.iter().enumerate() {
            if number > 0 {
                index.break_here();
            }
            index.extend(text);
        }
        index
    }

    fn draft(index: &SuffixIndex, limit: usize) -> Vec<u32> {
        let mut out = vec![7777];
        if let Some(found) = index.find() {
            index.continuation(found, &[], limit, &mut out);
        }
        out.split_off(1)
    }

    /// Every place of every text is compared with the end of the last one and `more`, the newest first; of those that
    /// share three tokens only the first [`CANDIDATES_MAX`] count.
    fn naive(texts: &[Vec<u32>], more: &[u32]) -> Option<Match> {
        let end = [texts.last()?, more].concat();
        let mut starts = vec![0];
        for text in &texts[..texts.len() - 1] {
            starts.push(starts[starts.len() - 1] + text.len() + usize::from(!text.is_empty()));
        }
        let mut matches = Vec::new();
        for (text, start) in texts.iter().zip(starts).rev() {
            for next in (0..text.len()).rev() {
                let mut length = 0;
                while length < MATCH_MAX.min(next).min(end.len())
                    && text[next - 1 - length] == end[end.len() - 1 - length]
                {
                    length += 1;
                }
                matches.push(Match { length, next: start + next });
            }
        }
        let long = matches.iter().filter(|found| found.length >= 3).take(CANDIDATES_MAX);
        let longest = long.max_by_key(|found| (found.length, found.next));
        longest.or_else(|| matches.iter().find(|found| found.length == 2)).copied()
    }

    #[test]
    fn the_longest_wins_and_the_newest_among_equals() {
        let index = index_of(&[&[1, 2, 3, 4, 10, 9, 2, 3, 4, 11, 8, 2, 3, 4, 12, 1, 2, 3, 4]]);
        assert_eq!(index.find(), Some(Match { length: 4, next: 4 }));
        let index = index_of(&[&[1, 2, 3, 4, 10, 9, 2, 3, 4, 11, 8, 2, 3, 4, 12, 5, 2, 3, 4]]);
        assert_eq!(index.find(), Some(Match { length: 3, next: 14 }));
        assert_eq!(draft(&index, 3), [12, 5, 2]);
    }

    #[test]
    fn two_tokens_are_enough_and_one_is_not() {
        assert_eq!(index_of(&[&[1, 2, 3, 9, 1, 2]]).find(), Some(Match { length: 2, next: 2 }));
        assert_eq!(index_of(&[&[1, 2, 3, 9, 8, 2]]).find(), None);
        assert_eq!(index_of(&[&[]]).find(), None);
    }

    #[test]
    fn a_period_goes_on() {
        let index = index_of(&[&[5, 1, 2, 3, 1, 2, 3, 1, 2]]);
        assert_eq!(draft(&index, 8), [3, 1, 2, 3, 1, 2, 3, 1]);
        assert_eq!(draft(&index_of(&[&[4, 4, 4]]), 5), [4; 5]);
        assert_eq!(draft(&index, 0), [0u32; 0]);
    }

    #[test]
    fn no_match_spans_a_break_and_no_draft_crosses_it() {
        // Over the border stand 1 2 3; the earlier text's end is followed by nothing.
        assert_eq!(index_of(&[&[9, 1, 2], &[3, 4, 1, 2]]).find(), None);
        assert_eq!(index_of(&[&[9, 1], &[2, 3, 1, 2]]).find(), None);
        let index = index_of(&[&[1, 2, 3, 4], &[5, 1, 2]]);
        assert_eq!(index.find(), Some(Match { length: 2, next: 2 }));
        assert_eq!(draft(&index, 8), [3, 4]);
        assert_eq!((index.len(), index.tokens()), (3, &[1, 2, 3, 4, BREAK, 5, 1, 2][..]));
    }

    #[test]
    fn a_token_that_no_vocabulary_has_is_a_break() {
        let index = index_of(&[&[1, 2, 3, BREAK, BREAK, 1, 2]]);
        assert_eq!(index.tokens(), [1, 2, 3, BREAK, 1, 2]);
        assert_eq!(draft(&index, 8), [3]);
    }

    #[test]
    fn no_index_is_larger_than_the_bound() {
        let bytes = |index: &SuffixIndex| {
            let lists = (index.tokens.capacity() + index.previous.capacity()) * size_of::<u32>();
            lists + index.pairs.table.allocation_size() + index.triples.table.allocation_size()
        };
        let mut grown = SuffixIndex::with_room(0);
        for tokens in 1..3000 {
            grown.extend(&[tokens as u32]);
            let roomy = SuffixIndex::with_room(tokens);
            let most = bytes(&grown).max(bytes(&roomy));
            assert!(most <= SuffixIndex::bytes_max(tokens), "{tokens} tokens take {most} bytes");
        }
    }

    #[test]
    fn with_room_nothing_grows() {
        let mut index = SuffixIndex::with_room(1000);
        let sizes = |index: &SuffixIndex| {
            let tables = (index.pairs.table.allocation_size(), index.triples.table.allocation_size());
            (index.tokens.capacity(), index.previous.capacity(), tables)
        };
        let before = sizes(&index);
        (0..1000).for_each(|token| index.extend(&[token]));
        assert_eq!(sizes(&index), before);
    }

    proptest! {
        #[test]
        fn it_finds_what_a_search_of_all_places_finds(
            texts in prop::collection::vec(prop::collection::vec(0u32..12, 0..120), 1..5),
            kinds in 1u32..5,
        ) {
            // Few kinds of tokens: long matches, and more candidates than are compared.
            let texts: Vec<Vec<u32>> =
                texts.iter().map(|text| text.iter().map(|token| token % kinds).collect()).collect();
            let mut index = SuffixIndex::with_room(16);
            for (number, text) in texts.iter().enumerate() {
                index.break_here();
                let mut so_far = texts[..=number].to_vec();
                for end in 0..=text.len() {
                    so_far[number].truncate(0);
                    so_far[number].extend(&text[..end]);
                    prop_assert_eq!(index.find(), naive(&so_far, &[]), "{:?}", so_far);
                    let more = &text[end / 2..end];
                    prop_assert_eq!(index.find_after(more), naive(&so_far, more), "{:?} {:?}", so_far, more);
                    prop_assert_eq!(index.len(), end);
                    text.get(end..end + 1).into_iter().for_each(|token| index.extend(token));
                }
            }
        }

        #[test]
        fn a_continuation_is_what_follows(
            text in prop::collection::vec(0u32..3, 3..60), more in 0usize..10, limit in 0usize..20,
        ) {
            let (held, more) = text.split_at(text.len().saturating_sub(more).max(3));
            let index = index_of(&[held]);
            let found = index.find_after(more);
            let mut endless = text.clone();
            if let Some(found) = found {
                for place in found.next..found.next + limit {
                    endless.push(endless[place]);
                }
                let mut out = Vec::new();
                index.continuation(found, more, limit, &mut out);
                prop_assert_eq!(out, &endless[text.len()..]);
                let length = found.length;
                prop_assert_eq!(&text[found.next - length..found.next], &text[text.len() - length..]);
            }
        }
    }
}
