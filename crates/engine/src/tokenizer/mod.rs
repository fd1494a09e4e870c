//! Text to tokens and back, from the vocabulary in a GGUF file, token for token as llama.cpp does.
//!
//! A text is first cut at special tokens ([`special`]); what lies between them goes through
//! byte-level BPE ([`bpe`], after a pre-tokenizer of [`split`]) or SentencePiece ([`spm`]), which
//! share one merging loop ([`merge`]). Why this is our own: docs/decisions/0002-tokenizer.md.

mod bpe;
mod error;
mod merge;
mod packed;
mod special;
mod split;
mod spm;
mod stream;
mod vocabulary;

use crate::gguf::Gguf;
use bpe::Bpe;
pub use bpe::MERGES_MAX;
pub use error::TokenizerError;
use packed::Packed;
use special::{Fragment, SpecialTokens};
use spm::Spm;
pub use stream::StreamDecoder;
use vocabulary::{Defaults, Kind, Roles, Texts, byte_of, read_kinds};
pub use vocabulary::{TOKEN_BYTES_MAX, TOKENS_MAX};

/// Bytes that [`Tokenizer::encode`] works with for each byte of a text, at most: where all of it is one
/// word, a symbol and its candidates for merging.
pub const TOKENIZING_BYTES_PER_BYTE: usize = 64;
/// Bytes of text merged as one; longer texts without a special token are cut here.
const FRAGMENT_BYTES_MAX: usize = 1 << 28;

/// The tokenizer of a model.
#[derive(Debug)]
pub struct Tokenizer {
    algorithm: Algorithm,
    pieces: Packed,
    kinds: Vec<Kind>,
    roles: Roles,
    special: SpecialTokens,
    adds_bos: bool,
    adds_eos: bool,
}

#[derive(Debug)]
enum Algorithm {
    Bpe(Bpe),
    Spm(Spm),
}

impl Tokenizer {
    /// Reads the vocabulary of a model file.
    ///
    /// # Errors
    /// See [`TokenizerError`].
    pub fn from_gguf(gguf: &Gguf) -> Result<Tokenizer, TokenizerError> {
        let model = gguf.required_str("tokenizer.ggml.model")?;
        let (is_bpe, defaults, adds_bos) = match model {
            "gpt2" => (true, Defaults::default(), bpe::pre_tokenizer(gguf)?.add_bos),
            "llama" => (false, Defaults { bos: Some(1), eos: Some(2) }, true),
            other => return Err(TokenizerError::UnknownModel { found: other.to_owned() }),
        };
        let texts = Texts::read(gguf)?;
        let mut kinds = read_kinds(gguf, texts.len())?;
        let roles = Roles::read(gguf, &texts, &mut kinds, defaults)?;
        let special = special_tokens(&texts, &kinds);
        let pieces = read_pieces(&texts, &kinds, is_bpe)?;
        let algorithm = if is_bpe {
            Algorithm::Bpe(Bpe::read(gguf, &texts, &pieces)?)
        } else {
            Algorithm::Spm(Spm::read(gguf, texts, roles.unknown)?)
        };
        let adds_bos = gguf.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(adds_bos);
        let adds_eos = gguf.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
        if adds_bos && roles.bos.is_none() {
            return Err(TokenizerError::MissingSpecial { key: "tokenizer.ggml.bos_token_id" });
        }
        if adds_eos && roles.eos.is_none() {
            return Err(TokenizerError::MissingSpecial { key: "tokenizer.ggml.eos_token_id" });
        }
        Ok(Tokenizer { algorithm, pieces, kinds, roles, special, adds_bos, adds_eos })
    }

