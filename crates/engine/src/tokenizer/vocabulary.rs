//! What a GGUF file says about its tokens: texts, kinds, and which of them are special, with
//! llama.cpp's rules for files that say too little.

use super::error::TokenizerError;
use super::packed::{Index, Packed};
use crate::gguf::Gguf;

/// Tokens of a vocabulary, at most (the largest known has 262,208).
pub const TOKENS_MAX: usize = 1 << 22;
/// Bytes of a token's text, at most.
pub const TOKEN_BYTES_MAX: usize = 16_384;

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// The tokens' texts as the file has them.
#[derive(Debug)]
pub(super) struct Texts {
    strings: Packed,
    index: Index,
    pub bytes_max: usize,
}

impl Texts {
    pub(super) fn read(gguf: &Gguf) -> Result<Texts, TokenizerError> {
        let tokens = gguf.required_strings("tokenizer.ggml.tokens")?;
        let count = tokens.len();
        over_limit("tokens", count, TOKENS_MAX)?;
        if count == 0 {
            return Err(TokenizerError::Empty);
        }
        let (mut strings, mut index) = (Packed::with_capacity(count), Index::with_capacity(count));
        let mut bytes_max = 0;
        for (id, text) in (0_u32..).zip(tokens) {
            over_limit("bytes in a token", text.len(), TOKEN_BYTES_MAX)?;
            bytes_max = bytes_max.max(text.len());
            if text.is_empty() {
                // What llama.cpp calls it, so that the token can be shown.
                strings.push(format!("[EMPTY_{id}]").into_bytes());
            } else {
                strings.push(text.iter().copied());
            }
            if let Err(first) = index.insert(&strings, id) {
                let text = String::from_utf8_lossy(text).into_owned();
                return Err(TokenizerError::DuplicateToken { text, first, second: id });
            }
        }
        Ok(Texts { strings, index, bytes_max })
    }

    pub(super) fn len(&self) -> usize {
        self.strings.len()
    }

    /// Bytes allocated.
    pub(super) fn heap_bytes(&self) -> usize {
        self.strings.heap_bytes() + self.index.heap_bytes()
    }

    pub(super) fn get(&self, id: u32) -> &[u8] {
        self.strings.get(id)
    }

    pub(super) fn find(&self, text: &[u8]) -> Option<u32> {
        self.index.find(&self.strings, text)
    }
}

pub(super) fn over_limit(what: &'static str, found: usize, max: usize) -> Result<(), TokenizerError> {
    if found > max { Err(TokenizerError::OverLimit { what, found, max }) } else { Ok(()) }
}

/// Reads the tokens' kinds.
pub(super) fn read_kinds(gguf: &Gguf, tokens: usize) -> Result<Vec<Kind>, TokenizerError> {
    const KEY: &str = "tokenizer.ggml.token_type";
    let Some(types) = gguf.i32s(KEY)? else { return Ok(vec![Kind::Normal; tokens]) };
    if types.len() < tokens {
        return Err(TokenizerError::LengthMismatch { key: KEY, found: types.len(), tokens });
    }
    let kind = |(id, found)| match found {
        1 => Ok(Kind::Normal),
        2 => Ok(Kind::Unknown),
        3 => Ok(Kind::Control),
        4 => Ok(Kind::UserDefined),
        0 | 5 => Ok(Kind::Unused),
        6 => Ok(Kind::Byte),
        _ => Err(TokenizerError::UnknownTokenType { id, found }),
    };
    types.into_iter().take(tokens).enumerate().map(kind).collect()
}

/// The byte that a byte token's text, `<0x0A>`, stands for.
pub(super) fn byte_of(id: usize, text: &[u8]) -> Result<u8, TokenizerError> {
    let digits = text.strip_prefix(b"<0x").and_then(|rest| rest.strip_suffix(b">"));
    digits
        .filter(|digits| digits.len() == 2)
        .and_then(|digits| std::str::from_utf8(digits).ok())
        .and_then(|digits| u8::from_str_radix(digits, 16).ok())
        .ok_or_else(|| TokenizerError::BadByteToken { id, text: String::from_utf8_lossy(text).into_owned() })
}

/// Ids that a tokenizer kind assumes if the file names none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Defaults {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
}

/// The tokens with a role.
#[derive(Debug)]
pub(super) struct Roles {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub eot: Option<u32>,
    pub unknown: Option<u32>,
    /// Ascending.
    pub end_of_generation: Vec<u32>,
}

