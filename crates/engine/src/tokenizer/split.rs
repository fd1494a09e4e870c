//! Pre-tokenizers: how a text falls into words before byte-level BPE merges within each.
//!
//! `tokenizer.ggml.pre` names an entry of [`PRE_TOKENIZERS`]. An entry is a list of patterns as
//! published with the models; each splits the pieces that the one before it left, and what lies
//! between two matches is a piece too. The patterns are run without backtracking: their one
//! look-ahead, `\s+(?!\S)`, says that a run of white space leaves its last character to the word
//! after it, and [`Stage::split`] does that by hand.

use regex::Regex;

/// A known value of `tokenizer.ggml.pre`.
#[derive(Debug)]
pub(super) struct PreTokenizer {
    names: &'static [&'static str],
    patterns: &'static [&'static str],
    /// Whether a word that is a token is taken whole, whatever the merges say.
    pub ignore_merges: bool,
    /// Whether a beginning-of-sequence token is added if the file does not say.
    pub add_bos: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
// Upper and lower case as llama.cpp tells them apart: a letter that is not a–z, or not A–Z.
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]*[\p{L}&&[^A-Z]]+(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]+[\p{L}&&[^A-Z]]*(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]*[\p{L}&&[^A-Z]]+|[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]+[\p{L}&&[^A-Z]]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The registry.
const PRE_TOKENIZERS: &[PreTokenizer] = &[
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        patterns: &[LLAMA3],
        ignore_merges: true,
        add_bos: true,
    },
    PreTokenizer {
        names: &["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"],
        patterns: &[LLAMA3],
        ignore_merges: false,
        add_bos: false,
    },
    PreTokenizer {
        names: &["qwen2", "deepseek-r1-qwen", "stablelm2", "megrez", "hunyuan", "solar-open", "kormo"],
        patterns: &[QWEN2],
        ignore_merges: false,
        add_bos: false,
    },
    PreTokenizer { names: &["qwen35"], patterns: &[QWEN35], ignore_merges: false, add_bos: false },
    PreTokenizer {
        names: &["gpt-4o", "llama4", "kanana2", "minimax-m2"],
        patterns: &[GPT4O],
        ignore_merges: false,
        add_bos: false,
    },
    PreTokenizer { names: &["tekken"], patterns: &[TEKKEN], ignore_merges: true, add_bos: true },
    PreTokenizer {
        names: &["gpt-2", "phi-2", "mpt", "olmo", "exaone4", "trillion", "granite-docling", "mellum"],
        patterns: &[GPT2],
        ignore_merges: false,
        add_bos: false,
    },
    PreTokenizer {
        names: &["smollm", "refact", "starcoder", "command-r", "codeshell", "exaone", "minerva-7b"],
        patterns: &[r"\p{N}", GPT2],
        ignore_merges: false,
        add_bos: false,
    },
    PreTokenizer {
        names: &["default"],
        patterns: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"],
        ignore_merges: false,
        add_bos: false,
    },
];

impl PreTokenizer {
    /// The entry of that name.
    pub(super) fn by_name(name: &str) -> Option<&'static PreTokenizer> {
        PRE_TOKENIZERS.iter().find(|entry| entry.names.contains(&name))
    }
}

/// A compiled pre-tokenizer.
#[derive(Debug)]
pub(super) struct Splitter {
    stages: Vec<Stage>,
}

#[derive(Debug)]
struct Stage {
    regex: Regex,
    /// Whether a run of white space leaves its last character to the word after it.
    leaves_last_space: bool,
    /// Whether a run of white space is taken whole up to its last line break.
    takes_line_breaks: bool,
}

const LOOK_AHEAD: &str = r"\s+(?!\S)|";
const LINE_BREAKS: &str = r"|\s*[\r\n]+|";

impl Splitter {
    /// Compiles the patterns of an entry.
    pub(super) fn new(entry: &PreTokenizer) -> Splitter {
        let stages = entry.patterns.iter().filter_map(|pattern| Stage::new(pattern)).collect();
        Splitter { stages }
    }

    /// Gives the words of `text`, in order and without gaps.
    pub(super) fn split<'t>(&self, text: &'t str, mut word: impl FnMut(&'t str)) {
        split_stages(&self.stages, text, &mut word);
    }
}