    /// The tokens of a text. `add_special` adds the tokens that the model wants around every text;
    /// `parse_special` makes control tokens of their names in the text (user-defined tokens always
    /// are). Never give text of a user `parse_special`.
    pub fn encode(&self, text: &str, add_special: bool, parse_special: bool) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        if add_special && self.adds_bos {
            ids.extend(self.roles.bos);
        }
        // The text's start counts as following a special token.
        let mut after_special = true;
        for fragment in self.special.cut(text, parse_special) {
            match fragment {
                Fragment::Text(text) => {
                    self.encode_text(text, after_special, &mut ids);
                    after_special = false;
                }
                Fragment::Token(id) => {
                    ids.push(id);
                    after_special = true;
                }
            }
        }
        if add_special && self.adds_eos {
            ids.extend(self.roles.eos);
        }
        ids
    }

    fn encode_text(&self, text: &str, after_special: bool, ids: &mut Vec<u32>) {
        let (mut rest, mut first) = (text, true);
        while !rest.is_empty() {
            let mut end = rest.len().min(FRAGMENT_BYTES_MAX);
            while !rest.is_char_boundary(end) {
                end -= 1;
            }
            let (part, after) = rest.split_at(end);
            match &self.algorithm {
                Algorithm::Bpe(bpe) => bpe.encode(&self.pieces, part, ids),
                Algorithm::Spm(spm) => {
                    spm.encode(part, first && after_special && spm.add_space_prefix, ids);
                }
            }
            (rest, first) = (after, false);
        }
    }

    /// Bytes that it has allocated, give or take the vocabulary's few lists.
    pub fn heap_bytes(&self) -> usize {
        let algorithm = match &self.algorithm {
            Algorithm::Bpe(bpe) => bpe.heap_bytes(),
            Algorithm::Spm(spm) => spm.heap_bytes(),
        };
        algorithm + self.pieces.heap_bytes() + self.kinds.capacity() + self.special.heap_bytes()
    }

    /// Number of tokens; ids are less.
    pub fn vocab_len(&self) -> usize {
        self.kinds.len()
    }

    /// The exact bytes of a token, special ones with their name; empty for unused tokens and ids
    /// out of range. May hold part of a code point only: see [`StreamDecoder`].
    pub fn piece(&self, id: u32) -> &[u8] {
        self.pieces.get(id)
    }

    /// [`Tokenizer::piece`], but empty for special tokens: what a reader should see.
    pub fn visible_piece(&self, id: u32) -> &[u8] {
        if self.is_special(id) { &[] } else { self.piece(id) }
    }

    /// The bytes of a token sequence. Without `show_special`, special tokens give nothing. The
    /// space that SentencePiece puts in front of a text is taken away again.
    pub fn decode(&self, ids: &[u32], show_special: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut strip_space = matches!(&self.algorithm, Algorithm::Spm(spm) if spm.add_space_prefix);
        for &id in ids {
            let piece = if show_special { self.piece(id) } else { self.visible_piece(id) };
            let stripped = piece.strip_prefix(b" ").filter(|_| strip_space);
            bytes.extend_from_slice(stripped.unwrap_or(piece));
            strip_space &= piece.is_empty();
        }
        bytes
    }

    /// The token in front of every text.
    pub fn bos(&self) -> Option<u32> {
        self.roles.bos
    }

    /// The token after every text.
    pub fn eos(&self) -> Option<u32> {
        self.roles.eos
    }

    /// The token after a chat message.
    pub fn eot(&self) -> Option<u32> {
        self.roles.eot
    }

    /// Whether [`Tokenizer::encode`] adds [`Tokenizer::bos`] when asked to add special tokens.
    pub fn adds_bos(&self) -> bool {
        self.adds_bos
    }

    /// Whether [`Tokenizer::encode`] adds [`Tokenizer::eos`] when asked to add special tokens.
    pub fn adds_eos(&self) -> bool {
        self.adds_eos
    }

    /// Whether generation ends with this token.
    pub fn is_end_of_generation(&self, id: u32) -> bool {
        self.roles.end_of_generation.binary_search(&id).is_ok()
    }

    /// All tokens with which generation ends, ascending.
    pub fn end_of_generation(&self) -> &[u32] {
        &self.roles.end_of_generation
    }

    /// Whether it is a control token or the unknown token, not text.
    pub fn is_special(&self, id: u32) -> bool {
        matches!(self.kinds.get(id as usize), Some(Kind::Control | Kind::Unknown))
    }
}

fn special_tokens(texts: &Texts, kinds: &[Kind]) -> SpecialTokens {
    SpecialTokens::new((0_u32..).zip(kinds).filter_map(|(id, kind)| match kind {
        Kind::Control | Kind::Unknown | Kind::UserDefined => {
            // A name that is not UTF-8 cannot occur in a text.
            let text = String::from_utf8(texts.get(id).to_vec()).ok()?;
            Some((text, id, *kind == Kind::UserDefined))
        }
        _ => None,
    }))
}

/// The exact bytes of every token.
fn read_pieces(texts: &Texts, kinds: &[Kind], is_bpe: bool) -> Result<Packed, TokenizerError> {
    let mut pieces = Packed::with_capacity(kinds.len());
    for (id, kind) in (0_u32..).zip(kinds) {
        let text = texts.get(id);
        match kind {
            Kind::Control | Kind::Unknown | Kind::UserDefined => pieces.push(text.iter().copied()),
            Kind::Unused => pieces.push([]),
            Kind::Byte => pieces.push([byte_of(id as usize, text)?]),
            Kind::Normal if is_bpe => pieces.push(bpe::decode(text)),
            Kind::Normal => pieces.push(with_spaces(text)),
        }
    }
    Ok(pieces)
}

/// U+2581 replaced with the space it stands for.
fn with_spaces(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(spm::SPACE.as_bytes()) {
            bytes.push(b' ');
            rest = after;
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    bytes
}
