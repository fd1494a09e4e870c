//! Rust source as tokens with their lines: enough of a lexer to tell code from comments and
//! literals, and to match braces. Not a parser; rules look for short sequences of tokens.

use std::ops::RangeInclusive;

/// A Rust file, lexed.
#[derive(Debug)]
pub struct Rust {
    /// Identifiers, numbers, lifetimes, `::` and single punctuation characters.
    pub tokens: Vec<Token>,
    /// String literals' contents, escapes as written.
    pub strings: Vec<Token>,
    /// Lines in the file.
    pub line_count: usize,
    /// Lines of items under `#[cfg(test)]`, attribute included.
    test_lines: Vec<RangeInclusive<usize>>,
}

/// A piece of source text and its first line, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// The text.
    pub text: String,
    /// Where it starts.
    pub line: usize,
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub struct Function<'a> {
    /// Its name.
    pub name: &'a str,
    /// From `fn` to the closing brace.
    pub lines: RangeInclusive<usize>,
    /// Lines between the lines of its braces.
    pub body_line_count: usize,
}

impl Rust {
    /// Lexes `text`. Never fails: an unterminated literal or comment runs to the end.
    pub fn new(text: &str) -> Self {
        let mut lexer = Lexer { text, at: 0, line: 1, tokens: Vec::new(), strings: Vec::new() };
        while lexer.at < text.len() {
            lexer.step();
        }
        let Lexer { tokens, strings, .. } = lexer;
        let mut rust = Rust { tokens, strings, line_count: text.lines().count(), test_lines: Vec::new() };
        rust.test_lines = rust.find_test_lines();
        rust
    }

    /// Whether `line` belongs to an item under `#[cfg(test)]`.
    pub fn is_test_line(&self, line: usize) -> bool {
        self.test_lines.iter().any(|lines| lines.contains(&line))
    }

    /// How many lines belong to no item under `#[cfg(test)]`.
    pub fn lines_outside_tests(&self) -> usize {
        (1..=self.line_count).filter(|line| !self.is_test_line(*line)).count()
    }

    /// The tokens outside items under `#[cfg(test)]`.
    pub fn tokens_outside_tests(&self) -> impl Iterator<Item = &Token> {
        self.tokens.iter().filter(|token| !self.is_test_line(token.line))
    }

    /// The lines where `sequence` starts.
    pub fn find<'a>(&'a self, sequence: &'a [&str]) -> impl Iterator<Item = usize> + 'a {
        let windows = self.tokens.windows(sequence.len().max(1));
        windows
            .filter(|window| window.iter().map(|token| token.text.as_str()).eq(sequence.iter().copied()))
            .map(|window| window[0].line)
    }

    /// Where `word` is a path's component (`word::x`, `x::word`) or part of a `use`, by line.
    pub fn find_in_paths(&self, word: &str) -> Vec<usize> {
        let mut lines = Vec::new();
        let mut in_use = false;
        for (at, token) in self.tokens.iter().enumerate() {
            match token.text.as_str() {
                "use" => in_use = true,
                ";" => in_use = false,
                text if text == word => {
                    let beside = [at.checked_sub(1), Some(at + 1)];
                    let in_path = beside
                        .iter()
                        .flatten()
                        .any(|at| self.tokens.get(*at).is_some_and(|t| t.text == "::"));
                    if in_use || in_path {
                        lines.push(token.line);
                    }
                }
                _ => {}
            }
        }
        lines
    }

