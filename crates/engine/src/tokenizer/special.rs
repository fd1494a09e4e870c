//! Finding special tokens in a text, in llama.cpp's order: the longest token first, each at its
//! leftmost places that no longer one has taken.

use aho_corasick::AhoCorasick;

/// Part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fragment<'t> {
    /// Still to be tokenized.
    Text(&'t str),
    /// A special token.
    Token(u32),
}

#[derive(Debug)]
struct Special {
    text: String,
    id: u32,
    /// Recognised whether or not special tokens are asked for.
    always: bool,
}

/// The tokens that are recognised in a text before anything else.
#[derive(Debug)]
pub(super) struct SpecialTokens {
    /// Longest first.
    tokens: Vec<Special>,
    /// Finds which of them occur at all; pattern numbers are indices of `tokens`.
    search: Option<AhoCorasick>,
}

impl SpecialTokens {
    /// Bytes allocated.
    pub(super) fn heap_bytes(&self) -> usize {
        let texts: usize = self.tokens.iter().map(|token| token.text.capacity()).sum();
        let search = self.search.as_ref().map_or(0, AhoCorasick::memory_usage);
        self.tokens.capacity() * size_of::<Special>() + texts + search
    }

    /// From text, id and whether it is always recognised. Empty texts are left out.
    pub(super) fn new(tokens: impl Iterator<Item = (String, u32, bool)>) -> SpecialTokens {
        let mut tokens: Vec<_> = tokens
            .filter(|(text, ..)| !text.is_empty())
            .map(|(text, id, always)| Special { text, id, always })
            .collect();
        tokens.sort_by_key(|token| (std::cmp::Reverse(token.text.len()), token.id));
        // Building fails only past 2^31 states, beyond the limits on vocabularies; without a
        // search every token is looked for.
        let search = AhoCorasick::new(tokens.iter().map(|token| &token.text)).ok();
        SpecialTokens { tokens, search }
    }

    /// Cuts `text` at the special tokens; only at those always recognised unless `parse_special`.
    pub(super) fn cut<'t>(&self, text: &'t str, parse_special: bool) -> Vec<Fragment<'t>> {
        let mut fragments = vec![Fragment::Text(text)];
        for index in self.occurring(text) {
            let Some(token) = self.tokens.get(index) else { continue };
            if !token.always && !parse_special {
                continue;
            }
            let mut next = Vec::with_capacity(fragments.len());
            for fragment in fragments {
                match fragment {
                    Fragment::Text(text) => cut_at(text, token, &mut next),
                    token => next.push(token),
                }
            }
            fragments = next;
        }
        fragments.retain(|fragment| *fragment != Fragment::Text(""));
        fragments
    }

    /// Indices of the tokens found anywhere in the text, ascending.
    fn occurring(&self, text: &str) -> Vec<usize> {
        let Some(search) = &self.search else { return (0..self.tokens.len()).collect() };
        let mut seen = vec![false; self.tokens.len()];
        for found in search.find_overlapping_iter(text) {
            if let Some(seen) = seen.get_mut(found.pattern().as_usize()) {
                *seen = true;
            }
        }
        seen.iter().enumerate().filter(|(_, seen)| **seen).map(|(index, _)| index).collect()
    }
}

fn cut_at<'t>(text: &'t str, token: &Special, fragments: &mut Vec<Fragment<'t>>) {
    let mut done = 0;
    for (at, found) in text.match_indices(token.text.as_str()) {
        if at > done {
            fragments.push(Fragment::Text(text.get(done..at).unwrap_or_default()));
        }
        fragments.push(Fragment::Token(token.id));
        done = at + found.len();
    }
    if done < text.len() {
        fragments.push(Fragment::Text(text.get(done..).unwrap_or_default()));
    }
}

#[cfg(test)]
mod tests {
    use super::Fragment::{Text, Token};
    use super::*;

    fn special() -> SpecialTokens {
        let tokens = [("ab", 1, false), ("bcd", 2, false), ("\n\n", 3, true), ("\n", 4, true), ("", 5, true)];
        SpecialTokens::new(tokens.map(|(text, id, always)| (text.to_owned(), id, always)).into_iter())
    }

    #[test]
    fn the_longest_token_comes_first() {
        assert_eq!(special().cut("abcd", true), [Text("a"), Token(2)]);
        assert_eq!(special().cut("abab c", true), [Token(1), Token(1), Text(" c")]);
        assert_eq!(special().cut("x\n\n\ny", true), [Text("x"), Token(3), Token(4), Text("y")]);
    }

    #[test]
    fn only_user_defined_tokens_are_always_recognised() {
        assert_eq!(special().cut("ab\nbcd", false), [Text("ab"), Token(4), Text("bcd")]);
        assert_eq!(special().cut("", true), []);
    }
}
