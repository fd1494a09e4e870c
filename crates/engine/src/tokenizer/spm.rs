//! SentencePiece as llama.cpp runs it (`tokenizer.ggml.model` = `llama`): of all adjacent pairs
//! that are a token together, the one with the best score is merged first.

use super::error::TokenizerError;
use super::merge::Merger;
use super::vocabulary::Texts;
use crate::gguf::Gguf;

/// What stands for a space within tokens: U+2581.
pub(super) const SPACE: &str = "▁";
const NO_TOKEN: u32 = u32::MAX;

/// The encoder of a vocabulary.
#[derive(Debug)]
pub(super) struct Spm {
    texts: Texts,
    /// By token: the lower, the earlier it is merged.
    ranks: Vec<u32>,
    /// Token of each byte, for characters that are no token.
    bytes: Vec<u32>,
    /// Whether text at the start or after a special token gets a space in front.
    pub add_space_prefix: bool,
}

impl Spm {
    /// Bytes allocated.
    pub(super) fn heap_bytes(&self) -> usize {
        self.texts.heap_bytes() + (self.ranks.capacity() + self.bytes.capacity()) * size_of::<u32>()
    }

    pub(super) fn read(gguf: &Gguf, texts: Texts, unknown: Option<u32>) -> Result<Spm, TokenizerError> {
        let ranks = read_ranks(gguf, texts.len())?;
        let add_space_prefix = gguf.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        let byte_token = |byte: u8| {
            let named = texts.find(format!("<0x{byte:02X}>").as_bytes());
            named.or_else(|| texts.find(&[byte])).or(unknown).ok_or(TokenizerError::MissingByteToken { byte })
        };
        let bytes = (0..=255).map(byte_token).collect::<Result<_, _>>()?;
        Ok(Spm { texts, ranks, bytes, add_space_prefix })
    }

    /// Appends the tokens of a text without special tokens; `prefix` puts a space in front.
    pub(super) fn encode(&self, text: &str, prefix: bool, ids: &mut Vec<u32>) {
        let mut escaped = String::with_capacity(text.len() + text.len() / 2);
        if prefix {
            escaped.push_str(SPACE);
        }
        for (index, part) in text.split(' ').enumerate() {
            if index > 0 {
                escaped.push_str(SPACE);
            }
            escaped.push_str(part);
        }
        let text = escaped.as_bytes();
        let mut merger = Merger::default();
        for (start, c) in escaped.char_indices() {
            let bytes = text.get(start..start + c.len_utf8()).unwrap_or_default();
            merger.push(bytes.len() as u32, self.texts.find(bytes).unwrap_or(NO_TOKEN));
        }
        let symbols = merger.run(|left, right| {
            let len = (left.len + right.len) as usize;
            if len > self.texts.bytes_max {
                return None;
            }
            let id = self.texts.find(text.get(left.start as usize..left.start as usize + len)?)?;
            Some((*self.ranks.get(id as usize)?, id))
        });
        for symbol in symbols {
            if symbol.id != NO_TOKEN {
                ids.push(symbol.id);
                continue;
            }
            let (start, end) = (symbol.start as usize, (symbol.start + symbol.len) as usize);
            let bytes = text.get(start..end).unwrap_or_default();
            ids.extend(bytes.iter().filter_map(|&byte| self.bytes.get(usize::from(byte))));
        }
    }
}

fn read_ranks(gguf: &Gguf, tokens: usize) -> Result<Vec<u32>, TokenizerError> {
    const KEY: &str = "tokenizer.ggml.scores";
    // Without scores all pairs are equally good, as in llama.cpp.
    let Some(scores) = gguf.f32s(KEY)? else { return Ok(vec![0; tokens]) };
    if scores.len() < tokens {
        return Err(TokenizerError::LengthMismatch { key: KEY, found: scores.len(), tokens });
    }
    if let Some(id) = scores.iter().take(tokens).position(|score| score.is_nan()) {
        return Err(TokenizerError::BadScore { id });
    }
    Ok(scores.into_iter().take(tokens).map(rank_of).collect())
}

/// Orders scores from the highest to the lowest.
fn rank_of(score: f32) -> u32 {
    // Adding 0 makes -0 equal to 0. The sign bit flipped for positive numbers and all bits for
    // negative ones gives unsigned integers in the floats' order.
    let bits = (score + 0.0).to_bits();
    let ascending = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
    !ascending
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranks_order_scores_downwards(a in proptest::num::f32::ANY, b in proptest::num::f32::ANY) {
            prop_assume!(!a.is_nan() && !b.is_nan());
            prop_assert_eq!(a.partial_cmp(&b), Some(rank_of(b).cmp(&rank_of(a))));
        }
    }

    #[test]
    fn both_zeros_have_the_same_rank() {
        assert_eq!(rank_of(0.0), rank_of(-0.0));
    }
}