    /// Every function that has a body.
    pub fn functions(&self) -> Vec<Function<'_>> {
        let mut functions = Vec::new();
        for (at, pair) in self.tokens.windows(2).enumerate() {
            let [keyword, name] = pair else { continue };
            if keyword.text != "fn" || !is_word(&name.text) {
                continue;
            }
            if let Some((Some(open), last)) = self.item(at) {
                let last = self.tokens[last].line;
                functions.push(Function {
                    name: &name.text,
                    lines: keyword.line..=last,
                    body_line_count: last.saturating_sub(self.tokens[open].line + 1),
                });
            }
        }
        functions
    }

    /// The lines of the item starting at token `at`.
    pub fn item_lines(&self, at: usize) -> Option<RangeInclusive<usize>> {
        Some(self.tokens.get(at)?.line..=self.tokens[self.item(at)?.1].line)
    }

    /// For the item starting at token `at`: its opening brace, if it has one, and its last token,
    /// which is a `;` or the closing brace.
    fn item(&self, at: usize) -> Option<(Option<usize>, usize)> {
        let mut depth = 0usize;
        let mut open = None;
        for (at, token) in self.tokens.iter().enumerate().skip(at) {
            match token.text.as_str() {
                "{" if depth == 0 => {
                    open = Some(at);
                    depth = 1;
                }
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => {
                    depth = depth.saturating_sub(1);
                    if open.is_some() && depth == 0 {
                        return Some((open, at));
                    }
                }
                ";" if depth == 0 => return Some((None, at)),
                _ => {}
            }
        }
        None
    }

    /// The lines of each item under an attribute `#[cfg(…test…)]` without `not`.
    fn find_test_lines(&self) -> Vec<RangeInclusive<usize>> {
        let mut found = Vec::new();
        let mut at = 0;
        while at < self.tokens.len() {
            let Some(mut end) = self.attribute_end(at) else {
                at += 1;
                continue;
            };
            let attribute: Vec<&str> = self.tokens[at..end].iter().map(|token| token.text.as_str()).collect();
            let is_test =
                attribute.contains(&"cfg") && attribute.contains(&"test") && !attribute.contains(&"not");
            if !is_test {
                at = end;
                continue;
            }
            while let Some(next) = self.attribute_end(end) {
                end = next;
            }
            let last = self.item(end).map_or(self.tokens.len() - 1, |(_, last)| last);
            found.push(self.tokens[at].line..=self.tokens[last].line);
            at = last + 1;
        }
        found
    }

    /// One past the attribute `#[…]` starting at token `at`, if one does.
    fn attribute_end(&self, at: usize) -> Option<usize> {
        let text = |at: usize| self.tokens.get(at).map(|token| token.text.as_str());
        if (text(at), text(at + 1)) != (Some("#"), Some("[")) {
            return None;
        }
        let mut depth = 0usize;
        for (at, token) in self.tokens.iter().enumerate().skip(at + 1) {
            match token.text.as_str() {
                "[" => depth += 1,
                "]" if depth == 1 => return Some(at + 1),
                "]" => depth -= 1,
                _ => {}
            }
        }
        None
    }
}

/// Whether a token is an identifier or a keyword.
pub fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c == '_' || c.is_alphabetic())
}

struct Lexer<'a> {
    text: &'a str,
    /// Byte offset of the next character.
    at: usize,
    line: usize,
    tokens: Vec<Token>,
    strings: Vec<Token>,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// Moves over `bytes`, counting lines, and gives what was moved over.
    fn take(&mut self, bytes: usize) -> &'a str {
        let taken = &self.text[self.at..self.at + bytes];
        self.at += bytes;
        self.line += taken.bytes().filter(|byte| *byte == b'\n').count();
        taken
    }

    /// Lexes one comment, literal, token or white space.
    fn step(&mut self) {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else { return };
        if rest.starts_with("//") {
            self.take(rest.find('\n').unwrap_or(rest.len()));
        } else if rest.starts_with("/*") {
            self.take(block_comment_bytes(rest));
        } else if let Some((prefix, hashes)) = string_opening(rest) {
            self.string(prefix, hashes);
        } else if first == '\'' || rest.starts_with("b'") {
            self.quote();
        } else if first == '_' || first.is_alphanumeric() {
            let bytes = rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
            self.token(bytes);
        } else if rest.starts_with("::") {
            self.token(2);
        } else if first.is_whitespace() {
            self.take(first.len_utf8());
        } else {
            self.token(first.len_utf8());
        }
    }

    fn token(&mut self, bytes: usize) {
        let line = self.line;
        let text = self.take(bytes).to_owned();
        self.tokens.push(Token { text, line });
    }

    /// A string literal whose opening quote lies `prefix` bytes on; `hashes` is given for raw ones.
    fn string(&mut self, prefix: usize, hashes: Option<usize>) {
        let line = self.line;
        self.take(prefix + 1);
        let rest = self.rest();
        let (content, closing) = match hashes {
            Some(hashes) => {
                let closing = format!("\"{}", "#".repeat(hashes));
                (rest.find(&closing), closing.len())
            }
            None => (escaped_end(rest, b'"'), 1),
        };
        let content = content.unwrap_or(rest.len());
        let text = self.take(content).to_owned();
        self.take(closing.min(self.rest().len()));
        self.strings.push(Token { text, line });
    }

    /// A character literal, or a lifetime.
    fn quote(&mut self) {
        let rest = self.rest();
        let prefix = rest.find('\'').unwrap_or(0) + 1;
        let inside = &rest[prefix..];
        let mut characters = inside.chars();
        let first = characters.next();
        let literal = first == Some('\\') || characters.next() == Some('\'');
        match escaped_end(inside, b'\'').filter(|_| literal) {
            Some(end) => {
                self.take(prefix + end + 1);
            }
            None => self.token(prefix),
        }
    }
}

/// The bytes of the block comment at the start of `text`; comments nest.
fn block_comment_bytes(text: &str) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

