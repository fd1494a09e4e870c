//! What a user adds: regular expressions and words that are denied.

use regex_automata::meta::{Config, Regex};
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input};

use super::text::{Match, Text};
use crate::guards::GuardError;
use crate::guards::canonical::folded;

/// Longest text that a regular expression of a user can match, bytes. What streams is held back that far.
pub const MATCH_BYTES_MAX: usize = 256;
/// Bytes after a match that a regular expression may look at: one character.
const LOOK_BYTES: usize = 4;
/// Most bytes of a compiled expression.
const COMPILED_BYTES_MAX: usize = 4 << 20;
/// Most expressions, and most words, of one guard.
pub const ENTRIES_MAX: usize = 10_000;

/// One expression. Matching takes time linear in the text, whatever the expression.
#[derive(Debug)]
pub struct Custom {
    /// What its matches are called.
    pub entity: &'static str,
    regex: Regex,
    match_bytes_max: usize,
}

impl Custom {
    /// An expression of a user. It sees folded text, so it is folded itself.
    ///
    /// # Errors
    /// [`GuardError::Pattern`].
    pub fn pattern(pattern: &str) -> Result<Custom, GuardError> {
        compile("pattern", &folded(pattern), false, MATCH_BYTES_MAX)
            .map_err(|why| GuardError::Pattern { pattern: pattern.to_owned(), why })
    }

    /// Words and phrases, found whatever their case, as whole words. `None` without any.
    ///
    /// # Errors
    /// [`GuardError::Deny`].
    pub fn deny(words: &[String]) -> Result<Option<Custom>, GuardError> {
        if words.is_empty() {
            return Ok(None);
        }
        let folded: Vec<String> = words.iter().map(|word| folded(word.trim()).into_owned()).collect();
        if let Some(word) = folded.iter().find(|word| word.is_empty() || word.len() > MATCH_BYTES_MAX) {
            return Err(GuardError::Deny { bytes: word.len() });
        }
        let longest = folded.iter().map(String::len).max().unwrap_or(0);
        let mut sorted: Vec<String> = folded.iter().map(|word| whole_word(word)).collect();
        // Of two that begin alike the longer one counts.
        sorted.sort_by_key(|word| std::cmp::Reverse(word.len()));
        compile("denied", &sorted.join("|"), true, longest * 2)
            .map(Some)
            .map_err(|why| GuardError::Pattern { pattern: "the deny list".to_owned(), why })
    }

    /// The first match at `from` or later.
    pub fn find(&self, text: &str, from: usize) -> Option<(usize, usize)> {
        let mut at = from;
        while at <= text.len() {
            let found = self.regex.search(&Input::new(text).range(at..))?;
            if let Some(end) = self.end(text, found.start()) {
                return Some((found.start(), end));
            }
            at = next_letter(text, found.start());
        }
        None
    }

    /// Whether a match begins at `at`, a character's beginning.
    pub fn match_at(&self, text: &Text<'_>, at: usize) -> Match {
        if text.is_open(at + self.match_bytes_max + LOOK_BYTES) {
            return Match::More;
        }
        let Ok(whole) = std::str::from_utf8(text.bytes) else { return Match::No };
        self.end(whole, at).map_or(Match::No, |end| Match::Yes { end, score: 1.0 })
    }

    fn end(&self, text: &str, at: usize) -> Option<usize> {
        let mut limit = (at + self.match_bytes_max).min(text.len());
        while !text.is_char_boundary(limit) {
            limit -= 1;
        }
        let input = Input::new(text).range(at..limit).anchored(Anchored::Yes);
        self.regex.search(&input).map(|found| found.end()).filter(|end| *end > at)
    }
}

/// Where the character after the one at `at` begins.
fn next_letter(text: &str, at: usize) -> usize {
    at + text.get(at..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8)
}

fn whole_word(word: &str) -> String {
    let is_word =
        |letter: Option<char>| letter.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
    let before = if is_word(word.chars().next()) { r"\b" } else { "" };
    let after = if is_word(word.chars().next_back()) { r"\b" } else { "" };
    format!("{before}{}{after}", escaped(word))
}

/// The word as an expression: every sign is meant as such, and any white space fits a space.
fn escaped(word: &str) -> String {
    let mut escaped = String::with_capacity(word.len() * 2);
    for letter in word.chars() {
        match letter {
            ' ' => escaped.push_str(r"\s"),
            _ if letter.is_ascii() && !letter.is_ascii_alphanumeric() => {
                escaped.push_str(&format!("\\x{{{:x}}}", u32::from(letter)));
            }
            _ => escaped.push(letter),
        }
    }
    escaped
}

fn compile(
    entity: &'static str,
    pattern: &str,
    any_case: bool,
    match_bytes_max: usize,
) -> Result<Custom, String> {
    let config = Config::new().nfa_size_limit(Some(COMPILED_BYTES_MAX));
    let syntax = syntax::Config::new().case_insensitive(any_case);
    let regex = Regex::builder().configure(config).syntax(syntax).build(pattern).map_err(|error| {
        let why = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        why.replace('\n', " ")
    })?;
    Ok(Custom { entity, regex, match_bytes_max })
}
