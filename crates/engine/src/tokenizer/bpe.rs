//! Byte-level byte-pair encoding (`tokenizer.ggml.model` = `gpt2`).

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::error::TokenizerError;
use super::merge::Merger;
use super::packed::{Index, Packed};
use super::split::{PreTokenizer, Splitter};
use super::vocabulary::{Texts, over_limit};
use crate::gguf::Gguf;

/// Merges of a vocabulary, at most.
pub const MERGES_MAX: usize = 1 << 23;

/// The character that stands for a byte in vocabularies: itself if it is printable Latin-1, else
/// one from U+0100 on.
fn char_of(byte: u8) -> char {
    match byte {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte),
        0x00..=0x20 => char::from_u32(0x100 + u32::from(byte)).unwrap_or_default(),
        0x7F..=0xA0 => char::from_u32(0x100 + 0x21 + u32::from(byte) - 0x7F).unwrap_or_default(),
        0xAD => '\u{143}',
    }
}

/// The byte that a character of a vocabulary stands for.
fn byte_of(c: char) -> Option<u8> {
    let byte = match u32::from(c) {
        code @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => code,
        code @ 0x100..=0x120 => code - 0x100,
        code @ 0x121..=0x142 => code - 0x121 + 0x7F,
        0x143 => 0xAD,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

/// The bytes of a token's text. What is not of the alphabet stays as it is: there is no byte for
/// it, and such tokens are never made from text.
pub(super) fn decode(text: &[u8]) -> Vec<u8> {
    let Ok(text) = std::str::from_utf8(text) else { return text.to_vec() };
    let mut bytes = Vec::with_capacity(text.len());
    for c in text.chars() {
        match byte_of(c) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}

/// The encoder of a vocabulary.
#[derive(Debug)]
pub(super) struct Bpe {
    splitter: Splitter,
    /// Symbol of each byte. Symbols under `tokens` are tokens; the others occur only in merges.
    bytes: Vec<u32>,
    /// Rank and symbol of what two symbols become.
    merges: HashMap<(u32, u32), (u32, u32), RandomState>,
    tokens: u32,
    /// Tokens by their bytes, if a word that is a token is taken whole.
    whole_words: Option<Index>,
}

/// Bytes of a merge in its table, where that is full: key, value and a byte of control.
const MERGE_BYTES: usize = size_of::<((u32, u32), (u32, u32))>() + 1;

impl Bpe {
    /// Bytes allocated: a table of capacity `c` has at most 8/7 · `c` places, and their number is a power
    /// of two.
    pub(super) fn heap_bytes(&self) -> usize {
        let places = (self.merges.capacity() * 8).div_ceil(7).next_power_of_two();
        let words = self.whole_words.as_ref().map_or(0, Index::heap_bytes);
        self.bytes.capacity() * size_of::<u32>() + places * MERGE_BYTES + words
    }

    pub(super) fn read(gguf: &Gguf, texts: &Texts, pieces: &Packed) -> Result<Bpe, TokenizerError> {
        let pre = pre_tokenizer(gguf)?;
        let merges = gguf.required_strings("tokenizer.ggml.merges")?;
        over_limit("merges", merges.len(), MERGES_MAX)?;
        let mut symbols = Symbols { texts, others: HashMap::default() };
        let bytes =
            (0..=255).map(|byte| symbols.get(char_of(byte).encode_utf8(&mut [0; 4]).as_bytes())).collect();
        let mut ranks = HashMap::with_capacity_and_hasher(merges.len(), RandomState::default());
        let mut whole = Vec::new();
        for (rank, merge) in (0_u32..).zip(merges) {
            // From 1: a part is never empty, and may itself begin with a space.
            let space = merge.iter().skip(1).position(|&byte| byte == b' ').map(|at| at + 1);
            let Some((left, [_, right @ ..])) = space.and_then(|space| merge.split_at_checked(space)) else {
                let text = String::from_utf8_lossy(merge).into_owned();
                return Err(TokenizerError::BadMerge { index: rank as usize, text });
            };
            whole.clear();
            whole.extend_from_slice(left);
            whole.extend_from_slice(right);
            let pair = (symbols.get(left), symbols.get(right));
            let merged = symbols.get(&whole);
            ranks.entry(pair).or_insert((rank, merged));
        }
        let tokens = texts.len() as u32;
        let whole_words = pre.ignore_merges.then(|| {
            let mut index = Index::with_capacity(texts.len());
            for id in 0..tokens {
                // Of two tokens with the same bytes one is special, and its text is no word.
                let _ = index.insert(pieces, id);
            }
            index
        });
        Ok(Bpe { splitter: Splitter::new(pre), bytes, merges: ranks, tokens, whole_words })
    }

    /// Appends the tokens of a text without special tokens.
    pub(super) fn encode(&self, pieces: &Packed, text: &str, ids: &mut Vec<u32>) {
        let mut merger = Merger::default();
        self.splitter.split(text, |word| {
            let whole = self.whole_words.as_ref().and_then(|index| index.find(pieces, word.as_bytes()));
            match whole {
                Some(id) => ids.push(id),
                None => self.encode_word(&mut merger, word.as_bytes(), ids),
            }
        });
    }

    fn encode_word(&self, merger: &mut Merger, word: &[u8], ids: &mut Vec<u32>) {
        merger.clear();
        for &byte in word {
            merger.push(1, self.symbol_of(byte));
        }
        for symbol in merger.run(|left, right| self.merges.get(&(left.id, right.id)).copied()) {
            if symbol.id < self.tokens {
                ids.push(symbol.id);
                continue;
            }
            // Like llama.cpp: what has no token falls apart into bytes, and of those that are
            // not ASCII letters, digits or signs there is nothing to fall back to.
            let (start, end) = (symbol.start as usize, (symbol.start + symbol.len) as usize);
            let bytes = word.get(start..end).unwrap_or_default();
            let printable = bytes.iter().filter(|byte| byte.is_ascii_graphic());
            ids.extend(printable.map(|&byte| self.symbol_of(byte)).filter(|&id| id < self.tokens));
        }
    }

    fn symbol_of(&self, byte: u8) -> u32 {
        self.bytes.get(usize::from(byte)).copied().unwrap_or(self.tokens)
    }
}

/// The pre-tokenizer that the file names.
pub(super) fn pre_tokenizer(gguf: &Gguf) -> Result<&'static PreTokenizer, TokenizerError> {
    let name = gguf.required_str("tokenizer.ggml.pre")?;
    PreTokenizer::by_name(name).ok_or_else(|| TokenizerError::UnknownPre { found: name.to_owned() })
}

/// Numbers every text that occurs in a merge: tokens by their id, others after them.
struct Symbols<'a> {
    texts: &'a Texts,
    others: HashMap<Vec<u8>, u32, RandomState>,
}

impl Symbols<'_> {
    fn get(&mut self, text: &[u8]) -> u32 {
        if let Some(id) = self.texts.find(text).or_else(|| self.others.get(text).copied()) {
            return id;
        }
        let id = (self.texts.len() + self.others.len()) as u32;
        self.others.insert(text.to_vec(), id);
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_a_bijection() {
        let mut next = 0x100;
        for byte in 0..=255_u8 {
            assert_eq!(byte_of(char_of(byte)), Some(byte));
            // GPT-2's definition: bytes that are not printable get the next code point from 256 on.
            let c = char::from(byte);
            let printable = matches!(c, '!'..='~' | '¡'..='¬' | '®'..='ÿ');
            assert_eq!(u32::from(char_of(byte)), if printable { u32::from(byte) } else { next });
            next += u32::from(!printable);
        }
        assert_eq!(char_of(b' '), 'Ġ');
        assert_eq!(byte_of('\u{144}'), None);
        assert_eq!(decode("Ġtheâ".as_bytes()), b" the\xE2");
        assert_eq!(decode("｜".as_bytes()), "｜".as_bytes());
    }
}