// The texts by which llama.cpp knows a token's role if no key names it (src/llama-vocab.cpp).
const END_OF_TURN: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<｜end▁of▁sentence｜>",
    "<end_of_utterance>",
];
const END_OF_MESSAGE: &[&str] = &["<|eom_id|>"];
const FIM_PREFIX: &[&str] = &[
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|code_prefix|>",
    "<|prefix|>",
];
const FIM_SUFFIX: &[&str] = &[
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|code_suffix|>",
    "<|suffix|>",
];
const FIM_MIDDLE: &[&str] = &[
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "▁<MID>",
    "<|code_middle|>",
    "<|middle|>",
];
const FIM_PAD: &[&str] = &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"];
const FIM_REPOSITORY: &[&str] = &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"];
const FIM_FILE: &[&str] = &["<|file_sep|>"];
/// End generation wherever they are in the vocabulary.
const END_OF_GENERATION: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
];
/// Always shown, although their files call them control tokens.
const ALWAYS_SHOWN: &[&str] = &["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

impl Roles {
    /// Reads the roles and corrects the kinds of tokens whose text gives them away.
    pub(super) fn read(
        gguf: &Gguf,
        texts: &Texts,
        kinds: &mut [Kind],
        defaults: Defaults,
    ) -> Result<Roles, TokenizerError> {
        let mut reader = Reader { gguf, texts, kinds, end_of_generation: Vec::new() };
        let bos = reader.by_key("tokenizer.ggml.bos_token_id")?;
        let eos = reader.by_key("tokenizer.ggml.eos_token_id")?;
        let unknown = reader.by_key("tokenizer.ggml.unknown_token_id")?;
        let in_range = |id: &u32| (*id as usize) < texts.len();
        let bos = bos.or(defaults.bos.filter(in_range));
        let eos = eos.or(defaults.eos.filter(in_range));

        let eot = reader.role(&["tokenizer.ggml.eot_token_id"], END_OF_TURN)?;
        let eom = reader.role(&["tokenizer.ggml.eom_token_id"], END_OF_MESSAGE)?;
        reader.role(&["tokenizer.ggml.fim_pre_token_id", "tokenizer.ggml.prefix_token_id"], FIM_PREFIX)?;
        reader.role(&["tokenizer.ggml.fim_suf_token_id", "tokenizer.ggml.suffix_token_id"], FIM_SUFFIX)?;
        reader.role(&["tokenizer.ggml.fim_mid_token_id", "tokenizer.ggml.middle_token_id"], FIM_MIDDLE)?;
        let pad = reader.role(&["tokenizer.ggml.fim_pad_token_id"], FIM_PAD)?;
        let repository = reader.role(&["tokenizer.ggml.fim_rep_token_id"], FIM_REPOSITORY)?;
        let file = reader.role(&["tokenizer.ggml.fim_sep_token_id"], FIM_FILE)?;

        reader.end_of_generation.extend([pad, repository, file].into_iter().flatten());
        for id in END_OF_GENERATION.iter().filter_map(|text| texts.find(text.as_bytes())) {
            reader.set_kind(id, Kind::Control);
            reader.end_of_generation.push(id);
        }
        for id in ALWAYS_SHOWN.iter().filter_map(|text| texts.find(text.as_bytes())) {
            reader.set_kind(id, Kind::UserDefined);
        }
        reader.end_of_generation.extend([eos, eot, eom].into_iter().flatten());
        reader.apply_exceptions();
        let mut end_of_generation = reader.end_of_generation;
        end_of_generation.sort_unstable();
        end_of_generation.dedup();
        Ok(Roles { bos, eos, eot, unknown, end_of_generation })
    }
}

struct Reader<'a> {
    gguf: &'a Gguf,
    texts: &'a Texts,
    kinds: &'a mut [Kind],
    end_of_generation: Vec<u32>,
}

impl Reader<'_> {
    fn by_key(&self, key: &'static str) -> Result<Option<u32>, TokenizerError> {
        let tokens = self.texts.len();
        match self.gguf.u32(key)? {
            Some(id) if id as usize >= tokens => Err(TokenizerError::SpecialOutOfRange { key, id, tokens }),
            id => Ok(id),
        }
    }

    /// The token that a key names, else the first of the texts that is a token.
    fn role(&mut self, keys: &[&'static str], texts: &[&str]) -> Result<Option<u32>, TokenizerError> {
        for key in keys {
            if let Some(id) = self.by_key(key)? {
                return Ok(Some(id));
            }
        }
        let found = texts.iter().find_map(|text| self.texts.find(text.as_bytes()));
        if let Some(id) = found {
            self.set_kind(id, Kind::Control);
        }
        Ok(found)
    }

    fn set_kind(&mut self, id: u32, kind: Kind) {
        if let Some(place) = self.kinds.get_mut(id as usize) {
            *place = kind;
        }
    }

    /// Where two families of vocabularies disagree about what ends generation.
    fn apply_exceptions(&mut self) {
        let ends =
            |text: &str| self.texts.find(text.as_bytes()).filter(|id| self.end_of_generation.contains(id));
        let calls = ends("<|call|>").or(ends("<|calls|>")).is_some();
        let harmony = calls && (ends("<|return|>").is_some() || ends("<|flush|>").is_some());
        let not_ending = [
            ends("<|end|>").filter(|_| harmony).map(|id| (id, Kind::UserDefined)),
            ends("</s>").filter(|_| ends("<|tool_response>").is_some()).map(|id| (id, Kind::Normal)),
        ];
        for (id, kind) in not_ending.into_iter().flatten() {
            self.set_kind(id, kind);
            self.end_of_generation.retain(|&other| other != id);
        }
    }
}