fn split_stages<'t>(stages: &[Stage], text: &'t str, word: &mut dyn FnMut(&'t str)) {
    match stages.split_first() {
        Some((stage, rest)) => stage.split(text, |piece| split_stages(rest, piece, word)),
        None if text.is_empty() => {}
        None => word(text),
    }
}

impl Stage {
    /// The registry's patterns compile, as a test shows, so none is lost.
    fn new(pattern: &str) -> Option<Stage> {
        Some(Stage {
            regex: Regex::new(&pattern.replace(LOOK_AHEAD, "")).ok()?,
            leaves_last_space: pattern.contains(LOOK_AHEAD),
            takes_line_breaks: pattern.contains(LINE_BREAKS),
        })
    }

    fn split<'t>(&self, text: &'t str, mut piece: impl FnMut(&'t str)) {
        let mut done = 0;
        while let Some(found) = self.regex.find_at(text, done) {
            let (start, mut end) = (found.start(), found.end());
            if end < text.len() && self.leaves_last_space {
                end -= self.last_space_bytes(found.as_str());
            }
            if start > done {
                piece(text.get(done..start).unwrap_or_default());
            }
            piece(text.get(start..end).unwrap_or_default());
            done = end;
        }
        piece(text.get(done..).unwrap_or_default());
    }

    /// Bytes to leave to the next word: those of the last character of a run of two or more white
    /// space characters. Only such a run ends in white space that is not a line break.
    fn last_space_bytes(&self, found: &str) -> usize {
        match found.chars().next_back() {
            Some('\r' | '\n') if self.takes_line_breaks => 0,
            Some(last) if last.is_whitespace() && found.len() > last.len_utf8() => last.len_utf8(),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Oracle = Vec<fancy_regex::Regex>;

    /// Every entry, and its patterns as published for a backtracking engine.
    fn compiled() -> impl Iterator<Item = &'static (&'static PreTokenizer, Splitter, Oracle)> {
        static COMPILED: std::sync::OnceLock<Vec<(&PreTokenizer, Splitter, Oracle)>> =
            std::sync::OnceLock::new();
        let regex = |pattern: &&str| fancy_regex::Regex::new(pattern).unwrap();
        let compile = |entry: &'static PreTokenizer| {
            (entry, Splitter::new(entry), entry.patterns.iter().map(regex).collect())
        };
        COMPILED.get_or_init(|| PRE_TOKENIZERS.iter().map(compile).collect()).iter()
    }

    fn split_by_oracle(oracle: &Oracle, text: &str) -> Vec<String> {
        let mut pieces = vec![text.to_owned()];
        for regex in oracle {
            let mut next = Vec::new();
            for piece in &pieces {
                let mut done = 0;
                for found in regex.find_iter(piece) {
                    let found = found.unwrap();
                    next.push(piece[done..found.start()].to_owned());
                    next.push(found.as_str().to_owned());
                    done = found.end();
                }
                next.push(piece[done..].to_owned());
            }
            pieces = next;
        }
        pieces.retain(|piece| !piece.is_empty());
        pieces
    }

    #[test]
    fn every_pattern_compiles_and_every_name_is_unique() {
        let mut names: Vec<_> = PRE_TOKENIZERS.iter().flat_map(|entry| entry.names).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        for entry in PRE_TOKENIZERS {
            assert_eq!(Splitter::new(entry).stages.len(), entry.patterns.len(), "{:?}", entry.names);
        }
    }

    proptest! {
        #[test]
        fn equals_the_published_patterns(
            text in r"([a-zA-Z]{1,3}|[éÉßſ你あ]|[0-9]{1,5}|[٣Ⅷ²]|'(s|t|LL|Re|x)|[ ]{1,4}|[\t\n\r\u{A0}\u{3000}]{1,3}|[!?.,/$+<=|~_-]{1,3}|[😀\u{301}\u{200d}]){0,12}"
        ) {
            for (entry, splitter, oracle) in compiled() {
                let mut words = Vec::new();
                splitter.split(&text, |word| words.push(word));
                prop_assert_eq!(&words, &split_by_oracle(oracle, &text), "{:?}", entry.names);
            }
        }
    }
}