/// For a string literal at the start of `text`: the bytes before its quote, and for a raw one the
/// number of `#`.
fn string_opening(text: &str) -> Option<(usize, Option<usize>)> {
    let bytes = text.as_bytes();
    let letters = bytes.iter().take_while(|byte| b"bcr".contains(byte)).count();
    let raw = match &text[..letters] {
        "" | "b" | "c" => false,
        "r" | "br" | "cr" => true,
        _ => return None,
    };
    let hashes = bytes[letters..].iter().take_while(|byte| **byte == b'#').count();
    let hashes = if raw { hashes } else { 0 };
    let quoted = bytes.get(letters + hashes) == Some(&b'"');
    quoted.then_some((letters + hashes, raw.then_some(hashes)))
}

/// The offset of the first `quote` that no backslash escapes.
fn escaped_end(text: &str, quote: u8) -> Option<usize> {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            _ if byte == quote => return Some(at),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(text: &str) -> String {
        let tokens: Vec<String> = Rust::new(text).tokens.into_iter().map(|token| token.text).collect();
        tokens.join(" ")
    }

    #[test]
    fn comments_and_literals_are_no_code() {
        assert_eq!(words("a // b\nc"), "a c");
        assert_eq!(words("a /* b /* { */ c */ d"), "a d");
        assert_eq!(words(r#"a "b \" {" c b"}" '{' '\'' b'{' '\u{7d}' d"#), "a c d");
        assert_eq!(words(r###"a r"\" b r#" " { "# c br##""#}"## d"###), "a b c d");
        assert_eq!(words("a /* open"), "a");
        assert_eq!(words("a \"open"), "a");
    }

    #[test]
    fn lifetimes_labels_and_raw_identifiers_are_code() {
        assert_eq!(words("fn f<'a>(x: &'a str) {}"), "fn f < ' a > ( x : & ' a str ) { }");
        assert_eq!(words("r#type bar"), "r # type bar");
        assert_eq!(words("std::fs"), "std :: fs");
        assert_eq!(words("'é' x"), "x");
    }

    #[test]
    fn strings_keep_their_lines() {
        let rust = Rust::new("a\n\"b\nc\" r\"d\"\n\"e\"");
        let strings: Vec<(&str, usize)> = rust.strings.iter().map(|s| (s.text.as_str(), s.line)).collect();
        assert_eq!(strings, [("b\nc", 2), ("d", 3), ("e", 4)]);
    }

    #[test]
    fn functions_are_measured() {
        let rust =
            Rust::new("trait T { fn a(); }\nfn b(x: [u8; 2]) -> u8 {\n  if x { '}'; }\n}\ntype F = fn(u8);");
        assert_eq!(rust.functions(), [Function { name: "b", lines: 2..=4, body_line_count: 1 }]);
    }

    #[test]
    fn test_items_are_known_by_their_attribute() {
        let rust = Rust::new("a;\n#[cfg(test)]\n#[x(y)]\nmod t {\n  b;\n}\n#[cfg(not(test))]\nfn c() {}\n");
        let lines: Vec<usize> = (1..=8).filter(|line| rust.is_test_line(*line)).collect();
        assert_eq!(lines, [2, 3, 4, 5, 6]);
        assert_eq!(rust.lines_outside_tests(), 3);
        let rust = Rust::new("#[cfg(test)]\nmod tests;\nfn c() {}\n");
        assert_eq!(rust.lines_outside_tests(), 1);
    }

    #[test]
    fn paths_and_imports_are_told_from_names() {
        let rust = Rust::new("let env = 1;\nuse std::{env, fs};\nenv::var(x);\nstd::env;\nf(env);");
        assert_eq!(rust.find_in_paths("env"), [2, 3, 4]);
        assert_eq!(rust.find(&["env", "::", "var"]).collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn braces_balance_in_every_file_of_the_repository() {
        for (file, rust) in super::super::tree::Tree::read(&crate::root()).unwrap().rust() {
            let count = |text: &str| rust.tokens.iter().filter(|token| token.text == text).count();
            for (open, close) in [("{", "}"), ("(", ")"), ("[", "]")] {
                assert_eq!(count(open), count(close), "{open}{close} in {}", file.path);
            }
        }
    }

    proptest! {
        #[test]
        fn no_text_stops_the_lexer(text in "(?s)[a-r#'\"/*\\\\ \n{}é:]{0,60}") {
            let rust = Rust::new(&text);
            let _ = rust.functions();
            prop_assert!(rust.tokens.iter().chain(&rust.strings).all(|t| t.line <= rust.line_count.max(1)));
        }

        #[test]
        fn literals_hide_any_content(content in "[a-z{}(/* ']{0,20}") {
            let text = format!("x r##\"{content}\"## y /* {} */ z", content.replace(['*', '/'], ""));
            prop_assert_eq!(words(&text), "x y z");
        }
    }
}
