//! Every way a vocabulary can be wrong: [`TokenizerError`].

use crate::gguf::GgufError;

/// Why a GGUF file's vocabulary is unusable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A key is missing or has the wrong type.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A kind of tokenizer that is not implemented.
    #[error(
        "tokenizer.ggml.model is `{found}`; `gpt2` (byte-level BPE) and `llama` (SentencePiece) are supported"
    )]
    UnknownModel {
        /// What the file says.
        found: String,
    },
    /// A pre-tokenizer that is not in the registry.
    #[error("tokenizer.ggml.pre is `{found}`, which is not known; guessing would give wrong tokens")]
    UnknownPre {
        /// What the file says.
        found: String,
    },
    /// A count over one of the limits.
    #[error("the vocabulary has {found} {what}; the limit is {max}")]
    OverLimit {
        /// What is counted.
        what: &'static str,
        /// The count.
        found: usize,
        /// The limit.
        max: usize,
    },
    /// A vocabulary without tokens.
    #[error("the vocabulary is empty")]
    Empty,
    /// Two arrays that should have the same length.
    #[error("{key} has {found} entries for {tokens} tokens")]
    LengthMismatch {
        /// The array that is too short.
        key: &'static str,
        /// Its length.
        found: usize,
        /// The number of tokens.
        tokens: usize,
    },
    /// A token with the same text as another.
    #[error("tokens {first} and {second} have the same text {text:?}")]
    DuplicateToken {
        /// The text (lossily decoded).
        text: String,
        /// The lower id.
        first: u32,
        /// The higher id.
        second: u32,
    },
    /// A token type that GGUF does not define.
    #[error("token {id} has the unknown type {found}")]
    UnknownTokenType {
        /// The token.
        id: usize,
        /// Its type.
        found: i32,
    },
    /// A score that cannot be ordered.
    #[error("token {id} has the score NaN")]
    BadScore {
        /// The token.
        id: usize,
    },
    /// A byte token that does not say which byte.
    #[error("token {id} is a byte token, but its text {text:?} is not of the form <0x0A>")]
    BadByteToken {
        /// The token.
        id: usize,
        /// Its text (lossily decoded).
        text: String,
    },
    /// A merge that is not two parts.
    #[error("merge {index} is {text:?}, not two parts separated by a space")]
    BadMerge {
        /// Its index, which is its rank.
        index: usize,
        /// Its text (lossily decoded).
        text: String,
    },
    /// A special token's id that is not a token.
    #[error("{key} is {id}, but the vocabulary has only {tokens} tokens")]
    SpecialOutOfRange {
        /// The key.
        key: &'static str,
        /// The id.
        id: u32,
        /// The number of tokens.
        tokens: usize,
    },
    /// A special token that has to be added to every text, but is not named.
    #[error("the file asks to add a token to every text, but lacks {key}")]
    MissingSpecial {
        /// The key.
        key: &'static str,
    },
    /// A SentencePiece vocabulary that cannot express every text.
    #[error("the vocabulary has no token for byte 0x{byte:02X} and no unknown token")]
    MissingByteToken {
        /// The byte.
        byte: u8,
    },
}
